//! What this host does while the store is away: containers go on starting and stopping, and the store is told later.
//!
//! Nobody but a node writes its endpoints and the address claims it holds. So while the store is away the node may go on
//! writing these alone, as long as it takes no address that it does not hold: it *reserves* some ahead
//! ([`crate::reserve`]). Such a write goes into a journal on disk, and into the view, so that the loop makes devices and
//! verbs answer as ever. When the store is back, the journal is told to it in order, and every entry is checked against what
//! the store holds by then ([`replay`]). As long as anything is untold, further writes of this kind queue up behind it.
//!
//! Everything else (networks, names, nodes, addresses not held) needs the store.

mod asked;
mod journal;
mod member;
mod replay;
mod spent;

pub(crate) use journal::fuzzing;

use crate::{
    AgentError,
    view::{Link, View},
};
use async_trait::async_trait;
use journal::{Entry, Journal};
use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard, Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_model::{
    AddressClaim, ClaimKind, Endpoint, EndpointId, NetworkId, NodeId, Revision, Snapshot, encode,
    schema::{self, Moved, OnNetwork, Scope},
};
use weft_store::{Compare, LeaseId, Limits, Listing, Outcome, Record, Store, StoreError, Txn, Watch, Write};

/// Marks revisions of records that the store has not been told: they come after all of the store's and are in the view
/// already.
const LOCAL: u64 = 1 << 63;

/// How long to wait after the store would not listen.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a revision is of a write that the store has not been told.
pub(crate) fn is_local(revision: Revision) -> bool {
    revision.0 & LOCAL != 0
}

/// The store, as this node's verbs see it.
pub(crate) struct Outbox {
    store: Arc<dyn Store>,
    /// The same for what this node writes.
    pub(crate) member: member::Member,
    view: Arc<View>,
    node: NodeId,
    journal: Mutex<Journal>,
    /// How many entries the store has not been told.
    untold: AtomicUsize,
    /// How many the follower has not brought back.
    pending: AtomicUsize,
    /// Entries that the store refused, since the start.
    refused: AtomicUsize,
    /// There is something to tell.
    wake: Notify,
    /// The view has to be listed anew.
    relist: Notify,
    /// The mark of a store that is closed, as the follower has found it: see [`schema::MOVED`].
    mark: watch::Sender<Option<Moved>>,
    restoring: Mutex<()>,
    asked: asked::Asked,
    /// What the snapshot on disk may be wrong about.
    pub(crate) spent: spent::Spent,
}

impl Outbox {
    /// The outbox whose files are in the directory `state`. What an earlier daemon has not told is in the view from here on.
    pub(crate) fn open(
        state: &Path,
        store: Arc<dyn Store>,
        view: Arc<View>,
        node: NodeId,
    ) -> Result<Self, AgentError> {
        let journal = Journal::open(&state.join("outbox.jsonl"), &store.address())?;
        let spent = spent::Spent::open(&state.join("spent.json"))?;
        view.set_untold(journal.untold());
        let (untold, pending) = (AtomicUsize::new(journal.len()), AtomicUsize::new(journal.pending()));
        let member = member::Member::new(Arc::clone(&store), Arc::clone(&view), node.clone());
        Ok(Self {
            store,
            member,
            view,
            node,
            journal: Mutex::new(journal),
            untold,
            pending,
            refused: AtomicUsize::new(0),
            wake: Notify::new(),
            relist: Notify::new(),
            mark: watch::Sender::new(None),
            restoring: Mutex::default(),
            asked: asked::Asked::default(),
            spent,
        })
    }

    /// The follower has found this mark, or none.
    pub(crate) fn mark(&self, found: Option<&[u8]>) {
        let mark = found.and_then(|value| match serde_json::from_slice(value) {
            Ok(moved) => Some(moved),
            Err(error) => {
                tracing::error!(key = schema::MOVED, %error, "the mark of a closed store cannot be read");
                None
            }
        });
        self.mark.send_if_modified(|present| std::mem::replace(present, mark.clone()) != mark);
    }

