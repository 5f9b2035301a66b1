//! A real Consul, one for each test: the conformance suite, failover, indexes that go back, tokens, certificates
//! and sessions that others end.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod conformance;
mod consul_server;

use async_trait::async_trait;
use conformance::{Subject, done, failure, next, put, removed, soon};
use consul_server::{Authority, PREFIX, Server, TIMEOUT, cluster, encrypted, guarded, server};
use serde_json::json;
use std::{collections::BTreeSet, net::TcpListener, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use weft_model::Revision;
use weft_store::{
    Consul, ConsulOptions, Event, FollowOptions, LeaseKeeper, LeaseState, Outcome, Store, StoreError, Tls,
    Txn, follow, follow_with, probe,
};

#[async_trait]
impl Subject for Server {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn forget_history(&self) {
        // Each closes a segment of the change log, because it is that long.
        for number in 0..70_u8 {
            done(&*self.store, Txn::new().put("outrun", vec![number; 64 * 1024])).await;
        }
    }

    async fn restart(&mut self) {
        self.stop();
        self.start().await;
    }

    fn shortest_lease(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn restart_takes(&self) -> Duration {
        Duration::from_secs(8)
    }
}

conformance!(server);
conformance_of_servers!(server);

/// A transaction with as many operations and bytes as the store takes.
fn largest(store: &dyn Store, fill: u8) -> Txn {
    let limits = store.limits();
    let keys: Vec<_> = (0..limits.operations).map(|i| format!("k/{i:02}")).collect();
    let left = limits.bytes - keys.iter().map(String::len).sum::<usize>();
    let each = left / keys.len();
    let first = left - each * (keys.len() - 1);
    (0..)
        .zip(keys)
        .fold(Txn::new(), |txn, (i, key)| txn.put(key, vec![fill; if i == 0 { first } else { each }]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_stand_below_the_prefix_as_they_are_and_other_prefixes_are_not_seen() {
    let server = server().await.unwrap();
    let other =
        Consul::connect(&[server.endpoint()], "weft/test2", TIMEOUT, &ConsulOptions::default()).unwrap();
    done(&*server.store, Txn::new().put("v1/é a", b"1".to_vec())).await;
    done(&other, Txn::new().put("v1/é a", b"2".to_vec())).await;
    assert_eq!(server.store.list("").await.unwrap().records.len(), 1);
    assert_eq!(server.raw("GET", "kv/weft/test/v1/%C3%A9%20a?raw", "").await, b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over() {
    let server = server().await.unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let connect = || {
        let endpoints = [dead.clone(), server.endpoint()];
        Consul::connect(&endpoints, PREFIX, TIMEOUT, &ConsulOptions::default()).unwrap()
    };
    probe(&connect()).await.unwrap();
    // A transaction as well: what was never sent may be sent elsewhere.
    let start = done(&connect(), Txn::new().put("a", b"1".to_vec())).await;
    done(&connect(), Txn::new().put("a", b"2".to_vec())).await;
    let mut watch = connect().watch("", start).await.unwrap();
    assert_eq!(next(&mut watch).await.changes, [put("a", "2")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_accepts_and_stays_silent_is_passed_over() {
    let server = server().await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = [silent.local_addr().unwrap().to_string(), server.endpoint()];
    let store =
        Consul::connect(&endpoints, PREFIX, Duration::from_secs(4), &ConsulOptions::default()).unwrap();
    probe(&store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_unreachable_and_its_watch_ends() {
    let server = server().await.unwrap();
    let at = done(&*server.store, Txn::new().put("a", vec![])).await;
    let watch = server.store.watch("", at).await.unwrap();
    server.signal("-STOP");
    let error = probe(&*server.store).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&server.endpoint()), "{error}");
    let error = failure(Ok(watch)).await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    server.signal("-CONT");
    soon(async {
        while probe(&*server.store).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_its_leader_goes_on_and_no_write_is_lost() {
    let mut servers = cluster().await;
    let store = servers[0].store.clone();
    let lease = store.grant(Duration::from_mins(1)).await.unwrap();
    done(&*store, Txn::new().put_leased("f/lease", vec![], lease)).await;
    let mut follower = follow(store.clone(), "f/");
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..200_u8 {
                // Doing it again is harmless: an answer that was lost is asked for again.
                while store.commit(Txn::new().put(format!("f/{number}"), vec![number])).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    };
    let mut seen = BTreeSet::new();
    let mut killed = false;
    while seen.len() < 201 {
        match soon(follower.next()).await.unwrap() {
            Event::Resync(listing) => seen = listing.records.into_iter().map(|record| record.key).collect(),
            Event::Changed(batch) => seen.extend(batch.changes.into_iter().map(|change| change.key)),
            Event::Away(_) | Event::Returned => {}
        }
        if seen.len() > 50 && !killed {
            killed = true;
            for server in &mut servers {
                if server.leads().await {
                    server.stop();
                    break;
                }
            }
            assert_eq!(servers.iter().filter(|server| server.is_stopped()).count(), 1);
        }
    }
    soon(writer).await.unwrap();
    assert_eq!(store.list("f/").await.unwrap().records.len(), 201);
    store.keep_alive(lease).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_at_the_limit_is_taken_and_one_beyond_it_is_refused_before_it_is_sent() {
    let server = server().await.unwrap();
    let store = &*server.store;
    let start = done(store, Txn::new().put("start", vec![])).await;
    let mut watch = store.watch("k/", start).await.unwrap();
    // So many that segments of the change log are closed and forgotten by such transactions, too.
    for fill in 0..70 {
        let at = done(store, largest(store, fill)).await;
        let batch = next(&mut watch).await;
        assert_eq!((batch.revision, batch.changes.len()), (at, store.limits().operations));
        assert!(batch.changes.iter().all(|c| c.value.as_ref().unwrap().iter().all(|byte| *byte == fill)));
    }
    // Compares count as writes do.
    let full = largest(store, 1);
    for beyond in [full.clone().put("more", vec![]), full.clone().present("start"), {
        let mut longer = full.clone();
        longer.writes.pop();
        longer.put("k/zz", vec![0; 8 * 1024])
    }] {
        let error = store.commit(beyond).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Invalid(_)) && error.to_string().contains("is the most"),
            "{error}"
        );
    }
    // A record with a lease takes two operations.
    let lease = store.grant(Duration::from_mins(1)).await.unwrap();
    let leased =
        |count: u8| (0..count).fold(Txn::new(), |txn, i| txn.put_leased(format!("l/{i}"), vec![], lease));
    done(store, leased(30)).await;
    let error = store.commit(leased(31)).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)) && error.to_string().contains("lease"), "{error}");
    assert_eq!(store.list("l/").await.unwrap().records.len(), 30);
    store.revoke(lease).await.unwrap();
    assert_eq!(store.list("l/").await.unwrap().records, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_daemons_write_at_once_is_seen_once_and_in_order_early_and_late() {
    let server = server().await.unwrap();
    let count = 4 * (60 + 20);
    let mut watch = server.connect().watch("k/", Revision::ZERO).await.unwrap();
    let early = tokio::spawn(async move {
        let mut batches = Vec::new();
        while batches.len() < count {
            batches.push(next(&mut watch).await);
        }
        batches
    });
    let writers = (0..4).map(|writer| {
        let store = server.connect();
        tokio::spawn(async move {
            for number in 0..60 {
                let key = format!("k/{writer}/{number}");
                // Now and then a long one: it closes a segment while others write to it.
                let length = if number % 10 == 9 { 70_000 } else { 10 };
                done(&*store, Txn::new().absent(&key).put(&key, vec![b'x'; length])).await;
                if number % 3 == 0 {
                    done(&*store, Txn::new().present(&key).delete(&key)).await;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        soon(writer).await.unwrap();
    }
    let mut late = server.connect().watch("k/", Revision::ZERO).await.unwrap();
    let (mut revision, mut seen) = (Revision::ZERO, BTreeSet::new());
    for batch in early.await.unwrap() {
        assert_eq!(next(&mut late).await, batch);
        assert!(batch.revision > revision);
        revision = batch.revision;
        for change in batch.changes {
            let fresh =
                if change.value.is_some() { seen.insert(change.key) } else { seen.remove(&change.key) };
            assert!(fresh);
        }
    }
    let listing = server.store.list("k/").await.unwrap();
    assert_eq!(listing.revision, revision);
    assert_eq!(listing.records.into_iter().map(|r| r.key).collect::<BTreeSet<_>>(), seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_wiped_is_listed_again_though_its_indexes_have_passed_the_old_ones() {
    let mut server = server().await.unwrap();
    let old = done(&*server.store, Txn::new().put("f/old", b"1".to_vec())).await;
    let wait = 2 * server.restart_takes();
    let options = FollowOptions { first_wait: wait, most_wait: wait, ..FollowOptions::default() };
    let mut follower = follow_with(server.store.clone(), "f/", options);
    assert!(matches!(soon(follower.next()).await, Some(Event::Resync(_))));
    server.stop();
    assert!(matches!(soon(follower.next()).await, Some(Event::Away(StoreError::Unreachable { .. }))));
    server.wipe();
    server.start().await;
    // Another daemon fills it before this one is back.
    let other = server.connect();
    for number in 0..30 {
        done(&*other, Txn::new().put("f/new", vec![number])).await;
    }
    let Some(Event::Resync(listing)) = soon(follower.next()).await else { panic!("no resync") };
    assert_eq!(listing.records.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["f/new"]);
    let error = failure(server.store.watch("f/", old).await).await;
    assert!(matches!(error, StoreError::Compacted(_)), "{error}");
    // What the client remembers of the old store does no harm.
    let stale = server.store.commit(Txn::new().unchanged("f/new", old).put("f/new", vec![])).await.unwrap();
    assert_eq!(stale, Outcome::Refused(vec![Some(listing.records[0].clone())]));
    let at = done(&*server.store, Txn::new().put("f/x", b"1".to_vec())).await;
    let Some(Event::Changed(batch)) = soon(follower.next()).await else { panic!("no change") };
    assert_eq!((batch.revision, batch.changes), (at, vec![put("f/x", "1")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_restored_from_a_snapshot_is_listed_again() {
    let server = server().await.unwrap();
    let store = &*server.store;
    done(store, Txn::new().put("f/a", b"1".to_vec())).await;
    let snapshot = server.raw("GET", "snapshot", "").await;
    let lost = done(store, Txn::new().put("f/a", b"2".to_vec()).put("f/b", b"1".to_vec())).await;
    let mut follower = follow(server.store.clone(), "f/");
    assert!(matches!(soon(follower.next()).await, Some(Event::Resync(l)) if l.records.len() == 2));
    server.raw("PUT", "snapshot", snapshot).await;
    let listing = soon(async {
        loop {
            // Consul may end the watch meanwhile: that is told, too.
            match follower.next().await.unwrap() {
                Event::Resync(listing) => break listing,
                Event::Away(_) | Event::Returned => {}
                Event::Changed(batch) => panic!("{batch:?}"),
            }
        }
    })
    .await;
    assert_eq!(listing.records.iter().map(|r| &r.value[..]).collect::<Vec<_>>(), [b"1"]);
    let error = failure(store.watch("f/", lost).await).await;
    assert!(matches!(error, StoreError::Compacted(_)), "{error}");
    let at = done(store, Txn::new().put("f/c", b"1".to_vec())).await;
    assert!(at > lost, "{at} {lost}");
    let Some(Event::Changed(batch)) = soon(follower.next()).await else { panic!("no change") };
    assert_eq!((batch.revision, batch.changes), (at, vec![put("f/c", "1")]));
    // Also after it has gone on beyond the revision that it no longer has.
    let error = failure(store.watch("f/", lost).await).await;
    assert!(matches!(error, StoreError::Compacted(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_token_every_call_is_denied() {
    let server = guarded().await;
    done(&*server.store, Txn::new().put("a", vec![])).await;
    let strangers = [None, Some("0a6d7d0e-8a5b-4d7e-9a0c-000000000000")];
    for token in strangers.map(|t| t.map(str::to_owned)) {
        let options = ConsulOptions { token, tls: None };
        let store = Consul::connect(&[server.endpoint()], PREFIX, TIMEOUT, &options).unwrap();
        for error in [
            probe(&store).await.unwrap_err(),
            store.get("a").await.unwrap_err(),
            store.list("").await.unwrap_err(),
            store.commit(Txn::new().put("b", vec![])).await.unwrap_err(),
            store.commit(Txn::new().delete("a")).await.unwrap_err(),
            store.grant(TIMEOUT).await.unwrap_err(),
            failure(store.watch("", Revision::ZERO).await).await,
        ] {
            assert!(matches!(error, StoreError::Denied { .. }), "{options:?}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_replaced_on_disk_is_read_again() {
    let server = guarded().await;
    let rules = r#"key_prefix "weft/test/" { policy = "write" } session_prefix "" { policy = "write" }"#;
    server.ask("PUT", "acl/policy", json!({"Name": "weft", "Rules": rules})).await;
    let make = || server.ask("PUT", "acl/token", json!({"Policies": [{"Name": "weft"}]}));
    let secret = |token: &serde_json::Value| token["SecretID"].as_str().unwrap().to_owned();
    let (old, new) = (make().await, make().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, secret(&old)).unwrap();
    let options = format!("kv.tokenfile={}", file.display()).parse().unwrap();
    let store = Consul::connect_with(&[server.endpoint()], PREFIX, TIMEOUT, &options).unwrap();
    let at = done(&store, Txn::new().put("a", b"1".to_vec())).await;

    let revoke = format!("acl/token/{}", old["AccessorID"].as_str().unwrap());
    server.raw("DELETE", &revoke, "").await;
    let error = store.commit(Txn::new().put("a", b"2".to_vec())).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "the old one is still on disk: {error}");
    std::fs::write(&file, format!("{}\n", secret(&new))).unwrap();
    done(&store, Txn::new().put("a", b"2".to_vec())).await;
    let mut watch = store.watch("", at).await.unwrap();
    assert_eq!(next(&mut watch).await.changes, [put("a", "2")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_the_prefix_and_for_sessions_is_enough() {
    let server = guarded().await;
    let rules = r#"key_prefix "weft/test/" { policy = "write" } session_prefix "" { policy = "write" }"#;
    server.ask("PUT", "acl/policy", json!({"Name": "weft", "Rules": rules})).await;
    let token = server.ask("PUT", "acl/token", json!({"Policies": [{"Name": "weft"}]})).await;
    let options = ConsulOptions { token: token["SecretID"].as_str().map(str::to_owned), tls: None };
    let store = Consul::connect(&[server.endpoint()], PREFIX, TIMEOUT, &options).unwrap();
    probe(&store).await.unwrap();
    let mut watch = store.watch("", store.list("").await.unwrap().revision).await.unwrap();
    let lease = store.grant(TIMEOUT).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    done(&store, Txn::new().absent("a").put_leased("a", b"1".to_vec(), lease)).await;
    assert_eq!(next(&mut watch).await.changes, [put("a", "1")]);
    store.revoke(lease).await.unwrap();
    assert_eq!(next(&mut watch).await.changes, [removed("a")]);
    done(&store, largest(&store, 1)).await;
    // Elsewhere it may not.
    let elsewhere = Consul::connect(&[server.endpoint()], "other", TIMEOUT, &options).unwrap();
    let error = probe(&elsewhere).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_wants_a_certificate_of_the_right_authority_on_both_sides() {
    let ca = Authority::new("the CA");
    let server = encrypted(&ca).await;
    let at = done(&*server.store, Txn::new().put("a", b"1".to_vec())).await;
    assert_eq!(server.store.get("a").await.unwrap().unwrap().modified, at);
    let other = Authority::new("another CA");
    for (trusted, identity, word) in [
        (other.certificate(), Some(ca.issue("client")), "UnknownIssuer"),
        (ca.certificate(), None, "let this daemon in"),
        (ca.certificate(), Some(other.issue("client")), "let this daemon in"),
    ] {
        let tls = Some(Tls { ca: Some(trusted), identity });
        let options = ConsulOptions { token: None, tls };
        let store = Consul::connect(&[server.endpoint()], PREFIX, TIMEOUT, &options).unwrap();
        let error = probe(&store).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_session_was_ended_by_hand_comes_back_with_another() {
    let server = server().await.unwrap();
    let store = server.store.clone();
    let ttl = Duration::from_secs(10);
    let keeper = LeaseKeeper::spawn(store.clone(), "alive/n", b"1".to_vec(), ttl, CancellationToken::new());
    let mut state = keeper.state();
    soon(state.wait_for(|state| *state == LeaseState::Held)).await.unwrap();
    let written = store.get("alive/n").await.unwrap().unwrap().modified;
    // Another daemon sees it go and come.
    let mut watch = server.connect().watch("alive/", written).await.unwrap();
    server.destroy_sessions().await;
    assert_eq!(next(&mut watch).await.changes, [removed("alive/n")]);
    soon(state.wait_for(|state| matches!(state, LeaseState::Lost { .. }))).await.unwrap();
    assert_eq!(next(&mut watch).await.changes, [put("alive/n", "1")]);
    soon(state.wait_for(|state| *state == LeaseState::Held)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_whose_lease_ended_while_nobody_watched_go_when_somebody_does() {
    let server = server().await.unwrap();
    let store = &*server.store;
    let lease = store.grant(Duration::from_mins(1)).await.unwrap();
    // More than one transaction removes.
    let txn = (0..25).fold(Txn::new(), |txn, i| txn.put_leased(format!("l/{i:02}"), vec![], lease));
    done(store, txn).await;
    done(store, Txn::new().put_leased("l/25", vec![], lease).put_leased("l/26", vec![], lease)).await;
    // One is written again without the lease, one is removed: neither is the lease's any longer.
    let kept = done(store, Txn::new().put("l/03", b"kept".to_vec()).delete("l/04")).await;
    server.destroy_sessions().await;
    assert_eq!(store.list("l/").await.unwrap().records.len(), 26);
    let mut watch = server.connect().watch("l/", kept).await.unwrap();
    let mut gone = BTreeSet::new();
    while gone.len() < 25 {
        for change in next(&mut watch).await.changes {
            assert_eq!(change.value, None);
            assert!(gone.insert(change.key));
        }
    }
    let left = store.list("l/").await.unwrap().records;
    assert_eq!(left.into_iter().map(|r| r.value).collect::<Vec<_>>(), [b"kept"]);
}
