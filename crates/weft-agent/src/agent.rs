//! The agent: what engines, the API and the command line ask of a daemon. Its verbs are in files of their own:
//! `networks`, `endpoints`, `addresses`, `pools`.

use crate::{
    AgentError, AgentOptions,
    api::EngineStatus,
    outbox::{Outbox, is_local},
    reconcile::Reconciled,
    troubles::Troubles,
    view::View,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_kernel::Kernel;
use weft_model::{Mtu, Network, NetworkId, NetworkName, NodeId, Revision, Snapshot, schema};
use weft_store::{Outcome, Record, Store, StoreError, Txn};

/// How long a verb waits for this host's kernel to reflect what it wrote. Making a veth pair takes
/// milliseconds; a kernel that is filling a large network may take seconds.
const APPLY_TIMEOUT: Duration = Duration::from_secs(20);

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
    /// How frames are carried: see [`crate::api::Status::datapath`].
    pub(crate) datapath: String,
    pub(crate) reconciled: watch::Receiver<Reconciled>,
    /// Whether addresses are held ahead; locked while the reserve is changed.
    pub(crate) reserving: tokio::sync::Mutex<bool>,
    pub(crate) engines: Mutex<BTreeMap<(String, String), EngineStatus>>,
    /// What it cannot do at the moment, for `weft status`.
    pub(crate) troubles: Arc<Troubles>,
    /// Cancelled when the daemon is to end.
    pub(crate) shutdown: CancellationToken,
    /// This host has left the cluster (`weft down`): the end of the daemon removes everything.
    pub(crate) left: AtomicBool,
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
                self.seen(record.modified).await?;
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
        let outcome = self.0.store.commit(txn).await?;
        if let Outcome::Committed(revision) = outcome {
            self.seen(revision).await?;
        }
        Ok(outcome)
    }

    /// Waits until the snapshot shows the records that stood in the way of a transaction: the next attempt is then
    /// made with open eyes.
    pub(crate) async fn caught_up(&self, present: &[Option<Record>]) -> Result<(), AgentError> {
        let latest = present.iter().flatten().map(|r| r.modified).max().unwrap_or(Revision::ZERO);
        self.seen(latest).await
    }

    async fn seen(&self, revision: Revision) -> Result<(), AgentError> {
        if is_local(revision) {
            return Ok(());
        }
        let mut seen = self.0.view.seen();
        let arrived = seen.wait_for(|seen| *seen >= revision);
        match tokio::time::timeout(APPLY_TIMEOUT, arrived).await {
            Ok(_) => Ok(()),
            Err(_) => Err(AgentError::Store(StoreError::Unreachable {
                store: self.0.store.address(),
                reason: format!("it is at revision {revision} but does not report its changes"),
            })),
        }
    }

    /// Waits until this host's kernel reflects `revision`; of a write that the store has not been told, everything that is
    /// in the view by now.
    pub(crate) async fn applied(&self, revision: Revision, what: &str) -> Result<(), AgentError> {
        let mut reconciled = self.0.reconciled.clone();
        let (local, writes) = (is_local(revision), self.0.view.writes());
        let arrived =
            reconciled.wait_for(|r| if local { r.writes >= writes } else { r.revision >= revision });
        let reason = match tokio::time::timeout(APPLY_TIMEOUT, arrived).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => "the daemon is ending".to_owned(),
            Err(_) => format!("it was not done within {} s", APPLY_TIMEOUT.as_secs()),
        };
        Err(AgentError::NotApplied { what: what.to_owned(), reason })
    }
}
