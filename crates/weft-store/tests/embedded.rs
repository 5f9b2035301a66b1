//! The embedded store: the conformance suite, and a comparison with a map in memory.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod conformance;
#[path = "conformance/linear_tests.rs"]
mod linear_tests;

use async_trait::async_trait;
use conformance::Subject;
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};
use weft_model::Revision;
use weft_store::{Compare, Embedded, Outcome, Store, StoreError, Txn, Write};

/// So small that a test can outrun it.
const HISTORY: u64 = 300;

struct Local {
    folder: tempfile::TempDir,
    store: Option<Arc<Embedded>>,
}

async fn local() -> Option<Local> {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open_with_history(folder.path().join("store.redb"), HISTORY).await.unwrap();
    Some(Local { folder, store: Some(Arc::new(store)) })
}

#[async_trait]
impl Subject for Local {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    async fn forget_history(&self) {
        conformance::outrun(self.store(), HISTORY).await;
    }

    async fn restart(&mut self) {
        self.store = None;
        let path = self.folder.path().join("store.redb");
        self.store = Some(Arc::new(Embedded::open_with_history(path, HISTORY).await.unwrap()));
    }
}

conformance!(local);

#[tokio::test]
async fn a_file_that_is_open_already_is_refused_with_the_reason() {
    let subject = local().await.unwrap();
    let path = subject.folder.path().join("store.redb");
    let error = Embedded::open(&path).await.err().unwrap().to_string();
    assert!(error.contains(&path.display().to_string()) && error.contains("another weft daemon"), "{error}");
}

#[tokio::test]
async fn a_file_of_something_else_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    std::fs::write(&path, "precious\n".repeat(1000)).unwrap();
    assert!(matches!(Embedded::open(&path).await, Err(StoreError::Storage { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious\n".repeat(1000));
}

#[tokio::test]
async fn a_watch_ends_when_its_store_is_dropped() {
    let mut subject = local().await.unwrap();
    let watch = subject.store().watch("", Revision::ZERO).await;
    subject.store = None;
    let error = conformance::failure(watch).await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

/// The store as it should be, in memory.
#[derive(Default)]
struct Model {
    records: BTreeMap<String, (Vec<u8>, u64)>,
    revision: u64,
}

impl Model {
    fn commit(&mut self, txn: &Txn) -> bool {
        let holds = txn.compares.iter().all(|compare| match (compare, self.records.get(compare.key())) {
            (Compare::Absent(_), record) => record.is_none(),
            (Compare::Present(_), record) => record.is_some(),
            (Compare::Unchanged(_, at), record) => record.is_some_and(|(_, modified)| *modified == at.0),
        });
        if !holds {
            return false;
        }
        let mut changed = false;
        for write in &txn.writes {
            changed |= match write {
                Write::Put { key, value, .. } => {
                    self.records.insert(key.clone(), (value.clone(), self.revision + 1));
                    true
                }
                Write::Delete { key } => self.records.remove(key).is_some(),
            };
        }
        self.revision += u64::from(changed);
        true
    }
}

fn keys() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/b", "a/c", "b", "é"]).prop_map(str::to_owned)
}

fn txns() -> impl Strategy<Value = Txn> {
    let compare = (keys(), 0..3, 0..12_u64).prop_map(|(key, kind, at)| match kind {
        0 => Compare::Absent(key),
        1 => Compare::Present(key),
        _ => Compare::Unchanged(key, Revision(at)),
    });
    let write = prop::option::of(prop::collection::vec(any::<u8>(), 0..5));
    let writes = prop::collection::btree_map(keys(), write, 0..4).prop_map(|writes| {
        let write = |(key, value)| match value {
            Some(value) => Write::Put { key, value, lease: None },
            None => Write::Delete { key },
        };
        writes.into_iter().map(write).collect()
    });
    let compares = prop::collection::vec(compare, 0..2);
    (compares, writes).prop_map(|(compares, writes)| Txn { compares, writes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_transactions_ends_as_in_a_map(sequence in prop::collection::vec(txns(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let subject = local().await.unwrap();
            let store = subject.store();
            let mut model = Model::default();
            for txn in sequence {
                let expected = model.commit(&txn);
                match store.commit(txn).await.unwrap() {
                    Outcome::Committed(at) => {
                        assert!(expected);
                        assert_eq!(at.0, model.revision);
                    }
                    Outcome::Refused(_) => assert!(!expected),
                }
            }
            let listing = store.list("").await.unwrap();
            let found: BTreeMap<_, _> =
                listing.records.into_iter().map(|r| (r.key, (r.value, r.modified.0))).collect();
            assert_eq!(found, model.records);
            assert_eq!(listing.revision.0, model.revision);
        });
    }
}
