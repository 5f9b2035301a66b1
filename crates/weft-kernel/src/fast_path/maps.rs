//! The maps by which daemon and programs talk: their entries, byte for byte as in `bpf/maps.h`.
//!
//! An address is 16 bytes in network order; an IPv4 address stands in the first four, the others are zero. Other
//! numbers are in the host's order unless said otherwise.

use super::{
    counters::{CounterBytes, Owner, Slots},
    failed,
    table::{Layout, Table, check_sizes},
};
use crate::KernelError;
use aya::{
    Ebpf,
    maps::{Array, IterableMap, Map, MapData, PerCpuArray},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_model::MacAddr;

/// The maps that the daemon fills or reads, which all programs share. Others are a program's own.
pub(super) const SHARED: [&str; 11] = [
    "stations",
    "neighbours",
    "ports",
    "peers",
    "directs",
    "link_peers",
    "hosts",
    "current",
    "counters",
    "drops",
    "next_hops",
];

/// A MAC address on a network: `struct station_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StationKey {
    pub vni: u32,
    pub mac: MacAddr,
}

/// Where a station is, with the slot of the counter of port or peer: `struct station`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Station {
    /// Behind the port with this interface index.
    Local { ifindex: u32, counter: u32 },
    /// On the host with this VTEP.
    Remote { vtep: IpAddr, counter: u32 },
}

/// The interface index of a port's near end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortKey(pub u32);

/// `struct port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortEntry {
    pub vni: u32,
    pub counter: u32,
}

/// An address on a network: `struct neighbour_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NeighbourKey {
    pub vni: u32,
    pub address: IpAddr,
}

/// `struct neighbour`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeighbourEntry {
    pub mac: MacAddr,
}

/// A peer's VTEP: `struct address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerKey(pub IpAddr);

/// `struct peer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerEntry {
    pub counter: u32,
}

/// An address of a station on a direct network: `struct address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirectKey(pub IpAddr);

/// `struct direct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectEntry {
    pub vni: u32,
    pub mac: MacAddr,
    pub prefix: u8,
    pub sends: bool,
}

/// The MAC address of a host on the link: `struct link_peer_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkPeerKey(pub MacAddr);

/// Its VTEP: `struct address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkPeerEntry(pub IpAddr);

/// This host: `struct host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostEntry {
    pub vtep: IpAddr,
    pub trunk_overlay: u32,
    pub trunk_host: u32,
    pub udp_port: u16,
    pub mtu: u32,
    /// Raised after every change of the tables but neighbours: what the programs remember of them ends with it.
    pub version: u32,
}

impl HostEntry {
    /// No host: the programs touch no frame.
    pub const NONE: Self = Self {
        vtep: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        trunk_overlay: 0,
        trunk_host: 0,
        udp_port: 0,
        mtu: 0,
        version: 0,
    };
}

/// The shared maps.
pub(super) struct Maps {
    pub stations: Table<StationKey, Station, 12, 24>,
    pub neighbours: Table<NeighbourKey, NeighbourEntry, 20, 8>,
    pub ports: Table<PortKey, PortEntry, 4, 8>,
    pub peers: Table<PeerKey, PeerEntry, 16, 4>,
    pub directs: Table<DirectKey, DirectEntry, 16, 12>,
    pub link_peers: Table<LinkPeerKey, LinkPeerEntry, 8, 16>,
    hosts: Array<MapData, [u8; HOST]>,
    /// The slot of `hosts` that is this host.
    current: Array<MapData, u32>,
    pub(super) counters: PerCpuArray<MapData, CounterBytes>,
    pub(super) drops: PerCpuArray<MapData, u64>,
    pub slots: Slots,
}

