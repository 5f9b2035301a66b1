//! A real etcd with TLS, certificates of clients, users and tokens that expire after a second: the conformance
//! suite as a user who may use the prefix and nothing else, and what is told when something does not fit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, missing_docs, reason = "tests")]

mod conformance;
mod etcd_server;

use conformance::{Subject, done, failure, next, put, soon};
use etcd_server::{Kind, PREFIX, SHORT_TOKENS, Server, TIMEOUT, USER, certificates::Certificates};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use weft_model::Revision;
use weft_store::{Etcd, LeaseKeeper, LeaseState, Store, StoreError, Txn, probe};

const WITH_TLS: Kind = Kind { tls: true, auth: None };
const WITH_USERS: Kind = Kind { tls: false, auth: Some(SHORT_TOKENS) };

async fn server() -> Option<Server> {
    Server::new(Kind { tls: true, auth: Some(SHORT_TOKENS) }).await
}

conformance!(server);
conformance_of_servers!(server);

/// What a probe of the server with these options says.
async fn complaint(server: &Server, options: &str) -> StoreError {
    probe(&*server.connect(options).await).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_do_not_fit_are_told_with_their_options() {
    let Some(server) = Server::new(WITH_TLS).await else { return };
    let good = server.certificates.as_ref().unwrap();
    let others = Certificates::new();
    let ca = format!("kv.cacertfile={}", good.path("ca.pem"));

    let wrong_ca = complaint(&server, &others.options("client")).await;
    assert!(matches!(wrong_ca, StoreError::Untrusted { .. }), "{wrong_ca}");
    let expected = format!("not signed by a CA in kv.cacertfile={}", others.path("ca.pem"));
    assert!(wrong_ca.to_string().contains(&expected), "{wrong_ca}");

    let no_certificate = complaint(&server, &ca).await;
    assert!(matches!(no_certificate, StoreError::Denied { .. }), "{no_certificate}");
    assert!(no_certificate.to_string().contains("give kv.certfile and kv.keyfile"), "{no_certificate}");

    let of_another_ca =
        format!("{ca},kv.certfile={},kv.keyfile={}", others.path("client.pem"), others.path("client.key"));
    let refused = complaint(&server, &of_another_ca).await;
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
    let expected = format!("does not accept the certificate in kv.certfile={}", others.path("client.pem"));
    assert!(refused.to_string().contains(&expected), "{refused}");

    good.issue_expired("old", "client");
    let options = good.options("old").parse().unwrap();
    let expired = Etcd::connect_with(&[server.endpoint()], PREFIX, TIMEOUT, &options).await.err().unwrap();
    assert!(matches!(expired, StoreError::Invalid(_)), "{expired}");
    assert!(
        expired.to_string().contains("old.pem: the certificate in it has expired on 2002-02-03"),
        "{expired}"
    );

    let clear_text = complaint(&server, "").await;
    assert!(matches!(clear_text, StoreError::Unreachable { .. }), "{clear_text}");
    assert!(clear_text.to_string().contains("if it speaks TLS, give kv.cacertfile"), "{clear_text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_prove_who_it_is_is_not_trusted() {
    let Some(mut server) = Server::new(WITH_TLS).await else { return };
    for (subject, expired, expected) in
        [("127.0.0.1", true, "its certificate has expired"), ("elsewhere.example", false, "127.0.0.1")]
    {
        let certificates = server.certificates.as_ref().unwrap();
        if expired {
            certificates.issue_expired("server", subject);
        } else {
            certificates.issue("server", subject, |_| {});
        }
        server.member.kill();
        let cluster = server.member.peer();
        server.member.start(&cluster);
        // It is up when its word is about its certificate.
        let error = soon(async {
            loop {
                match probe(&*server.store).await.unwrap_err() {
                    StoreError::Unreachable { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
                    error => return error,
                }
            }
        })
        .await;
        assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_clear_text_is_told_from_one_with_tls() {
    let Some(server) = Server::new(Kind::default()).await else { return };
    let error = complaint(&server, &Certificates::new().options("client")).await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("if it speaks no TLS, leave kv.cacertfile"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_replaced_on_disk_are_used_without_a_restart() {
    let Some(server) = Server::new(WITH_TLS).await else { return };
    let (good, mine) = (server.certificates.as_ref().unwrap(), Certificates::new());
    let store = server.connect(&mine.options("client")).await;
    probe(&*store).await.unwrap_err();
    for file in ["ca.pem", "client.pem", "client.key"] {
        std::fs::copy(good.path(file), mine.path(file)).unwrap();
    }
    probe(&*store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_passwords_that_do_not_fit_are_told_with_their_options() {
    let Some(server) = Server::new(WITH_USERS).await else { return };
    let nobody = complaint(&server, "").await;
    assert!(matches!(nobody, StoreError::Denied { .. }), "{nobody}");
    assert!(nobody.to_string().contains("give kv.user and kv.passwordfile"), "{nobody}");
    let error = failure(server.connect("").await.watch("", Revision(1)).await).await;
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");

    let file = server.member.folder.path().join("wrong");
    std::fs::write(&file, "guessed").unwrap();
    let options = format!("kv.user={USER},kv.passwordfile={}", file.display());
    let wrong = complaint(&server, &options).await;
    assert!(matches!(wrong, StoreError::Denied { .. }), "{wrong}");
    let expected = format!("kv.user={USER} with the password in kv.passwordfile={}", file.display());
    assert!(wrong.to_string().contains(&expected) && !wrong.to_string().contains("guessed"), "{wrong}");

    let elsewhere =
        Etcd::connect_with(&[server.endpoint()], "other", TIMEOUT, &server.options()).await.unwrap();
    let not_there = probe(&elsewhere).await.unwrap_err();
    assert!(matches!(not_there, StoreError::Denied { .. }), "{not_there}");
    assert!(not_there.to_string().contains("--prefix=true other/"), "{not_there}");
    let error = failure(elsewhere.watch("", Revision(1)).await).await;
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_for_a_server_without_users_does_no_harm_and_is_used_when_it_gets_some() {
    let Some(server) = Server::new(Kind::default()).await else { return };
    let file = server.member.folder.path().join("password");
    let store = server.connect(&format!("kv.user=root,kv.passwordfile={}", file.display())).await;
    done(&*store, Txn::new().put("a", b"1".to_vec())).await;
    let mut root = server.raw().await;
    root.user_add("root", etcd_server::PASSWORD, None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    done(&*store, Txn::new().put("a", b"2".to_vec())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_while_tokens_expire_users_change_and_the_password_does() {
    let Some(server) = Server::new(WITH_USERS).await else { return };
    let store = server.store();
    let start = done(&*store, Txn::new().put("n", b"0".to_vec())).await;
    let keeper = LeaseKeeper::spawn(
        store.clone(),
        "alive/n",
        b"1".to_vec(),
        Duration::from_secs(3),
        CancellationToken::new(),
    );
    soon(keeper.state().wait_for(|state| *state == LeaseState::Held)).await.unwrap();
    let mut lease = keeper.state();
    lease.mark_unchanged();
    let (stop, reads) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stop, reads) = (store.clone(), stop.clone(), reads.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    store.get("n").await.unwrap();
                    reads.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();

    // Several lives of a token; a watch that was there before, and a new one now and then.
    let mut watch = store.watch("n", start).await.unwrap();
    let mut root = server.raw().await;
    let began = Instant::now();
    let mut number = 0_u32;
    while began.elapsed() < Duration::from_secs(5) {
        number += 1;
        let text = number.to_string();
        let at = done(&*store, Txn::new().put("n", text.clone().into_bytes())).await;
        let batch = next(&mut watch).await;
        assert_eq!((batch.revision, batch.changes), (at, vec![put("n", &text)]));
        match number % 40 {
            10 => root.user_add(format!("user{number}"), "x", None).await.map(|_| ()).unwrap(),
            20 => {
                let password = format!("changed {number}");
                std::fs::write(server.member.folder.path().join("password"), &password).unwrap();
                root.user_change_password(USER, password).await.map(|_| ()).unwrap();
            }
            30 => watch = store.watch("n", at).await.unwrap(),
            _ => {}
        }
    }
    stop.cancel();
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(number >= 40 && reads.load(Ordering::Relaxed) > 100, "{number} writes, {reads:?} reads");
    assert!(!lease.has_changed().unwrap(), "{:?}", *lease.borrow());
}
