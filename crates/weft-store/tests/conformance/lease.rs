use super::{Subject, done, next, put, removed, soon};
use std::time::{Duration, Instant};
use weft_store::{Batch, LeaseId, Store, StoreError, Txn};

async fn leased(store: &dyn Store, key: &str, ttl: Duration) -> LeaseId {
    let lease = store.grant(ttl).await.unwrap();
    done(store, Txn::new().put_leased(key, b"1".to_vec(), lease)).await;
    lease
}

pub async fn a_lease_without_a_sign_of_life_ends_with_its_records(subject: impl Subject) {
    let ttl = subject.shortest_lease();
    let store = subject.store();
    let start = done(&*store, Txn::new().put("other", vec![])).await;
    let began = Instant::now();
    let lease = store.grant(ttl).await.unwrap();
    let txn = Txn::new().put_leased("a", b"1".to_vec(), lease).put_leased("b", b"1".to_vec(), lease);
    let at = done(&*store, txn).await;
    let mut watch = store.watch("", start).await.unwrap();
    assert_eq!(next(&mut watch).await, Batch { revision: at, changes: vec![put("a", "1"), put("b", "1")] });
    let mut batch = next(&mut watch).await;
    assert!(began.elapsed() >= ttl, "it ended after {:?}", began.elapsed());
    batch.changes.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(batch.changes, [removed("a"), removed("b")]);
    assert!(batch.revision > at);
    assert_eq!(store.list("").await.unwrap().records.len(), 1);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseLost(lease)));
}

pub async fn a_lease_lives_as_long_as_it_is_kept_alive(subject: impl Subject) {
    let ttl = subject.shortest_lease();
    let store = subject.store();
    let lease = leased(&*store, "a", 2 * ttl).await;
    for _ in 0..8 {
        tokio::time::sleep(ttl / 2).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert!(store.get("a").await.unwrap().is_some());
}

pub async fn a_revoked_lease_takes_its_records_along(subject: impl Subject) {
    let ttl = subject.shortest_lease();
    let store = subject.store();
    let lease = leased(&*store, "a", 60 * ttl).await;
    let mut watch = store.watch("", store.list("").await.unwrap().revision).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(next(&mut watch).await.changes, [removed("a")]);
    store.revoke(lease).await.unwrap();
}

pub async fn a_lost_lease_is_reported(subject: impl Subject) {
    let ttl = subject.shortest_lease();
    let store = subject.store();
    let lease = store.grant(60 * ttl).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseLost(lease)));
    let txn = Txn::new().put("a", vec![]).put_leased("b", vec![], lease);
    assert_eq!(store.commit(txn).await, Err(StoreError::LeaseLost(lease)));
    assert_eq!(store.list("").await.unwrap().records, []);
}

pub async fn a_record_written_again_leaves_its_old_lease(subject: impl Subject) {
    let ttl = subject.shortest_lease();
    let store = subject.store();
    let first = store.grant(60 * ttl).await.unwrap();
    let txn = ["a", "b", "c"].iter().fold(Txn::new(), |txn, key| txn.put_leased(*key, vec![], first));
    done(&*store, txn).await;
    let second = leased(&*store, "a", 60 * ttl).await;
    done(&*store, Txn::new().put("b", b"2".to_vec())).await;
    store.revoke(first).await.unwrap();
    let keys: Vec<_> = store.list("").await.unwrap().records.into_iter().map(|r| r.key).collect();
    assert_eq!(keys, ["a", "b"]);
    store.revoke(second).await.unwrap();
    let keys: Vec<_> = store.list("").await.unwrap().records.into_iter().map(|r| r.key).collect();
    assert_eq!(keys, ["b"]);
}

pub async fn a_lease_survives_a_restart(mut subject: impl Subject) {
    let ttl = subject.shortest_lease();
    let lease = leased(&*subject.store(), "a", 2 * ttl).await;
    subject.restart().await;
    let store = subject.store();
    // A client that did not notice the restart goes on keeping it alive.
    soon(async {
        while store.keep_alive(lease).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(store.get("a").await.unwrap().is_some());
    let mut watch = store.watch("", store.list("").await.unwrap().revision).await.unwrap();
    assert_eq!(next(&mut watch).await.changes, [removed("a")]);
}