impl Maps {
    /// Takes the maps from a program's object.
    pub fn of(object: &mut Ebpf) -> Result<Self, KernelError> {
        let mut take = |name: &'static str| {
            let absent = || KernelError::FastPath {
                doing: format!("open map {name}"),
                reason: "the program has no such map".to_owned(),
            };
            object.take_map(name).ok_or_else(absent)
        };
        let counters: PerCpuArray<MapData, CounterBytes> = array("counters", take("counters")?)?;
        let drops: PerCpuArray<MapData, u64> = array("drops", take("drops")?)?;
        let hosts: Array<MapData, [u8; HOST]> = array("hosts", take("hosts")?)?;
        let current: Array<MapData, u32> = array("current", take("current")?)?;
        check_sizes("counters", counters.map(), 4, size_of::<CounterBytes>())?;
        check_sizes("drops", drops.map(), 4, 8)?;
        check_sizes("hosts", hosts.map(), 4, HOST)?;
        check_sizes("current", current.map(), 4, 4)?;
        Ok(Self {
            stations: Table::new("stations", take("stations")?)?,
            neighbours: Table::new("neighbours", take("neighbours")?)?,
            ports: Table::new("ports", take("ports")?)?,
            peers: Table::new("peers", take("peers")?)?,
            directs: Table::new("directs", take("directs")?)?,
            link_peers: Table::new("link_peers", take("link_peers")?)?,
            hosts,
            current,
            slots: Slots::new(counters.len()),
            counters,
            drops,
        })
    }

    /// Reads the tables and the owners of the counters' slots.
    pub fn refresh(&mut self) -> Result<(), KernelError> {
        self.stations.refresh()?;
        self.neighbours.refresh()?;
        self.ports.refresh()?;
        self.peers.refresh()?;
        self.directs.refresh()?;
        self.link_peers.refresh()?;
        self.adopt_slots();
        Ok(())
    }

    /// Makes a host one that frames may come from. The slot of its counter.
    pub fn put_peer(&mut self, vtep: IpAddr) -> Result<u32, KernelError> {
        let counter = self.slot(Owner::Peer(vtep))?;
        let (key, entry) = (PeerKey(vtep), PeerEntry { counter });
        if self.peers.entries().get(&key) != Some(&entry) {
            self.peers.put(key, entry)?;
        }
        Ok(counter)
    }

    /// This host as the programs see it.
    pub fn host(&self) -> Result<HostEntry, KernelError> {
        let bytes = self.hosts.get(&self.current_slot()?, 0).map_err(|e| failed("read map hosts", &e))?;
        Ok(HostEntry::decode(bytes))
    }

    fn current_slot(&self) -> Result<u32, KernelError> {
        let slot = self.current.get(&0, 0).map_err(|e| failed("read map current", &e))?;
        Ok(slot % self.hosts.len())
    }

    /// Sets it, under the version that is there.
    pub fn set_host(&mut self, host: HostEntry) -> Result<(), KernelError> {
        let version = self.host()?.version;
        self.write_host(HostEntry { version, ..host })
    }

    /// Makes the programs forget what they remember of the tables, if those have changed.
    pub fn publish(&mut self) -> Result<(), KernelError> {
        let changed = [
            self.stations.take_changed(),
            self.ports.take_changed(),
            self.peers.take_changed(),
            self.directs.take_changed(),
            self.link_peers.take_changed(),
        ];
        if !changed.contains(&true) {
            return Ok(());
        }
        let host = self.host()?;
        // 0 is what a program's memory begins with.
        self.write_host(HostEntry { version: host.version.wrapping_add(1).max(1), ..host })
    }

    /// Writes it beside the one that is there: a program that reads at this moment has the old one, whole. Its slot is
    /// written again only many changes later.
    fn write_host(&mut self, host: HostEntry) -> Result<(), KernelError> {
        let next = (self.current_slot()? + 1) % self.hosts.len();
        self.hosts.set(next, host.encode(), 0).map_err(|e| failed("write map hosts", &e))?;
        self.current.set(0, next, 0).map_err(|e| failed("write map current", &e))
    }
}

fn array<T: TryFrom<Map, Error = aya::maps::MapError>>(name: &str, map: Map) -> Result<T, KernelError> {
    T::try_from(map).map_err(|e| failed(format!("open map {name}"), &e))
}

/// The size of `struct host`.
const HOST: usize = 36;

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => join([&v4.octets(), &[0; 12]]),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn ip(bytes: [u8; 16]) -> IpAddr {
    match bytes {
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        other => IpAddr::V6(Ipv6Addr::from(other)),
    }
}

/// The parts one after the other. What does not fit is cut off: the sizes are this file's own.
fn join<const N: usize, const P: usize>(parts: [&[u8]; P]) -> [u8; N] {
    let mut all = [0; N];
    let bytes = parts.into_iter().flatten();
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    all
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    part
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(part(bytes, at))
}

