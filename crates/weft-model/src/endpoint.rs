//! A container's attachment to a network.

use crate::{EndpointId, MacAddr, NetworkId, NodeId, Outside, UnixSeconds};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, net::IpAddr};

/// One interface of one container (or of any network namespace) on one network. Written by the node it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its identity; for Docker, Docker's own.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// The node it is on: frames for it go to that node's VTEP.
    pub node: NodeId,
    /// Who made it: `docker`, `netns` (`weft attach`), …
    pub engine: String,
    /// The container, once the engine has told which.
    pub container: Option<Container>,
    /// Where its interface is, once that is known.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
    /// Its sandbox's way out of the network, where weft makes it and this endpoint carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Outside>,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its IPv4 address and the length of the subnet's prefix.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address and the length of the subnet's prefix.
    pub ipv6: Option<Ipv6Net>,
    /// The epoch of its node (see [`crate::Node::epoch`]) at its creation: of two claims, the later start's
    /// is the true one.
    pub epoch: u64,
    /// When it was made.
    pub created: UnixSeconds,
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.ipv4.map(|n| IpAddr::V4(n.addr()));
        let v6 = self.ipv6.map(|n| IpAddr::V6(n.addr()));
        v4.into_iter().chain(v6)
    }

    /// What people call it: the container's name, or the endpoint's short id.
    pub fn display_name(&self) -> Cow<'_, str> {
        self.container.as_ref().map_or_else(|| self.id.short().into(), |c| c.name.as_str().into())
    }
}

/// The container an endpoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The engine's id of it; for `weft attach`, the namespace's path.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What else it answers to on this network, as `docker run --network-alias` gives it. Not unique: several containers
    /// may share one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

impl Container {
    /// One without aliases.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { id: id.into(), name: name.into(), aliases: vec![] }
    }
}

/// The network namespace that an endpoint's interface is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The namespace's path on its node, as in `/run/netns/blue` or `/var/run/docker/netns/1a2b3c`.
    pub path: String,
    /// The interface's name in there.
    pub interface: String,
    /// Who moves the interface in and gives it its name and addresses: the engine (Docker does after Join), or
    /// weft. Where it is the engine, weft leaves the far end in the host's namespace at first, and does the
    /// engine's part itself only when the pair was lost and has to be made again.
    pub configured_by_engine: bool,
    /// The number of the namespace's file (its inode), where the path alone could come to mean another namespace:
    /// `/proc/PID/ns/net`, once another process has that pid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// The interface is a tap device in the host's namespace, for a virtual machine: it has no addresses there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Tap>,
}

/// What a tap device is made with, if there is none of its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The user, by number, that may open it; else root alone.
    #[serde(default)]
    pub owner: Option<u32>,
}

impl Sandbox {
    /// The path of the host's own namespace: that of the daemon that reads it, whatever its pid.
    pub const HOST: &str = "/proc/self/ns/net";

    /// The namespace at `path`, into which weft itself moves the interface.
    pub fn namespace(path: impl Into<String>, interface: impl Into<String>) -> Self {
        let (path, interface) = (path.into(), interface.into());
        Self { path, interface, configured_by_engine: false, inode: None, tap: None }
    }

    /// Whether it is no container's namespace but the host's own.
    pub fn is_host(&self) -> bool {
        self.path == Self::HOST
    }
}
