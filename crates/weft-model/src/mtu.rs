//! How large a frame's payload may be, inside and outside the tunnel.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// The largest IP packet a device carries, in bytes, without the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u32);

/// Why a number is not an MTU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MTU {0} is out of range: expected 68 to 65535 bytes (1280 at least where IPv6 is used)")]
pub struct MtuError(pub String);

/// An Ethernet header without tags, in bytes.
pub const ETHERNET_HEADER: u32 = 14;

/// What VXLAN adds to an inner IP packet on the wire: the inner Ethernet header (14), the VXLAN header (8),
/// UDP (8) and the outer IP header (20 or 40). 50 bytes over IPv4, 70 over IPv6 (RFC 7348, section 5).
pub const fn vxlan_overhead(underlay: IpAddr) -> u32 {
    let outer_ip = match underlay {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    ETHERNET_HEADER + 8 + 8 + outer_ip
}

impl Mtu {
    /// An MTU, if `bytes` is one: IPv4 needs 68 (RFC 791), an IP packet ends at 65535.
    pub fn new(bytes: u32) -> Result<Self, MtuError> {
        if (68..=65535).contains(&bytes) { Ok(Self(bytes)) } else { Err(MtuError(bytes.to_string())) }
    }

    /// In bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The MTU inside a VXLAN tunnel whose outer packets have this MTU and go to `underlay`: 1450 of 1500 over
    /// IPv4, 1430 over IPv6. `None` when nothing useful is left.
    pub fn inside_vxlan(self, underlay: IpAddr) -> Option<Self> {
        self.0.checked_sub(vxlan_overhead(underlay)).and_then(|m| Self::new(m).ok())
    }
}

impl TryFrom<u32> for Mtu {
    type Error = MtuError;
    fn try_from(bytes: u32) -> Result<Self, MtuError> {
        Self::new(bytes)
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        mtu.0
    }
}

impl FromStr for Mtu {
    type Err = MtuError;
    fn from_str(s: &str) -> Result<Self, MtuError> {
        s.parse::<u32>().map_err(|_| MtuError(s.to_owned())).and_then(Self::new)
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_room_for_the_outer_headers() {
        let wire = Mtu::new(1500).unwrap();
        assert_eq!(wire.inside_vxlan("192.0.2.1".parse().unwrap()).unwrap().get(), 1450);
        assert_eq!(wire.inside_vxlan("2001:db8::1".parse().unwrap()).unwrap().get(), 1430);
        assert_eq!(Mtu::new(9000).unwrap().inside_vxlan("192.0.2.1".parse().unwrap()).unwrap().get(), 8950);
        assert_eq!(Mtu::new(100).unwrap().inside_vxlan("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn refuses_nonsense() {
        for bad in ["0", "67", "65536", "-1", "big"] {
            assert!(bad.parse::<Mtu>().unwrap_err().to_string().contains("68 to 65535"), "{bad}");
        }
    }
}
