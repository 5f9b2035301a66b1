//! Choosing never gives what it must not, and always gives where there is something to give.

use super::cluster::{ip, network, node, vni};
use crate::{IpamError, Order, choose, choose_subnet, choose_vni, conflicting_route};
use ipnet::IpNet;
use proptest::prelude::*;
use std::{collections::BTreeMap, net::IpAddr};
use weft_model::{HostRoute, Network, Subnet};

type Taken = BTreeMap<IpAddr, &'static str>;

fn taken(addresses: impl IntoIterator<Item = IpAddr>) -> Taken {
    addresses.into_iter().map(|ip| (ip, "somebody")).collect()
}

fn blue(subnet: Subnet) -> Network {
    Network { name: Some("blue".parse().unwrap()), subnets: vec![subnet], ..network(1, 4096) }
}

fn subnet(net: &str) -> Subnet {
    Subnet::new(net.parse().unwrap())
}

/// A small subnet of either family, perhaps with a range, a gateway anywhere and reserved addresses, and some
/// addresses that are taken.
fn any_pool() -> impl Strategy<Value = (Subnet, Taken)> {
    let offset = 0..64u128;
    (any::<bool>(), 0..5u8, prop::option::of((0..4u128, 0..4u8)), prop::option::of(offset.clone()))
        .prop_flat_map(move |shape| {
            let reserved = prop::collection::vec(offset.clone(), 0..4);
            (Just(shape), reserved, prop::collection::btree_set(offset.clone(), 0..64))
        })
        .prop_map(|((v4, bits, range, gateway), reserved, taken_offsets)| {
            let host_bits = bits + 2;
            let base = if v4 { ip("10.9.0.64") } else { ip("fd00:9::40") };
            let at = |offset: u128| match base {
                IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + u32::try_from(offset).unwrap()).into()),
                IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + offset).into()),
            };
            let net = IpNet::new(base, if v4 { 32 } else { 128 } - host_bits).unwrap();
            let size = 1u128 << host_bits;
            let range = range.map(|(start, shorter)| {
                IpNet::new(at(start * size / 4), net.prefix_len() + shorter.min(host_bits)).unwrap().trunc()
            });
            let reserved = reserved.iter().map(|offset| (format!("r{offset}"), at(offset % size))).collect();
            let gateway = gateway.map(|offset| at(offset % size));
            (Subnet { net, gateway, range, reserved }, taken(taken_offsets.into_iter().map(at)))
        })
}

