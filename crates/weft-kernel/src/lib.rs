//! The only crate that touches the kernel: namespaces, netlink; it observes and it applies.
//!
//! Per host there is one **overlay namespace** (`/run/netns/weft`), and in it, for every network with a member
//! on this host, a bridge, a VXLAN device and the host-side ends of the containers' veth pairs. The VXLAN
//! devices' UDP sockets are in the host's namespace. So no inner frame ever meets the host's firewall. Only sandboxes
//! that weft itself leads out have a part there, the gateway, and weft rules of its own (`gateway`). State is read from the kernel, compared and changed, never remembered: see [`Kernel`].
//!
//! Where to find what: [`Linux`] is the real kernel, [`FastPath`] the same with programs in it that carry the frames; `observe` reads its state and `apply` changes it, with a
//! file for each kind of object (`bridge`, `vxlan`, `port`, `fdb`, `neighbour`, `mdb`); [`Underlay`] tells of the
//! host's addresses and routes, [`requirements`] of what is missing on this host, [`sandbox`] of what is in a
//! container's namespace.

use async_trait::async_trait;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{DirectLink, Vni};
use weft_plan::{Features, HostState, Op};

mod apply;
mod bridge;
mod device;
mod error;
mod events;
pub mod fast_path;
mod fdb;
mod filter;
mod gateway;
mod linux;
mod mdb;
mod namespace;
mod neighbour;
mod netlink;
pub mod nftables;
mod observe;
mod port;
mod presence;
mod removal;
pub mod requirements;
pub mod resolver;
pub mod sandbox;
mod tap;
mod underlay;
mod vxlan;

pub use error::KernelError;
pub use fast_path::{Counter, Counters, FastPath};
pub use linux::{Linux, LinuxOptions};
pub use namespace::{NAMED_NAMESPACES, Namespace};
pub use presence::look;
pub use removal::remove_everything;
pub use underlay::{Path, Underlay, UnderlayWatch, host_addresses, host_routes, path, watch_underlay};

/// What a bridge has learned of its ports' multicast memberships.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snooped {
    /// The groups that any endpoint on this host is a member of, of whatever scope.
    pub groups: BTreeSet<IpAddr>,
    /// Whether these are all: the bridge has snooped for long enough to have heard of everybody.
    pub complete: bool,
}

/// A host's kernel, as the reconcile loop sees it. [`Linux`] is the real one; a simulation has its own.
///
/// What an implementer must guarantee: `observe` reports every object of weft's in the overlay namespace,
/// known or unknown, as it is at that moment; `apply` does one operation completely or says why not, and doing
/// an operation that is already done succeeds.
#[async_trait]
pub trait Kernel: Send + Sync + 'static {
    /// What the kernel has.
    async fn observe(&self) -> Result<HostState, KernelError>;

    /// Does the operations in their order. One result for each; a failed one does not stop the others.
    async fn apply(&self, ops: &[Op]) -> Vec<Result<(), KernelError>>;

    /// Waits until somebody (also this daemon) has changed a device, an FDB or a neighbour entry in the overlay
    /// namespace, or until such news may have been lost: then it is time to observe. Events that came in between
    /// two calls are reported by the second.
    async fn changed(&self) -> Result<(), KernelError>;

    /// The link on which this host takes packets of direct networks as they are, if it can and has the address `vtep`. The routes
    /// are for the caller to look at.
    async fn direct_link(&self, _vtep: IpAddr) -> Result<Option<DirectLink>, KernelError> {
        Ok(None)
    }

    /// What it can do that not every kernel can.
    fn features(&self) -> Features {
        Features::default()
    }

    /// What the bridges have learned of their ports' multicast memberships, without bridges that do not snoop.
    async fn memberships(&self) -> Result<BTreeMap<Vni, Snooped>, KernelError> {
        Ok(BTreeMap::new())
    }

    /// Waits until a membership may have changed, as [`Kernel::changed`] does for the rest.
    async fn memberships_changed(&self) -> Result<(), KernelError> {
        std::future::pending().await
    }

    /// How many frames of the endpoints here were dropped because they went to many hosts and their sender was above its
    /// network's rate; counted anew when rates change.
    async fn above_the_rate(&self) -> Result<u64, KernelError> {
        Ok(0)
    }

    /// What was carried, where it is counted.
    async fn counters(&self) -> Result<Option<Counters>, KernelError> {
        Ok(None)
    }
}
