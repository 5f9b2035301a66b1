//! Which address, subnet or VNI is free.
//!
//! Choosing only proposes: the claim that follows is made in the store by compare-and-swap, and whoever loses
//! it chooses again with the winner's claim in `taken`. So no choice here needs to be fenced or unique.

use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};
use weft_model::{HostRoute, Network, Node, Subnet, SubnetError, Vni, VniRange};

/// From which end of a subnet addresses are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the bottom, as engines do.
    LowestFirst,
    /// From the top: where an engine elsewhere hands out addresses from the bottom of the same subnet.
    HighestFirst,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Asked for an address that no subnet of the network holds.
    #[error("address {ip} is outside of network {network:?}, whose subnets are {}", list(subnets))]
    Outside {
        /// The address asked for.
        ip: IpAddr,
        /// The network's name.
        network: String,
        /// All subnets of the network.
        subnets: Vec<IpNet>,
    },
    /// Asked for the network's own or the broadcast address.
    #[error(transparent)]
    NotAHost(SubnetError),
    /// Asked for the gateway or a reserved address.
    #[error("address {ip} of network {network:?} is never given to an endpoint: it is {why}")]
    Withheld {
        /// The address asked for.
        ip: IpAddr,
        /// The network's name.
        network: String,
        /// What it is kept for: `the gateway`, `reserved as "printer"`.
        why: String,
    },
    /// Asked for an address that is taken.
    #[error("address {ip} of network {network:?} is taken{}", by(holder))]
    Taken {
        /// The address asked for.
        ip: IpAddr,
        /// The network's name.
        network: String,
        /// Who has it, from [`crate::describe_holder`]. Empty until [`IpamError::held_by`] fills it in.
        holder: String,
    },
    /// Every address is taken.
    #[error("no free address in {subnet} of network {network:?}: all {size} are taken")]
    Full {
        /// The range that addresses are chosen from: the subnet's, or the whole subnet.
        subnet: IpNet,
        /// The network's name.
        network: String,
        /// How many addresses an endpoint could have in it.
        size: u128,
    },
}

impl IpamError {
    /// Names who has the address, if it is taken.
    #[must_use]
    pub fn held_by(mut self, description: impl FnOnce(IpAddr) -> String) -> Self {
        if let Self::Taken { ip, holder, .. } = &mut self {
            *holder = description(*ip);
        }
        self
    }
}

fn by(holder: &str) -> String {
    if holder.is_empty() { String::new() } else { format!(" by {holder}") }
}

fn list(subnets: &[IpNet]) -> String {
    let mut text = String::new();
    for (i, subnet) in subnets.iter().enumerate() {
        // Writing into a string does not fail.
        let _ = write!(text, "{}{subnet}", if i == 0 { "" } else { ", " });
    }
    text
}

/// A free address of `subnet`, or `wanted` if that can be had. One that is not asked for lies in the subnet's
/// range; one that is may lie anywhere in the subnet.
///
/// `taken` is the network's claims by address ([`weft_model::Snapshot::addresses`]). The cost is that of
/// walking the claims up to the first gap, whatever the size of the subnet.
pub fn choose<C>(
    network: &Network,
    subnet: &Subnet,
    taken: &BTreeMap<IpAddr, C>,
    wanted: Option<IpAddr>,
    order: Order,
) -> Result<IpAddr, IpamError> {
    match wanted {
        Some(ip) => check(network, subnet, taken, ip).map(|()| ip),
        None => choose_any(network, subnet, taken, order),
    }
}

fn check<C>(
    network: &Network,
    subnet: &Subnet,
    taken: &BTreeMap<IpAddr, C>,
    ip: IpAddr,
) -> Result<(), IpamError> {
    let name = || network.display_name().into_owned();
    match subnet.check_host("address", ip) {
        Ok(()) => {}
        Err(SubnetError::Outside { .. }) => {
            let subnets = network.subnets.iter().map(|s| s.net).collect();
            return Err(IpamError::Outside { ip, network: name(), subnets });
        }
        Err(error) => return Err(IpamError::NotAHost(error)),
    }
    if let Some(why) = subnet.withheld(ip) {
        return Err(IpamError::Withheld { ip, network: name(), why });
    }
    if taken.contains_key(&ip) {
        return Err(IpamError::Taken { ip, network: name(), holder: String::new() });
    }
    Ok(())
}

