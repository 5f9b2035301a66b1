use super::{Subject, done};
use weft_model::Revision;
use weft_store::{Record, Txn};

pub async fn a_record_reads_back_with_the_revision_that_wrote_it(subject: impl Subject) {
    let store = subject.store();
    let first = done(&*store, Txn::new().put("a", b"1".to_vec())).await;
    let second = done(&*store, Txn::new().put("b", b"2".to_vec())).await;
    assert!(second > first && first > Revision::ZERO);
    let expected = Record { key: "a".into(), value: b"1".to_vec(), modified: first };
    assert_eq!(store.get("a").await.unwrap(), Some(expected));
    let third = done(&*store, Txn::new().put("a", b"3".to_vec())).await;
    let expected = Record { key: "a".into(), value: b"3".to_vec(), modified: third };
    assert_eq!(store.get("a").await.unwrap(), Some(expected));
}

pub async fn a_missing_key_has_no_record(subject: impl Subject) {
    let store = subject.store();
    done(&*store, Txn::new().put("key/longer", vec![])).await;
    assert_eq!(store.get("key").await.unwrap(), None);
}

pub async fn a_list_has_the_prefix_and_nothing_else_in_order(subject: impl Subject) {
    let store = subject.store();
    let mut txn = Txn::new();
    for key in ["n/b", "n/a", "n/a/c", "n", "n0", "o/a", "é/1", "é/2"] {
        txn = txn.put(key, key.as_bytes().to_vec());
    }
    let at = done(&*store, txn).await;
    let listing = store.list("n/").await.unwrap();
    assert_eq!(listing.revision, at);
    let keys: Vec<_> = listing.records.iter().map(|r| r.key.as_str()).collect();
    assert_eq!(keys, ["n/a", "n/a/c", "n/b"]);
    assert!(listing.records.iter().all(|r| r.value == r.key.as_bytes() && r.modified == at));
    assert_eq!(store.list("é/").await.unwrap().records.len(), 2);
    assert_eq!(store.list("").await.unwrap().records.len(), 8);
    assert_eq!(store.list("nobody/").await.unwrap().records, []);
}

pub async fn a_long_list_is_complete_and_of_one_revision(subject: impl Subject) {
    let store = subject.store();
    // Every transaction raises all of a pair, so a listing that mixes revisions shows unequal numbers.
    let raise = |number: u32| {
        let value = || number.to_string().into_bytes();
        Txn::new().put("p/0000", value()).put("p/zzzz", value())
    };
    done(&*store, raise(0)).await;
    let size = store.limits().operations.min(100);
    for page in 0..2500 / size {
        let txn = (0..size).fold(Txn::new(), |txn, i| txn.put(format!("p/{page:02}{i:02}x"), vec![b'x'; 50]));
        done(&*store, txn).await;
    }
    let count = 2500 / size * size + 2;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 1..=40 {
                done(&*store, raise(number)).await;
            }
        })
    };
    while !writer.is_finished() {
        let listing = store.list("p/").await.unwrap();
        assert_eq!(listing.records.len(), count);
        assert_eq!(listing.records[0].value, listing.records[count - 1].value);
        assert!(listing.records.iter().all(|r| r.modified <= listing.revision));
    }
    writer.await.unwrap();
}

pub async fn values_may_be_long_and_of_any_bytes(subject: impl Subject) {
    let store = subject.store();
    let start = store.list("big/").await.unwrap().revision;
    // A mebibyte, where the store takes that.
    let length = (store.limits().bytes - 1024).min(1024 * 1024);
    let value: Vec<u8> = (0..=255).cycle().take(length).collect();
    for key in ["big/1", "big/2", "big/3", "big/4", "big/5"] {
        done(&*store, Txn::new().put(key, value.clone())).await;
    }
    assert_eq!(store.get("big/1").await.unwrap().unwrap().value, value);
    let listing = store.list("big/").await.unwrap();
    assert_eq!(listing.records.len(), 5);
    let mut watch = store.watch("big/", start).await.unwrap();
    for _ in 0..5 {
        assert_eq!(super::next(&mut watch).await.changes[0].value.as_ref(), Some(&value));
    }
}

pub async fn records_survive_a_restart(mut subject: impl Subject) {
    let at = done(&*subject.store(), Txn::new().put("a", b"1".to_vec())).await;
    subject.restart().await;
    let store = subject.store();
    let expected = Record { key: "a".into(), value: b"1".to_vec(), modified: at };
    assert_eq!(super::soon(answer(&*store, "a")).await, Some(expected));
    assert!(done(&*store, Txn::new().put("b", b"2".to_vec())).await > at);
}

/// Asks until a store that is coming back answers.
async fn answer(store: &dyn weft_store::Store, key: &str) -> Option<Record> {
    loop {
        if let Ok(found) = store.get(key).await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