impl Layout<12> for StationKey {
    fn encode(self) -> [u8; 12] {
        join([&self.vni.to_ne_bytes(), &self.mac.0])
    }
    fn decode(bytes: [u8; 12]) -> Self {
        Self { vni: number(&bytes, 0), mac: MacAddr(part(&bytes, 4)) }
    }
}

impl Layout<24> for Station {
    fn encode(self) -> [u8; 24] {
        match self {
            Self::Local { ifindex, counter } => join([&ifindex.to_ne_bytes(), &counter.to_ne_bytes()]),
            Self::Remote { vtep, counter } => join([&[0; 4], &counter.to_ne_bytes(), &address(vtep)]),
        }
    }
    fn decode(bytes: [u8; 24]) -> Self {
        let counter = number(&bytes, 4);
        match number(&bytes, 0) {
            0 => Self::Remote { vtep: ip(part(&bytes, 8)), counter },
            ifindex => Self::Local { ifindex, counter },
        }
    }
}

impl Layout<4> for PortKey {
    fn encode(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
    fn decode(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }
}

impl Layout<8> for PortEntry {
    fn encode(self) -> [u8; 8] {
        join([&self.vni.to_ne_bytes(), &self.counter.to_ne_bytes()])
    }
    fn decode(bytes: [u8; 8]) -> Self {
        Self { vni: number(&bytes, 0), counter: number(&bytes, 4) }
    }
}

impl Layout<20> for NeighbourKey {
    fn encode(self) -> [u8; 20] {
        join([&self.vni.to_ne_bytes(), &address(self.address)])
    }
    fn decode(bytes: [u8; 20]) -> Self {
        Self { vni: number(&bytes, 0), address: ip(part(&bytes, 4)) }
    }
}

impl Layout<8> for NeighbourEntry {
    fn encode(self) -> [u8; 8] {
        join([&self.mac.0])
    }
    fn decode(bytes: [u8; 8]) -> Self {
        Self { mac: MacAddr(part(&bytes, 0)) }
    }
}

impl Layout<16> for PeerKey {
    fn encode(self) -> [u8; 16] {
        address(self.0)
    }
    fn decode(bytes: [u8; 16]) -> Self {
        Self(ip(bytes))
    }
}

impl Layout<4> for PeerEntry {
    fn encode(self) -> [u8; 4] {
        self.counter.to_ne_bytes()
    }
    fn decode(bytes: [u8; 4]) -> Self {
        Self { counter: u32::from_ne_bytes(bytes) }
    }
}

impl Layout<16> for DirectKey {
    fn encode(self) -> [u8; 16] {
        address(self.0)
    }
    fn decode(bytes: [u8; 16]) -> Self {
        Self(ip(bytes))
    }
}

impl Layout<12> for DirectEntry {
    fn encode(self) -> [u8; 12] {
        join([&self.vni.to_ne_bytes(), &self.mac.0, &[self.prefix, u8::from(self.sends)]])
    }
    fn decode(bytes: [u8; 12]) -> Self {
        Self {
            vni: number(&bytes, 0),
            mac: MacAddr(part(&bytes, 4)),
            prefix: bytes[10],
            sends: bytes[11] != 0,
        }
    }
}

impl Layout<8> for LinkPeerKey {
    fn encode(self) -> [u8; 8] {
        join([&self.0.0])
    }
    fn decode(bytes: [u8; 8]) -> Self {
        Self(MacAddr(part(&bytes, 0)))
    }
}

impl Layout<16> for LinkPeerEntry {
    fn encode(self) -> [u8; 16] {
        address(self.0)
    }
    fn decode(bytes: [u8; 16]) -> Self {
        Self(ip(bytes))
    }
}

impl Layout<HOST> for HostEntry {
    fn encode(self) -> [u8; HOST] {
        join([
            &address(self.vtep),
            &self.trunk_overlay.to_ne_bytes(),
            &self.trunk_host.to_ne_bytes(),
            &self.udp_port.to_be_bytes(),
            &u16::from(self.vtep.is_ipv6()).to_ne_bytes(),
            &self.mtu.to_ne_bytes(),
            &self.version.to_ne_bytes(),
        ])
    }
    fn decode(bytes: [u8; HOST]) -> Self {
        Self {
            vtep: ip(part(&bytes, 0)),
            trunk_overlay: number(&bytes, 16),
            trunk_host: number(&bytes, 20),
            udp_port: u16::from_be_bytes(part(&bytes, 24)),
            mtu: number(&bytes, 28),
            version: number(&bytes, 32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, process::Command, process::Stdio};

    #[test]
    fn every_field_stands_where_the_programs_look_for_it() {
        let sizes = [
            ("station_key", 12),
            ("station", 24),
            ("port", 8),
            ("neighbour_key", 20),
            ("neighbour", 8),
            ("peer", 4),
            ("address", 16),
            ("direct", 12),
            ("link_peer_key", 8),
            // What programs of the same layout of maps have made of it before.
            ("next_hop", 48),
            ("host", HOST),
            ("counter", 32),
        ];
        let offsets = [
            ("station_key", "mac", 4),
            ("station", "ifindex", 0),
            ("station", "counter", 4),
            ("station", "vtep", 8),
            ("port", "counter", 4),
            ("neighbour_key", "address", 4),
            ("direct", "mac", 4),
            ("direct", "prefix", 10),
            ("direct", "sends", 11),
            ("host", "vtep", 0),
            ("host", "trunk_overlay", 16),
            ("host", "trunk_host", 20),
            ("host", "udp_port", 24),
            ("host", "ipv6", 26),
            ("host", "mtu", 28),
            ("host", "version", 32),
            ("counter", "tx_packets", 0),
            ("counter", "tx_bytes", 8),
            ("counter", "rx_packets", 16),
            ("counter", "rx_bytes", 24),
        ];
        let sizes = sizes.map(|(name, size)| (format!("sizeof(struct {name})"), size));
        let offsets = offsets
            .map(|(name, field, offset)| (format!("__builtin_offsetof(struct {name}, {field})"), offset));
        let asserts = sizes.into_iter().chain(offsets);
        let asserts =
            asserts.map(|(found, value)| format!("_Static_assert({found} == {value}, \"{found}\");"));
        let source = format!("#include \"maps.h\"\n{}\n", asserts.collect::<Vec<_>>().join("\n"));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bpf");
        let arguments = ["-target", "bpf", "-fsyntax-only", "-Wno-unused", "-x", "c", "-I", folder, "-"];
        let mut clang = Command::new("clang").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        clang.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        assert!(clang.wait().unwrap().success(), "{source}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mac = MacAddr([2, 0, 0, 1, 2, 3]);
        for vtep in ["192.0.2.1", "2001:db8::1"] {
            let vtep: IpAddr = vtep.parse().unwrap();
            let host =
                HostEntry { vtep, trunk_overlay: 7, trunk_host: 9, udp_port: 4789, mtu: 1450, version: 3 };
            assert_eq!(HostEntry::decode(host.encode()), host);
            assert_eq!(host.encode()[24..26], [0x12, 0xb5]);
            let station = Station::Remote { vtep, counter: 5 };
            assert_eq!(Station::decode(station.encode()), station);
            let key = NeighbourKey { vni: 4096, address: vtep };
            assert_eq!(NeighbourKey::decode(key.encode()), key);
            assert_eq!(PeerKey::decode(PeerKey(vtep).encode()), PeerKey(vtep));
            assert_eq!(DirectKey::decode(DirectKey(vtep).encode()), DirectKey(vtep));
            assert_eq!(LinkPeerEntry::decode(LinkPeerEntry(vtep).encode()), LinkPeerEntry(vtep));
        }
        let station = Station::Local { ifindex: 17, counter: 4 };
        assert_eq!(Station::decode(station.encode()), station);
        let key = StationKey { vni: 4096, mac };
        assert_eq!(StationKey::decode(key.encode()), key);
        assert_eq!(key.encode()[4..], [2, 0, 0, 1, 2, 3, 0, 0]);
        let port = PortEntry { vni: 4096, counter: 1 };
        assert_eq!(PortEntry::decode(port.encode()), port);
        let direct = DirectEntry { vni: 4096, mac, prefix: 24, sends: true };
        assert_eq!(DirectEntry::decode(direct.encode()), direct);
        assert_eq!(LinkPeerKey::decode(LinkPeerKey(mac).encode()), LinkPeerKey(mac));
        let neighbour = NeighbourEntry { mac };
        assert_eq!(NeighbourEntry::decode(neighbour.encode()), neighbour);
    }
}