    /// What the follower has found.
    pub(crate) fn marks(&self) -> watch::Receiver<Option<Moved>> {
        self.mark.subscribe()
    }

    /// The store moves, by `go`, to another address: what was told is there, what was not will be told there.
    pub(crate) async fn rebind(
        &self,
        address: &str,
        go: impl FnOnce() -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        // Held over the move: nothing is told in between.
        let mut journal = self.journal.lock().await;
        go()?;
        journal.rebind(address)?;
        self.mark.send_replace(None);
        self.view.store_moved();
        self.settle(&journal);
        self.wake.notify_one();
        // A follower that was about to begin where the old store's listing ended would miss what the new one has by then.
        self.relist.notify_one();
        Ok(())
    }

    /// Waits until no other follower records again what a restored store has lost, and keeps them waiting meanwhile.
    pub(crate) async fn restoring(&self) -> MutexGuard<'_, ()> {
        self.restoring.lock().await
    }

    /// The store itself.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// How many changes the store has not been told.
    pub(crate) fn untold(&self) -> usize {
        self.untold.load(Ordering::SeqCst)
    }

    /// How many changes the store refused when it was back, since the start.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Whether writes go into the journal: the store is away, has moved, or is still being told.
    pub(crate) fn is_away(&self) -> bool {
        self.untold() > 0
            || self.mark.borrow().is_some()
            || matches!(*self.view.link().borrow(), Link::Down(_))
    }

    /// A follower is about to bring a scope of the view to `revision`.
    pub(crate) async fn follows(&self, scope: &Scope, revision: Revision) {
        self.confirm(scope, revision).await;
    }

    /// A follower is about to show the view these records, or their end, as of a revision each.
    pub(crate) fn hears<'a>(&self, news: impl Iterator<Item = (&'a str, Revision, Option<&'a [u8]>)>) {
        self.asked.hears(news);
    }

    /// A follower has brought a listing. What the view was told of while it came may be older, and stands in it instead.
    pub(crate) async fn listed(&self, scope: &Scope, revision: Revision) {
        if self.confirm(scope, revision).await {
            self.relist.notify_one();
        }
    }

    /// Whether there was anything to confirm.
    async fn confirm(&self, scope: &Scope, revision: Revision) -> bool {
        // Without entries there is nothing to confirm, and the follower need not wait for anybody.
        if self.pending.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut journal = self.journal.lock().await;
        let confirmed = journal.confirm(scope, revision);
        if confirmed {
            self.settle(&journal);
        }
        confirmed
    }

    /// Returns when the view has to be listed anew.
    pub(crate) async fn wants_listing(&self) {
        self.relist.notified().await;
    }

    /// Tells the store what it has not been told, whenever there is something and it listens. Until `shutdown`.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut link = self.view.link();
        loop {
            let listens = *link.borrow_and_update() == Link::Up;
            let told = if listens && self.untold() > 0 { self.tell_next().await } else { Ok(()) };
            let wait = match told {
                Ok(()) if listens => Duration::ZERO,
                Ok(()) => AGAIN,
                Err(error) => {
                    tracing::warn!(%error, "the store cannot be told what was done; trying again");
                    AGAIN
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = link.changed() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait), if self.untold() > 0 => {}
            }
        }
    }

    /// Tells the oldest entry, if there is one.
    async fn tell_next(&self) -> Result<(), AgentError> {
        // Held while the store is asked: what is written meanwhile comes after this.
        let mut journal = self.journal.lock().await;
        let Some(entry) = journal.oldest().cloned() else { return Ok(()) };
        match replay::tell(&self.member, &entry).await? {
            replay::Told::As(revision) => journal.told(revision)?,
            replay::Told::Refused(reason) => {
                tracing::error!(%reason, keys = ?entry.keys(), "the store refuses what was done while it was away");
                self.refused.fetch_add(1, Ordering::SeqCst);
                journal.forget_oldest()?;
                // The store's word counts: the view has to be put right.
                self.relist.notify_one();
            }
        }
        if journal.len() == 0 {
            tracing::info!("the store has been told everything");
            // Whatever others have done to these records meanwhile is seen now.
            self.relist.notify_one();
        }
        self.settle(&journal);
        Ok(())
    }

    /// The claims of which nobody knows what became, for nobody is asking.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let mut keys = self.spent.unsettled();
        keys.retain(|key| !self.is_asking(key));
        keys
    }

    /// Whether the store is being asked to write this key.
    pub(crate) fn is_asking(&self, key: &str) -> bool {
        self.asked.is_asking(key)
    }

    /// The store has done a transaction. Until the follower brings it, the view shows it all the same: if the store goes away
    /// before, an address that was given back or used must not be taken for one that is held ahead.
    async fn is_done(&self, txn: &Txn, revision: Revision) {
        let seen = self.view.seen();
        let is_news = |write: &&Write| {
            let Scope::Network(network) = Scope::of(write.key()) else { return false };
            matches!(Known::of(write.key()), Some(Known::Endpoint(..) | Known::Address(..)))
                && self.view.followed.contains(&network)
                && seen.borrow().of(&Scope::Network(network)).is_none_or(|seen| seen < revision)
        };
        let news: Vec<_> = txn.writes.iter().filter(is_news).collect();
        if news.is_empty() {
            return;
        }
        let mut journal = self.journal.lock().await;
        for write in news {
            let after = if let Write::Put { value, .. } = write { Some(text(value)) } else { None };
            journal.done(revision, write.key(), after);
        }
        self.settle(&journal);
    }

    fn settle(&self, journal: &Journal) {
        self.untold.store(journal.len(), Ordering::SeqCst);
        self.pending.store(journal.pending(), Ordering::SeqCst);
        self.view.set_untold(journal.untold());
    }

    /// The record as this node knows it, if it is one of those that it alone writes or that verbs ask for with them.
    /// `None`: the store has to be asked.
    #[allow(clippy::option_option)] // Whether it is known, and whether there is one.
    fn known(&self, journal: &Journal, key: &str) -> Option<Option<Record>> {
        let record = |value: Vec<u8>, snapshot: &Snapshot| Record {
            key: key.to_owned(),
            value,
            modified: journal.version(key).map_or_else(
                || journal.told_at(key).unwrap_or(snapshot.revision),
                |number| Revision(LOCAL | number),
            ),
        };
        if let Scope::Network(network) = Scope::of(key)
            && !self.view.followed.contains(&network)
        {
            return None;
        }
        self.view.read(|s| match Known::of(key)? {
            Known::Endpoint(network, id) => {
                let found = s.endpoint(&network, &id);
                Some(found.map(|endpoint| record(encode(endpoint), s)))
            }
            Known::Address(network, ip) => {
                let found = s.addresses.get(&network).and_then(|all| all.get(&ip));
                Some(found.map(|claim| record(encode(claim), s)))
            }
            Known::Network(id) => Some(s.networks.get(&id).map(|network| record(encode(network), s))),
            // A removal that has begun elsewhere is found out when the store is told.
            Known::Removing => Some(None),
        })
    }

    /// Whether this node may write the key without the store: the record, present or to be, is its own.
    fn is_own(&self, present: Option<&Record>, write: &Write) -> bool {
        let owner = |key: &str, value: &[u8]| match Known::of(key)? {
            Known::Endpoint(..) => serde_json::from_slice::<Endpoint>(value).ok().map(|e| e.node),
            Known::Address(..) => serde_json::from_slice::<AddressClaim>(value).ok().map(|c| c.node),
            Known::Network(_) | Known::Removing => None,
        };
        let key = write.key();
        let is_ours = |value: &[u8]| owner(key, value).is_some_and(|node| node == self.node);
        match (present, write) {
            (Some(record), Write::Put { value, lease: None, .. }) => is_ours(&record.value) && is_ours(value),
            (Some(record), Write::Delete { .. }) => is_ours(&record.value),
            // A new endpoint needs nobody's leave; a new claim does.
            (None, Write::Put { value, lease: None, .. }) => {
                matches!(Known::of(key), Some(Known::Endpoint(..))) && is_ours(value)
            }
            (_, Write::Put { lease: Some(_), .. }) => false,
            (None, Write::Delete { .. }) => {
                matches!(Known::of(key), Some(Known::Endpoint(..) | Known::Address(..)))
            }
        }
    }

    /// The records that the transaction compares, if all of them are known.
    fn present(&self, journal: &Journal, txn: &Txn) -> Option<Vec<Option<Record>>> {
        txn.compares.iter().map(|c| self.known(journal, c.key())).collect()
    }

    /// What the transaction needs and does, if this node may do it alone.
    fn entry(&self, journal: &Journal, txn: &Txn) -> Option<Result<Entry, Outcome>> {
        let present = self.present(journal, txn)?;
        let mut changes = Vec::new();
        for write in &txn.writes {
            let before = self.known(journal, write.key())?;
            if !self.is_own(before.as_ref(), write) {
                return None;
            }
            let after = match write {
                Write::Put { value, .. } => Some(text(value)),
                Write::Delete { .. } => None,
            };
            changes.push(journal::Step {
                key: write.key().to_owned(),
                before: before.map(|record| text(&record.value)),
                after,
            });
        }
        let holds = |(compare, record): (&Compare, &Option<Record>)| match compare {
            // Read when the store was there, and nobody but this node has written it since.
            Compare::Unchanged(key, revision) if !is_local(*revision) && journal.version(key).is_none() => {
                let least = journal.told_at(key).unwrap_or(Revision::ZERO);
                record.as_ref().is_some_and(|record| (least..=record.modified).contains(revision))
            }
            compare => compare.holds(record.as_ref()),
        };
        if !txn.compares.iter().zip(&present).all(holds) {
            return Some(Err(Outcome::Refused(present)));
        }
        let written = |key: &str| txn.writes.iter().any(|write| write.key() == key);
        let conditions = txn.compares.iter().filter(|c| !written(c.key())).filter_map(|c| match c {
            Compare::Absent(key) => Some((key.clone(), false)),
            Compare::Present(key) => Some((key.clone(), true)),
            Compare::Unchanged(..) => None,
        });
        Some(Ok(Entry { conditions: conditions.collect(), steps: changes }))
    }

    /// Notes what the snapshot on disk will be wrong about when the store has done this: claims in it that are given up, and those
    /// that are held ahead no longer.
    fn note_spent(&self, txn: &Txn) -> Result<Vec<String>, StoreError> {
        let is_spent = |s: &Snapshot, write: &Write| {
            let claim = self.own_claim(s, write.key());
            claim.is_some_and(|c| c.kind == ClaimKind::Reserved || matches!(write, Write::Delete { .. }))
        };
        let spent: Vec<_> = self.view.read(|s| {
            let writes = txn.writes.iter().filter(|write| is_spent(s, write));
            writes.map(|write| write.key().to_owned()).collect()
        });
        if !spent.is_empty() {
            let noted = self.spent.note(spent.clone());
            noted.map_err(|error| self.unnoted("what it is asked", &error))?;
        }
        Ok(spent)
    }

    /// An address that the transaction gives to somebody, although another one that the store was asked for has no answer yet
    /// and may have given it up. `own`: what was noted for this one.
    fn given_blindly<'a>(&self, txn: &'a Txn, own: &[String]) -> Option<&'a str> {
        txn.writes.iter().find_map(|write| {
            let Write::Put { key, value, .. } = write else { return None };
            let Some(Known::Address(..)) = Known::of(key) else { return None };
            let claim = serde_json::from_slice::<AddressClaim>(value).ok()?;
            let gives = claim.kind != ClaimKind::Reserved;
            (gives && !own.contains(key) && self.spent.is_unsettled(key)).then_some(key.as_str())
        })
    }

    /// The claim of this key, if a snapshot shows it as this node's.
    pub(crate) fn own_claim<'a>(&self, snapshot: &'a Snapshot, key: &str) -> Option<&'a AddressClaim> {
        let Some(Known::Address(network, ip)) = Known::of(key) else { return None };
        let claim = snapshot.addresses.get(&network)?.get(&ip)?;
        (claim.node == self.node).then_some(claim)
    }

    fn unnoted(&self, what: &str, error: &AgentError) -> StoreError {
        self.unreachable(format!("and {what} cannot be noted: {error}"))
    }

    fn unreachable(&self, reason: String) -> StoreError {
        StoreError::Unreachable { store: self.store.address(), reason }
    }

    fn away(&self) -> StoreError {
        let reason = match &*self.view.link().borrow() {
            Link::Down(reason) => reason.clone(),
            Link::Up | Link::Starting => "it does not answer".to_owned(),
        };
        self.unreachable(reason)
    }
}

