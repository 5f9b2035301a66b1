//! Leases as Consul's sessions, and the end of the records bound to them.
//!
//! A lease is a session and a key that is bound to it and that Consul removes with it. Records themselves are
//! not bound to the session: Consul would remove them without an entry in the change log, and no watch could
//! tell what happened. Instead every client that watches also looks after leases: when a lease's key has gone, it
//! removes the lease's records in a transaction like any other. All clients try, one succeeds.

use super::{
    Core,
    api::{Applied, Op},
    journal::{Appended, Work},
    layout::lease_in,
    random,
};
use crate::{LeaseId, StoreError, backoff::Backoff};
use reqwest::StatusCode;
use serde::Deserialize;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use weft_model::Change;

/// The shortest time to live that Consul takes, unless it is configured otherwise.
const SHORTEST: Duration = Duration::from_secs(10);
/// The longest: Consul's own limit.
const LONGEST: Duration = Duration::from_hours(24);
/// Records removed in one transaction when their lease has ended.
const AT_ONCE: usize = 16;
/// Clients wait up to this long before they remove a dead lease's records, each at random: one is enough.
const SPREAD: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

impl Core {
    /// A new lease. Consul ends it between `ttl` and twice that after its last sign of life.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = ttl.clamp(SHORTEST, LONGEST).as_millis().div_ceil(1000);
        // Without checks: the session is to end with its time, not with the health of the agent that we talk to.
        // Without a lock delay: a daemon that comes back takes its record at once.
        let wanted = format!(
            r#"{{"Name":"weft","TTL":"{seconds}s","Behavior":"delete","LockDelay":"0s","Checks":[],"NodeChecks":[]}}"#
        );
        let answer = self.client.put("session/create", wanted).await?;
        let session = self.client.read::<Created>(&answer)?.id;
        loop {
            let lease = LeaseId(i64::try_from(random()? >> 33).unwrap_or(1).max(1));
            let key = self.layout.lease(lease);
            let ops = [Op::Absent(key.clone()), Op::Lock(key, session.clone())];
            match self.client.apply(&ops).await? {
                Applied::Done(_) => return Ok(lease),
                // The number is taken: take another one.
                Applied::Failed(failures) if failures.iter().any(|f| f.op == 0) => {}
                Applied::Failed(failures) => return Err(self.unexpected(&failures)),
            }
        }
    }

    /// A sign of life.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let session = self.session(lease).await?.ok_or(StoreError::LeaseLost(lease))?;
        let answer = self.client.put(&format!("session/renew/{session}"), "").await?;
        if answer.status == StatusCode::NOT_FOUND { Err(StoreError::LeaseLost(lease)) } else { Ok(()) }
    }

    /// Ends it and removes its records.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        if let Some(session) = self.session(lease).await? {
            self.client.put(&format!("session/destroy/{session}"), "").await?;
        }
        self.reap(lease).await
    }

    /// The session of a lease that lives.
    async fn session(&self, lease: LeaseId) -> Result<Option<String>, StoreError> {
        let key = self.layout.lease(lease);
        let seen = self.see(std::slice::from_ref(&key)).await?;
        Ok(seen.entries.get(&key).and_then(|entry| entry.session.clone()))
    }

    /// Removes the records bound to a lease that has ended. Does nothing to one that lives.
    async fn reap(&self, lease: LeaseId) -> Result<(), StoreError> {
        loop {
            let alive = self.layout.lease(lease);
            let bound = match self.client.look(&[Op::Tree(self.layout.bound_to(lease))]).await? {
                Applied::Done(entries) => entries,
                Applied::Failed(failures) => return Err(self.unexpected(&failures)),
            };
            if !bound.iter().any(|entry| self.layout.bound_of(&entry.key).is_some()) {
                return Ok(());
            }
            let keys: Vec<&str> =
                bound.iter().filter_map(|e| Some(self.layout.bound_of(&e.key)?.1)).take(AT_ONCE).collect();
            let whole: Vec<String> = keys.iter().map(|key| self.layout.record(key)).collect();
            let seen = self.see(&whole).await?;
            let mut work = Work { ops: vec![Op::Absent(alive)], changes: Vec::new(), number: random()? };
            for (key, whole) in keys.into_iter().zip(whole) {
                work.ops.push(Op::Delete(self.layout.bound(lease, key)));
                // It may have been written again since, with another lease or without.
                let still = seen.entries.get(&whole).filter(|entry| lease_in(entry.flags) == Some(lease));
                if let Some(entry) = still {
                    // Another daemon may be at it too, and must not tell the removal a second time.
                    work.ops.push(Op::Unchanged(whole.clone(), entry.modify_index));
                    work.ops.push(Op::Delete(whole));
                    work.changes.push(Change { key: key.to_owned(), value: None });
                }
            }
            if work.changes.is_empty() {
                // Nothing that a watch would tell.
                match self.client.apply(&work.ops).await? {
                    Applied::Failed(failures) if failures.iter().any(|f| f.op == 0) => return Ok(()),
                    _ => continue,
                }
            }
            let segments = self.segments().await?;
            match self.append(&segments, work).await? {
                Appended::Failed(failed) if failed.contains(&0) => return Ok(()),
                // Done, or somebody else was faster: see what is left.
                _ => {}
            }
        }
    }

    /// The leases that have ended and left records.
    async fn dead(&self) -> Result<BTreeSet<LeaseId>, StoreError> {
        let ops = [Op::Tree(self.layout.all_bound()), Op::Tree(self.layout.leases())];
        let entries = match self.client.look(&ops).await? {
            Applied::Done(entries) => entries,
            Applied::Failed(failures) => return Err(self.unexpected(&failures)),
        };
        let alive: BTreeSet<_> = entries.iter().filter_map(|e| self.layout.lease_of(&e.key)).collect();
        let bound = entries.iter().filter_map(|e| Some(self.layout.bound_of(&e.key)?.0));
        Ok(bound.filter(|lease| !alive.contains(lease)).collect())
    }
}

