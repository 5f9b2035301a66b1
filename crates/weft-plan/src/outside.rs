//! Choosing the addresses of a sandbox's way out.
//!
//! They mean something on one host only, so they are not claimed in the store: the endpoints of this node that carry a
//! way out are the record of what is taken.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};
use weft_model::{Network, NodeId, Snapshot};

/// The subnets to choose from where none is configured: 172.16.0.0/20 and those behind it. Docker chooses from 172.17.0.0/16
/// on, weft's own networks are in 10.0.0.0/8.
fn candidates() -> impl Iterator<Item = Ipv4Net> {
    (0..16u8).filter_map(|n| Ipv4Net::new(Ipv4Addr::new(172, 16, n << 4, 0), 20).ok())
}

/// The lowest addresses that no way out on this node has, in a subnet that neither this host routes elsewhere nor any
/// network has; one that is in use already is preferred, so that there is one as a rule. IPv6 where the network has it.
/// `None`: there is no such subnet, or it is full.
pub fn choose_outside(
    snapshot: &Snapshot,
    node: &NodeId,
    network: &Network,
    configured: Option<Ipv4Net>,
) -> Option<(Ipv4Net, Option<Ipv6Net>)> {
    let ours = snapshot.all_endpoints().filter(|e| e.node == *node).filter_map(|e| e.outside.as_ref());
    let taken: BTreeSet<Ipv4Net> = ours.map(|outside| outside.ipv4).collect();
    let routes = snapshot.nodes.get(node).into_iter().flat_map(|node| &node.routes).map(|r| r.destination);
    let networks = snapshot.networks.values().chain([network]).flat_map(|n| &n.subnets).map(|s| s.net);
    let elsewhere: Vec<IpNet> = routes.chain(networks).collect();
    let in_use: BTreeSet<Ipv4Net> = taken.iter().map(Ipv4Net::trunc).collect();
    let is_free = |net: &Ipv4Net| !elsewhere.iter().any(|other| overlaps(IpNet::V4(*net), *other));
    let in_use = in_use.into_iter().filter(|net| configured.is_none_or(|configured| configured == *net));
    let fresh = configured.into_iter().chain(candidates().filter(|_| configured.is_none()));
    in_use.chain(fresh).filter(is_free).find_map(|net| {
        let number = free_number(net, &taken)?;
        let ipv4 = Ipv4Net::new(Ipv4Addr::from_bits(net.network().to_bits() + number), net.prefix_len());
        let has_ipv6 = network.subnets.iter().any(|s| s.net.addr().is_ipv6());
        Some((ipv4.ok()?, has_ipv6.then(|| ipv6(node, number))))
    })
}

fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// The lowest host number from 2 that is free: 1 is the gateway's, the last is for broadcasts.
fn free_number(net: Ipv4Net, taken: &BTreeSet<Ipv4Net>) -> Option<u32> {
    let first = net.network().to_bits();
    let mut numbers = 2..net.broadcast().to_bits() - first;
    numbers.find(|n| {
        let address = Ipv4Addr::from_bits(first + n);
        !taken.iter().any(|taken| taken.addr() == address)
    })
}

/// In the unique local /64 (RFC 4193) of this node, made of its id: the same for ever.
fn ipv6(node: &NodeId, number: u32) -> Ipv6Net {
    let digits = node.first(10);
    let global_id = u128::from(u64::from_str_radix(&digits, 16).unwrap_or_default());
    let address = Ipv6Addr::from_bits(0xfd << 120 | global_id << 80 | u128::from(number));
    Ipv6Net::new_assert(address, 64)
}
