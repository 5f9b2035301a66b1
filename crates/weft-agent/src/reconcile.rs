//! The loop: keeps this host's kernel as the cluster's records say it should be, for ever.
//!
//! Two kinds of pass. A *change pass* follows the news of the store and touches only what they concern. An
//! *audit* reads what the kernel has, compares it with what it should have, and repairs the difference: at the
//! start (adoption), every few seconds, and when netlink reports that somebody changed something. What an audit
//! repairs without any news is drift; it is counted by kind and shown by `weft status`.
//!
//! A daemon that starts while the store is away has a snapshot from some moments before its end. What the kernel has beyond
//! that may be newer, and carry frames: until the store has listed its records, an audit takes nothing away, and news nothing
//! that an endpoint needs which is not known.

use crate::view::View;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use weft_kernel::{Kernel, KernelError};
use weft_model::{NodeId, Revision};
use weft_plan::{Fdb, HostState, Key, Object, Op, Planner, diff, diff_keys, model_kernel::apply_op};

/// An audit reads everything; after one it rests for this many times as long as it took, so that a host that is
/// full of changes spends its time on them.
const REST_FACTOR: u32 = 10;

/// The same where nothing has happened: however large the networks are, a host at rest spends less than 1 % of a core on
/// looking at what it has.
const IDLE_FACTOR: u32 = 200;
/// Up to so many objects an audit costs some milliseconds, whatever the clock says of it on a busy machine: then the interval is
/// kept, and with it the promise to repair within 5 s what nobody tells of.
const FEW_OBJECTS: usize = 2000;
/// The longest time without an audit.
const LONGEST: Duration = Duration::from_mins(10);

/// Netlink events come in bursts (a container's start makes a dozen): one audit for the burst.
const SETTLE: Duration = Duration::from_millis(300);

/// What the loop has done, for whoever waits for it or asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reconciled {
    /// The store's revision that this host's kernel reflects, but for `failures`.
    pub revision: Revision,
    /// How many writes to the snapshot it reflects: see `View::writes`.
    pub writes: u64,
    /// What could not be done, and the kernel's words.
    pub failures: BTreeMap<Key, String>,
    /// Why the kernel could not be read, when last tried.
    pub blind: Option<String>,
    /// Drift repaired since the start, by kind of object.
    pub drift: BTreeMap<String, u64>,
    /// How many objects there should be.
    pub objects: usize,
}

/// How far the plan has followed the view.
struct Planned {
    revision: Revision,
    writes: u64,
}

/// The loop and what it knows.
pub(crate) struct Reconciler {
    view: Arc<View>,
    kernel: Arc<dyn Kernel>,
    interval: Duration,
    planner: Planner,
    /// What the kernel held when it was last read, with what was done since.
    believed: HostState,
    /// The kernel was read at least once, and compared with what the store says: from then on, what differs without news is
    /// drift.
    adopted: bool,
    /// Events cannot be had; tried again after the next audit.
    deaf: bool,
    state: Reconciled,
    done: watch::Sender<Reconciled>,
    next_audit: Instant,
    rest_until: Instant,
}

impl Reconciler {
    /// A loop for node `this`, and where it tells what it has done.
    pub(crate) fn new(
        this: NodeId,
        view: Arc<View>,
        kernel: Arc<dyn Kernel>,
        interval: Duration,
    ) -> (Self, watch::Receiver<Reconciled>) {
        let (done, receiver) = watch::channel(Reconciled::default());
        let now = Instant::now();
        let planner = Planner::new(this).for_kernel(kernel.features());
        let reconciler = Self {
            view,
            kernel,
            interval,
            planner,
            believed: HostState::new(),
            adopted: false,
            deaf: false,
            state: Reconciled::default(),
            done,
            next_audit: now,
            rest_until: now,
        };
        (reconciler, receiver)
    }

