//! Which addresses a host holds ahead, for the endpoints that it will make while the store is away.

use crate::ipam::{Order, choose, size_of};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{AddressClaim, AddressDriver, ClaimKind, Network, NodeId, Subnet};

/// Addresses that a host holds ahead in each subnet of a network, where there is plenty.
pub const RESERVE: usize = 8;
/// All hosts together hold at most one in this many of a subnet's free addresses.
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
    let ours = claims.iter().filter(|(_, c)| c.kind == ClaimKind::Reserved && c.node == *node);
    ours.map(|(ip, _)| *ip).filter(|ip| subnet.net.contains(ip))
}

/// How `node`'s reserve in `subnet` has to change in a cluster of `nodes` hosts. `in_use`: the host has endpoints on the
/// network; without, nothing is held ahead. `wanted`: addresses that somebody asks for, which are not held ahead.
///
/// Where an engine with an IPAM of its own chooses the addresses, the reserve is what it will choose next: the lowest. Else
/// it is out of the way, at the other end from which addresses are handed out.
pub fn reserve_change(
    network: &Network,
    subnet: &Subnet,
    claims: &BTreeMap<IpAddr, AddressClaim>,
    wanted: &BTreeMap<IpAddr, NodeId>,
    node: &NodeId,
    nodes: usize,
    in_use: bool,
) -> ReserveChange {
    let held: BTreeSet<IpAddr> = reserved(claims, subnet, node).collect();
    let is_used = |(ip, claim): &(&IpAddr, &AddressClaim)| {
        claim.kind != ClaimKind::Reserved && subnet.net.contains(*ip)
    };
    let free = size_of(subnet).saturating_sub(claims.iter().filter(is_used).count() as u128);
    let fair = free / SHARE / (nodes.max(1) as u128);
    let count = if in_use { usize::try_from(fair).unwrap_or(RESERVE).min(RESERVE) } else { 0 };
    let engine_chooses = network.address_driver == AddressDriver::Engine(node.clone());
    let order = if engine_chooses { Order::LowestFirst } else { Order::HighestFirst };
    // What is held already is as good as anything else, unless an engine is going to choose.
    let kept = held.iter().filter(|ip| !engine_chooses && !wanted.contains_key(*ip));
    let mut target: BTreeSet<IpAddr> = kept.rev().copied().take(count).collect();
    if target.len() < count {
        let not_ours = claims.keys().filter(|ip| !engine_chooses || !held.contains(*ip));
        let mut taken: BTreeMap<IpAddr, bool> = not_ours.chain(wanted.keys()).map(|ip| (*ip, true)).collect();
        while target.len() < count {
            let Ok(ip) = choose(network, subnet, &taken, None, order) else { break };
            taken.insert(ip, true);
            target.insert(ip);
        }
    }
    ReserveChange {
        claim: target.difference(&held).copied().collect(),
        release: held.difference(&target).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_model::{NetworkId, Vni};

    fn network(driver: AddressDriver, subnet: &str) -> Network {
        Network {
            id: NetworkId::random(),
            name: None,
            vni: Vni::new(4096).unwrap(),
            subnets: vec![Subnet::new(subnet.parse().unwrap())],
            mtu: None,
            internal: false,
            direct: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            address_driver: driver,
            created_by: NodeId::random(),
            created: 0,
        }
    }

    fn claim(kind: ClaimKind, node: &NodeId) -> AddressClaim {
        AddressClaim { kind, node: node.clone(), endpoint: None, since: 0 }
    }

    fn ip(last: u8) -> IpAddr {
        [10, 9, 0, last].into()
    }

    #[test]
    fn an_engine_that_chooses_finds_the_lowest_addresses_reserved_for_it() {
        let node = NodeId::random();
        let network = network(AddressDriver::Engine(node.clone()), "10.9.0.0/24");
        let mut claims = BTreeMap::from([(ip(3), claim(ClaimKind::Endpoint, &node))]);
        let of = |claims: &_| {
            reserve_change(&network, &network.subnets[0], claims, &BTreeMap::new(), &node, 2, true)
        };
        let first = of(&claims);
        assert_eq!((first.claim.len(), first.release.len()), (RESERVE, 0));
        assert_eq!((first.claim[0], first.claim[1]), (ip(2), ip(4)));
        claims.extend(first.claim.iter().map(|ip| (*ip, claim(ClaimKind::Reserved, &node))));
        assert_eq!(of(&claims), ReserveChange::default());
        // A container has gone, so its address is the next.
        claims.remove(&ip(3));
        assert_eq!(
            of(&claims),
            ReserveChange { claim: vec![ip(3)], release: vec![first.claim[RESERVE - 1]] }
        );
    }

    #[test]
    fn everybody_else_holds_addresses_at_the_far_end_and_gives_up_what_is_wanted() {
        let (node, other) = (NodeId::random(), NodeId::random());
        let network = network(AddressDriver::Weft, "10.9.0.0/24");
        let of = |claims: &_, wanted: &_, in_use| {
            reserve_change(&network, &network.subnets[0], claims, wanted, &node, 2, in_use)
        };
        let nobody = BTreeMap::new();
        let first = of(&BTreeMap::new(), &nobody, true);
        assert_eq!(first.claim, (247..=254).map(ip).collect::<Vec<_>>());
        let claims: BTreeMap<_, _> =
            first.claim.iter().map(|ip| (*ip, claim(ClaimKind::Reserved, &node))).collect();
        let wanted = BTreeMap::from([(ip(250), other)]);
        let change = of(&claims, &wanted, true);
        assert_eq!(change, ReserveChange { claim: vec![ip(246)], release: vec![ip(250)] });
        assert_eq!(of(&claims, &nobody, false).release, first.claim, "a network that is not used holds none");
    }

    proptest! {
        #[test]
        fn a_reserve_is_never_more_than_its_share_and_never_of_somebody_elses(
            prefix in 24u8..30, nodes in 1usize..40, used in proptest::collection::btree_set(1u8..255, 0..200)
        ) {
            let (node, other) = (NodeId::random(), NodeId::random());
            let network = network(AddressDriver::Weft, &format!("10.9.0.0/{prefix}"));
            let subnet = &network.subnets[0];
            let claims: BTreeMap<_, _> = used
                .into_iter()
                .map(ip)
                .filter(|ip| subnet.check_host("address", *ip).is_ok())
                .map(|ip| (ip, claim(ClaimKind::Endpoint, &other)))
                .collect();
            let change = reserve_change(&network, subnet, &claims, &BTreeMap::new(), &node, nodes, true);
            let free = size_of(subnet) - claims.len() as u128;
            prop_assert!(change.claim.len() as u128 * SHARE * nodes as u128 <= free);
            prop_assert!(change.release.is_empty() && change.claim.iter().all(|ip| !claims.contains_key(ip)));
        }
    }
}
