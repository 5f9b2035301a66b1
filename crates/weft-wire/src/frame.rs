//! A captured frame of a tunnel, decoded for people to read: who sent it to whom, outside and inside.

use crate::{arp, error::WireError, nd, vxlan};
use etherparse::{
    Icmpv4Slice, Icmpv6Slice, IpNumber, LaxNetSlice, LaxSlicedPacket, LinkSlice, NetSlice, SlicedPacket,
    TcpSlice, TransportSlice,
};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};
use weft_model::{MacAddr, Vni};

/// A VXLAN frame, outer and inner headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What the underlay sees.
    pub outer: Outer,
    /// The network.
    pub vni: Vni,
    /// What the containers see. `None`: the packet carries less than an Ethernet header.
    pub inner: Option<Inner>,
}

/// The frame as it is on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The frame's length in bytes, without preamble and check sequence.
    pub length: usize,
    /// Source MAC address.
    pub source_mac: MacAddr,
    /// Destination MAC address: the peer's or the next router's.
    pub destination_mac: MacAddr,
    /// The sending VTEP, and a port that differs by inner flow.
    pub source: SocketAddr,
    /// The receiving VTEP and the VXLAN port.
    pub destination: SocketAddr,
    /// IPv4 time to live or IPv6 hop limit.
    pub hop_limit: u8,
}

/// The frame in the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Its length in bytes.
    pub length: usize,
    /// The sending endpoint.
    pub source_mac: MacAddr,
    /// The receiving endpoint, or a group.
    pub destination_mac: MacAddr,
    /// The `EtherType`: 0x0800 IPv4, 0x86dd IPv6, 0x0806 ARP, …
    pub ether_type: u16,
    /// What it carries.
    pub content: Content,
}

/// What an inner frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// ARP.
    Arp(arp::Repr),
    /// An IP packet.
    Ip(Ip),
    /// Something else, or something that is malformed.
    Unknown,
}

/// An inner IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IPv4 time to live or IPv6 hop limit.
    pub hop_limit: u8,
    /// What it carries.
    pub transport: Transport,
}

/// What an inner IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The flags that are set, as in `SYN ACK`.
        flags: String,
        /// Bytes of payload.
        payload: usize,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Bytes of payload.
        payload: usize,
    },
    /// ICMP or `ICMPv6` other than [`Transport::Nd`].
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// Identifier and sequence number, of an echo request or reply.
        echo: Option<(u16, u16)>,
    },
    /// Neighbour discovery.
    Nd(nd::Repr),
    /// A later fragment of a packet, or a protocol that is not decoded, by its number.
    Other(u8),
}

/// Decodes an Ethernet frame that carries a VXLAN packet to `vxlan_port`. The outer headers must be whole; of
/// the inner ones as much is told as is there.
pub fn decode(frame: &[u8], vxlan_port: u16) -> Result<Decoded, WireError> {
    let outside = SlicedPacket::from_ethernet(frame)
        .map_err(|e| WireError::Malformed { what: "the outer packet", reason: e.to_string() })?;
    let Some(LinkSlice::Ethernet2(ethernet)) = &outside.link else { return Err(WireError::NotUdp) };
    let (source, destination, hop_limit) = match &outside.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), header.ttl())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()), header.hop_limit())
        }
        _ => return Err(WireError::NotUdp),
    };
    let Some(TransportSlice::Udp(udp)) = &outside.transport else { return Err(WireError::NotUdp) };
    let outer = Outer {
        length: frame.len(),
        source_mac: MacAddr(ethernet.source()),
        destination_mac: MacAddr(ethernet.destination()),
        source: SocketAddr::new(source, udp.source_port()),
        destination: SocketAddr::new(destination, udp.destination_port()),
        hop_limit,
    };
    if udp.destination_port() != vxlan_port {
        return Err(WireError::OtherPort { destination: outer.destination, expected: vxlan_port });
    }
    let packet = vxlan::Packet::new(udp.payload())?;
    let vni = vxlan::Repr::parse(&packet)?.vni;
    Ok(Decoded { outer, vni, inner: inner(packet.inner()) })
}

fn inner(frame: &[u8]) -> Option<Inner> {
    let inside = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(ethernet)) = &inside.link else { return None };
    let content = match &inside.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            Content::Ip(Ip {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                hop_limit: header.ttl(),
                transport: transport(inside.transport.as_ref(), ip.payload().ip_number, None),
            })
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            Content::Ip(Ip {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                hop_limit: header.hop_limit(),
                transport: transport(inside.transport.as_ref(), ip.payload().ip_number, Some(&header)),
            })
        }
        Some(LaxNetSlice::Arp(packet)) => arp::Packet::new(packet.slice())
            .and_then(|packet| arp::Repr::parse(&packet))
            .map_or(Content::Unknown, Content::Arp),
        None => Content::Unknown,
    };
    Some(Inner {
        length: frame.len(),
        source_mac: MacAddr(ethernet.source()),
        destination_mac: MacAddr(ethernet.destination()),
        ether_type: ethernet.ether_type().0,
        content,
    })
}

