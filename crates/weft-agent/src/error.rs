//! Why the agent did not do what it was asked.

use crate::api::{ErrorBody, ErrorKind};
use ipnet::IpNet;
use std::{fmt::Display, path::Path};
use weft_kernel::KernelError;
use weft_model::{HostRoute, MacAddr, SubnetError, Vni, VniRange};
use weft_plan::IpamError;
use weft_store::StoreError;

/// An error of the agent's verbs: what, why, and (by [`AgentError::hint`]) what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel's.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An address cannot be had.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// A subnet is refused.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// Nothing has that name or id.
    #[error("there is no network {0:?}")]
    NoSuchNetwork(String),
    /// Nothing has that id.
    #[error("there is no endpoint {0:?}")]
    NoSuchEndpoint(String),
    /// A namespace is not attached.
    #[error("{what} has no endpoint on network {network:?}")]
    NotAttached {
        /// The namespace's path, or the container.
        what: String,
        /// The network.
        network: String,
    },
    /// A namespace is attached already.
    #[error("{what} is on network {network:?} already, as {interface}")]
    AlreadyAttached {
        /// The namespace's path, or the container.
        what: String,
        /// The network.
        network: String,
        /// The interface there.
        interface: String,
    },
    /// Another network has the name.
    #[error("the name {name:?} belongs to another network ({holder})")]
    NameTaken {
        /// The name.
        name: String,
        /// That network's short id and the node it was made on.
        holder: String,
    },
    /// Another network has the VNI.
    #[error("VNI {vni} belongs to network {holder:?}")]
    VniTaken {
        /// The VNI.
        vni: Vni,
        /// That network.
        holder: String,
    },
    /// Another endpoint of the network has the MAC address.
    #[error("MAC address {mac} is taken on this network by {holder}")]
    MacTaken {
        /// The address.
        mac: MacAddr,
        /// The endpoint that has it.
        holder: String,
    },
    /// A VNI was asked for that the cluster does not use.
    #[error("VNI {0} is outside this cluster's range {1}")]
    VniOutside(Vni, VniRange),
    /// No VNI is left.
    #[error("all VNIs of the range {0} are taken")]
    NoVni(VniRange),
    /// A subnet that a host routes elsewhere.
    #[error("subnet {subnet} overlaps the route {} dev {} of node {node}", .route.destination, .route.device)]
    RouteConflict {
        /// The subnet asked for.
        subnet: IpNet,
        /// The node that has the route.
        node: String,
        /// The route.
        route: HostRoute,
    },
    /// A direct network with addresses of another one.
    #[error("subnet {subnet} overlaps {theirs} of another direct network ({holder})")]
    DirectOverlap {
        /// The subnet asked for.
        subnet: IpNet,
        /// The other network.
        holder: String,
        /// Its subnet.
        theirs: IpNet,
    },
    /// The host is to join a network that it has a route to already.
    #[error("subnet {subnet} of network {network:?} overlaps this host's route {} dev {}", .route.destination, .route.device)]
    RoutedHere {
        /// The network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
        /// The route.
        route: HostRoute,
    },
    /// No /24 is free.
    #[error("weft found no free subnet in 10.0.0.0/8")]
    NoSubnet,
    /// A network with endpoints.
    #[error("network {network:?} has {count} endpoint{}: {list}", if *.count == 1 { "" } else { "s" })]
    NetworkInUse {
        /// The network.
        network: String,
        /// How many.
        count: usize,
        /// The first few, each with its address and node.
        list: String,
    },
    /// The host is on its way out: `weft down`.
    #[error("this host is leaving the cluster")]
    Leaving,
    /// A network whose removal has begun.
    #[error("network {0:?} is being removed")]
    NetworkRemoving(String),
    /// Too much changed at once.
    #[error("{0} was changed by others {1} times in a row")]
    Contention(String, u32),
    /// The kernel did not get there.
    #[error("this host's kernel does not have what it should for {what}: {reason}")]
    NotApplied {
        /// What was asked for.
        what: String,
        /// What the kernel said last.
        reason: String,
    },
    /// No subnet for ways out.
    #[error(
        "no subnet is left for the way out of network {0:?}: all that weft would use are routed elsewhere, used by networks, or full"
    )]
    NoGatewaySubnet(String),
    /// A port of the host leads elsewhere already.
    #[error("port {port} of this host leads to {holder} already")]
    PortTaken {
        /// The port asked for.
        port: String,
        /// Who has it.
        holder: String,
    },
    /// A namespace has not what was put into it.
    #[error("{what} on network {network:?} is not as it was made: {reason}")]
    NotIntact {
        /// The namespace's path, or the container.
        what: String,
        /// The network.
        network: String,
        /// What is missing.
        reason: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Another process has what this one needs.
    #[error("{what} is in use: {reason}")]
    InUse {
        /// A directory, a socket, a TCP address.
        what: String,
        /// By whom, if known, and what to do.
        reason: String,
    },
    /// A file of the daemon's.
    #[error("{path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
}

