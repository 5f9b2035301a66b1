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

/// A network of which a host holds addresses ahead.
#[derive(Clone, Copy, Debug)]
pub struct Reserving<'a> {
    /// Its record.
    pub network: &'a Network,
    /// All claims there.
    pub claims: &'a BTreeMap<IpAddr, AddressClaim>,
    /// Those of them that are `node`'s: see [`claims_of`].
    pub own: &'a BTreeMap<IpAddr, ClaimKind>,
    /// Addresses that somebody asks for, which are not held ahead.
    pub wanted: &'a BTreeMap<IpAddr, NodeId>,
    /// The host.
    pub node: &'a NodeId,
    /// How many hosts the cluster has.
    pub nodes: usize,
    /// The host has endpoints on the network; without, nothing is held ahead.
    pub in_use: bool,
}

impl Reserving<'_> {
    /// How the host's reserve in `subnet` has to change.
    ///
    /// Where an engine with an IPAM of its own chooses the addresses, the reserve is what it will choose next: the lowest. Else
    /// it is out of the way, at the other end from which addresses are handed out.
    ///
    /// The cost is that of the host's own claims; that of all where an engine chooses, the subnet fills up, or something is to be
    /// claimed.
    pub fn change(&self, subnet: &Subnet) -> ReserveChange {
        let Self { network, claims, wanted, .. } = *self;
        let held: BTreeSet<IpAddr> = reserved(self.own, subnet).collect();
        let count = if self.in_use { self.share(subnet) } else { 0 };
        let engine_chooses = network.address_driver == AddressDriver::Engine(self.node.clone());
        let order = if engine_chooses { Order::LowestFirst } else { Order::HighestFirst };
        // What is held already is as good as anything else, unless an engine is going to choose.
        let kept = held.iter().filter(|ip| !engine_chooses && !wanted.contains_key(*ip));
        let mut target: BTreeSet<IpAddr> = kept.rev().copied().take(count).collect();
        if target.len() < count {
            let not_ours = claims.keys().filter(|ip| !engine_chooses || !held.contains(*ip));
            let mut taken: BTreeMap<IpAddr, bool> =
                not_ours.chain(wanted.keys()).map(|ip| (*ip, true)).collect();
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

    /// How many addresses of `subnet` the host may hold ahead.
    fn share(&self, subnet: &Subnet) -> usize {
        let (size, hosts) = (size_of(subnet), self.nodes.max(1) as u128);
        let of_free = |free: u128| usize::try_from(free / SHARE / hosts).unwrap_or(RESERVE).min(RESERVE);
        // As if all of them were used, and there: where that leaves enough, nothing has to be counted.
        let least = of_free(size.saturating_sub(self.claims.len() as u128));
        if least == RESERVE {
            return least;
        }
        let is_used = |(ip, claim): &(&IpAddr, &AddressClaim)| {
            claim.kind != ClaimKind::Reserved && subnet.net.contains(*ip)
        };
        of_free(size.saturating_sub(self.claims.iter().filter(is_used).count() as u128))
    }
}

/// What `node`'s claims are for, by address, of all the claims on a network.
pub fn claims_of(claims: &BTreeMap<IpAddr, AddressClaim>, node: &NodeId) -> BTreeMap<IpAddr, ClaimKind> {
    let ours = claims.iter().filter(|(_, claim)| claim.node == *node);
    ours.map(|(ip, claim)| (*ip, claim.kind)).collect()
}

/// The addresses in `subnet` that are held ahead, the lowest first, of those that a node has claims of.
pub fn reserved<'a>(
    own: &'a BTreeMap<IpAddr, ClaimKind>,
    subnet: &'a Subnet,
) -> impl Iterator<Item = IpAddr> + 'a {
    let ahead = own.iter().filter(|(_, kind)| **kind == ClaimKind::Reserved);
    ahead.map(|(ip, _)| *ip).filter(|ip| subnet.net.contains(ip))
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

    /// How `node`'s reserve has to change on `network`, of whose `claims` some may be its own.
    fn change(
        network: &Network,
        claims: &BTreeMap<IpAddr, AddressClaim>,
        wanted: &BTreeMap<IpAddr, NodeId>,
        node: &NodeId,
        nodes: usize,
        in_use: bool,
    ) -> ReserveChange {
        let own = claims_of(claims, node);
        let of = Reserving { network, claims, own: &own, wanted, node, nodes, in_use };
        of.change(&network.subnets[0])
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
        let of = |claims: &_| change(&network, claims, &BTreeMap::new(), &node, 2, true);
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
        let of = |claims: &_, wanted: &_, in_use| change(&network, claims, wanted, &node, 2, in_use);
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
            let change = change(&network, &claims, &BTreeMap::new(), &node, nodes, true);
            let free = size_of(subnet) - claims.len() as u128;
            prop_assert!(change.claim.len() as u128 * SHARE * nodes as u128 <= free);
            prop_assert!(change.release.is_empty() && change.claim.iter().all(|ip| !claims.contains_key(ip)));
        }
    }
}
