//! How large a packet a container may send: the MTU of a network on this host.
//!
//! It is the same on all hosts whose VTEPs are of one family: the smallest underlay decides for everybody, or a
//! large packet from a host with jumbo frames would vanish on its way to one without.

use std::net::IpAddr;
use weft_model::{Mtu, Network, Node};

/// What fits into one VXLAN packet between any two of these nodes, of which this one's VTEP address is `vtep`:
/// the smallest underlay MTU less the outer headers. Underlays too small to carry anything are left out.
/// `None` when none is left.
pub fn tunnel_mtu<'a>(nodes: impl IntoIterator<Item = &'a Node>, vtep: IpAddr) -> Option<Mtu> {
    nodes.into_iter().filter_map(|node| node.underlay_mtu.inside_vxlan(vtep)).min()
}

/// The MTU of `network` on the node whose VTEP address is `vtep`: the one asked for, else [`tunnel_mtu`].
pub fn network_mtu<'a>(
    network: &Network,
    nodes: impl IntoIterator<Item = &'a Node>,
    vtep: IpAddr,
) -> Option<Mtu> {
    network.mtu.or_else(|| tunnel_mtu(nodes, vtep))
}
