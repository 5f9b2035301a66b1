//! Who has an IPv6 address: neighbour solicitations and advertisements (RFC 4861, sections 4.3, 4.4 and 4.6.1).
//!
//! ```text
//! type (1)  code (1)  checksum (2)  flags and reserved (4)  target (16)  options …
//! option: type (1)  length in units of 8 bytes (1)  value …
//! ```
//!
//! The messages are `ICMPv6`; a checksum over them and the IPv6 addresses is checked and made here. That the hop
//! limit is 255 (nobody routed the packet) is for who has the IPv6 header to check.

use crate::error::{WireError, split};
use std::{fmt, net::Ipv6Addr};
use weft_model::MacAddr;

/// The length in bytes of a message without options.
pub const HEADER_LEN: usize = 24;
/// `ICMPv6` type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// `ICMPv6` type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// The hop limit that these messages are sent with and must arrive with.
pub const HOP_LIMIT: u8 = 255;

const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ICMPV6: u32 = 58;
const WHAT: &str = "a neighbour discovery message";

/// A neighbour discovery message: the whole payload of an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    message: &'a [u8],
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of these bytes; refused when they are too few or an option has no length or ends behind them.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        let (header, options) = split(WHAT, message)?;
        let packet = Self { message, header, options };
        let told: usize = packet.options().map(|option| option.value.len() + 2).sum();
        if told == options.len() {
            Ok(packet)
        } else {
            let reason = "an option has no length or ends behind the message".to_owned();
            Err(WireError::Malformed { what: WHAT, reason })
        }
    }

    /// The `ICMPv6` type.
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// The `ICMPv6` code: zero.
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// An advertisement's flags: router, solicited, override from the top.
    pub fn flags(&self) -> u8 {
        self.header[4]
    }

    /// The address that it is about.
    pub fn target(&self) -> Ipv6Addr {
        let (_, target) = self.header.split_last_chunk().unwrap_or((&[], &[0; 16]));
        Ipv6Addr::from(*target)
    }

    /// The options, in their order.
    pub fn options(&self) -> Options<'a> {
        Options { rest: self.options }
    }

    /// Whether the checksum is right for a message between these addresses.
    pub fn checksum_is_right(&self, source: Ipv6Addr, destination: Ipv6Addr) -> bool {
        // A sum that includes its own complement comes out as zero.
        checksum(source, destination, self.message) == 0
    }

    fn mac_option(&self, kind: u8) -> Option<MacAddr> {
        let value = self.options().find(|option| option.kind == kind)?.value;
        value.first_chunk().copied().map(MacAddr)
    }
}

/// An option of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdOption<'a> {
    /// Its type.
    pub kind: u8,
    /// What comes after type and length.
    pub value: &'a [u8],
}

/// The options of a message. Ends at the first that is malformed.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = NdOption<'a>;
    fn next(&mut self) -> Option<NdOption<'a>> {
        let [kind, units, ..] = *self.rest else { return None };
        let (option, rest) = self.rest.split_at_checked(usize::from(units) * 8)?;
        self.rest = rest;
        option.get(2..).map(|value| NdOption { kind, value })
    }
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repr {
    /// Asks who has the target.
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Who asks. `None` where the sender has no address yet (duplicate address detection).
        source_mac: Option<MacAddr>,
    },
    /// Tells who has the target.
    Advertisement {
        /// The address told about.
        target: Ipv6Addr,
        /// Its Ethernet address.
        target_mac: Option<MacAddr>,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what was known before.
        overrides: bool,
    },
}