fn transport(
    slice: Option<&TransportSlice<'_>>,
    protocol: IpNumber,
    ipv6: Option<&etherparse::Ipv6HeaderSlice<'_>>,
) -> Transport {
    match slice {
        Some(TransportSlice::Tcp(tcp)) => Transport::Tcp {
            source: tcp.source_port(),
            destination: tcp.destination_port(),
            flags: tcp_flags(tcp),
            payload: tcp.payload().len(),
        },
        Some(TransportSlice::Udp(udp)) => Transport::Udp {
            source: udp.source_port(),
            destination: udp.destination_port(),
            payload: udp.payload().len(),
        },
        Some(TransportSlice::Icmpv4(icmp)) => icmpv4(icmp),
        Some(TransportSlice::Icmpv6(icmp)) => icmpv6(icmp, ipv6),
        _ => Transport::Other(protocol.0),
    }
}

fn tcp_flags(tcp: &TcpSlice<'_>) -> String {
    let flags = [
        (tcp.syn(), "SYN"),
        (tcp.fin(), "FIN"),
        (tcp.rst(), "RST"),
        (tcp.psh(), "PSH"),
        (tcp.ack(), "ACK"),
        (tcp.urg(), "URG"),
    ];
    flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

/// Identifier and sequence number as they stand in an echo message.
fn echo([a, b, c, d]: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

fn icmpv4(icmp: &Icmpv4Slice<'_>) -> Transport {
    let kind = icmp.type_u8();
    let is_echo = matches!(kind, 0 | 8);
    Transport::Icmp { kind, code: icmp.code_u8(), echo: is_echo.then(|| echo(icmp.bytes5to8())) }
}

fn icmpv6(icmp: &Icmpv6Slice<'_>, ip: Option<&etherparse::Ipv6HeaderSlice<'_>>) -> Transport {
    if let (Some(ip), Ok(packet)) = (ip, nd::Packet::new(icmp.slice()))
        && let Ok(repr) = nd::Repr::parse(&packet, ip.source_addr(), ip.destination_addr())
    {
        return Transport::Nd(repr);
    }
    let kind = icmp.type_u8();
    let is_echo = matches!(kind, 128 | 129);
    Transport::Icmp { kind, code: icmp.code_u8(), echo: is_echo.then(|| echo(icmp.bytes5to8())) }
}

impl fmt::Display for Decoded {
    /// A tree, one header a line, without a line end behind the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outer, vni, inner } = self;
        let Outer { length, source_mac, destination_mac, source, destination, hop_limit } = outer;
        let family = family(source.ip());
        writeln!(f, "outer Ethernet  {source_mac} -> {destination_mac}  ({length} bytes)")?;
        writeln!(f, "└ outer {family}  {} -> {}  (hops left: {hop_limit})", source.ip(), destination.ip())?;
        writeln!(f, "  └ UDP  port {} -> {}", source.port(), destination.port())?;
        write!(f, "    └ VXLAN  VNI {vni}")?;
        match inner {
            Some(inner) => write!(f, "\n      └ {inner}"),
            None => write!(f, "\n      └ less than a frame"),
        }
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length, source_mac, destination_mac, ether_type, content } = self;
        write!(f, "inner Ethernet  {source_mac} -> {destination_mac}  ({length} bytes)")?;
        write!(f, "\n        └ ")?;
        match content {
            Content::Arp(arp) => write!(f, "{arp}"),
            Content::Ip(ip) => {
                let Ip { source, destination, hop_limit, transport } = ip;
                let family = family(*source);
                write!(f, "inner {family}  {source} -> {destination}  (hops left: {hop_limit})")?;
                write!(f, "\n          └ {}", told(transport, *source))
            }
            Content::Unknown => write!(f, "EtherType 0x{ether_type:04x}, not decoded"),
        }
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn told(transport: &Transport, sender: IpAddr) -> String {
    match transport {
        Transport::Tcp { source, destination, flags, payload } => {
            format!("TCP  port {source} -> {destination}  [{flags}]  ({payload} bytes of payload)")
        }
        Transport::Udp { source, destination, payload } => {
            format!("UDP  port {source} -> {destination}  ({payload} bytes of payload)")
        }
        Transport::Icmp { kind, code, echo } => {
            let protocol = if sender.is_ipv4() { "ICMP" } else { "ICMPv6" };
            match echo {
                Some((id, sequence)) => {
                    let verb = if matches!(kind, 8 | 128) { "request" } else { "reply" };
                    format!("{protocol}  echo {verb}, id {id}, sequence {sequence}")
                }
                None => format!("{protocol}  type {kind}, code {code}"),
            }
        }
        Transport::Nd(repr) => repr.to_string(),
        Transport::Other(number) => match IpNumber(*number).keyword_str() {
            Some(name) => format!("{name} (IP protocol {number}), not decoded"),
            None => format!("IP protocol {number}, not decoded"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captures::{self, bytes};
    use proptest::prelude::*;

    const ALL: [&str; 8] = [
        captures::ARP_REPLY,
        captures::PING_REQUEST,
        captures::NEIGHBOUR_SOLICITATION,
        captures::NEIGHBOUR_ADVERTISEMENT,
        captures::PING_OVER_IPV6,
        captures::DUPLICATE_ADDRESS_DETECTION,
        captures::MULTICAST_REPORT,
        captures::TCP_SYN,
    ];

    fn decoded(hex: &str) -> Decoded {
        decode(&bytes(hex), 4789).unwrap()
    }

    #[test]
    fn a_captured_ping_reads_as_a_tree() {
        let expected = "\
outer Ethernet  02:00:c0:00:02:01 -> 02:00:c0:00:02:02  (148 bytes)
└ outer IPv4  192.0.2.1 -> 192.0.2.2  (hops left: 64)
  └ UDP  port 42043 -> 4789
    └ VXLAN  VNI 4096
      └ inner Ethernet  02:42:0a:09:00:01 -> 02:42:0a:09:00:02  (98 bytes)
        └ inner IPv4  10.9.0.1 -> 10.9.0.2  (hops left: 64)
          └ ICMP  echo request, id 19939, sequence 1";
        assert_eq!(decoded(captures::PING_REQUEST).to_string(), expected);
    }

    #[test]
    fn the_last_line_tells_what_a_captured_frame_is_about() {
        for (frame, expected) in [
            (captures::ARP_REPLY, "ARP reply: 10.9.0.2 is at 02:42:0a:09:00:02"),
            (captures::NEIGHBOUR_SOLICITATION, "ND solicitation: who has fd00:9::2? 02:42:0a:09:00:01 asks"),
            (captures::NEIGHBOUR_ADVERTISEMENT, "ND advertisement: fd00:9::2 is at 02:42:0a:09:00:02"),
            (captures::PING_OVER_IPV6, "ICMP  echo request, id 19941, sequence 1"),
            (
                captures::DUPLICATE_ADDRESS_DETECTION,
                "ND solicitation: does anybody have fe80::42:aff:fe08:2?",
            ),
            (captures::MULTICAST_REPORT, "ICMPv6  type 143, code 0"),
            (captures::TCP_SYN, "TCP  port 53336 -> 80  [SYN]  (0 bytes of payload)"),
        ] {
            let text = decoded(frame).to_string();
            assert_eq!(text.lines().last().unwrap().trim_start_matches([' ', '└']), expected);
        }
    }

    #[test]
    fn over_an_ipv6_underlay_the_outer_addresses_are_ipv6() {
        let Decoded { outer, vni, .. } = decoded(captures::PING_OVER_IPV6);
        assert_eq!(outer.source, "[2001:db8::1]:44996".parse().unwrap());
        assert_eq!(outer.destination, "[2001:db8::2]:4789".parse().unwrap());
        assert_eq!(vni.get(), 4097);
    }

    #[test]
    fn what_is_not_vxlan_is_refused_and_told_why() {
        let frame = bytes(captures::PING_REQUEST);
        let other_port = decode(&frame, 8472).unwrap_err().to_string();
        assert_eq!(other_port, "the frame goes to 192.0.2.2:4789, not to the VXLAN port 8472");
        // The inner frame alone is a ping and no tunnel.
        assert_eq!(decode(&frame[50..], 4789), Err(WireError::NotUdp));
        assert!(
            decode(&frame[..100], 4789).unwrap_err().to_string().starts_with("the outer packet is malformed")
        );
        assert!(decode(&[], 4789).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, port: u16) {
            if let Ok(decoded) = decode(&bytes, port) {
                prop_assert!(decoded.to_string().lines().count() >= 5);
            }
        }

        #[test]
        fn no_damage_to_a_real_frame_makes_it_panic(
            frame in prop::sample::select(ALL.to_vec()),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            length: prop::sample::Index,
            cut: bool,
        ) {
            let mut frame = bytes(frame);
            for (at, value) in damage {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if cut {
                frame.truncate(length.index(frame.len()));
            }
            if let Ok(decoded) = decode(&frame, 4789) {
                prop_assert!(decoded.to_string().lines().count() >= 5);
                prop_assert_eq!(decoded.outer.destination.port(), 4789);
            }
        }

        #[test]
        fn damage_inside_leaves_the_outside_readable(
            frame in prop::sample::select(ALL.to_vec()), damage in prop::collection::vec(any::<u8>(), 28)
        ) {
            let (whole, mut damaged) = (decoded(frame), bytes(frame));
            let at = damaged.len() - damage.len();
            damaged[at..].copy_from_slice(&damage);
            let decoded = decode(&damaged, 4789).unwrap();
            prop_assert_eq!((decoded.outer, decoded.vni), (whole.outer, whole.vni));
        }
    }
}