impl AgentError {
    /// What is wrong with a file or directory.
    pub(crate) fn file(path: &Path, reason: impl Display) -> Self {
        Self::File { path: path.display().to_string(), reason: reason.to_string() }
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(StoreError::Denied { .. } | StoreError::Untrusted { .. })
            | Self::Kernel(KernelError::NotPermitted(_)) => ErrorKind::Denied,
            Self::Store(StoreError::Unreachable { .. } | StoreError::Moved { .. }) => ErrorKind::Unavailable,
            // The fast path fails a daemon's start only where it was asked for.
            Self::Kernel(
                KernelError::Unsupported { .. }
                | KernelError::PortTaken { .. }
                | KernelError::FastPath { .. },
            ) => ErrorKind::Unsupported,
            Self::Ipam(IpamError::Taken { .. } | IpamError::Full { .. })
            | Self::AlreadyAttached { .. }
            | Self::NameTaken { .. }
            | Self::VniTaken { .. }
            | Self::MacTaken { .. }
            | Self::InUse { .. }
            | Self::NoVni(_)
            | Self::RouteConflict { .. }
            | Self::RoutedHere { .. }
            | Self::DirectOverlap { .. }
            | Self::NoSubnet
            | Self::NoGatewaySubnet(_)
            | Self::PortTaken { .. }
            | Self::NotIntact { .. }
            | Self::NetworkInUse { .. }
            | Self::Leaving
            | Self::NetworkRemoving(_) => ErrorKind::Conflict,
            Self::NoSuchNetwork(_) | Self::NoSuchEndpoint(_) | Self::NotAttached { .. } => {
                ErrorKind::NotFound
            }
            Self::Ipam(_) | Self::Subnet(_) | Self::VniOutside(..) | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Store(_)
            | Self::Kernel(_)
            | Self::Contention(..)
            | Self::NotApplied { .. }
            | Self::File { .. } => ErrorKind::Internal,
        }
    }

    /// What to do about it, where that is not plain from the message.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(StoreError::Unreachable { .. }) => {
                Some("start the store, or check --cluster-store; nothing was changed on this host")
            }
            Self::Store(StoreError::Moved { .. }) => {
                Some("this daemon goes on there as soon as the other store is filled: try again in a moment")
            }
            Self::NoSuchNetwork(_) => Some("`weft network ls` lists the networks"),
            Self::NoSuchEndpoint(_) | Self::NotAttached { .. } => {
                Some("`weft endpoint ls` lists the endpoints")
            }
            Self::RouteConflict { .. } | Self::DirectOverlap { .. } => {
                Some("choose another subnet (--subnet), or let weft choose one that is free on every host")
            }
            Self::RoutedHere { .. } => Some(
                "the host would lose one of the two: remove that route, or expose a network with another subnet",
            ),
            Self::NoGatewaySubnet(_) => Some("name one with --gateway-subnet"),
            Self::PortTaken { .. } => Some("choose another port, or another address of the host"),
            Self::Leaving => Some("somebody has typed `weft down`: start the daemon again when it has ended"),
            Self::NetworkInUse { .. } => Some("stop or disconnect them first"),
            Self::NameTaken { .. } => Some("choose another name"),
            Self::Ipam(IpamError::Full { .. }) => {
                Some("remove endpoints, or make a network with a larger subnet")
            }
            Self::Ipam(IpamError::Taken { .. }) => Some("choose another address, or none to get a free one"),
            _ => None,
        }
    }

    /// The error as the API sends it.
    pub fn to_body(&self) -> ErrorBody {
        ErrorBody { error: self.to_string(), hint: self.hint().map(str::to_owned), kind: self.kind() }
    }
}
