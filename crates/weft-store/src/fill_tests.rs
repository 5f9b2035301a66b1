use super::*;
use crate::{Backup, Embedded, Fenced, moved};
use std::sync::Arc;

async fn store(folder: &tempfile::TempDir, name: &str) -> Arc<Embedded> {
    Arc::new(Embedded::open(folder.path().join(name)).await.unwrap())
}

/// More records than fit into one transaction, and one that a lease holds.
async fn filled(folder: &tempfile::TempDir) -> Arc<Embedded> {
    let store = store(folder, "from").await;
    let lease = store.grant(Duration::from_mins(1)).await.unwrap();
    let meta = encode(&Meta { schema: schema::VERSION });
    let txn = Txn::new().put(schema::META, meta).put_leased("v1/alive/n", b"1".to_vec(), lease);
    store.commit(txn).await.unwrap();
    for numbers in [0..90, 90..170, 170..250] {
        let key = |number| format!("v1/pools/{number:03}");
        let txn = numbers.fold(Txn::new(), |txn, number| txn.put(key(number), vec![b'x'; 10_000]));
        store.commit(txn).await.unwrap();
    }
    store
}

async fn values(store: &dyn Store) -> Vec<(String, Vec<u8>)> {
    let records = store.list("").await.unwrap().records.into_iter();
    records.filter(|r| r.key != schema::MOVED).map(|r| (r.key, r.value)).collect()
}

#[tokio::test]
async fn a_backup_comes_back_without_its_leases_and_never_over_other_records() {
    let folder = tempfile::tempdir().unwrap();
    let from = filled(&folder).await;
    let backup = Backup::take(&*from).await.unwrap();
    let to = store(&folder, "to").await;
    assert_eq!(restore(&*to, &backup.records, false).await.unwrap(), Filled { records: 251, removed: 0 });
    let mut expected = values(&*from).await;
    expected.retain(|(key, _)| key != "v1/alive/n");
    assert_eq!(values(&*to).await, expected);

    to.commit(Txn::new().put("v1/pools/other", vec![])).await.unwrap();
    let error = restore(&*to, &backup.records, false).await.unwrap_err();
    assert!(matches!(error, FillError::NotEmpty { records: 252, .. }), "{error}");
    assert_eq!(values(&*to).await.len(), 252);
    assert_eq!(restore(&*to, &backup.records, true).await.unwrap(), Filled { records: 251, removed: 252 });
    assert_eq!(values(&*to).await, expected);
}

#[tokio::test]
async fn nobody_uses_a_store_that_is_half_full_and_the_next_run_finishes_it() {
    let folder = tempfile::tempdir().unwrap();
    let backup = Backup::take(&*filled(&folder).await).await.unwrap();
    let to = store(&folder, "to").await;
    // A run that is broken off after some records.
    close(&*to, false).await.unwrap();
    to.commit(Txn::new().put("v1/pools/000", b"half".to_vec())).await.unwrap();
    let daemon = Fenced::new(to.clone());
    let error = daemon.commit(Txn::new().absent("v1/meta").put("v1/meta", vec![])).await.unwrap_err();
    assert!(matches!(&error, StoreError::Moved { moved, .. } if moved.to.is_none()), "{error}");
    assert!(error.to_string().contains("has to be run again"), "{error}");
    assert_eq!(restore(&*to, &backup.records, false).await.unwrap(), Filled { records: 251, removed: 1 });
    daemon.commit(Txn::new().put("v1/pools/new", vec![])).await.unwrap();
}

#[tokio::test]
async fn writers_are_refused_from_the_move_on_and_nothing_they_were_promised_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (filled(&folder).await, store(&folder, "to").await);
    let writers = (0..4).map(|writer| {
        let daemon = Fenced::new(from.clone());
        tokio::spawn(async move {
            let mut promised = Vec::new();
            loop {
                let key = format!("v1/pools/{writer}-{}", promised.len());
                match daemon.commit(Txn::new().absent(&key).put(&key, vec![])).await {
                    Ok(Outcome::Committed(_)) => promised.push(key),
                    Ok(other) => panic!("{other:?}"),
                    Err(StoreError::Moved { moved, .. }) => return (promised, moved),
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    while from.get("v1/pools/3-5").await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    copy(&*from, &*to, "etcd://h:1/weft", "kv.user=a").await.unwrap();
    let there = values(&*to).await;
    assert_eq!(there, values(&*from).await);
    for writer in writers {
        let (promised, moved) = writer.await.unwrap();
        assert_eq!((moved.to.as_deref(), moved.options.as_str()), (Some("etcd://h:1/weft"), "kv.user=a"));
        assert!(promised.len() > 5);
        assert!(promised.iter().all(|key| there.iter().any(|(there, _)| there == key)));
    }
    assert_eq!(moved(&*to).await.unwrap(), None);
    // Done is done: another run does nothing, another target is refused, and there is no way back.
    let again = copy(&*from, &*to, "etcd://h:1/weft", "").await.unwrap();
    assert_eq!(again, Filled { records: 0, removed: 0 });
    let error = copy(&*from, &*store(&folder, "third").await, "etcd://h:2/weft", "").await.unwrap_err();
    assert!(error.to_string().contains("has moved to etcd://h:1/weft already"), "{error}");
    assert!(matches!(reopen(&*from, &*to).await, Err(FillError::MovedElsewhere { .. })));
}

#[tokio::test]
async fn a_move_that_was_broken_off_is_finished_or_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (filled(&folder).await, store(&folder, "to").await);
    let url = "consul://h:1/weft";
    close(&*to, false).await.unwrap();
    let mark = Moved { to: Some(url.to_owned()), options: String::new(), since: unix_now() };
    from.commit(Txn::new().put(schema::MOVED, encode(&mark))).await.unwrap();
    // Given up: the source is open again.
    assert!(reopen(&*from, &*to).await.unwrap());
    Fenced::new(from.clone()).commit(Txn::new().put("v1/pools/000", b"new".to_vec())).await.unwrap();
    assert!(!reopen(&*from, &*to).await.unwrap());
    // Finished: with what the source holds by then.
    assert_eq!(copy(&*from, &*to, url, "").await.unwrap().records, 252);
    assert_eq!(values(&*to).await, values(&*from).await);
}

#[tokio::test]
async fn a_target_with_records_is_refused_before_anything_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (filled(&folder).await, store(&folder, "to").await);
    to.commit(Txn::new().put("v1/pools/mine", vec![])).await.unwrap();
    let error = copy(&*from, &*to, "etcd://h:1/weft", "").await.unwrap_err();
    assert!(matches!(error, FillError::NotEmpty { records: 1, .. }), "{error}");
    assert_eq!((moved(&*from).await.unwrap(), moved(&*to).await.unwrap()), (None, None));
}
