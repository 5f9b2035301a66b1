//! A host that runs the weft daemon.

use crate::{MacAddr, Mtu, NodeId, UnixSeconds};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// What a node tells the cluster about itself. Written by that node alone; whether it is alive is not in here
/// but in a key of its own that is bound to the node's lease (see [`crate::schema::alive_key`]), so that a
/// dead node's record stays for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// Its name, for people: the host name unless set.
    pub name: String,
    /// The addresses of its VXLAN tunnel endpoint, the preferred one first. Two nodes talk over the first
    /// family they share.
    pub vteps: Vec<IpAddr>,
    /// The UDP port its VTEP listens on (4789 unless set; the whole cluster must agree).
    pub vxlan_port: u16,
    /// The MTU of its underlay device.
    pub underlay_mtu: Mtu,
    /// Where other daemons reach it by TCP, if it listens (the embedded store is served there).
    pub advertise: Option<SocketAddr>,
    /// The version of its weft.
    pub version: String,
    /// Counts the daemon's starts, on its host and in the store: endpoints carry the epoch of the start that made them.
    pub epoch: u64,
    /// When this daemon started; but always later than that of every node that had its VTEP addresses before, whatever the
    /// clocks say.
    pub started: UnixSeconds,
    /// The host's own routes, against which new subnets are checked (default routes and weft's own left out).
    #[serde(default)]
    pub routes: Vec<HostRoute>,
    /// Present where the host takes packets of direct networks without outer headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectLink>,
}

/// The link on which a host takes packets of direct networks without outer headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectLink {
    /// The MAC address that it sends them from.
    pub mac: MacAddr,
    /// The prefix of its preferred VTEP address: the hosts in it are on the link.
    pub prefix: IpNet,
    /// The VTEP addresses of peers in it that its routes lead to through a gateway all the same.
    #[serde(default)]
    pub routed: BTreeSet<IpAddr>,
}

impl DirectLink {
    /// Whether the host with this VTEP address is on the link.
    pub fn reaches(&self, vtep: IpAddr) -> bool {
        self.prefix.contains(&vtep) && !self.routed.contains(&vtep)
    }
}

impl Node {
    /// The VTEP address of the family of `like`, if it has one.
    pub fn vtep_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.vteps.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4())
    }
}

/// A route of a host: where an overlay subnet must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostRoute {
    /// Destination.
    pub destination: IpNet,
    /// The device it leads to.
    pub device: String,
}

impl HostRoute {
    /// Whether any address of `subnet` would take this route.
    pub fn overlaps(&self, subnet: IpNet) -> bool {
        self.destination.contains(&subnet) || subnet.contains(&self.destination)
    }
}
