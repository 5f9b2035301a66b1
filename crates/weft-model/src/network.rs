//! A network: one Ethernet segment across the hosts, and its addresses.

use crate::{Mtu, MulticastRate, NetworkId, NodeId, UnixSeconds, Vni};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

/// A network, the same on every host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its identity.
    pub id: NetworkId,
    /// Its name, unique in the cluster. `None` between an engine's `CreateNetwork` call, which does not tell the
    /// name, and the engine's event that does.
    pub name: Option<NetworkName>,
    /// Its VXLAN identifier, unique in the cluster.
    pub vni: Vni,
    /// Its subnets: at least one.
    pub subnets: Vec<Subnet>,
    /// The MTU asked for; else it follows from the underlay.
    pub mtu: Option<Mtu>,
    /// No way out: containers reach one another and nothing else.
    #[serde(default)]
    pub internal: bool,
    /// Between hosts on one link that can, its packets have no outer headers. No other such network has any of its addresses.
    #[serde(default)]
    pub direct: bool,
    /// Labels, as given.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The driver options as given (`docker network create -o`).
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Who chooses the addresses of its endpoints.
    #[serde(default)]
    pub address_driver: AddressDriver,
    /// The node it was made on.
    pub created_by: NodeId,
    /// When it was made.
    pub created: UnixSeconds,
}

impl Network {
    /// Its name, or its short id while it has none.
    pub fn display_name(&self) -> Cow<'_, str> {
        self.name.as_ref().map_or_else(|| self.id.short().into(), |name| name.as_str().into())
    }

    /// What its endpoints may send to many at once. An option that cannot be read (none is taken so) counts as not given.
    pub fn multicast_rate(&self) -> MulticastRate {
        let option = self.options.get(MulticastRate::OPTION);
        option.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// The subnet that holds `ip`.
    pub fn subnet_of(&self, ip: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|s| s.net.contains(&ip))
    }
}

/// Who chooses the addresses of a network's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressDriver {
    /// weft, on every node.
    #[default]
    Weft,
    /// On this one node the engine's own IPAM, which hands out the lowest free address it knows of; on all
    /// others weft, which therefore begins at the top. Every address is still claimed in the store before it
    /// is used.
    Engine(NodeId),
}

/// A range of addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The prefix, host bits zero.
    pub net: IpNet,
    /// The gateway's address: never given to an endpoint.
    pub gateway: Option<IpAddr>,
    /// Where addresses are chosen from, if not the whole prefix. Addresses asked for may lie outside it.
    pub range: Option<IpNet>,
    /// Addresses never given to an endpoint, each with the name it was reserved under.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
}

/// Why a subnet is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not a prefix at all.
    #[error("{0:?} is not a subnet: expected ADDRESS/LENGTH, as in 10.9.0.0/24 or fd00:9::/64")]
    NotAPrefix(String),
    /// Bits set behind the prefix length.
    #[error("{0} has host bits set: did you mean {1}?")]
    HostBits(IpNet, IpNet),
    /// No room for a gateway and an endpoint.
    #[error("subnet {0} is too small: it has no room for a gateway and an endpoint")]
    TooSmall(IpNet),
    /// Multicast, loopback, link-local, unspecified.
    #[error("subnet {0} cannot be used: it is {1} space")]
    Unusable(IpNet, &'static str),
    /// The gateway, range or reserved address is elsewhere.
    #[error("{what} {value} is not inside subnet {net}")]
    Outside {
        /// What: "gateway", "ip-range", "reserved address".
        what: &'static str,
        /// Its value.
        value: String,
        /// The subnet it should be in.
        net: IpNet,
    },
    /// The network's, broadcast or router-anycast address.
    #[error("{what} {value} is the {of} address of subnet {net}: choose another")]
    NotAHost {
        /// What: "gateway", "address".
        what: &'static str,
        /// Its value.
        value: IpAddr,
        /// "network" or "broadcast".
        of: &'static str,
        /// The subnet.
        net: IpNet,
    },
    /// Two subnets of one network share addresses.
    #[error("subnets {0} and {1} of one network overlap")]
    Overlap(IpNet, IpNet),
    /// A network without addresses.
    #[error("a network needs at least one subnet")]
    None,
}

impl Subnet {
    /// A subnet with nothing but a prefix and the gateway chosen by [`Subnet::first_host`].
    pub fn new(net: IpNet) -> Self {
        Self { net, gateway: Some(Self::first_host(net)), range: None, reserved: BTreeMap::new() }
    }

    /// Parses a prefix and insists on zero host bits.
    pub fn parse_net(text: &str) -> Result<IpNet, SubnetError> {
        let net: IpNet = text.parse().map_err(|_| SubnetError::NotAPrefix(text.to_owned()))?;
        if net.addr() == net.network() { Ok(net) } else { Err(SubnetError::HostBits(net, net.trunc())) }
    }

    /// The first address after the network's own: the usual gateway.
    pub fn first_host(net: IpNet) -> IpAddr {
        nth_address(net.network(), 1)
    }

    /// Why `ip` cannot be an endpoint's or gateway's address in this subnet, if it cannot: outside, the
    /// network's own address, the IPv4 broadcast address.
    pub fn check_host(&self, what: &'static str, ip: IpAddr) -> Result<(), SubnetError> {
        let net = self.net;
        if !net.contains(&ip) {
            return Err(SubnetError::Outside { what, value: ip.to_string(), net });
        }
        if ip == net.network() {
            return Err(SubnetError::NotAHost { what, value: ip, of: "network", net });
        }
        if net.broadcast() == ip && ip.is_ipv4() {
            return Err(SubnetError::NotAHost { what, value: ip, of: "broadcast", net });
        }
        Ok(())
    }