impl Repr {
    /// What a message between these addresses says, checked by the rules of RFC 4861, sections 7.1.1 and 7.1.2.
    pub fn parse(packet: &Packet<'_>, source: Ipv6Addr, destination: Ipv6Addr) -> Result<Self, WireError> {
        let malformed = |reason: &str| Err(WireError::Malformed { what: WHAT, reason: reason.to_owned() });
        let target = packet.target();
        if packet.code() != 0 {
            return malformed("its code is not 0");
        }
        if target.is_multicast() {
            return malformed("its target is a multicast address");
        }
        if !packet.checksum_is_right(source, destination) {
            return malformed("its checksum is wrong");
        }
        match packet.kind() {
            SOLICITATION => {
                let source_mac = packet.mac_option(SOURCE_LINK_LAYER_ADDRESS);
                if source.is_unspecified() && source_mac.is_some() {
                    return malformed("a sender without an address tells its Ethernet address");
                }
                if source.is_unspecified() && destination != solicited_node(target) {
                    return malformed(
                        "a sender without an address asks elsewhere than at the solicited node",
                    );
                }
                Ok(Self::Solicitation { target, source_mac })
            }
            ADVERTISEMENT => {
                let has = |flag: u8| packet.flags() & flag != 0;
                if has(SOLICITED) && destination.is_multicast() {
                    return malformed("an answer goes to everybody");
                }
                Ok(Self::Advertisement {
                    target,
                    target_mac: packet.mac_option(TARGET_LINK_LAYER_ADDRESS),
                    router: has(ROUTER),
                    solicited: has(SOLICITED),
                    overrides: has(OVERRIDE),
                })
            }
            _ => malformed("it is neither a solicitation nor an advertisement"),
        }
    }

    /// The message, for an IPv6 packet between these addresses.
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let (kind, flags, target, option, mac) = match *self {
            Self::Solicitation { target, source_mac } => {
                (SOLICITATION, 0, target, SOURCE_LINK_LAYER_ADDRESS, source_mac)
            }
            Self::Advertisement { target, target_mac, router, solicited, overrides } => {
                let flag = |set: bool, bit: u8| if set { bit } else { 0 };
                let flags = flag(router, ROUTER) | flag(solicited, SOLICITED) | flag(overrides, OVERRIDE);
                (ADVERTISEMENT, flags, target, TARGET_LINK_LAYER_ADDRESS, target_mac)
            }
        };
        let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend(target.octets());
        if let Some(mac) = mac {
            message.extend([option, 1]);
            message.extend(mac.0);
        }
        let sum = checksum(source, destination, &message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        message
    }
}

impl fmt::Display for Repr {
    /// `ND advertisement: fd00:9::2 is at 02:42:0a:09:00:02`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Solicitation { target, source_mac: Some(mac) } => {
                write!(f, "ND solicitation: who has {target}? {mac} asks")
            }
            Self::Solicitation { target, source_mac: None } => {
                write!(f, "ND solicitation: does anybody have {target}?")
            }
            Self::Advertisement { target, target_mac: Some(mac), .. } => {
                write!(f, "ND advertisement: {target} is at {mac}")
            }
            Self::Advertisement { target, target_mac: None, .. } => {
                write!(f, "ND advertisement: {target} is here")
            }
        }
    }
}

