//! What this daemon knows of the cluster: the snapshot, and the news since the plan last looked.
//!
//! It knows what every host knows ([`Scope::Cluster`]) and the members of the networks that it follows. The store tells of each
//! in order, but not of all in one order: how far the view has come is counted for each.

use crate::{followed::Followed, known::Known};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{Notify, watch};
use weft_model::{
    BadRecord, Change, NetworkId, Node, NodeId, Revision, Snapshot, Touched, encode,
    schema::{self, Scope},
};
use weft_store::{Batch, Listing};

/// The cluster as this daemon sees it. Written by the follower alone, read by everything.
pub(crate) struct View {
    /// This node's record as it should be. It stands in the snapshot also when the store has lost it, or has another: the
    /// plan would be that this host has nothing, or that of a stranger, or that of an address it has no longer.
    this: RwLock<Node>,
    /// Whether the store has it.
    stored: AtomicBool,
    /// What this host has written while the store was away and the follower has not brought back yet, by key: it stands
    /// in the snapshot whatever the store says. `None`: removed.
    untold: Mutex<Untold>,
    known: RwLock<Known>,
    news: Mutex<News>,
    /// What the snapshot on disk does not have yet, by key; `None`: nobody has counted. Changed with `known` locked.
    unsaved: Mutex<Option<Changed>>,
    wake: Notify,
    seen: watch::Sender<Seen>,
    /// The networks that are followed, or are about to be.
    pub(crate) followed: Followed,
    networks: watch::Sender<u64>,
    nodes: watch::Sender<u64>,
    /// How often a node may have lost its lease.
    leases_lost: watch::Sender<u64>,
    /// How often an endpoint of this node's has changed.
    own: watch::Sender<u64>,
    link: watch::Sender<Link>,
    /// The store has listed its records since the start: until then this is what was kept from before.
    listed: AtomicBool,
}

/// How far the snapshot has come in each scope that has been listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// How often the store has moved since the start: revisions of two stores say nothing about one another.
    pub(crate) moves: u64,
    cluster: Revision,
    networks: BTreeMap<NetworkId, Revision>,
}

impl Seen {
    /// The revision of a scope; `None`: it has not been listed.
    pub(crate) fn of(&self, scope: &Scope) -> Option<Revision> {
        match scope {
            Scope::Cluster => Some(self.cluster),
            Scope::Network(network) => self.networks.get(network).copied(),
        }
    }

    /// How far each network's members are.
    pub(crate) fn members(&self) -> &BTreeMap<NetworkId, Revision> {
        &self.networks
    }

    fn set(&mut self, scope: &Scope, revision: Revision) {
        match scope {
            Scope::Cluster => self.cluster = revision,
            Scope::Network(network) => {
                self.networks.insert(network.clone(), revision);
            }
        }
    }
}

/// Values by key; `None`: removed.
pub(crate) type Untold = BTreeMap<String, Option<Vec<u8>>>;

/// The same, of which many come and go: by hash, as such keys begin alike.
pub(crate) type Changed = HashMap<String, Option<Vec<u8>>>;

/// What changed since the snapshot on disk was last written.
#[derive(Debug)]
pub(crate) enum Unsaved {
    /// All of it may have.
    All(Box<Snapshot>),
    /// These records did, up to a revision; `None`: removed.
    Changes(Revision, Changed),
}

/// Many more than come about in a second: from there on, all of it is written.
const MANY: usize = 20_000;

/// What changed since it was last taken.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Anything may have: plan all of it again.
    pub all: bool,
    /// These did.
    pub touched: BTreeSet<Touched>,
    /// The revision did, if nothing else.
    pub moved: bool,
    /// How many writes to the snapshot it holds, since the start: see [`View::writes`].
    pub writes: u64,
}

impl News {
    fn is_empty(&self) -> bool {
        !self.all && self.touched.is_empty() && !self.moved
    }
}

/// What a change may have been about, for those who wait for one kind.
#[derive(Clone, Copy, Debug, Default)]
struct About {
    /// A network, a name or a binding of ours.
    networks: bool,
    /// A node's record.
    nodes: bool,
    /// A lease's end.
    leases_lost: bool,
}