    /// Addresses that are never given to an endpoint, with the reason.
    pub fn withheld(&self, ip: IpAddr) -> Option<String> {
        if self.gateway == Some(ip) {
            return Some("the gateway".to_owned());
        }
        self.reserved.iter().find(|(_, a)| **a == ip).map(|(name, _)| format!("reserved as {name:?}"))
    }

    /// Checks the rules of one subnet.
    pub fn validate(&self) -> Result<(), SubnetError> {
        let net = self.net;
        if net.addr() != net.network() {
            return Err(SubnetError::HostBits(net, net.trunc()));
        }
        let host_bits = net.max_prefix_len() - net.prefix_len();
        if host_bits < 2 {
            return Err(SubnetError::TooSmall(net));
        }
        let unusable = match net.network() {
            ip if ip.is_multicast() => Some("multicast"),
            ip if ip.is_loopback() => Some("loopback"),
            ip if ip.is_unspecified() => Some("unspecified"),
            IpAddr::V4(ip) if ip.is_link_local() => Some("link-local"),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("link-local"),
            _ => None,
        };
        if let Some(space) = unusable {
            return Err(SubnetError::Unusable(net, space));
        }
        if let Some(gateway) = self.gateway {
            self.check_host("gateway", gateway)?;
        }
        if let Some(range) = self.range
            && !net.contains(&range)
        {
            return Err(SubnetError::Outside { what: "ip-range", value: range.to_string(), net });
        }
        for &ip in self.reserved.values() {
            if !net.contains(&ip) {
                return Err(SubnetError::Outside { what: "reserved address", value: ip.to_string(), net });
            }
        }
        Ok(())
    }

    /// Checks every subnet of a network and that no two overlap.
    pub fn validate_all(subnets: &[Self]) -> Result<(), SubnetError> {
        if subnets.is_empty() {
            return Err(SubnetError::None);
        }
        for (i, subnet) in subnets.iter().enumerate() {
            subnet.validate()?;
            for other in &subnets[..i] {
                if other.net.contains(&subnet.net) || subnet.net.contains(&other.net) {
                    return Err(SubnetError::Overlap(other.net, subnet.net));
                }
            }
        }
        Ok(())
    }

    /// Every reserved or gateway address.
    pub fn withheld_addresses(&self) -> BTreeSet<IpAddr> {
        self.gateway.into_iter().chain(self.reserved.values().copied()).collect()
    }
}

/// The address `n` after `base`, wrapping at the end of the family's space.
pub(crate) fn nth_address(base: IpAddr, n: u32) -> IpAddr {
    match base {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add(n).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add(u128::from(n)).into()),
    }
}

/// A network's name: what `docker network create` accepts, so that it means the same to every engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

/// Why a string is not a network's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a network name: expected a letter or digit, then letters, digits, '_', '.' or '-', 128 at most"
)]
pub struct NameError(String);

impl NetworkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let mut bytes = s.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if first && rest && s.len() <= 128 { Ok(Self(s.to_owned())) } else { Err(NameError(s.to_owned())) }
    }
}

impl TryFrom<String> for NetworkName {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(net: &str) -> Subnet {
        Subnet::new(net.parse().unwrap())
    }

    #[test]
    fn the_gateway_is_the_first_host_unless_set() {
        assert_eq!(subnet("10.9.0.0/24").gateway, Some("10.9.0.1".parse().unwrap()));
        assert_eq!(subnet("fd00:9::/64").gateway, Some("fd00:9::1".parse().unwrap()));
    }

    #[test]
    fn refuses_bad_subnets_and_says_why() {
        let cases = [
            (Subnet::parse_net("10.9.0.5/24").unwrap_err().to_string(), "did you mean 10.9.0.0/24"),
            (Subnet::parse_net("ten/8").unwrap_err().to_string(), "not a subnet"),
            (subnet("10.9.0.0/31").validate().unwrap_err().to_string(), "too small"),
            (subnet("224.0.0.0/8").validate().unwrap_err().to_string(), "multicast"),
            (subnet("127.0.0.0/8").validate().unwrap_err().to_string(), "loopback"),
            (subnet("fe80::/64").validate().unwrap_err().to_string(), "link-local"),
            (
                Subnet { gateway: Some("10.8.0.1".parse().unwrap()), ..subnet("10.9.0.0/24") }
                    .validate()
                    .unwrap_err()
                    .to_string(),
                "gateway 10.8.0.1 is not inside subnet 10.9.0.0/24",
            ),
            (
                Subnet { gateway: Some("10.9.0.255".parse().unwrap()), ..subnet("10.9.0.0/24") }
                    .validate()
                    .unwrap_err()
                    .to_string(),
                "broadcast",
            ),
            (
                Subnet { range: Some("10.8.0.0/28".parse().unwrap()), ..subnet("10.9.0.0/24") }
                    .validate()
                    .unwrap_err()
                    .to_string(),
                "ip-range",
            ),
            (
                Subnet::validate_all(&[subnet("10.9.0.0/16"), subnet("10.9.7.0/24")])
                    .unwrap_err()
                    .to_string(),
                "overlap",
            ),
            (Subnet::validate_all(&[]).unwrap_err().to_string(), "at least one"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        }
    }

    #[test]
    fn names_are_docker_names() {
        for good in ["a", "my-multi-host-net", "A_1.b"] {
            assert!(good.parse::<NetworkName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad}");
        }
    }
}
