//! A real etcd, one for each test: the conformance suite, failover, prefixes and a server that stands still.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, missing_docs, reason = "tests")]

mod conformance;
mod etcd_server;

use conformance::{done, failure, soon};
use etcd_server::{Kind, Server, TIMEOUT};
use std::{net::TcpListener, time::Duration};
use weft_model::Revision;
use weft_store::{Etcd, Store, StoreError, Txn, probe};

async fn server() -> Option<Server> {
    Server::new(Kind::default()).await
}

conformance!(server);
conformance_of_servers!(server);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_stand_below_the_prefix_and_other_prefixes_are_not_seen() {
    let Some(server) = server().await else { return };
    let other = Etcd::connect(&[server.endpoint()], "weft/test2", TIMEOUT).await.unwrap();
    done(&*server.store, Txn::new().put("a", b"1".to_vec())).await;
    done(&other, Txn::new().put("a", b"2".to_vec())).await;
    assert_eq!(server.store.list("").await.unwrap().records.len(), 1);
    let raw = server.raw().await.get("weft/test/a", None).await.unwrap();
    assert_eq!(raw.kvs()[0].value(), b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over() {
    let Some(server) = server().await else { return };
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let endpoints = [dead, server.endpoint()];
    let reader = Etcd::connect(&endpoints, "weft/test", TIMEOUT).await.unwrap();
    probe(&reader).await.unwrap();
    // A transaction as well: what was never sent may be sent elsewhere.
    let writer = Etcd::connect(&endpoints, "weft/test", TIMEOUT).await.unwrap();
    done(&writer, Txn::new().put("a", b"1".to_vec())).await;
    let watcher = Etcd::connect(&endpoints, "weft/test", TIMEOUT).await.unwrap();
    let mut watch = watcher.watch("", Revision(1)).await.unwrap();
    assert_eq!(conformance::next(&mut watch).await.changes, [conformance::put("a", "1")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_accepts_and_stays_silent_is_passed_over() {
    let Some(server) = server().await else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = [silent.local_addr().unwrap().to_string(), server.endpoint()];
    let store = Etcd::connect(&endpoints, "weft/test", Duration::from_secs(2)).await.unwrap();
    probe(&store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_unreachable_and_its_watch_ends() {
    let Some(server) = server().await else { return };
    let watch = server.store.watch("", Revision(1)).await.unwrap();
    server.member.signal("-STOP");
    let error = probe(&*server.store).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&server.endpoint()), "{error}");
    let error = failure(Ok(watch)).await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    server.member.signal("-CONT");
    soon(async {
        while probe(&*server.store).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
