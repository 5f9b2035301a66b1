use super::{Subject, done};
use futures::future::join_all;
use weft_model::Revision;
use weft_store::{Outcome, Record, Store, StoreError, Txn};

async fn refused(store: &dyn Store, txn: Txn) -> Vec<Option<Record>> {
    match store.commit(txn).await.unwrap() {
        Outcome::Refused(records) => records,
        Outcome::Committed(revision) => panic!("committed as {revision}"),
    }
}

pub async fn absent_holds_only_without_a_record(subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().absent("a").put("a", b"1".to_vec())).await;
    refused(&*store, Txn::new().absent("a").put("a", b"2".to_vec())).await;
    done(&*store, Txn::new().delete("a")).await;
    done(&*store, Txn::new().absent("a").put("a", b"3".to_vec())).await;
    assert_eq!(store.get("a").await.unwrap().unwrap().value, b"3");
}

pub async fn present_holds_only_with_a_record(subject: impl Subject) {
    let store = subject.store();
    refused(&*store, Txn::new().present("a").put("b", b"1".to_vec())).await;
    done(&*store, Txn::new().put("a", vec![])).await;
    done(&*store, Txn::new().present("a").put("b", b"1".to_vec())).await;
    assert_eq!(store.get("b").await.unwrap().unwrap().value, b"1");
}

pub async fn unchanged_holds_only_for_the_revision_that_wrote(subject: impl Subject) {
    let store = subject.store();
    refused(&*store, Txn::new().unchanged("a", Revision::ZERO).put("a", vec![])).await;
    let first = done(&*store, Txn::new().put("a", b"1".to_vec())).await;
    done(&*store, Txn::new().put("b", b"1".to_vec())).await;
    let second = done(&*store, Txn::new().unchanged("a", first).put("a", b"2".to_vec())).await;
    refused(&*store, Txn::new().unchanged("a", first).put("a", b"3".to_vec())).await;
    done(&*store, Txn::new().unchanged("a", second).delete("a")).await;
    refused(&*store, Txn::new().unchanged("a", second).put("a", b"4".to_vec())).await;
    assert_eq!(store.get("a").await.unwrap(), None);
}

pub async fn a_refused_transaction_does_nothing_and_shows_the_records(subject: impl Subject) {
    let store = subject.store();
    let at = done(&*store, Txn::new().put("b", b"1".to_vec()).put("c", b"1".to_vec())).await;
    let txn = Txn::new().absent("a").present("b").absent("c").put("a", b"2".to_vec()).delete("b");
    let there = |key: &str| Some(Record { key: key.into(), value: b"1".to_vec(), modified: at });
    assert_eq!(refused(&*store, txn).await, [None, there("b"), there("c")]);
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.revision, at);
    assert_eq!(listing.records, [there("b").unwrap(), there("c").unwrap()]);
}

pub async fn a_committed_transaction_does_all_at_one_revision(subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().put("old", vec![])).await;
    let at = done(&*store, Txn::new().put("a", vec![]).delete("old").put("b", vec![])).await;
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.revision, at);
    let seen: Vec<_> = listing.records.iter().map(|r| (r.key.as_str(), r.modified)).collect();
    assert_eq!(seen, [("a", at), ("b", at)]);
}

pub async fn a_transaction_that_changes_nothing_has_no_revision_of_its_own(subject: impl Subject) {
    let store = subject.store();
    let at = done(&*store, Txn::new().put("a", vec![])).await;
    assert_eq!(done(&*store, Txn::new().delete("nobody")).await, at);
    assert_eq!(done(&*store, Txn::new().present("a")).await, at);
    assert_eq!(store.list("").await.unwrap().revision, at);
}

pub async fn requests_beyond_the_limits_are_invalid(subject: impl Subject) {
    let store = subject.store();
    let limits = store.limits();
    let many = |count: usize| (0..count).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), vec![]));
    for (txn, word) in [
        (many(limits.operations + 1), "compares and writes"),
        (many(10).absent("a").put("big", vec![0; limits.bytes]), "bytes"),
        (Txn::new().put("a", vec![]).delete("a"), "twice"),
        (Txn::new().put("", vec![]), "empty key"),
    ] {
        match store.commit(txn).await {
            Err(StoreError::Invalid(reason)) => assert!(reason.contains(word), "{reason}"),
            other => panic!("{word}: {other:?}"),
        }
    }
    assert_eq!(store.list("").await.unwrap().records, []);
    done(&*store, many(limits.operations)).await;
    assert_eq!(store.list("").await.unwrap().records.len(), limits.operations);
}

pub async fn concurrent_counters_lose_no_update(subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().put("counter", b"0".to_vec())).await;
    let counting = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                loop {
                    let now = store.get("counter").await.unwrap().unwrap();
                    let number: u32 = String::from_utf8(now.value).unwrap().parse().unwrap();
                    let txn = Txn::new().unchanged("counter", now.modified);
                    let txn = txn.put("counter", (number + 1).to_string().into_bytes());
                    if let Outcome::Committed(_) = store.commit(txn).await.unwrap() {
                        break;
                    }
                }
            }
        })
    });
    for task in join_all(counting).await {
        task.unwrap();
    }
    assert_eq!(store.get("counter").await.unwrap().unwrap().value, b"100");
}

pub async fn of_many_who_create_one_wins(subject: impl Subject) {
    let store = subject.store();
    let creating = (0..20_u8).map(|me| {
        let store = store.clone();
        tokio::spawn(async move {
            let outcome = store.commit(Txn::new().absent("a").put("a", vec![me])).await.unwrap();
            matches!(outcome, Outcome::Committed(_)).then_some(me)
        })
    });
    let winners: Vec<u8> = join_all(creating).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(store.get("a").await.unwrap().unwrap().value, winners);
}
