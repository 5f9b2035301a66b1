//! Ethernet addresses.

use crate::EndpointId;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// A 48-bit Ethernet address (IEEE 802), in the order of its bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// Why a string is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address: expected six hexadecimal bytes as in 02:42:0a:00:00:02")]
pub struct MacError(String);

impl MacAddr {
    /// 00:00:00:00:00:00: in a VXLAN device's FDB, the entry for frames whose destination is not known.
    pub const ZERO: Self = Self([0; 6]);

    /// The address of an endpoint, derived from its IP address the way Docker does for IPv4: `02:42` and the
    /// four bytes. For IPv6: `02:42` and the last four bytes folded with the rest, so that interface
    /// identifiers that differ only in their upper half differ here too.
    pub fn for_address(ip: IpAddr) -> Self {
        let tail = match ip {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                [o[8] ^ o[12], o[9] ^ o[13], o[10] ^ o[14], o[11] ^ o[15]]
            }
        };
        Self([0x02, 0x42, tail[0], tail[1], tail[2], tail[3]])
    }

    /// The address of an endpoint where the one that its IP address gives is another's: `02:43`, which none of those begins
    /// with, and the first four bytes of its id.
    pub fn for_endpoint(id: &EndpointId) -> Self {
        // An id is at least twelve hexadecimal digits.
        let tail = u32::from_str_radix(&id.first(8), 16).unwrap_or_default().to_be_bytes();
        Self([0x02, 0x43, tail[0], tail[1], tail[2], tail[3]])
    }

    /// Locally administered address of a device of ours, the same at every creation: `0a:77` (w) and four
    /// bytes that name the device.
    pub const fn for_device(name: u32) -> Self {
        let b = name.to_be_bytes();
        Self([0x0a, 0x77, b[0], b[1], b[2], b[3]])
    }

    /// The link-local IPv6 address that a station with this address makes for itself (modified EUI-64: RFC 4291,
    /// appendix A), unless it was told to make another.
    pub fn link_local(self) -> Ipv6Addr {
        let mac = self.0;
        let mut ip = [0; 16];
        ip[..2].copy_from_slice(&[0xfe, 0x80]);
        ip[8..11].copy_from_slice(&mac[..3]);
        ip[8] ^= 0x02;
        ip[11..13].copy_from_slice(&[0xff, 0xfe]);
        ip[13..].copy_from_slice(&mac[3..]);
        ip.into()
    }

    /// Whether frames to this address go to one station (I/G bit clear) and the address is not zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self != Self::ZERO
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.pad(&bytes.join(":"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacError;
    fn from_str(s: &str) -> Result<Self, MacError> {
        let error = || MacError(s.to_owned());
        let mut bytes = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut bytes {
            // Without the second condition "+2" would be one: a sign is a part of Rust's numbers.
            let is_byte = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(is_byte).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacError;
    fn try_from(s: String) -> Result<Self, MacError> {
        s.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn derives_docker_style_addresses() {
        assert_eq!(MacAddr::for_address("10.0.0.3".parse().unwrap()).to_string(), "02:42:0a:00:00:03");
        assert!(MacAddr::for_address("fd00::1:2".parse().unwrap()).is_unicast());
        let id = "c0ffee1234567890".parse().unwrap();
        assert_eq!(MacAddr::for_endpoint(&id).to_string(), "02:43:c0:ff:ee:12");
    }

    #[test]
    fn the_link_local_address_is_the_kernels() {
        let mac: MacAddr = "02:42:0a:09:00:03".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::42:aff:fe09:3");
    }

    #[test]
    fn refuses_what_is_not_a_mac() {
        for bad in [
            "",
            "02:42",
            "02:42:0a:00:00:03:04",
            "02:42:0a:00:00:zz",
            "2:42:0a:00:00:03",
            "+2:42:0a:00:00:03",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
        }
    }
}