fn choose_any<C>(
    network: &Network,
    subnet: &Subnet,
    taken: &BTreeMap<IpAddr, C>,
    order: Order,
) -> Result<IpAddr, IpamError> {
    let window = subnet.range.unwrap_or(subnet.net);
    let full = |size| IpamError::Full { subnet: window, network: network.display_name().into_owned(), size };
    let Some((first, last)) = hosts(subnet) else { return Err(full(0)) };
    let (low, high) = (number(first), number(last));
    let address = |offset: u128| match order {
        Order::LowestFirst => like(first, low + offset),
        Order::HighestFirst => like(first, high - offset),
    };
    let offset_of = |ip: &IpAddr| match order {
        Order::LowestFirst => number(*ip) - low,
        Order::HighestFirst => high - number(*ip),
    };
    let claims = taken.range(first..=last).map(|(ip, _)| offset_of(ip));
    let withheld = subnet.withheld_addresses();
    let free = |offset: u128| !withheld.contains(&address(offset));
    let found = match order {
        Order::LowestFirst => first_gap(claims, high - low, free),
        Order::HighestFirst => first_gap(claims.rev(), high - low, free),
    };
    found.map(address).ok_or_else(|| {
        let kept = withheld.range(first..=last).count() as u128;
        full((high - low).saturating_add(1) - kept)
    })
}

/// The first offset of `0..=last` that is not in `taken` (ascending) and is `free`. Stops at every gap and
/// steps only over what is not free within it.
fn first_gap(taken: impl Iterator<Item = u128>, last: u128, free: impl Fn(u128) -> bool) -> Option<u128> {
    let mut next = 0;
    for blocked in taken.chain([last.saturating_add(1)]) {
        while next < blocked {
            if free(next) {
                return Some(next);
            }
            next += 1;
        }
        next = blocked.saturating_add(1);
    }
    None
}

/// The first and last address of the subnet's range that an endpoint could have, if there is any.
fn hosts(subnet: &Subnet) -> Option<(IpAddr, IpAddr)> {
    let (net, window) = (subnet.net, subnet.range.unwrap_or(subnet.net));
    // Whoever writes the record may name any range: of what lies elsewhere nothing is chosen.
    if net.addr().is_ipv4() != window.addr().is_ipv4() {
        return None;
    }
    // Left out: the network's own address (in IPv6 the subnet-router anycast address, RFC 4291, 2.6.1) and the
    // IPv4 broadcast address.
    let last = number(net.broadcast()).checked_sub(u128::from(net.addr().is_ipv4()))?;
    let low = number(window.network()).max(number(net.network()).checked_add(1)?);
    let high = number(window.broadcast()).min(last);
    (low <= high).then(|| (like(net.addr(), low), like(net.addr(), high)))
}

/// How many addresses of the subnet's range endpoints could have.
pub(crate) fn size_of(subnet: &Subnet) -> u128 {
    hosts(subnet).map_or(0, |(first, last)| (number(last) - number(first)).saturating_add(1))
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address with this number, of the family of `sample`.
fn like(sample: IpAddr, number: u128) -> IpAddr {
    match sample {
        // The number came from an IPv4 address or lies between two.
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// The space that subnets are chosen from when none is asked for: 10.0.0.0/8.
const SUBNET_POOL: (u32, u32) = (0x0a00_0000, 0x0aff_ffff);

/// A free /24 of 10.0.0.0/8, the lowest: `10.0.0.0/24` on a fresh cluster, as with Docker's own overlay.
/// Free of other networks' subnets and of every host's routes. `None` when there is none.
pub fn choose_subnet<'a>(
    taken: impl Iterator<Item = IpNet>,
    routes: impl Iterator<Item = &'a HostRoute>,
) -> Option<IpNet> {
    let mut blocked: Vec<(u32, u32)> = taken
        .chain(routes.map(|r| r.destination))
        .filter_map(|net| match net {
            IpNet::V4(v4) => Some((u32::from(v4.network()), u32::from(v4.broadcast()))),
            IpNet::V6(_) => None,
        })
        .collect();
    blocked.sort_unstable();
    let (mut candidate, last) = SUBNET_POOL;
    for (start, end) in blocked {
        if start > candidate | 0xff {
            break;
        }
        if end >= candidate {
            candidate = (end | 0xff).checked_add(1)?;
        }
    }
    if candidate > last {
        return None;
    }
    Ipv4Net::new(Ipv4Addr::from(candidate), 24).ok().map(IpNet::V4)
}

/// The first route of any host that `subnet` would collide with, and that host.
pub fn conflicting_route<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    subnet: IpNet,
) -> Option<(&'a Node, &'a HostRoute)> {
    nodes.into_iter().find_map(|node| {
        let route = node.routes.iter().find(|r| r.overlaps(subnet))?;
        Some((node, route))
    })
}

/// The first VNI of `range` that is not taken, beginning `offset` into the range and wrapping round. With offset
/// 0 it is the lowest.
pub fn choose_vni<T>(range: VniRange, taken: &BTreeMap<Vni, T>, offset: u32) -> Option<Vni> {
    range.from_offset(offset).find(|vni| !taken.contains_key(vni))
}