/// Looks after leases for as long as it lives.
pub struct Reaper(JoinHandle<()>);

impl Reaper {
    /// Must be called within a tokio runtime.
    pub fn start(core: Arc<Core>) -> Self {
        Self(tokio::spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            loop {
                let mut watching = Watching { core: core.clone(), known: None, index: 0 };
                let error = loop {
                    match watching.step().await {
                        Ok(()) => backoff.reset(),
                        Err(error) => break error,
                    }
                };
                tracing::debug!(store = %core.client.address(), %error, "cannot look after leases");
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Watching {
    core: Arc<Core>,
    /// The leases that lived last time; `None`: look at all.
    known: Option<BTreeSet<LeaseId>>,
    index: u64,
}

impl Watching {
    /// Waits for leases to come or go, and reaps those that went.
    async fn step(&mut self) -> Result<(), StoreError> {
        let layout = &self.core.layout;
        let answer = self.core.client.watch(&layout.leases(), "keys", self.index).await?;
        let keys: Vec<String> =
            if answer.status == StatusCode::OK { self.core.client.read(&answer)? } else { Vec::new() };
        let alive: BTreeSet<_> = keys.iter().filter_map(|key| layout.lease_of(key)).collect();
        if answer.index < self.index {
            // Consul was wiped, or restored from a snapshot.
            (self.index, self.known) = (0, None);
            return Ok(());
        }
        self.index = answer.index;
        let gone = match self.known.replace(alive) {
            Some(known) => known.difference(self.known.get_or_insert_default()).copied().collect(),
            None => self.core.dead().await?,
        };
        if !gone.is_empty() {
            let share = u32::try_from(random()? >> 32).unwrap_or(u32::MAX);
            tokio::time::sleep(SPREAD.mul_f64(f64::from(share) / f64::from(u32::MAX))).await;
        }
        for lease in gone {
            self.core.reap(lease).await?;
        }
        Ok(())
    }
}