/// A record's JSON.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The records that verbs need for endpoints.
enum Known {
    Endpoint(NetworkId, EndpointId),
    Address(NetworkId, IpAddr),
    Network(NetworkId),
    Removing,
}

impl Known {
    fn of(key: &str) -> Option<Self> {
        if let Some((network, what)) = OnNetwork::parse(key).ok()? {
            return match what {
                OnNetwork::Endpoint(id) => Some(Self::Endpoint(network, id)),
                OnNetwork::Address(ip) => Some(Self::Address(network, ip)),
                OnNetwork::Wanted(_) | OnNetwork::Groups(_) => None,
            };
        }
        if let Some(id) = key.strip_prefix(schema::NETWORKS) {
            return Some(Self::Network(id.parse().ok()?));
        }
        key.starts_with(schema::REMOVING).then_some(Self::Removing)
    }
}

#[async_trait]
impl Store for Outbox {
    fn address(&self) -> String {
        self.store.address()
    }

    fn limits(&self) -> Limits {
        let limits = self.store.limits();
        // For the condition that this node is a member.
        let key = schema::node_key(&self.node).len();
        Limits { operations: limits.operations - 1, bytes: limits.bytes - key }
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        if !self.is_away() {
            match self.store.get(key).await {
                Err(error) if error.is_away() => {}
                answered => return answered,
            }
        }
        let known = self.known(&*self.journal.lock().await, key);
        match known {
            Some(record) => Ok(record),
            None => self.store.get(key).await,
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.store.list(prefix).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, after).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let asking = self.asked.ask(&txn);
        let mut spent = Vec::new();
        if !self.is_away() {
            spent = self.note_spent(&txn)?;
            match self.member.commit(txn.clone()).await {
                // It may have taken effect; telling it again finds that out.
                Err(error) if error.is_away() => asking.overtakes_others(),
                Ok(Outcome::Committed(revision)) => {
                    asking.overtakes_others();
                    self.is_done(&txn, revision).await;
                    self.spent.settle(&spent);
                    return Ok(Outcome::Committed(revision));
                }
                answered => return answered,
            }
        }
        let mut journal = self.journal.lock().await;
        let Some(entry) = self.entry(&journal, &txn) else {
            let untold = txn.writes.iter().map(Write::key).find(|key| journal.version(key).is_some());
            if let Some(key) = untold {
                // What it is told later would be done to what this makes.
                return Err(self.unreachable(format!("it has not been told yet what has become of {key}")));
            }
            drop(journal);
            return if matches!(*self.view.link().borrow(), Link::Down(_)) {
                Err(self.away())
            } else {
                self.note_spent(&txn)?;
                self.member.commit(txn).await
            };
        };
        let entry = match entry {
            Ok(entry) if !asking.is_overtaken() => entry,
            // It was made on what has been so no longer since another verb was answered.
            Ok(_) => return Ok(Outcome::Refused(self.present(&journal, &txn).unwrap_or_default())),
            Err(refused) => return Ok(refused),
        };
        if let Some(key) = self.given_blindly(&txn, &spent) {
            return Err(
                self.unreachable(format!("it is away, and whether it has got {key} back is not known"))
            );
        }
        let number =
            journal.append(entry).map_err(|error| self.unnoted("what is done without it", &error))?;
        asking.overtakes_others();
        self.settle(&journal);
        self.spent.settle(&spent);
        self.wake.notify_one();
        Ok(Outcome::Committed(Revision(LOCAL | number)))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }

    async fn address_lost(&self) {
        self.store.address_lost().await;
    }
}