/// The multicast address at which the owner of an address listens (RFC 4291, section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Internet checksum (RFC 1071) of an `ICMPv6` message and the addresses it travels between (RFC 8200,
/// section 8.1).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    // An IPv6 packet, and so a message, is shorter than 2^32 bytes.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let parts =
        [&source.octets()[..], &destination.octets(), &length.to_be_bytes(), &ICMPV6.to_be_bytes(), message];
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let (high, low) = (pair[0], pair.get(1).copied().unwrap_or(0));
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captures::{
        DUPLICATE_ADDRESS_DETECTION, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, bytes,
    };
    use proptest::prelude::*;

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// Parses the message and checks that it is written the same again.
    fn read(message: &[u8], source: &str, destination: &str) -> Repr {
        let (source, destination) = (ip(source), ip(destination));
        let repr = Repr::parse(&Packet::new(message).unwrap(), source, destination).unwrap();
        assert_eq!(repr.emit(source, destination), message);
        repr
    }

    #[test]
    fn a_captured_solicitation_is_read_and_written() {
        let repr = read(&bytes(NEIGHBOUR_SOLICITATION)[104..], "fd00:9::1", "ff02::1:ff00:2");
        let source_mac = Some("02:42:0a:09:00:01".parse().unwrap());
        assert_eq!(repr, Repr::Solicitation { target: ip("fd00:9::2"), source_mac });
        assert_eq!(solicited_node(ip("fd00:9::2")), ip("ff02::1:ff00:2"));
    }

    #[test]
    fn a_captured_advertisement_is_read_and_written() {
        let repr = read(&bytes(NEIGHBOUR_ADVERTISEMENT)[104..], "fd00:9::2", "fd00:9::1");
        let expected = Repr::Advertisement {
            target: ip("fd00:9::2"),
            target_mac: Some("02:42:0a:09:00:02".parse().unwrap()),
            router: false,
            solicited: true,
            overrides: true,
        };
        assert_eq!(repr, expected);
    }

    #[test]
    fn a_captured_search_for_duplicates_is_read() {
        let frame = bytes(DUPLICATE_ADDRESS_DETECTION);
        // Over an IPv6 underlay, so 20 bytes later. Linux adds a nonce option (RFC 7527), which is skipped.
        let packet = Packet::new(&frame[124..]).unwrap();
        assert_eq!(packet.options().map(|option| option.kind).collect::<Vec<_>>(), [14]);
        let repr = Repr::parse(&packet, Ipv6Addr::UNSPECIFIED, ip("ff02::1:ff08:2")).unwrap();
        assert_eq!(repr, Repr::Solicitation { target: ip("fe80::42:aff:fe08:2"), source_mac: None });
    }

    #[test]
    fn a_message_that_breaks_a_rule_is_refused() {
        let (us, them) = (ip("fd00:9::1"), ip("fd00:9::2"));
        let mac = Some("02:42:0a:09:00:01".parse().unwrap());
        let asked = Repr::Solicitation { target: them, source_mac: mac };
        let told = |target| Repr::Advertisement {
            target,
            target_mac: mac,
            router: false,
            solicited: true,
            overrides: true,
        };
        let none = Ipv6Addr::UNSPECIFIED;
        let nobody = Repr::Solicitation { target: them, source_mac: None };
        let cases = [
            (asked.emit(us, them), us, us, "checksum"),
            (asked.emit(none, solicited_node(them)), none, solicited_node(them), "without an address tells"),
            (nobody.emit(none, them), none, them, "solicited node"),
            (told(ip("ff02::1")).emit(us, them), us, them, "multicast"),
            (told(us).emit(us, ip("ff02::1")), us, ip("ff02::1"), "everybody"),
        ];
        for (message, source, destination, reason) in cases {
            let packet = Packet::new(&message).unwrap();
            let error = Repr::parse(&packet, source, destination).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} should contain {reason}");
        }
        let mut endless = asked.emit(us, them);
        endless[25] = 0;
        assert!(Packet::new(&endless).unwrap_err().to_string().contains("option"));
        assert!(Packet::new(&endless[..30]).unwrap_err().to_string().contains("option"));
        assert!(Packet::new(&endless[..23]).unwrap_err().to_string().contains("24 bytes"));
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire_and_no_changed_bit_does(
            addresses: [[u8; 16]; 3], mac in prop::option::of(any::<[u8; 6]>()), flags: [bool; 4], bit: prop::sample::Index
        ) {
            // Unicast, so that every combination is allowed.
            let [source, destination, target] = addresses.map(|mut octets| {
                octets[0] = 0xfd;
                Ipv6Addr::from(octets)
            });
            let mac = mac.map(MacAddr);
            let [solicitation, router, solicited, overrides] = flags;
            let repr = if solicitation {
                Repr::Solicitation { target, source_mac: mac }
            } else {
                Repr::Advertisement { target, target_mac: mac, router, solicited, overrides }
            };
            let mut message = repr.emit(source, destination);
            prop_assert_eq!(Repr::parse(&Packet::new(&message).unwrap(), source, destination), Ok(repr));
            let bit = bit.index(message.len() * 8);
            message[bit / 8] ^= 1 << (bit % 8);
            let again = Packet::new(&message).and_then(|packet| Repr::parse(&packet, source, destination));
            prop_assert!(again.is_err(), "{again:?}");
        }

        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 134..138u8) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Ok(packet) = Packet::new(&bytes) {
                prop_assert!(bytes.len() >= HEADER_LEN);
                let options: usize = packet.options().map(|option| option.value.len() + 2).sum();
                prop_assert_eq!(options, bytes.len() - HEADER_LEN);
                if let Ok(repr) = Repr::parse(&packet, ip("fd00::1"), ip("fd00::2")) {
                    prop_assert!(!repr.to_string().is_empty());
                }
            }
        }
    }
}