/// Every address of a small subnet that an endpoint could have without being asked for, in order.
fn choices(subnet: &Subnet) -> Vec<IpAddr> {
    let all: Vec<IpAddr> = subnet.range.unwrap_or(subnet.net).hosts().collect();
    let window = subnet.range.unwrap_or(subnet.net);
    let edges = [window.network(), window.broadcast()];
    let mut all: Vec<IpAddr> = all.into_iter().chain(edges).filter(|ip| subnet.net.contains(ip)).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|ip| {
        let edge = *ip == subnet.net.network() || (ip.is_ipv4() && *ip == subnet.net.broadcast());
        !edge && subnet.withheld(*ip).is_none()
    });
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn gives_the_first_or_last_free_address_if_there_is_one((subnet, taken) in any_pool()) {
        let network = blue(subnet.clone());
        let choices = choices(&subnet);
        let free: Vec<IpAddr> = choices.iter().copied().filter(|ip| !taken.contains_key(ip)).collect();
        for (order, expected) in [(Order::LowestFirst, free.first()), (Order::HighestFirst, free.last())] {
            match choose(&network, &subnet, &taken, None, order) {
                Ok(ip) => prop_assert_eq!(Some(&ip), expected),
                Err(IpamError::Full { size, .. }) => {
                    prop_assert_eq!(expected, None);
                    prop_assert_eq!(size, choices.len() as u128);
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    #[test]
    fn gives_every_address_exactly_once((subnet, mut taken) in any_pool(), orders: [bool; 64]) {
        let network = blue(subnet.clone());
        let free = choices(&subnet).iter().filter(|ip| !taken.contains_key(ip)).count();
        for (n, low) in (0..free).zip(orders) {
            let order = if low { Order::LowestFirst } else { Order::HighestFirst };
            let ip = choose(&network, &subnet, &taken, None, order).unwrap();
            prop_assert_eq!(taken.insert(ip, "somebody"), None, "{} was given twice, at {}", ip, n);
        }
        prop_assert!(choose(&network, &subnet, &taken, None, Order::LowestFirst).is_err());
    }

    #[test]
    fn an_address_asked_for_is_given_or_refused_for_the_right_reason(
        (subnet, taken) in any_pool(), offset in 0..200u128
    ) {
        let wanted = match subnet.net.network() {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) - 20 + u32::try_from(offset).unwrap()).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) - 20 + offset).into()),
        };
        let network = blue(subnet.clone());
        let inside = subnet.net.contains(&wanted);
        let edge = wanted == subnet.net.network() || (wanted.is_ipv4() && wanted == subnet.net.broadcast());
        match choose(&network, &subnet, &taken, Some(wanted), Order::LowestFirst) {
            Ok(ip) => {
                prop_assert_eq!(ip, wanted);
                prop_assert!(inside && !edge && subnet.withheld(ip).is_none() && !taken.contains_key(&ip));
            }
            Err(IpamError::Outside { .. }) => prop_assert!(!inside),
            Err(IpamError::NotAHost(_)) => prop_assert!(edge),
            Err(IpamError::Withheld { .. }) => prop_assert!(subnet.withheld(wanted).is_some()),
            Err(IpamError::Taken { .. }) => prop_assert!(taken.contains_key(&wanted)),
            Err(IpamError::Full { .. }) => prop_assert!(false, "one address was asked for"),
        }
    }

    #[test]
    fn a_chosen_subnet_is_the_lowest_that_nobody_uses(
        blocks in prop::collection::vec((0..3000u32, 12..30u8, any::<bool>()), 0..20)
    ) {
        let nets: Vec<(IpNet, bool)> = blocks
            .into_iter()
            .map(|(n, length, route)| {
                let start = IpAddr::V4((0x0a00_0000 + n * 64).into());
                (IpNet::new(start, length).unwrap().trunc(), route)
            })
            .collect();
        let routes: Vec<HostRoute> = nets
            .iter()
            .filter(|(_, route)| *route)
            .map(|(net, _)| HostRoute { destination: *net, device: "eth0".to_owned() })
            .collect();
        let subnets = nets.iter().filter(|(_, route)| !*route).map(|(net, _)| *net);
        let chosen = choose_subnet(subnets, routes.iter()).unwrap();
        let overlaps = |candidate: IpNet| {
            nets.iter().any(|(net, _)| net.contains(&candidate) || candidate.contains(net))
        };
        prop_assert!(!overlaps(chosen));
        let expected = (0..65_536u32)
            .map(|n| IpNet::new(IpAddr::V4((0x0a00_0000 + n * 256).into()), 24).unwrap())
            .find(|candidate| !overlaps(*candidate));
        prop_assert_eq!(Some(chosen), expected);
    }
}

#[test]
fn a_crowd_in_a_large_subnet_is_stepped_over() {
    let crowd = 100_000u32;
    let wide = Subnet { gateway: Some(ip("10.0.0.1")), ..subnet("10.0.0.0/8") };
    let crowded = taken((2..2 + crowd).map(|n| IpAddr::V4((0x0a00_0000 + n).into())));
    let chosen = choose(&blue(wide.clone()), &wide, &crowded, None, Order::LowestFirst).unwrap();
    assert_eq!(chosen, IpAddr::V4((0x0a00_0002 + crowd).into()));
    let long = subnet("fd00:9::/64");
    let top = u128::from("fd00:9::ffff:ffff:ffff:ffff".parse::<std::net::Ipv6Addr>().unwrap());
    let crowded = taken((0..u128::from(crowd)).map(|n| IpAddr::V6((top - n).into())));
    let chosen = choose(&blue(long.clone()), &long, &crowded, None, Order::HighestFirst).unwrap();
    assert_eq!(chosen, IpAddr::V6((top - u128::from(crowd)).into()));
}