/// How the connection to the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing was heard yet.
    Starting,
    /// Changes arrive.
    Up,
    /// They do not, because of this.
    Down(String),
}

impl View {
    /// A view of `snapshot`, all of which is news; but for the members of networks that are not `followed`.
    pub(crate) fn new(this: Node, mut snapshot: Snapshot, followed: Followed) -> Self {
        // Nobody would bring their end.
        snapshot.keep_networks(|network| followed.contains(network));
        let seen = Seen { cluster: snapshot.revision, ..Seen::default() };
        snapshot.nodes.insert(this.id.clone(), this.clone());
        let known = Known::new(this.id.clone(), snapshot);
        Self {
            this: RwLock::new(this),
            stored: AtomicBool::new(false),
            untold: Mutex::default(),
            known: RwLock::new(known),
            news: Mutex::new(News { all: true, ..News::default() }),
            unsaved: Mutex::new(None),
            wake: Notify::new(),
            seen: watch::Sender::new(seen),
            followed,
            networks: watch::Sender::new(0),
            nodes: watch::Sender::new(0),
            leases_lost: watch::Sender::new(0),
            own: watch::Sender::new(0),
            link: watch::Sender::new(Link::Starting),
            listed: AtomicBool::new(false),
        }
    }

    /// Looks at the snapshot.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        self.look_up(|known| look(known.snapshot()))
    }

    /// Looks at the snapshot and what goes with it.
    pub(crate) fn look_up<R>(&self, look: impl FnOnce(&Known) -> R) -> R {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the news, together with the snapshot that holds all of it.
    pub(crate) fn take_news<R>(&self, look: impl FnOnce(&Snapshot, News) -> R) -> Option<R> {
        // The follower adds to the news while it holds the snapshot's write lock: under the read lock, news and
        // snapshot agree.
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut present = self.lock_news();
        let writes = present.writes;
        let news = std::mem::replace(&mut *present, News { writes, ..News::default() });
        drop(present);
        (!news.is_empty()).then(|| look(known.snapshot(), news))
    }

    /// Takes what the snapshot on disk does not have yet, or `all` of it, together with a look at the snapshot at that time.
    pub(crate) fn take_unsaved<R>(&self, all: bool, look: impl FnOnce(&Snapshot) -> R) -> (Unsaved, R) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let changes = self.lock_unsaved().replace(Changed::new()).filter(|_| !all);
        let snapshot = known.snapshot();
        let unsaved = match changes {
            Some(changes) => Unsaved::Changes(snapshot.revision, changes),
            None => Unsaved::All(Box::new(snapshot.clone())),
        };
        (unsaved, look(snapshot))
    }

    fn unsaved(&self, changes: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) {
        let mut unsaved = self.lock_unsaved();
        if let Some(present) = &mut *unsaved {
            present.extend(changes);
            if present.len() > MANY {
                *unsaved = None;
            }
        }
    }

    fn lock_unsaved(&self) -> MutexGuard<'_, Option<Changed>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is news.
    pub(crate) fn has_news(&self) -> bool {
        !self.lock_news().is_empty()
    }

    /// Waits until there is news.
    pub(crate) async fn news(&self) {
        loop {
            let notified = self.wake.notified();
            if self.has_news() {
                return;
            }
            notified.await;
        }
    }

    /// Replaces all of a scope by a listing. Returns the records that could not be read.
    pub(crate) fn reset(&self, scope: &Scope, listing: Listing) -> Vec<BadRecord> {
        let revision = listing.revision;
        let records = listing.records.into_iter().map(|r| (r.key, r.value));
        let (mut listed, bad) = Snapshot::from_records(revision, records);
        self.write(scope, revision, |known, news| {
            for (key, value) in self.lock_untold().iter().filter(|(key, _)| Scope::of(key) == *scope) {
                let _touched = readable(listed.apply(&Change { key: key.clone(), value: value.clone() }));
            }
            let Scope::Network(network) = scope else {
                self.listed.store(true, Ordering::SeqCst);
                self.note_this(&listed);
                self.put_this(&mut listed);
                // The periodic relist mostly brings what is known already; then there is nothing to plan.
                let other = known.replace_cluster(listed);
                news.all |= other;
                if other {
                    *self.lock_unsaved() = None;
                }
                return About { networks: other, nodes: other, leases_lost: other };
            };
            news.touched.extend(known.replace_network(network, &mut listed));
            *self.lock_unsaved() = None;
            About::default()
        });
        bad
    }

    /// Applies a batch of changes in a scope. Returns the records that could not be read.
    pub(crate) fn apply(&self, scope: &Scope, batch: &Batch) -> Vec<BadRecord> {
        let mut bad = Vec::new();
        self.write(scope, batch.revision, |known, news| {
            let mut about = About::default();
            let untold = self.lock_untold();
            for change in &batch.changes {
                if untold.contains_key(&change.key) || self.is_a_node_as_known(known.snapshot(), change) {
                    continue;
                }
                self.unsaved([(change.key.clone(), change.value.clone())]);
                about.networks |= self.is_about_networks(change);
                about.nodes |= change.key.starts_with(schema::NODES);
                about.leases_lost |= change.value.is_none() && change.key.starts_with(schema::ALIVE);
                match known.apply(change) {
                    Ok(Touched::Other) => {}
                    Ok(touched) => {
                        news.touched.insert(touched);
                    }
                    Err(record) => {
                        // It counts as removed; what depended on it is planned again.
                        bad.push(record);
                        news.all = true;
                    }
                }
            }
            if about.nodes {
                let key = schema::node_key(&self.this().id);
                if batch.changes.iter().any(|change| change.key == key) {
                    self.note_this(known.snapshot());
                }
                self.put_this(known.other_records());
            }
            about
        });
        bad
    }

    /// How often the store has moved since the start.
    pub(crate) fn moves(&self) -> u64 {
        self.seen.borrow().moves
    }

    /// The store has moved: what is known has to be listed anew, and has no revision until then.
    pub(crate) fn store_moved(&self) {
        self.change(None, |known, _| {
            known.other_records().revision = Revision::ZERO;
            About::default()
        });
        self.seen.send_modify(|seen| *seen = Seen { moves: seen.moves + 1, ..Seen::default() });
    }

    /// Forgets the members of a network that is not followed any more.
    pub(crate) fn forget(&self, network: &NetworkId) {
        self.change(None, |known, news| {
            news.touched.extend(known.replace_network(network, &mut Snapshot::default()));
            *self.lock_unsaved() = None;
            About::default()
        });
        self.seen.send_modify(|seen| {
            seen.networks.remove(network);
        });
    }

    /// Replaces what the store has not been told, and changes the snapshot with it. What is untold no longer stays in the
    /// snapshot as it is: the follower has brought it, or will.
    pub(crate) fn set_untold(&self, untold: Untold) {
        self.change(None, |known, news| {
            let mut present = self.lock_untold();
            for (key, value) in &untold {
                if present.get(key) == Some(value) {
                    continue;
                }
                let change = Change { key: key.clone(), value: value.clone() };
                news.touched.extend(readable(known.apply(&change)));
                self.unsaved([(change.key, change.value)]);
            }
            *present = untold;
            About::default()
        });
    }

    /// The snapshot without what the store has not been told.
    pub(crate) fn told(&self) -> Snapshot {
        let mut snapshot = self.read(Snapshot::clone);
        for key in self.lock_untold().keys() {
            let _touched = readable(snapshot.apply(&Change { key: key.clone(), value: None }));
        }
        snapshot
    }

    fn lock_untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the snapshot has been written since the start. What the loop says it has applied counts the same.
    pub(crate) fn writes(&self) -> u64 {
        self.lock_news().writes
    }

    fn is_about_networks(&self, change: &Change) -> bool {
        change.key.starts_with(schema::NETWORKS)
            || change.key.starts_with(schema::NAMES)
            || change.key.strip_prefix(schema::BINDINGS).is_some_and(|rest| self.is_ours(rest))
    }

    /// Whether it is the record of another node, written again as it was: each network that a node makes does so.
    fn is_a_node_as_known(&self, snapshot: &Snapshot, change: &Change) -> bool {
        let id = change.key.strip_prefix(schema::NODES).and_then(|id| id.parse::<NodeId>().ok());
        let known = id.filter(|id| *id != self.this().id).and_then(|id| snapshot.nodes.get(&id));
        known.is_some_and(|node| change.value.as_deref() == Some(encode(node).as_slice()))
    }

    fn is_ours(&self, binding: &str) -> bool {
        let this = self.this.read().unwrap_or_else(PoisonError::into_inner);
        binding.starts_with(&this.id.to_string())
    }

    fn put_this(&self, snapshot: &mut Snapshot) {
        let this = self.this.read().unwrap_or_else(PoisonError::into_inner);
        if snapshot.nodes.get(&this.id) != Some(&*this) {
            snapshot.nodes.insert(this.id.clone(), this.clone());
        }
    }

    /// Takes note of whether the store has this node's record as it should be: the snapshot has just been told by it.
    fn note_this(&self, snapshot: &Snapshot) {
        let this = self.this.read().unwrap_or_else(PoisonError::into_inner);
        self.stored.store(snapshot.nodes.get(&this.id) == Some(&*this), Ordering::SeqCst);
    }

    /// Whether the store has this node's record as it should be, as far as it has told.
    pub(crate) fn this_is_stored(&self) -> bool {
        self.stored.load(Ordering::SeqCst)
    }

    /// This node's record as it should be.
    pub(crate) fn this(&self) -> Node {
        self.this.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The VTEP address of this node.
    pub(crate) fn vtep(&self) -> Option<IpAddr> {
        self.this.read().unwrap_or_else(PoisonError::into_inner).vteps.first().copied()
    }

    /// Changes what this node's record should be, in the snapshot too: the data path does not wait for the store.
    pub(crate) fn set_this(&self, node: Node) {
        *self.this.write().unwrap_or_else(PoisonError::into_inner) = node.clone();
        self.change(None, |known, news| {
            news.touched.insert(Touched::Node(node.id.clone()));
            self.unsaved([(schema::node_key(&node.id), Some(encode(&node)))]);
            known.other_records().nodes.insert(node.id.clone(), node);
            About::default()
        });
    }

    /// Sets which nodes are absent.
    pub(crate) fn set_absent(&self, absent: BTreeSet<NodeId>) {
        self.change(None, |known, news| {
            let before = std::mem::replace(&mut known.other_records().absent, absent);
            let now = &known.snapshot().absent;
            news.touched.extend(before.symmetric_difference(now).cloned().map(Touched::Node));
            About::default()
        });
    }

    /// Changes what the snapshot knows of a scope, which is at `revision` then. What is no longer followed is let be.
    fn write(&self, scope: &Scope, revision: Revision, change: impl FnOnce(&mut Known, &mut News) -> About) {
        self.change(Some((scope, revision)), |known, news| {
            if !self.follows(scope) {
                return About::default();
            }
            let about = change(known, news);
            let snapshot = known.other_records();
            // A store that was wiped begins anew, and the cluster's own records tell.
            snapshot.revision =
                if *scope == Scope::Cluster { revision } else { snapshot.revision.max(revision) };
            about
        });
    }

    fn follows(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Cluster => true,
            Scope::Network(network) => self.followed.contains(network),
        }
    }

    /// Changes the snapshot. `at`: how far that is, where it comes from the store.
    fn change(&self, at: Option<(&Scope, Revision)>, change: impl FnOnce(&mut Known, &mut News) -> About) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut news = self.lock_news();
        let about = change(&mut known, &mut news);
        news.moved = true;
        news.writes += 1;
        let own = known.own_changes();
        drop((known, news));
        self.own.send_if_modified(|before| std::mem::replace(before, own) != own);
        if about.networks {
            self.networks.send_modify(|n| *n += 1);
        }
        if about.nodes {
            self.nodes.send_modify(|n| *n += 1);
        }
        if about.leases_lost {
            self.leases_lost.send_modify(|n| *n += 1);
        }
        // Also without `at`: whoever waits for anything in the snapshot looks again.
        self.seen.send_modify(|seen| {
            if let Some((scope, revision)) = at.filter(|(scope, _)| self.follows(scope)) {
                seen.set(scope, revision);
            }
        });
        self.wake.notify_one();
    }

    fn lock_news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how the store is.
    pub(crate) fn store_is(&self, link: Link) {
        self.link.send_if_modified(|present| {
            let news = *present != link;
            *present = link;
            news
        });
    }

    /// Whether the store has listed its records since the start. Until then the snapshot may lack what was done in the
    /// last moments before.
    pub(crate) fn is_listed(&self) -> bool {
        let seen = self.seen.borrow();
        self.listed.load(Ordering::SeqCst)
            && self.followed.all().iter().all(|network| seen.networks.contains_key(network))
    }

    /// How the store is.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// How far the snapshot has come, as it grows.
    pub(crate) fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Changes with the nodes' records.
    pub(crate) fn nodes(&self) -> watch::Receiver<u64> {
        self.nodes.subscribe()
    }

    /// Changes when a node may have lost its lease.
    pub(crate) fn leases_lost(&self) -> watch::Receiver<u64> {
        self.leases_lost.subscribe()
    }

    /// Changes with this node's endpoints.
    pub(crate) fn own(&self) -> watch::Receiver<u64> {
        self.own.subscribe()
    }

    /// Changes with the networks.
    pub(crate) fn networks(&self) -> watch::Receiver<u64> {
        self.networks.subscribe()
    }
}

