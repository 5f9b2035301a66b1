//! What goes over the daemon's API.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};
use weft_model::{
    Container, EndpointId, MacAddr, Mtu, Network, NetworkId, NetworkName, NodeId, Outside, PublishedPort,
    Revision, Subnet, UnixSeconds, Vni,
};

/// A network to make.
// The flags are wishes, each independent of the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name; `None` only from an engine that tells it later.
    pub name: Option<NetworkName>,
    /// Its subnets; none: weft chooses a free /24.
    pub subnets: Vec<Subnet>,
    /// Add an IPv6 subnet, a random unique local /64 (RFC 4193), if `subnets` has none.
    pub ipv6: bool,
    /// The VNI asked for; else a free one of the cluster's range.
    pub vni: Option<Vni>,
    /// The MTU asked for; else it follows from the underlay.
    pub mtu: Option<Mtu>,
    /// No way out.
    pub internal: bool,
    /// Without outer headers between hosts on one link that can.
    pub direct: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Addresses come from the IPAM of the engine on the node that makes it (see
    /// [`weft_model::AddressDriver::Engine`]).
    pub engine_addresses: bool,
}

/// What `weft gc` is to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcRequest {
    /// Nodes that are off for good, by name or id: all their records go, too.
    pub dead_nodes: Vec<String>,
}

/// A network and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// The record.
    #[serde(flatten)]
    pub network: Network,
    /// The MTU in effect on this host.
    pub effective_mtu: Option<Mtu>,
    /// The endpoints on it, cluster-wide.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its id.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: String,
    /// Its node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The VTEP that frames for it go to.
    pub vtep: Option<IpAddr>,
    /// Who made it: `docker`, `cni`, `podman`; `netns`, `host`, `tap` without an engine.
    pub engine: String,
    /// The container.
    pub container: Option<Container>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The network namespace, if known and not the host's own.
    pub sandbox: Option<String>,
    /// The interface in there.
    pub interface: Option<String>,
    /// The sandbox's way out, where weft made it and this endpoint carries it.
    #[serde(default)]
    pub outside: Option<Outside>,
    /// Where the sandbox's name server is; `None`: the daemon gives it none.
    #[serde(default)]
    pub name_server: Option<IpAddr>,
    /// When it was made.
    pub created: UnixSeconds,
}

/// A node and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // Facts that do not depend on one another, for people and their scripts.
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it is the one that answers.
    pub this: bool,
    /// Whether its lease lives.
    pub alive: bool,
    /// It has no lease and is not seen from this host: its endpoints are withdrawn here.
    #[serde(default)]
    pub absent: bool,
    /// Its VTEP addresses.
    pub vteps: Vec<IpAddr>,
    /// Its UDP port.
    pub vxlan_port: u16,
    /// Its underlay's MTU.
    pub underlay_mtu: Mtu,
    /// Where it is reached by TCP.
    pub advertise: Option<SocketAddr>,
    /// Its weft's version.
    pub version: String,
    /// The endpoints on it.
    pub endpoints: usize,
    /// When its daemon started.
    pub started: UnixSeconds,
    /// Packets of direct networks cross from the node that answers to this one without outer headers; of the node that answers: it
    /// takes them so.
    #[serde(default)]
    pub direct: bool,
    /// Why not.
    #[serde(default)]
    pub not_direct: Option<String>,
}

/// What an endpoint, or this host with a peer, has sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, without outer headers.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, without outer headers.
    pub rx_bytes: u64,
}

/// What this host's programs have carried since they were first loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// By endpoint of this host.
    pub endpoints: BTreeMap<EndpointId, Traffic>,
    /// By peer.
    pub nodes: BTreeMap<NodeId, Traffic>,
    /// Frames that had to be dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Attach a network namespace to a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The network: a name or an id.
    pub network: String,
    /// The namespace's path.
    pub netns: String,
    /// Addresses asked for: one of each family at most.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The MAC address asked for.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// The interface's name; else the first free ethN.
    #[serde(default)]
    pub interface: Option<String>,
    /// What people call it; else the last part of the namespace's path. Without meaning where `container` is given.
    #[serde(default)]
    pub name: Option<String>,
    /// What else it is called on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whose namespace it is.
    #[serde(default)]
    pub engine: AttachingEngine,
    /// The engine's container; an engine has to name it, and the interface.
    #[serde(default)]
    pub container: Option<Container>,
    /// Lead the namespace out, unless it has a way out already or the network is internal.
    #[serde(default)]
    pub outside: Option<OutsideRequest>,
}

/// Put the host itself on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExposeRequest {
    /// The network: a name or an id.
    pub network: String,
    /// Addresses asked for: one of each family at most.
    pub addresses: Vec<IpAddr>,
    /// The interface's name in the host's namespace; else the first free weftN.
    pub interface: Option<String>,
    /// What the host is called on the network; else its node's name.
    pub name: Option<String>,
    /// What else it is called there.
    pub aliases: Vec<String>,
}

