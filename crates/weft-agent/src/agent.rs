//! The agent: what engines, the API and the command line ask of a daemon. Its verbs are in files of their own:
//! `networks`, `endpoints`, `addresses`, `pools`.

use crate::{
    AgentError, AgentOptions, Machine,
    api::EngineStatus,
    outbox::{Outbox, is_local},
    reconcile::Reconciled,
    troubles::Troubles,
    under_way::UnderWay,
    view::{Link, View},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use weft_kernel::Kernel;
use weft_model::{
    Mtu, Network, NetworkId, NetworkName, NodeId, Revision, Snapshot,
    schema::{self, Scope},
};
use weft_store::{Outcome, Record, Store, StoreError, Txn};

/// How long a verb waits for this host's kernel to reflect what it wrote. Making a veth pair takes
/// milliseconds; a kernel that is filling a large network may take seconds.
const APPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a listing may take: that of a network with 100,000 endpoints takes seconds on a host that is busy with nothing
/// else.
pub(crate) const LISTING_TIMEOUT: Duration = Duration::from_mins(1);

/// A handle on this host's agent. Cheap to clone.
#[derive(Clone)]
pub struct Agent(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) node: NodeId,
    /// The daemon's starts, counted: see [`weft_model::Node::epoch`].
    pub(crate) epoch: u64,
    pub(crate) options: AgentOptions,
    /// The store, through the outbox.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) view: Arc<View>,
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) machine: Arc<dyn Machine>,
    /// How frames are carried: see [`crate::api::Status::datapath`].
    pub(crate) datapath: String,
    pub(crate) reconciled: watch::Receiver<Reconciled>,
    /// Whether addresses are held ahead; locked while the reserve is changed.
    pub(crate) reserving: tokio::sync::Mutex<bool>,
    /// Locked while the addresses of a way out are chosen, until they are in the view.
    pub(crate) leading_out: tokio::sync::Mutex<()>,
    /// The keys of this daemon's requests for addresses that somebody waits for.
    pub(crate) asking: UnderWay,
    /// The keys of claims that are being made for engines: no engine has been told of them.
    pub(crate) claiming: UnderWay,
    pub(crate) engines: Mutex<BTreeMap<(String, String), EngineStatus>>,
    /// What it cannot do at the moment, for `weft status`.
    pub(crate) troubles: Arc<Troubles>,
    /// How many changes of this node's endpoints the sandboxes' name servers have followed; `None`: there are none.
    pub(crate) names_served: Option<watch::Sender<u64>>,
    /// Cancelled when the daemon is to end.
    pub(crate) shutdown: CancellationToken,
    /// Verbs that take something for this host. Closed while the host leaves the cluster.
    pub(crate) taking: TaskTracker,
}

