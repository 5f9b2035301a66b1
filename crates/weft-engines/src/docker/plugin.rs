//! The plugin: what dockerd's calls work on, what can go wrong in them, and what the mirror is told of them.

use super::cluster::Cluster;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use weft_agent::AgentError;
use weft_model::{IdError, MacError, Mtu, MtuError, MulticastRate, NetworkId, SubnetError, Vni, VniError};

/// The option of a network, and of its IPAM, that marks it as a copy and names the network it is a copy of.
pub(super) const COPY_OF: &str = "weft.network";
/// The option that asks for a VNI.
pub(super) const VNI: &str = "weft.vni";
/// The option that leaves the outer headers out between hosts on one link.
pub(super) const DIRECT: &str = "weft.direct";
/// Docker's option for a network's MTU, also that of its own drivers.
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
/// What every option of weft's begins with.
pub(super) const OPTION_PREFIX: &str = "weft.";

/// The names of weft's address spaces (local, global). They tell weft's IPAM from Docker's own, whose space is
/// `LocalDefault`, in a `CreateNetwork` call.
pub(super) const ADDRESS_SPACES: [&str; 2] = ["weft-local", "weft-global"];

/// How long `weft status` tells that a removal was refused. Docker shows the refusal to nobody: its command
/// line says that the network was removed.
const REFUSAL_SHOWN: Duration = Duration::from_mins(10);

/// Answers dockerd's calls. Keeps nothing that is not in the cluster's records, but for [`Calls`].
#[derive(Debug)]
pub(super) struct Plugin<C> {
    pub cluster: C,
    calls: Arc<Calls>,
}

impl<C: Cluster> Plugin<C> {
    pub fn new(cluster: C) -> Self {
        Self { cluster, calls: Arc::default() }
    }

    /// What the mirror may know of the calls.
    pub fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }
}

/// What the mirror knows of dockerd's calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    under_way: AtomicUsize,
    copying: Mutex<Option<NetworkId>>,
    refusals: Mutex<BTreeMap<NetworkId, (String, Instant)>>,
}

impl Calls {
    /// Counts a call as under way until the guard goes.
    pub fn begin(self: &Arc<Self>) -> CallGuard {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        CallGuard(Arc::clone(self))
    }

    /// Whether nothing is being made at the moment that dockerd does not list yet.
    pub fn idle(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// Tells that the mirror is making a copy of the network, until the guard goes: when dockerd takes that copy
    /// back, it is the attempt that failed and not the operator who wants the network gone.
    pub fn copying(self: &Arc<Self>, network: NetworkId) -> CopyGuard {
        *self.lock_copying() = Some(network);
        CopyGuard(Arc::clone(self))
    }

    /// Whether the mirror is making a copy of the network.
    pub fn is_copying(&self, network: &NetworkId) -> bool {
        self.lock_copying().as_ref() == Some(network)
    }

    fn lock_copying(&self) -> MutexGuard<'_, Option<NetworkId>> {
        self.copying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why a network was not removed although Docker's command line will say it was.
    pub fn refused(&self, network: NetworkId, why: String) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(network, (why, Instant::now()));
    }

    /// The refusals of late, without those for networks that are gone by now.
    pub fn refusals(&self, exists: impl Fn(&NetworkId) -> bool) -> Vec<String> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.retain(|network, (_, when)| exists(network) && when.elapsed() < REFUSAL_SHOWN);
        refusals.values().map(|(why, _)| why.clone()).collect()
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct CallGuard(Arc<Calls>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A copy that the mirror is making.
#[derive(Debug)]
pub(super) struct CopyGuard(Arc<Calls>);

impl Drop for CopyGuard {
    fn drop(&mut self) {
        *self.0.lock_copying() = None;
    }
}

/// Why a call of dockerd's is answered with an error. dockerd shows the message to the operator.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// The agent's.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A subnet is refused.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// A call that is not in the protocol, or JSON that is not.
    #[error("weft cannot read Docker's call {call}: {reason}")]
    Body {
        /// The call's name.
        call: String,
        /// What is wrong.
        reason: String,
    },
    /// A call without what it is about. dockerd makes one when it repeats a call whose connection broke.
    #[error(
        "Docker's call {0} came without its content, as when Docker repeats a call because its connection to weft \
         broke (was weft started anew?): nothing was done, try again"
    )]
    Empty(String),
    /// An id that weft cannot keep.
    #[error("Docker's {what} is not one: {error}")]
    Id {
        /// "network id", "endpoint id".
        what: &'static str,
        /// What is wrong.
        error: IdError,
    },
    /// An option of weft's that does not exist.
    #[error(
        "unknown option {0:?}: weft knows {VNI} (ask for a VNI), {DIRECT} (no outer headers), {rate} (frames a second), {COPY_OF} (copy a network) and {MTU}",
        rate = MulticastRate::OPTION
    )]
    UnknownOption(String),
    /// `weft.vni` with something that is no VNI.
    #[error("option {VNI}={value}: {error}")]
    Vni {
        /// Its value.
        value: String,
        /// What is wrong.
        error: VniError,
    },
    /// `weft.direct` with something that is neither.
    #[error("option {DIRECT}={0}: expected true or false")]
    Direct(String),
    /// `com.docker.network.driver.mtu` with something that is no MTU.
    #[error("option {MTU}={value}: {error}")]
    Mtu {
        /// Its value.
        value: String,
        /// What is wrong.
        error: MtuError,
    },
    /// A MAC address that is none.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// A network that this cluster does not have.
    #[error("option {COPY_OF}={0}: this cluster has no network with that id; `weft network ls` lists them")]
    NothingToCopy(String),
    /// A copy with other subnets than the network's.
    #[error(
        "network {network:?} has no subnet {subnet}: give --ipam-driver weft --ipam-opt {COPY_OF}=ID along with \
         -o {COPY_OF}=ID, or let weft make the copy"
    )]
    OtherSubnet {
        /// The network's name.
        network: String,
        /// The subnet asked for.
        subnet: String,
    },
    /// A network without subnets of a family that the engine insists on.
    #[error(
        "network {network:?} has no {family} subnet, and this Docker engine makes no network without one"
    )]
    NoSubnet {
        /// The network's name.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// An engine's id of a network that has no binding.
    #[error(
        "weft does not know Docker's network {0}: it is not a network of this cluster (any more); \
         remove it with `docker network rm`"
    )]
    UnknownNetwork(String),
    /// A pool that does not exist.
    #[error("weft does not know the address pool {0:?}")]
    UnknownPool(String),
    /// Not an address.
    #[error("{0:?} is not an IP address")]
    BadAddress(String),
    /// Not an ip-range.
    #[error("ip-range {0:?} is not a prefix: expected ADDRESS/LENGTH")]
    BadRange(String),
}

impl CallError {
    /// What dockerd is to show: the cause and what to do.
    pub fn message(&self) -> String {
        match self {
            Self::Agent(error) => match error.hint() {
                Some(hint) => format!("{error} ({hint})"),
                None => error.to_string(),
            },
            other => other.to_string(),
        }
    }

    pub fn vni(value: &str) -> Result<Vni, Self> {
        value.parse().map_err(|error| Self::Vni { value: value.to_owned(), error })
    }

    pub fn direct(value: &str) -> Result<bool, Self> {
        value.parse().map_err(|_| Self::Direct(value.to_owned()))
    }

    pub fn mtu(value: &str) -> Result<Mtu, Self> {
        value.parse().map_err(|error| Self::Mtu { value: value.to_owned(), error })
    }
}