/// What a change was about that this daemon wrote itself, so that it can be read.
fn readable(outcome: Result<Touched, BadRecord>) -> Option<Touched> {
    outcome.ok().filter(|touched| *touched != Touched::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::encode;
    use weft_store::Record;

    fn batch(revision: u64, key: String, value: Option<&[u8]>) -> Batch {
        let value = value.map(<[u8]>::to_vec);
        Batch { revision: Revision(revision), changes: vec![Change { key, value }] }
    }

    fn node() -> Node {
        crate::tests::cluster::node(1)
    }

    #[tokio::test]
    async fn news_and_snapshot_agree_and_are_taken_once() {
        let this = node().id;
        let this_node = Node { id: this.clone(), ..node() };
        let view = View::new(this_node, Snapshot::default(), Followed::default());
        assert!(view.take_news(|_, news| news.all).unwrap(), "the first look is at everything");
        assert!(view.take_news(|_, _| ()).is_none());

        let other = crate::tests::cluster::node(2);
        let record = encode(&other);
        let bad = view.apply(&Scope::Cluster, &batch(7, schema::node_key(&other.id), Some(&record)));
        assert!(bad.is_empty());
        view.news().await;
        let (revision, touched) = view.take_news(|s, news| (s.revision, news.touched)).unwrap();
        assert_eq!(revision, Revision(7));
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), [Touched::Node(other.id)]);
    }

    #[test]
    fn a_relist_that_brings_nothing_new_plans_nothing() {
        let this = node();
        let view = View::new(this.clone(), Snapshot::default(), Followed::default());
        view.take_news(|_, _| ());
        let record = Record { key: schema::alive_key(&this.id), value: b"1".to_vec(), modified: Revision(3) };
        let listing = Listing { revision: Revision(3), records: vec![record] };
        view.reset(&Scope::Cluster, listing.clone());
        assert!(view.take_news(|_, news| news.all).unwrap());
        view.reset(&Scope::Cluster, Listing { revision: Revision(9), ..listing });
        let news = view.take_news(|_, news| news).unwrap();
        assert!(!news.all && news.touched.is_empty() && news.moved);
        assert_eq!(view.read(|s| s.revision), Revision(9));
    }

    #[test]
    fn what_is_unsaved_makes_a_kept_snapshot_what_the_view_is() {
        let this = node();
        let view = View::new(this.clone(), Snapshot::default(), Followed::default());
        let Unsaved::All(mut kept) = view.take_unsaved(false, |_| ()).0 else {
            panic!("nothing is saved yet")
        };
        let mut save = |what: &str| {
            let (unsaved, now) = view.take_unsaved(false, Snapshot::clone);
            let Unsaved::Changes(revision, changes) = unsaved else { panic!("{what}: all of it") };
            let count = changes.len();
            for (key, value) in changes {
                kept.apply(&Change { key, value }).unwrap();
            }
            kept.revision = revision;
            assert_eq!(*kept, now, "{what}");
            count
        };
        let other = crate::tests::cluster::node(2);
        let key = schema::node_key(&other.id);
        view.apply(&Scope::Cluster, &batch(7, key.clone(), Some(&encode(&other))));
        assert_eq!(save("a record"), 1);
        view.apply(&Scope::Cluster, &batch(8, key, None));
        view.set_this(Node { epoch: 7, ..this.clone() });
        assert_eq!(save("a removal, and this node"), 2);
        assert_eq!(save("nothing"), 0);
        let record = (schema::alive_key(&this.id), Some(b"1".to_vec()));
        view.set_untold(Untold::from([record]));
        assert_eq!(save("what was not told"), 1);
        // A listing may have changed anything, or nothing.
        view.reset(&Scope::Cluster, Listing { revision: Revision(9), records: vec![] });
        assert_eq!(save("a listing of the same"), 0);
        let key = schema::alive_key(&other.id);
        let records = vec![Record { key, value: b"1".to_vec(), modified: Revision(10) }];
        view.reset(&Scope::Cluster, Listing { revision: Revision(10), records });
        assert!(matches!(view.take_unsaved(false, |_| ()).0, Unsaved::All(_)));
    }

    #[test]
    fn this_node_stays_known_when_the_store_loses_its_record() {
        let this = node();
        let view = View::new(this.clone(), Snapshot::default(), Followed::default());
        view.apply(&Scope::Cluster, &batch(2, schema::node_key(&this.id), None));
        assert_eq!(view.read(|s| s.nodes.get(&this.id).cloned()), Some(this.clone()));
        view.reset(&Scope::Cluster, Listing { revision: Revision(3), records: vec![] });
        assert_eq!(view.read(|s| s.nodes.get(&this.id).cloned()), Some(this));
    }

    #[test]
    fn what_was_kept_of_a_network_that_is_not_followed_any_more_is_forgotten() {
        let (network, ip) = (NetworkId::random(), "10.9.0.2".parse().unwrap());
        let claim = weft_model::AddressClaim {
            kind: weft_model::ClaimKind::Ipam,
            node: node().id,
            endpoint: None,
            since: 0,
        };
        let mut kept = Snapshot::default();
        kept.addresses.entry(network.clone()).or_default().insert(ip, claim);
        let view = View::new(node(), kept.clone(), Followed::default());
        assert!(view.read(|s| s.addresses.is_empty()));
        let followed = Followed::default();
        followed.add(&network).unwrap();
        let view = View::new(node(), kept, followed);
        assert_eq!(view.read(|s| s.addresses.len()), 1);
    }

    #[test]
    fn an_address_that_changed_while_the_store_was_away_is_not_forgotten_when_it_is_back() {
        let old = node();
        let view = View::new(old.clone(), Snapshot::default(), Followed::default());
        let new = Node { vteps: vec!["192.0.2.99".parse().unwrap()], ..old.clone() };
        view.set_this(new.clone());
        let record = Record { key: schema::node_key(&old.id), value: encode(&old), modified: Revision(3) };
        view.reset(&Scope::Cluster, Listing { revision: Revision(3), records: vec![record.clone()] });
        assert_eq!(view.read(|s| s.nodes.get(&old.id).cloned()), Some(new.clone()));
        view.apply(&Scope::Cluster, &batch(4, record.key, Some(&record.value)));
        assert_eq!(view.read(|s| s.nodes.get(&old.id).cloned()), Some(new));
    }
}