impl Agent {
    /// This node's id.
    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    /// Looks at the snapshot. Short and without waiting: the snapshot is locked meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        self.0.view.read(look)
    }

    /// Whether this host follows the members of a network: it takes part in it, or did a moment ago.
    pub fn follows(&self, network: &NetworkId) -> bool {
        self.0.view.followed.contains(network)
    }

    /// Changes whenever a network, a name or one of this node's bindings did (or all may have).
    pub fn networks_changed(&self) -> watch::Receiver<u64> {
        self.0.view.networks()
    }

    /// The MTU of a network on this host.
    pub fn effective_mtu(&self, network: &NetworkId) -> Option<Mtu> {
        self.read(|s| {
            let vtep = *s.nodes.get(&self.0.node)?.vteps.first()?;
            weft_plan::network_mtu(s.networks.get(network)?, s.nodes.values(), vtep)
        })
    }

    /// The network that people mean by a name, an id or the beginning of one. One that was made on another host a
    /// moment ago, and that this host has not heard of yet, is found by its name.
    pub async fn find_network(&self, reference: &str) -> Result<Network, AgentError> {
        let known = || self.read(|s| s.find_network(reference).cloned());
        let missing = || AgentError::NoSuchNetwork(reference.to_owned());
        if let Some(network) = known() {
            return Ok(network);
        }
        let name: NetworkName = reference.parse().map_err(|_| missing())?;
        match self.0.store.get(&schema::name_key(&name)).await {
            Ok(Some(record)) => {
                self.seen(&Scope::Cluster, record.modified, self.0.view.moves()).await?;
                known().ok_or_else(missing)
            }
            Ok(None) => Err(missing()),
            Err(error) => Err(error.into()),
        }
    }

    /// What `weft status` shows of an engine.
    pub fn set_engine_status(&self, status: EngineStatus) {
        let mut engines = self.0.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.insert((status.engine.clone(), status.address.clone()), status);
    }

    /// Does a transaction. When it was done, waits until the snapshot shows it: what a verb wrote, the next
    /// verb sees. Only for transactions that change something, since only a change brings the snapshot forward.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Outcome, AgentError> {
        let scopes: BTreeSet<Scope> = txn.writes.iter().map(|write| Scope::of(write.key())).collect();
        let moves = self.0.view.moves();
        let outcome = self.0.store.commit(txn).await?;
        if let Outcome::Committed(revision) = outcome {
            for scope in &scopes {
                self.seen(scope, revision, moves).await?;
            }
        }
        Ok(outcome)
    }

    /// A verb begins that takes something for this host: until its token is dropped, the host does not leave. An error: it
    /// leaves.
    pub(crate) fn takes(&self) -> Result<TaskTrackerToken, AgentError> {
        let token = self.0.taking.token();
        if self.0.taking.is_closed() { Err(AgentError::Leaving) } else { Ok(token) }
    }

    /// Waits until the snapshot shows the records that stood in the way of a transaction: the next attempt is then
    /// made with open eyes.
    pub(crate) async fn caught_up(&self, present: &[Option<Record>]) -> Result<(), AgentError> {
        for record in present.iter().flatten() {
            self.seen(&Scope::of(&record.key), record.modified, self.0.view.moves()).await?;
        }
        Ok(())
    }

    /// Follows the members of a network, if this host did not yet; returns when they are known. While the store is away it
    /// returns at once: what is known then is all there is.
    pub(crate) async fn follow_network(&self, network: &NetworkId) -> Result<(), AgentError> {
        self.0.view.followed.add(network)?;
        let scope = Scope::Network(network.clone());
        let (mut seen, mut link) = (self.0.view.seen(), self.0.view.link());
        let listed = async {
            tokio::select! {
                biased;
                _ = seen.wait_for(|seen| seen.of(&scope).is_some()) => {}
                _ = link.wait_for(|link| matches!(link, Link::Down(_))) => {}
            }
        };
        tokio::time::timeout(LISTING_TIMEOUT, listed).await.map_err(|_| {
            AgentError::Store(StoreError::Unreachable {
                store: self.0.store.address(),
                reason: format!("it does not list the members of network {}", network.short()),
            })
        })
    }

    /// All records, also of networks that this host takes no part in: asked of the store, for those who look at the whole
    /// cluster. While the store is away, what this host knows.
    pub(crate) async fn everything(&self) -> Snapshot {
        let listed = if self.0.outbox.is_away() { None } else { self.0.store.list(schema::ALL).await.ok() };
        listed.map_or_else(
            || self.read(Snapshot::clone),
            |listing| {
                let records = listing.records.into_iter().map(|r| (r.key, r.value));
                let mut everything = Snapshot::from_records(listing.revision, records).0;
                everything.take_absent(self.read(|s| s.absent.clone()));
                everything
            },
        )
    }

    /// Waits until the snapshot shows what `revision` has done in a scope that is followed. If the store has moved since
    /// `moves` was counted, the listing of the new one shows it: what was written before the move is there.
    async fn seen(&self, scope: &Scope, revision: Revision, moves: u64) -> Result<(), AgentError> {
        let followed = match scope {
            Scope::Cluster => true,
            Scope::Network(network) => self.0.view.followed.contains(network),
        };
        if is_local(revision) || !followed {
            return Ok(());
        }
        let mut seen = self.0.view.seen();
        let arrived = seen.wait_for(|seen| {
            let least = if seen.moves == moves { revision } else { Revision(1) };
            seen.of(scope).is_some_and(|seen| seen >= least)
        });
        match tokio::time::timeout(APPLY_TIMEOUT, arrived).await {
            Ok(_) => Ok(()),
            Err(_) => Err(AgentError::Store(StoreError::Unreachable {
                store: self.0.store.address(),
                reason: format!("it is at revision {revision} but does not report its changes"),
            })),
        }
    }

    /// Waits until this host's kernel reflects what `revision` has done on a network.
    pub(crate) async fn applied(
        &self,
        network: &NetworkId,
        revision: Revision,
        what: &str,
    ) -> Result<(), AgentError> {
        self.seen(&Scope::Network(network.clone()), revision, self.0.view.moves()).await?;
        let mut reconciled = self.0.reconciled.clone();
        // It is in the view; so it is done when the loop has come as far as the view is now.
        let writes = self.0.view.writes();
        let arrived = reconciled.wait_for(|r| r.writes >= writes);
        let reason = match tokio::time::timeout(APPLY_TIMEOUT, arrived).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => "the daemon is ending".to_owned(),
            Err(_) => format!("it was not done within {} s", APPLY_TIMEOUT.as_secs()),
        };
        Err(AgentError::NotApplied { what: what.to_owned(), reason })
    }
}