#[test]
fn of_a_range_that_lies_elsewhere_nothing_is_chosen() {
    for (net, range) in [
        ("::/0", "10.0.0.0/8"),
        ("fd00:9::/64", "fd00:8::/32"),
        ("fd00:9::/64", "fd00:a::/64"),
        ("10.9.0.0/24", "::/0"),
    ] {
        let subnet = Subnet { range: Some(range.parse().unwrap()), ..subnet(net) };
        for order in [Order::LowestFirst, Order::HighestFirst] {
            let chosen = choose(&blue(subnet.clone()), &subnet, &Taken::new(), None, order);
            assert!(
                chosen.is_err() || subnet.net.contains(&chosen.clone().unwrap()),
                "{range} of {net}: {chosen:?}"
            );
        }
    }
}

#[test]
fn a_refusal_names_what_is_in_the_way() {
    let mut pool = subnet("10.9.0.0/30");
    let network = blue(pool.clone());
    let other = taken([ip("10.9.0.2")]);
    let refused = |pool: &Subnet, wanted: Option<&str>| {
        let error = choose(&network, pool, &other, wanted.map(ip), Order::LowestFirst).unwrap_err();
        error.held_by(|ip| format!("container \"web\" ({ip})")).to_string()
    };
    for (wanted, expected) in [
        (Some("10.8.0.1"), "address 10.8.0.1 is outside of network \"blue\", whose subnets are 10.9.0.0/30"),
        (Some("10.9.0.0"), "address 10.9.0.0 is the network address of subnet 10.9.0.0/30: choose another"),
        (
            Some("10.9.0.1"),
            "address 10.9.0.1 of network \"blue\" is never given to an endpoint: it is the gateway",
        ),
        (Some("10.9.0.2"), "address 10.9.0.2 of network \"blue\" is taken by container \"web\" (10.9.0.2)"),
        (None, "no free address in 10.9.0.0/30 of network \"blue\": all 1 are taken"),
    ] {
        assert_eq!(refused(&pool, wanted), expected);
    }
    pool.gateway = None;
    pool.reserved.insert("printer".to_owned(), ip("10.9.0.1"));
    assert!(refused(&pool, Some("10.9.0.1")).ends_with("it is reserved as \"printer\""));
}

#[test]
fn a_route_in_the_way_is_found_with_its_host() {
    let mut nodes = [node(0, &["192.0.2.1"], 1500), node(1, &["192.0.2.2"], 1500)];
    let route = HostRoute { destination: "10.9.0.0/16".parse().unwrap(), device: "tun0".to_owned() };
    nodes[1].routes.push(route.clone());
    let (host, found) = conflicting_route(&nodes, "10.9.7.0/24".parse().unwrap()).unwrap();
    assert_eq!((host.name.as_str(), found), ("h1", &route));
    assert!(conflicting_route(&nodes, "10.8.0.0/24".parse().unwrap()).is_none());
}

#[test]
fn there_is_no_subnet_where_a_host_routes_all_of_the_space() {
    let route = HostRoute { destination: "10.0.0.0/8".parse().unwrap(), device: "tun0".to_owned() };
    assert_eq!(choose_subnet(std::iter::empty(), [&route].into_iter()), None);
    assert_eq!(choose_subnet(std::iter::empty(), std::iter::empty()), Some("10.0.0.0/24".parse().unwrap()));
}

#[test]
fn a_vni_is_the_first_free_one_from_the_offset_on() {
    let range = "10-12".parse().unwrap();
    let all = BTreeMap::from([(vni(10), "a"), (vni(11), "b"), (vni(12), "c")]);
    let some = BTreeMap::from([(vni(10), "a"), (vni(12), "c")]);
    assert_eq!(choose_vni(range, &some, 0), Some(vni(11)));
    assert_eq!(choose_vni(range, &some, 2), Some(vni(11)));
    assert_eq!(choose_vni(range, &all, 0), None);
}
