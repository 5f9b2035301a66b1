//! What every store must do, as assertions that each store's test target runs. A store's target brings a
//! [`Subject`] and expands [`conformance!`] with a function that makes one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "the embedded store has no server apart, and etcd has its own way to forget")]

mod follow;
mod history;
mod keep;
mod lease;
pub mod linear;
mod read;
mod txn;
mod watch;

pub use follow::*;
pub use history::*;
pub use keep::*;
pub use lease::*;
pub use read::*;
pub use txn::*;
pub use watch::*;

use async_trait::async_trait;
use futures::StreamExt;
use std::{future::Future, sync::Arc, time::Duration};
use weft_model::{Change, Revision};
use weft_store::{Batch, Outcome, Store, StoreError, Txn, Watch};

/// A store of its own for one test. Dropping it ends whatever it started.
#[async_trait]
pub trait Subject: Send {
    /// The store, empty at first.
    fn store(&self) -> Arc<dyn Store>;
    /// Makes the store forget its history up to now.
    async fn forget_history(&self);
    /// Ends the store and starts it again on what is on disk. A store with a server is down in between, and
    /// its clients live on.
    async fn restart(&mut self);
    /// The shortest time to live that the store gives a lease: etcd's, unless it says otherwise.
    fn shortest_lease(&self) -> Duration {
        Duration::from_secs(1)
    }
    /// How long a restart takes, generously.
    fn restart_takes(&self) -> Duration {
        Duration::from_secs(3)
    }
}

/// One test per assertion, for the store that `$make` makes. It returns `None` if it cannot and has said so.
#[macro_export]
macro_rules! conformance {
    ($make:path) => {
        conformance! { $make =>
            a_record_reads_back_with_the_revision_that_wrote_it,
            a_missing_key_has_no_record,
            a_list_has_the_prefix_and_nothing_else_in_order,
            a_long_list_is_complete_and_of_one_revision,
            values_may_be_long_and_of_any_bytes,
            records_survive_a_restart,
            absent_holds_only_without_a_record,
            present_holds_only_with_a_record,
            unchanged_holds_only_for_the_revision_that_wrote,
            a_refused_transaction_does_nothing_and_shows_the_records,
            a_committed_transaction_does_all_at_one_revision,
            a_transaction_that_changes_nothing_has_no_revision_of_its_own,
            requests_beyond_the_limits_are_invalid,
            concurrent_counters_lose_no_update,
            of_many_who_create_one_wins,
            concurrent_transactions_are_linearizable,
            a_watch_reports_every_change_once_and_in_order,
            a_watch_goes_back_to_an_old_revision,
            a_watch_reports_a_transaction_as_one_batch,
            a_watch_far_behind_gets_every_batch_whole,
            a_watch_reports_removals,
            a_watch_sees_its_prefix_only,
            a_watch_of_forgotten_history_ends_with_compacted,
            a_watch_after_a_revision_that_never_was_ends_with_compacted,
            a_lease_without_a_sign_of_life_ends_with_its_records,
            a_lease_lives_as_long_as_it_is_kept_alive,
            a_revoked_lease_takes_its_records_along,
            a_lost_lease_is_reported,
            a_record_written_again_leaves_its_old_lease,
            a_lease_survives_a_restart,
            a_follower_lists_then_reports_changes,
            a_follower_lists_again_now_and_then,
            a_keeper_keeps_its_record_until_it_is_released,
            a_keeper_that_is_dropped_leaves_its_record_to_expire,
            a_keeper_writes_its_record_again_after_the_lease_was_lost,
            a_keeper_writes_its_record_again_after_it_was_removed,
        }
    };
    ($make:path => $($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(subject) = $make().await {
                    $crate::conformance::$name(subject).await;
                }
            }
        )*
    };
}

/// The further assertions for stores whose server lives apart from their client.
#[macro_export]
macro_rules! conformance_of_servers {
    ($make:path) => {
        conformance! { $make =>
            a_follower_resumes_after_a_server_restart,
            a_follower_lists_again_after_compaction,
            a_keeper_outlives_a_server_restart,
            concurrent_transactions_are_linearizable_over_a_server_restart,
        }
    };
}

/// The most that anything here may take. Reached only by a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits for it, and fails rather than waiting for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it did not happen in time")
}

/// Commits it and expects that to be done.
pub async fn done(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(txn).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Refused(records) => panic!("refused: {records:?}"),
    }
}

/// The watch's next batch.
pub async fn next(watch: &mut Watch) -> Batch {
    soon(watch.next()).await.expect("the watch ended").unwrap()
}

/// The error that a watch fails with, at once or later.
pub async fn failure(watch: Result<Watch, StoreError>) -> StoreError {
    let mut watch = match watch {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        match soon(watch.next()).await {
            Some(Err(error)) => return error,
            Some(Ok(_)) => {}
            None => panic!("the watch ended without an error"),
        }
    }
}

pub fn put(key: &str, value: &str) -> Change {
    Change { key: key.to_owned(), value: Some(value.as_bytes().to_vec()) }
}

pub fn removed(key: &str) -> Change {
    Change { key: key.to_owned(), value: None }
}

/// Writes more revisions than an embedded store with this change log keeps.
pub async fn outrun(store: Arc<dyn Store>, history: u64) {
    for _ in 0..=history / 50 {
        let writes = (0..50).map(|_| store.commit(Txn::new().put("outrun", vec![])));
        for outcome in futures::future::join_all(writes).await {
            outcome.unwrap();
        }
    }
}
