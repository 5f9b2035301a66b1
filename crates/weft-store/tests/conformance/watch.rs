use super::{Subject, done, failure, next, put, removed};
use std::collections::BTreeMap;
use weft_model::Revision;
use weft_store::{Batch, StoreError, Txn};

pub async fn a_watch_reports_every_change_once_and_in_order(subject: impl Subject) {
    let store = subject.store();
    let mut watch = store.watch("k/", store.list("k/").await.unwrap().revision).await.unwrap();
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut wrote = Vec::new();
            for number in 0..25 {
                let (key, value) = (format!("k/{writer}"), number.to_string());
                let at = done(&*store, Txn::new().put(&key, value.clone().into_bytes())).await;
                wrote.push((at, vec![put(&key, &value)]));
            }
            wrote
        })
    });
    let mut expected = BTreeMap::new();
    for wrote in futures::future::join_all(writers).await {
        expected.extend(wrote.unwrap());
    }
    assert_eq!(expected.len(), 100);
    for (revision, changes) in expected {
        assert_eq!(next(&mut watch).await, Batch { revision, changes });
    }
}

pub async fn a_watch_goes_back_to_an_old_revision(subject: impl Subject) {
    let store = subject.store();
    let first = done(&*store, Txn::new().put("a", b"1".to_vec())).await;
    let second = done(&*store, Txn::new().put("a", b"2".to_vec())).await;
    let third = done(&*store, Txn::new().delete("a")).await;
    let mut watch = store.watch("", first).await.unwrap();
    assert_eq!(next(&mut watch).await, Batch { revision: second, changes: vec![put("a", "2")] });
    assert_eq!(next(&mut watch).await, Batch { revision: third, changes: vec![removed("a")] });
    let fourth = done(&*store, Txn::new().put("a", b"4".to_vec())).await;
    assert_eq!(next(&mut watch).await, Batch { revision: fourth, changes: vec![put("a", "4")] });
}

pub async fn a_watch_reports_a_transaction_as_one_batch(subject: impl Subject) {
    let store = subject.store();
    let start = done(&*store, Txn::new().put("start", vec![])).await;
    let mut live = store.watch("t/", start).await.unwrap();
    let limits = store.limits();
    let (count, length) = (limits.operations - 1, limits.bytes / limits.operations - 100);
    let txn = (0..count)
        .fold(Txn::new().put("elsewhere", vec![]), |txn, i| txn.put(format!("t/{i:02}"), vec![b'x'; length]));
    let at = done(&*store, txn).await;
    let mut late = store.watch("t/", start).await.unwrap();
    for watch in [&mut live, &mut late] {
        let batch = next(watch).await;
        assert_eq!(batch.revision, at);
        let mut keys: Vec<_> = batch.changes.into_iter().map(|c| c.key).collect();
        keys.sort();
        assert_eq!(keys, (0..count).map(|i| format!("t/{i:02}")).collect::<Vec<_>>());
    }
}

pub async fn a_watch_far_behind_gets_every_batch_whole(subject: impl Subject) {
    let store = subject.store();
    let start = done(&*store, Txn::new().put("start", vec![])).await;
    let count = store.limits().operations.min(99);
    let mut wrote = Vec::new();
    for value in 0..20_u8 {
        let txn = (0..count).fold(Txn::new(), |txn, i| txn.put(format!("t/{i:02}"), vec![value]));
        wrote.push(done(&*store, txn).await);
    }
    let mut watch = store.watch("t/", start).await.unwrap();
    for (value, revision) in (0..).zip(wrote) {
        let batch = next(&mut watch).await;
        assert_eq!((batch.revision, batch.changes.len()), (revision, count));
        assert!(batch.changes.iter().all(|change| change.value == Some(vec![value])));
    }
}

pub async fn a_watch_reports_removals(subject: impl Subject) {
    let store = subject.store();
    let start = done(&*store, Txn::new().put("a", b"1".to_vec())).await;
    let mut watch = store.watch("a", start).await.unwrap();
    let gone = done(&*store, Txn::new().delete("a").delete("nobody")).await;
    assert_eq!(next(&mut watch).await, Batch { revision: gone, changes: vec![removed("a")] });
}

pub async fn a_watch_sees_its_prefix_only(subject: impl Subject) {
    let store = subject.store();
    let start = done(&*store, Txn::new().put("n/0", vec![])).await;
    let mut watch = store.watch("n/", start).await.unwrap();
    done(&*store, Txn::new().put("n", vec![]).put("n0", vec![]).put("m/1", vec![])).await;
    let at = done(&*store, Txn::new().put("o/1", vec![]).put("n/1", b"1".to_vec())).await;
    assert_eq!(next(&mut watch).await, Batch { revision: at, changes: vec![put("n/1", "1")] });
}

pub async fn a_watch_of_forgotten_history_ends_with_compacted(subject: impl Subject) {
    let store = subject.store();
    let start = done(&*store, Txn::new().put("a", b"1".to_vec())).await;
    done(&*store, Txn::new().put("a", b"2".to_vec())).await;
    subject.forget_history().await;
    match failure(store.watch("a", start).await).await {
        StoreError::Compacted(forgotten) => assert!(forgotten > start, "{forgotten}"),
        other => panic!("{other}"),
    }
    // A listing tells from where on there is history.
    let listing = store.list("a").await.unwrap();
    let mut watch = store.watch("a", listing.revision).await.unwrap();
    let at = done(&*store, Txn::new().put("a", b"3".to_vec())).await;
    assert_eq!(next(&mut watch).await, Batch { revision: at, changes: vec![put("a", "3")] });
}

pub async fn a_watch_after_a_revision_that_never_was_ends_with_compacted(subject: impl Subject) {
    let store = subject.store();
    let now = done(&*store, Txn::new().put("a", b"1".to_vec())).await;
    let error = failure(store.watch("a", Revision(now.0 + 1000)).await).await;
    assert!(matches!(error, StoreError::Compacted(_)), "{error}");
}
