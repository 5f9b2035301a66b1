//! Who has an IPv4 address: ARP over Ethernet (RFC 826).
//!
//! ```text
//! hardware type (2)  protocol type (2)  lengths (1, 1)  operation (2)
//! sender MAC (6)  sender IP (4)  target MAC (6)  target IP (4)
//! ```

use crate::error::{WireError, split};
use std::{fmt, net::Ipv4Addr};
use weft_model::MacAddr;

/// The length in bytes of an ARP packet for IPv4 over Ethernet.
pub const PACKET_LEN: usize = 28;

/// Ethernet (1), IPv4 (0x0800), and the lengths of their addresses.
const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const WHAT: &str = "an ARP packet";

/// An ARP packet. Bytes behind it (Ethernet's padding) are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    bytes: &'a [u8; PACKET_LEN],
}

impl<'a> Packet<'a> {
    /// A view of these bytes; refused when there are too few.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        split(WHAT, bytes).map(|(bytes, _)| Self { bytes })
    }

    /// Hardware type, protocol type and the lengths of their addresses.
    pub fn address_format(&self) -> [u8; 6] {
        self.field(0)
    }

    /// The operation's number.
    pub fn operation(&self) -> u16 {
        u16::from_be_bytes(self.field(6))
    }

    /// The sender's Ethernet address.
    pub fn sender_mac(&self) -> MacAddr {
        MacAddr(self.field(8))
    }

    /// The sender's IPv4 address.
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.field(14).into()
    }

    /// The target's Ethernet address: in a request, without meaning.
    pub fn target_mac(&self) -> MacAddr {
        MacAddr(self.field(18))
    }

    /// The target's IPv4 address.
    pub fn target_ip(&self) -> Ipv4Addr {
        self.field(24).into()
    }

    /// `N` bytes at `at`. All callers stay within the packet; behind its end zeros would be read.
    fn field<const N: usize>(self, at: usize) -> [u8; N] {
        self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }
}

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks who has the target's IPv4 address.
    Request,
    /// Tells that the sender has its IPv4 address.
    Reply,
}

/// What an ARP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// What it does.
    pub operation: Operation,
    /// The sender's Ethernet address.
    pub sender_mac: MacAddr,
    /// The sender's IPv4 address; unspecified in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// The target's Ethernet address; zero in a request.
    pub target_mac: MacAddr,
    /// The target's IPv4 address.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// What the packet says; refused unless it is a request or reply for IPv4 over Ethernet.
    pub fn parse(packet: &Packet<'_>) -> Result<Self, WireError> {
        let malformed = |reason: String| WireError::Malformed { what: WHAT, reason };
        if packet.address_format() != ETHERNET_AND_IPV4 {
            return Err(malformed("it is not about IPv4 over Ethernet".to_owned()));
        }
        let operation = match packet.operation() {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(malformed(format!("operation {other} is neither request nor reply"))),
        };
        Ok(Self {
            operation,
            sender_mac: packet.sender_mac(),
            sender_ip: packet.sender_ip(),
            target_mac: packet.target_mac(),
            target_ip: packet.target_ip(),
        })
    }

    /// The packet.
    pub fn emit(&self) -> [u8; PACKET_LEN] {
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let mut bytes = [0; PACKET_LEN];
        bytes[..6].copy_from_slice(&ETHERNET_AND_IPV4);
        bytes[6..8].copy_from_slice(&operation.to_be_bytes());
        bytes[8..14].copy_from_slice(&self.sender_mac.0);
        bytes[14..18].copy_from_slice(&self.sender_ip.octets());
        bytes[18..24].copy_from_slice(&self.target_mac.0);
        bytes[24..].copy_from_slice(&self.target_ip.octets());
        bytes
    }
}

impl fmt::Display for Repr {
    /// `ARP request: who has 10.9.0.2? 10.9.0.1 at 02:42:0a:09:00:01 asks`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sender_mac, sender_ip, target_ip, .. } = self;
        match self.operation {
            Operation::Request => {
                write!(f, "ARP request: who has {target_ip}? {sender_ip} at {sender_mac} asks")
            }
            Operation::Reply => write!(f, "ARP reply: {sender_ip} is at {sender_mac}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captures::{ARP_REPLY, bytes};
    use proptest::prelude::*;

    #[test]
    fn a_captured_reply_is_read_and_written() {
        let frame = bytes(ARP_REPLY);
        let repr = Repr::parse(&Packet::new(&frame[64..]).unwrap()).unwrap();
        let expected = Repr {
            operation: Operation::Reply,
            sender_mac: "02:42:0a:09:00:02".parse().unwrap(),
            sender_ip: "10.9.0.2".parse().unwrap(),
            target_mac: "02:42:0a:09:00:01".parse().unwrap(),
            target_ip: "10.9.0.1".parse().unwrap(),
        };
        assert_eq!(repr, expected);
        assert_eq!(repr.emit(), frame[64..92]);
    }

    #[test]
    fn what_is_not_ipv4_over_ethernet_is_refused() {
        let good = bytes(ARP_REPLY)[64..92].to_vec();
        for (at, value, reason) in
            [(1, 6, "IPv4 over Ethernet"), (4, 8, "IPv4 over Ethernet"), (7, 3, "operation 3")]
        {
            let mut bad = good.clone();
            bad[at] = value;
            let error = Repr::parse(&Packet::new(&bad).unwrap()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Packet::new(&good[..27]).unwrap_err().to_string().contains("28 bytes are needed"));
    }

    proptest! {
        #[test]
        fn a_packet_survives_the_wire(
            request: bool, sender_mac: [u8; 6], sender_ip: [u8; 4], target_mac: [u8; 6], target_ip: [u8; 4]
        ) {
            let repr = Repr {
                operation: if request { Operation::Request } else { Operation::Reply },
                sender_mac: MacAddr(sender_mac),
                sender_ip: sender_ip.into(),
                target_mac: MacAddr(target_mac),
                target_ip: target_ip.into(),
            };
            prop_assert_eq!(Repr::parse(&Packet::new(&repr.emit()).unwrap()), Ok(repr));
        }

        #[test]
        fn any_bytes_are_refused_or_come_out_as_they_went_in(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = bytes;
            if bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
            }
            if let Ok(packet) = Packet::new(&bytes) {
                let repr = Repr::parse(&packet).unwrap();
                prop_assert_eq!(&repr.emit()[..], &bytes[..PACKET_LEN]);
            } else {
                prop_assert!(bytes.len() < PACKET_LEN);
            }
        }
    }
}
