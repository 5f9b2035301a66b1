use super::{Subject, done, next, put, removed, soon};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use weft_store::{LeaseId, LeaseKeeper, LeaseState, Record, Store, Txn};

fn ttl(subject: &impl Subject) -> Duration {
    subject.shortest_lease().max(Duration::from_secs(2))
}

fn keep(subject: &impl Subject) -> LeaseKeeper {
    LeaseKeeper::spawn(subject.store(), "alive/n", b"1".to_vec(), ttl(subject), CancellationToken::new())
}

async fn held(keeper: &LeaseKeeper) {
    soon(keeper.state().wait_for(|state| *state == LeaseState::Held)).await.unwrap();
}

async fn record(store: &dyn Store) -> Option<Record> {
    store.get("alive/n").await.unwrap()
}

pub async fn a_keeper_keeps_its_record_until_it_is_released(subject: impl Subject) {
    let store = subject.store();
    let keeper = keep(&subject);
    held(&keeper).await;
    let written = record(&*store).await.unwrap();
    tokio::time::sleep(2 * ttl(&subject)).await;
    assert_eq!(record(&*store).await, Some(written));
    assert_eq!(*keeper.state().borrow(), LeaseState::Held);
    keeper.release().await.unwrap();
    assert_eq!(record(&*store).await, None);
}

pub async fn a_keeper_that_is_dropped_leaves_its_record_to_expire(subject: impl Subject) {
    let store = subject.store();
    let keeper = keep(&subject);
    held(&keeper).await;
    let mut watch = store.watch("alive/", record(&*store).await.unwrap().modified).await.unwrap();
    let dropped = Instant::now();
    drop(keeper);
    assert_eq!(next(&mut watch).await.changes, [removed("alive/n")]);
    // The last renewal was up to a third of the time before.
    assert!(dropped.elapsed() >= ttl(&subject) / 2, "it ended after {:?}", dropped.elapsed());
}

pub async fn a_keeper_writes_its_record_again_after_the_lease_was_lost(subject: impl Subject) {
    let store = Leaky::new(subject.store());
    let ttl = ttl(&subject);
    let keeper = LeaseKeeper::spawn(store.clone(), "alive/n", b"1".to_vec(), ttl, CancellationToken::new());
    held(&keeper).await;
    let mut state = keeper.state();
    state.mark_unchanged();
    let mut watch = store.watch("alive/", record(&*store).await.unwrap().modified).await.unwrap();
    let lost = store.granted();
    store.revoke(lost).await.unwrap();
    assert_eq!(next(&mut watch).await.changes, [removed("alive/n")]);
    soon(state.wait_for(|state| matches!(state, LeaseState::Lost { .. }))).await.unwrap();
    assert_eq!(next(&mut watch).await.changes, [put("alive/n", "1")]);
    held(&keeper).await;
    assert_ne!(store.granted(), lost);
}

pub async fn a_keeper_writes_its_record_again_after_it_was_removed(subject: impl Subject) {
    let store = subject.store();
    let keeper = keep(&subject);
    held(&keeper).await;
    let mut watch = store.watch("alive/", record(&*store).await.unwrap().modified).await.unwrap();
    done(&*store, Txn::new().delete("alive/n")).await;
    assert_eq!(next(&mut watch).await.changes, [removed("alive/n")]);
    assert_eq!(next(&mut watch).await.changes, [put("alive/n", "1")]);
}

pub async fn a_keeper_outlives_a_server_restart(mut subject: impl Subject) {
    let keeper = keep(&subject);
    held(&keeper).await;
    subject.restart().await;
    let store = subject.store();
    tokio::time::sleep(2 * ttl(&subject)).await;
    held(&keeper).await;
    assert!(record(&*store).await.is_some());
}

/// A store that remembers the last lease it gave, so that a test can end it behind the keeper's back.
struct Leaky {
    store: std::sync::Arc<dyn Store>,
    granted: std::sync::Mutex<LeaseId>,
}

impl Leaky {
    fn new(store: std::sync::Arc<dyn Store>) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self { store, granted: std::sync::Mutex::new(LeaseId(0)) })
    }

    fn granted(&self) -> LeaseId {
        *self.granted.lock().unwrap()
    }
}

#[async_trait::async_trait]
impl Store for Leaky {
    fn address(&self) -> String {
        self.store.address()
    }
    async fn get(&self, key: &str) -> Result<Option<Record>, weft_store::StoreError> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<weft_store::Listing, weft_store::StoreError> {
        self.store.list(prefix).await
    }
    async fn watch(
        &self,
        prefix: &str,
        after: weft_model::Revision,
    ) -> Result<weft_store::Watch, weft_store::StoreError> {
        self.store.watch(prefix, after).await
    }
    async fn commit(&self, txn: Txn) -> Result<weft_store::Outcome, weft_store::StoreError> {
        self.store.commit(txn).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, weft_store::StoreError> {
        let lease = self.store.grant(ttl).await?;
        *self.granted.lock().unwrap() = lease;
        Ok(lease)
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), weft_store::StoreError> {
        self.store.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), weft_store::StoreError> {
        self.store.revoke(lease).await
    }
}
