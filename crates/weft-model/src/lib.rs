//! The words of weft: what a node, a network, an endpoint and an address claim are, and the rules they obey.
//!
//! Nothing here does I/O. A value that exists is a valid one: types are parsed once, at the edge, and carry
//! their rules with them ([`Vni`] cannot hold 2^24, [`NetworkName`] cannot hold a slash). The records are what
//! the store keeps as JSON under the keys of [`schema`]; a [`Snapshot`] is all of them at one revision.

mod address;
mod domain;
mod endpoint;
mod id;
mod mac;
mod moment;
mod mtu;
mod multicast_rate;
mod network;
mod node;
mod outside;
mod revision;
pub mod schema;
mod snapshot;
mod vni;
pub mod world;

pub use address::{AddressClaim, ClaimKind};
pub use domain::{Domain, DomainError};
pub use endpoint::{Container, Endpoint, Sandbox, Tap};
pub use id::{EndpointId, IdError, NetworkId, NodeId};
pub use mac::{MacAddr, MacError};
pub use moment::utc;
pub use mtu::{ETHERNET_HEADER, Mtu, MtuError, vxlan_overhead};
pub use multicast_rate::{MulticastRate, MulticastRateError};
pub use network::{AddressDriver, NameError, Network, NetworkName, Subnet, SubnetError};
pub use node::{DirectLink, HostRoute, Node};
pub use outside::{NoSuchProtocol, Outside, PortProtocol, PublishedPort, gateway_in};
pub use revision::Revision;
pub use schema::{Binding, Pool, Removing};
pub use snapshot::{BadRecord, Change, Snapshot, Touched, encode};
pub use vni::{Vni, VniError, VniRange};
pub use world::{random_bytes, unix_now};

/// Seconds since the Unix epoch, by the clock of the node that wrote the record. For people to read: no
/// decision of weft compares the clocks of two nodes.
pub type UnixSeconds = u64;
