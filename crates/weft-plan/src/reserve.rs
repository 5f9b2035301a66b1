//! Which addresses a host holds ahead, for the endpoints that it will make while the store is away.

use crate::ipam::{Order, choose, size_of};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{AddressClaim, AddressDriver, ClaimKind, Network, NodeId, Subnet};

/// Addresses that a host holds ahead in each subnet of a network, where there is plenty.
pub const RESERVE: usize = 8;
/// All hosts together hold at most one in this many of a subnet's addresses.
const SHARE: u128 = 4;

/// What a host's reserve lacks, and what it has too many of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReserveChange {
    /// Addresses to claim ahead. Nobody has them.
    pub claim: Vec<IpAddr>,
    /// Addresses held ahead that are to be given back.
    pub release: Vec<IpAddr>,
}

/// Those of `claims` that `node` holds ahead in `subnet`, the lowest first.
pub fn reserved<'a>(
    claims: &'a BTreeMap<IpAddr, AddressClaim>,
    subnet: &'a Subnet,
    node: &'a NodeId,
) -> impl Iterator<Item = IpAddr> + 'a {
    let in_subnet = claims.iter().filter(|(ip, _)| subnet.net.contains(*ip));
    in_subnet.filter(|(_, c)| c.kind == ClaimKind::Reserved && c.node == *node).map(|(ip, _)| *ip)
}

/// How `node`'s reserve in `subnet` has to change in a cluster of `nodes` hosts. `in_use`: the host has endpoints on the
/// network; without, nothing is held ahead.
///
/// Where an engine with an IPAM of its own chooses the addresses, the reserve is what it will choose next: the lowest.
pub fn reserve_change(
    network: &Network,
    subnet: &Subnet,
    claims: &BTreeMap<IpAddr, AddressClaim>,
    node: &NodeId,
    nodes: usize,
    in_use: bool,
) -> ReserveChange {
    let held: BTreeSet<IpAddr> = reserved(claims, subnet, node).collect();
    let fair = size_of(subnet) / SHARE / (nodes.max(1) as u128);
    let count = if in_use { usize::try_from(fair).unwrap_or(RESERVE).min(RESERVE) } else { 0 };
    let engine_chooses = network.address_driver == AddressDriver::Engine(node.clone());
    let order = match network.address_driver {
        AddressDriver::Engine(_) if !engine_chooses => Order::HighestFirst,
        AddressDriver::Engine(_) | AddressDriver::Weft => Order::LowestFirst,
    };
    // What is held already is as good as anything else, unless an engine is going to choose.
    let mut wanted: BTreeSet<IpAddr> =
        if engine_chooses { BTreeSet::new() } else { held.iter().copied().take(count).collect() };
    let mut taken: BTreeMap<IpAddr, ()> =
        claims.keys().filter(|ip| !engine_chooses || !held.contains(*ip)).map(|ip| (*ip, ())).collect();
    while wanted.len() < count {
        let Ok(ip) = choose(network, subnet, &taken, None, order) else { break };
        taken.insert(ip, ());
        wanted.insert(ip);
    }
    ReserveChange {
        claim: wanted.difference(&held).copied().collect(),
        release: held.difference(&wanted).copied().collect(),
    }
}