/// Take the host itself off a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnexposeRequest {
    /// The network: a name or an id.
    pub network: String,
}

/// Put a tap device of the host's namespace, and so the virtual machine that opens it, on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttachTapRequest {
    /// The network: a name or an id.
    pub network: String,
    /// The tap device's name; it is made if it is not there.
    pub tap: String,
    /// The user, by number, that may open it if it is made; else root alone.
    pub owner: Option<u32>,
    /// The machine's addresses: one of each family at most.
    pub addresses: Vec<IpAddr>,
    /// The machine's MAC address; else made from its address.
    pub mac: Option<MacAddr>,
    /// What the machine is called; else the tap's name.
    pub name: Option<String>,
    /// What else it is called on this network.
    pub aliases: Vec<String>,
}

/// Take a tap device off a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachTapRequest {
    /// The network: a name or an id.
    pub network: String,
    /// The tap device's name.
    pub tap: String,
}

/// Who asks for a namespace to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachingEngine {
    /// Nobody else: `weft attach`. The attachment is known by the namespace's path.
    #[default]
    Netns,
    /// A container runtime through `weft-cni`. The attachment is known by container and interface.
    Cni,
    /// Podman through `weft-netavark`. The same.
    Podman,
}

/// The way out that a namespace is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutsideRequest {
    /// Ports of this host that lead to it.
    pub ports: Vec<PublishedPort>,
}

/// Which attachment: to take off its network, or to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// The network: a name or an id.
    pub network: String,
    /// The namespace's path. An engine may not know it any more.
    #[serde(default)]
    pub netns: String,
    /// Who attached it.
    #[serde(default)]
    pub engine: AttachingEngine,
    /// The engine's id of the container.
    #[serde(default)]
    pub container: Option<String>,
    /// The interface's name; without it, of an engine's container: whichever there is.
    #[serde(default)]
    pub interface: Option<String>,
}

/// How a daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of weft.
    pub version: String,
    /// This node.
    pub node: NodeView,
    /// The store.
    pub store: StoreStatus,
    /// The VNIs that new networks of the cluster may have, as `4096-16777215`.
    #[serde(default)]
    pub vni_range: String,
    /// Networks in the cluster.
    pub networks: usize,
    /// Nodes in the cluster, and how many of them are alive.
    pub nodes: usize,
    /// See [`Status::nodes`].
    pub nodes_alive: usize,
    /// Endpoints on the networks that this host takes part in.
    pub endpoints: usize,
    /// How frames are carried on this host: `ebpf`, or `kernel` with the reason.
    pub datapath: String,
    /// How multicast goes to other hosts, in words.
    #[serde(default)]
    pub multicast: String,
    /// Frames that had to be dropped, by reason: since the programs were first loaded, and since rates of multicast last changed.
    pub drops: BTreeMap<String, u64>,
    /// Objects that this host's kernel should hold.
    pub kernel_objects: usize,
    /// What is at the moment not as it should be, and why.
    pub problems: Vec<String>,
    /// Drift that was repaired since the daemon's start, by kind of object.
    pub drift_repaired: BTreeMap<String, u64>,
    /// The engines.
    pub engines: Vec<EngineStatus>,
}

/// The store, as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its address.
    pub address: String,
    /// Whether its changes arrive.
    pub connected: bool,
    /// Why not.
    pub error: Option<String>,
    /// The revision that this daemon has seen.
    pub revision: Revision,
    /// The revision that this host's kernel reflects.
    pub applied: Revision,
    /// The join token with which other daemons use this daemon's store, if it serves one.
    pub join_token_file: Option<String>,
}

/// An engine, as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// `docker`.
    pub engine: String,
    /// Its API's address.
    pub address: String,
    /// Whether it answers.
    pub connected: bool,
    /// Its version, once known.
    pub version: Option<String>,
    /// What is wrong: name clashes, copies that cannot be made or removed.
    pub problems: Vec<String>,
}

/// An error, over the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and why.
    pub error: String,
    /// What to do.
    pub hint: Option<String>,
    /// Its kind.
    pub kind: ErrorKind,
}

/// What kind of error: it decides the HTTP status and the command's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request makes no sense. 400, exit code 5.
    Invalid,
    /// What it names does not exist. 404, exit code 3.
    NotFound,
    /// It collides with what exists: taken, in use, full. 409, exit code 4.
    Conflict,
    /// The store or the daemon does not answer. 503, exit code 6.
    Unavailable,
    /// Not allowed: not root, wrong token. 403, exit code 7.
    Denied,
    /// This host lacks something: a kernel feature, a free port. 501, exit code 8.
    Unsupported,
    /// Anything else. 500, exit code 1.
    Internal,
}

impl ErrorKind {
    /// The HTTP status.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unavailable => 503,
            Self::Denied => 403,
            Self::Unsupported => 501,
            Self::Internal => 500,
        }
    }

    /// The exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Invalid => 5,
            Self::Unavailable => 6,
            Self::Denied => 7,
            Self::Unsupported => 8,
        }
    }
}