    /// Adopts what is there, then follows the news until `shutdown`. What the kernel has stays in place.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let planned = self.plan_news().map(|(_, planned)| planned);
        self.audit().await;
        self.publish(planned.as_ref());
        let kernel = Arc::clone(&self.kernel);
        loop {
            // An audit is due at most once in its rest, so it cannot keep the news waiting; the other way round it could be.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = sleep_until(self.next_audit) => {
                    self.audit().await;
                    self.publish(None);
                }
                event = kernel.changed(), if !self.deaf => {
                    if let Err(error) = event {
                        tracing::warn!(%error, "the kernel's events cannot be had; it is read every few seconds");
                        self.deaf = true;
                    }
                    self.next_audit = self.next_audit.min(self.rest_until.max(Instant::now() + SETTLE));
                }
                () = self.view.news() => self.follow().await,
            }
        }
    }

    /// Plans what the news concern. Returns the keys whose objects changed, and how far that is.
    fn plan_news(&mut self) -> Option<(BTreeSet<Key>, Planned)> {
        let planner = &mut self.planner;
        self.view.take_news(|snapshot, news| {
            let keys =
                if news.all { planner.reset(snapshot) } else { planner.update_all(snapshot, &news.touched) };
            (keys, Planned { revision: snapshot.revision, writes: news.writes })
        })
    }

    /// A change pass.
    async fn follow(&mut self) {
        let Some((keys, planned)) = self.plan_news() else { return };
        let mut ops = diff_keys(self.planner.desired(), &self.believed, &keys);
        if !self.adopted && self.has_unknown_ports(&keys) {
            // The last endpoint that is known of a network may have gone: an audit finds out whether it was the last.
            ops.retain(|op| match op {
                Op::Remove(key) => {
                    is_a_port(key) && keys.contains(key) || self.planner.desired().contains_key(key)
                }
                Op::Create(..) | Op::Change { .. } => true,
            });
        }
        if !ops.is_empty() && !self.apply(&ops).await {
            self.next_audit = self.next_audit.min(self.rest_until.max(Instant::now() + SETTLE));
        }
        // What is not wanted any more cannot fail any more.
        let desired = self.planner.desired();
        self.state.failures.retain(|key, _| desired.contains_key(key) || self.believed.contains_key(key));
        self.publish(Some(&planned));
        if !self.adopted && self.view.is_listed() {
            self.next_audit = Instant::now();
        }
    }

    /// Reads the kernel and repairs the difference.
    async fn audit(&mut self) {
        let begun = Instant::now();
        // Of what is listed while the kernel is read, or was and is news yet, the plan knows nothing.
        let listed = self.view.is_listed() && !self.view.has_news();
        match self.kernel.observe().await {
            Ok(observed) => {
                self.state.blind = None;
                self.believed = observed;
                let mut ops = diff(self.planner.desired(), &self.believed);
                if self.adopted {
                    self.count_drift(&ops);
                } else if listed {
                    self.adopted = true;
                } else {
                    ops.retain(|op| self.is_safe_unlisted(op));
                }
                self.state.failures.clear();
                self.apply(&ops).await;
            }
            Err(error) => self.is_blind(&error),
        }
        self.deaf = false;
        let now = Instant::now();
        let took = now - begun;
        self.rest_until = now + took * REST_FACTOR;
        let few = self.state.objects <= FEW_OBJECTS;
        let idle = if few { self.interval } else { self.interval.max((took * IDLE_FACTOR).min(LONGEST)) };
        self.next_audit = self.rest_until.max(now + idle);
    }

    /// Whether the kernel has ports that nothing was known of before these news either.
    fn has_unknown_ports(&self, news: &BTreeSet<Key>) -> bool {
        let mut ports = self.believed.keys().filter(|key| is_a_port(key));
        ports.any(|key| !self.planner.desired().contains_key(key) && !news.contains(key))
    }

    /// Whether an operation takes nothing away that may be newer than the snapshot. What has to be made anew goes first.
    fn is_safe_unlisted(&self, op: &Op) -> bool {
        match op {
            Op::Remove(key) => self.planner.desired().contains_key(key),
            Op::Change { key, .. } => !matches!(key, Key::Fdb(..) | Key::Neighbour(..) | Key::Direct(..)),
            Op::Create(key, _) => !self.leads_to_unknown_port(key),
        }
    }

    /// Whether frames go to a port that nothing is known of: a newer endpoint may have the MAC address of one that is known.
    /// That the port goes, and with it this entry, is what the plan would have; it stays.
    fn leads_to_unknown_port(&self, key: &Key) -> bool {
        let (Key::Fdb(vni, _), Some(Object::Fdb(Fdb { port: Some(port), .. }))) =
            (key, self.believed.get(key))
        else {
            return false;
        };
        let port = Key::Port(*vni, port.clone());
        self.believed.contains_key(&port) && !self.planner.desired().contains_key(&port)
    }

    fn is_blind(&mut self, error: &KernelError) {
        if self.state.blind.is_none() {
            tracing::error!(%error, "the kernel's state cannot be read");
        }
        self.state.blind = Some(error.to_string());
    }

    fn count_drift(&mut self, ops: &[Op]) {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        // What failed before is being tried again, which is no news.
        for op in ops.iter().filter(|op| !self.state.failures.contains_key(op.key())) {
            *kinds.entry(op.key().kind()).or_default() += 1;
        }
        if kinds.is_empty() {
            return;
        }
        tracing::warn!(?kinds, "somebody changed the kernel's state; repairing it");
        for (kind, count) in kinds {
            *self.state.drift.entry(kind.to_owned()).or_default() += count;
        }
    }

    /// Whether all went well.
    async fn apply(&mut self, ops: &[Op]) -> bool {
        let results = self.kernel.apply(ops).await;
        let mut well = true;
        for (op, result) in ops.iter().zip(results) {
            let refused = match result {
                // The belief follows; where it cannot, the next audit sets it right.
                Ok(()) => apply_op(&mut self.believed, op).is_err(),
                Err(error) => {
                    let key = op.key().clone();
                    if self.state.failures.insert(key, error.to_string()).is_none() {
                        tracing::error!(object = %op.key(), %error, "the kernel refused a change");
                    }
                    well = false;
                    continue;
                }
            };
            well &= !refused;
            self.state.failures.remove(op.key());
        }
        well
    }

    fn publish(&mut self, planned: Option<&Planned>) {
        if let Some(&Planned { revision, writes }) = planned {
            self.state.revision = revision;
            self.state.writes = writes;
        }
        self.state.objects = self.planner.desired().len();
        self.done.send_replace(self.state.clone());
    }
}

/// Whether it is one endpoint's device.
fn is_a_port(key: &Key) -> bool {
    matches!(key, Key::Port(..) | Key::GatewayPort(_))
}
