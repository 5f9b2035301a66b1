//! A sandbox's way to the world outside of its networks.

use crate::{EndpointId, MacAddr};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An interface on the gateway bridge of its host: the default route of a sandbox whose engine has none of its own, and
/// what published ports lead to. A sandbox has one however many networks it is on; the endpoint that carries it hands
/// it on when it is removed. Its addresses mean something on that host only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// The endpoint that it was made for: its devices are named after it, whichever carries it by now.
    pub id: EndpointId,
    /// The interface's name in the sandbox.
    pub interface: String,
    /// Its address in the gateway's IPv4 subnet. The gateway has the first address of that.
    pub ipv4: Ipv4Net,
    /// The same for IPv6, where the network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Net>,
    /// Ports of the host that lead to it; empty where the engine publishes ports itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
}

impl Outside {
    /// The interface's Ethernet address.
    pub fn mac(&self) -> MacAddr {
        MacAddr::for_address(self.ipv4.addr().into())
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> + use<> {
        [IpNet::V4(self.ipv4)].into_iter().chain(self.ipv6.map(IpNet::V6))
    }
}

/// The gateway's address in a subnet: the first.
pub fn gateway_in(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() | 1)),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | 1)),
    }
}

/// Ports of a host, one after another, that lead to as many of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The protocol above IP.
    pub protocol: PortProtocol,
    /// The host's address; `None`: all of them, of both families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The first port of the host's; not 0.
    pub host_port: u16,
    /// The first port of the sandbox's; not 0.
    pub container_port: u16,
    /// How many; at least 1.
    #[serde(default = "one")]
    pub count: u16,
}

fn one() -> u16 {
    1
}

impl PublishedPort {
    /// Whether all of it exists: ports from 1 to 65535.
    pub fn is_possible(&self) -> bool {
        let fits = |first: u16| first > 0 && u32::from(first) + u32::from(self.count) <= 1 << 16;
        self.count > 0 && fits(self.host_port) && fits(self.container_port)
    }

    /// Whether both cannot be published on one host: they share a port at an address.
    pub fn collides(&self, other: &Self) -> bool {
        let end = |of: &Self| u32::from(of.host_port) + u32::from(of.count);
        let apart = end(self) <= u32::from(other.host_port) || end(other) <= u32::from(self.host_port);
        let addresses = match (self.host_ip, other.host_ip) {
            (Some(one), Some(two)) => one == two || one.is_unspecified() || two.is_unspecified(),
            _ => true,
        };
        self.protocol == other.protocol && addresses && !apart
    }
}

impl fmt::Display for PublishedPort {
    /// `192.0.2.1:8080-8082->80-82/tcp`, as engines write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:")?,
            Some(IpAddr::V4(v4)) => write!(f, "{v4}:")?,
            None => f.write_str("*:")?,
        }
        let range = |first: u16| match self.count {
            0 | 1 => first.to_string(),
            count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
        };
        write!(f, "{}->{}/{}", range(self.host_port), range(self.container_port), self.protocol)
    }
}

/// A protocol above IP that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A word that is no protocol with ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol with ports: weft publishes tcp, udp and sctp")]
pub struct NoSuchProtocol(String);

impl FromStr for PortProtocol {
    type Err = NoSuchProtocol;

    fn from_str(text: &str) -> Result<Self, NoSuchProtocol> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(NoSuchProtocol(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: Option<&str>, host_port: u16, count: u16) -> PublishedPort {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PublishedPort { protocol: PortProtocol::Tcp, host_ip, host_port, container_port: 80, count }
    }

    #[test]
    fn ports_collide_where_they_share_one_at_an_address() {
        let (any, one, two) = (None, Some("192.0.2.1"), Some("192.0.2.2"));
        assert!(port(any, 80, 1).collides(&port(one, 80, 1)));
        assert!(port(Some("0.0.0.0"), 80, 3).collides(&port(one, 82, 1)));
        assert!(!port(one, 80, 1).collides(&port(two, 80, 1)));
        assert!(!port(any, 80, 2).collides(&port(any, 82, 1)));
        let udp = PublishedPort { protocol: PortProtocol::Udp, ..port(any, 80, 1) };
        assert!(!udp.collides(&port(any, 80, 1)));
    }

    #[test]
    fn ports_end_at_65535() {
        assert!(port(None, 65535, 1).is_possible());
        assert!(!port(None, 65535, 2).is_possible());
        assert!(!port(None, 0, 1).is_possible() && !port(None, 1, 0).is_possible());
    }

    #[test]
    fn ports_are_written_as_engines_write_them() {
        assert_eq!(port(Some("::1"), 8080, 3).to_string(), "[::1]:8080-8082->80-82/tcp");
        assert_eq!(port(None, 8080, 1).to_string(), "*:8080->80/tcp");
    }

    #[test]
    fn the_gateway_is_at_the_first_address_of_the_subnet() {
        assert_eq!(gateway_in("10.213.16.9/20".parse().unwrap()).to_string(), "10.213.16.1");
        assert_eq!(gateway_in("fd12::9/64".parse().unwrap()).to_string(), "fd12::1");
    }
}
