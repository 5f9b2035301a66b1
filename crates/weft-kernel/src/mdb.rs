//! Multicast database entries: what a bridge has learned of its ports' memberships, and to which VTEPs a VXLAN device sends the
//! frames to a group (bridge(8) `mdb`; Linux 6.4 for VXLAN devices).
//!
//! `netlink-packet-route` has no such messages, so the few attributes are coded here. Source: `linux/if_bridge.h`, `MDBA_*`;
//! `drivers/net/vxlan/vxlan_mdb.c` for what a VXLAN device makes of them: the entry of the unspecified group is for all groups
//! without an entry, but for those of link-local scope, which are flooded; a destination that is the unspecified address is
//! nobody, and what is sent there counts as dropped.

use crate::{
    KernelError,
    device::{kind, link},
    namespace::in_throw_away,
    netlink::{Netlink, Request, RouteSocket},
};
use netlink_packet_core::{
    DecodeError, NLM_F_CREATE, NLM_F_REPLACE, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute};
use nix::libc;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

// `linux/rtnetlink.h`.
const RTM_NEWMDB: u16 = 84;
const RTM_DELMDB: u16 = 85;
const RTM_GETMDB: u16 = 86;
const AF_BRIDGE: u8 = 7;
/// The size of `struct br_port_msg`: a family, and an interface index.
const HEADER: usize = 8;
/// The size of `struct br_mdb_entry`.
const ENTRY: usize = 28;
const NESTED: u16 = 0x8000;
/// What an attribute's type is without its flags.
const TYPE: u16 = 0x3fff;
/// In what is told: `MDBA_MDB`, in it `MDBA_MDB_ENTRY`, in it `MDBA_MDB_ENTRY_INFO`; they have one number.
const INSIDE: u16 = 1;
/// Behind an entry in what is told: `MDBA_MDB_EATTR_SOURCE` to `MDBA_MDB_EATTR_SRC_VNI`.
const TOLD_SOURCE: u16 = 4;
const TOLD_DST: u16 = 6;
const TOLD_DST_PORT: u16 = 7;
const TOLD_VNI: u16 = 8;
const TOLD_IFINDEX: u16 = 9;
/// `MDBA_SET_ENTRY`, `MDBA_SET_ENTRY_ATTRS` and in the latter `MDBE_ATTR_DST`.
const SET_ENTRY: u16 = 1;
const SET_ATTRIBUTES: u16 = 2;
const SET_DST: u16 = 5;
/// `MDB_PERMANENT`: the only state that VXLAN devices take.
const PERMANENT: u8 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// A socket for these messages.
pub(crate) type Mdb = RouteSocket<MdbMessage>;

/// A message about the multicast database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MdbMessage {
    /// The request for all entries of all devices.
    Get,
    /// A VXLAN device's entry is to be there, or no longer.
    Set { present: bool, vxlan: u32, group: IpAddr, vtep: IpAddr },
    /// Entries of one device.
    Entries(Vec<MdbEntry>),
}

/// An entry of a bridge or a VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MdbEntry {
    /// The bridge or the VXLAN device.
    pub device: u32,
    /// The bridge's port, or the bridge itself where the host is the member; the VXLAN device again.
    pub port: u32,
    pub group: IpAddr,
    /// A VXLAN device's destination. `None`: it has none, or is not as weft makes them (for one source, another UDP port, VNI
    /// or uplink).
    pub vtep: Option<IpAddr>,
}

/// Frames to `group` are sent to `vtep` too.
pub(crate) fn put(vxlan: u32, group: IpAddr, vtep: IpAddr) -> Request<MdbMessage> {
    let message = MdbMessage::Set { present: true, vxlan, group, vtep };
    Request::new(format!("add group {group} to VTEP {vtep}"), NLM_F_CREATE | NLM_F_REPLACE, message)
}

/// Frames to `group` are no longer sent to `vtep`.
pub(crate) fn remove(vxlan: u32, group: IpAddr, vtep: IpAddr) -> Request<MdbMessage> {
    let message = MdbMessage::Set { present: false, vxlan, group, vtep };
    Request::new(format!("remove group {group} to VTEP {vtep}"), 0, message)
}

impl Mdb {
    /// All entries of all devices of the namespace.
    pub fn entries(&mut self) -> Result<Vec<MdbEntry>, KernelError> {
        let answer = self.dump("list the multicast groups", &MdbMessage::Get)?;
        let entries = answer.into_iter().filter_map(|message| match message {
            MdbMessage::Entries(entries) => Some(entries),
            _ => None,
        });
        Ok(entries.flatten().collect())
    }
}

/// Whether VXLAN devices of this kernel can tell groups apart: tried on one in a namespace that is thrown away.
pub(crate) fn is_there_for_vxlan() -> Result<bool, KernelError> {
    const DEVICE: &str = "weft-check";
    in_throw_away(|| {
        let mut netlink = Netlink::open_here()?;
        let vxlan = InfoData::Vxlan(vec![InfoVxlan::Id(1), InfoVxlan::Port(4789)]);
        let attributes = vec![LinkAttribute::IfName(DEVICE.to_owned()), kind(InfoKind::Vxlan, vxlan)];
        netlink.create_device(DEVICE, link(0, attributes))?;
        let index = netlink.existing_device(DEVICE)?.index;
        let unspecified = Ipv4Addr::UNSPECIFIED.into();
        match Mdb::open_here()?.request(put(index, unspecified, unspecified)) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == libc::EOPNOTSUPP => Ok(false),
            Err(error) => Err(error),
        }
    })?
}

impl NetlinkSerializable for MdbMessage {
    fn message_type(&self) -> u16 {
        match self {
            Self::Get => RTM_GETMDB,
            Self::Set { present: false, .. } => RTM_DELMDB,
            Self::Set { present: true, .. } | Self::Entries(_) => RTM_NEWMDB,
        }
    }

    fn buffer_len(&self) -> usize {
        encoded(self).len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&encoded(self));
    }
}

fn encoded(message: &MdbMessage) -> Vec<u8> {
    let device = match message {
        MdbMessage::Set { vxlan, .. } => *vxlan,
        MdbMessage::Get | MdbMessage::Entries(_) => 0,
    };
    let mut bytes = vec![AF_BRIDGE, 0, 0, 0];
    bytes.extend(device.to_ne_bytes());
    if let MdbMessage::Set { vxlan, group, vtep, .. } = message {
        put_attribute(&mut bytes, SET_ENTRY, &entry(*vxlan, *group));
        let mut inside = Vec::new();
        put_attribute(&mut inside, SET_DST, &octets(*vtep));
        put_attribute(&mut bytes, SET_ATTRIBUTES | NESTED, &inside);
    }
    bytes
}

/// `struct br_mdb_entry`.
fn entry(vxlan: u32, group: IpAddr) -> Vec<u8> {
    let mut bytes = vxlan.to_ne_bytes().to_vec();
    // State; flags and VLAN id are zero.
    bytes.extend([PERMANENT, 0, 0, 0]);
    bytes.extend(octets(group));
    bytes.resize(24, 0);
    let protocol = if group.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 };
    bytes.extend(protocol.to_be_bytes());
    bytes.resize(ENTRY, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// None here is longer than some tens of bytes.
fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`: their types and values. It ends where they are cut off.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [a, b, c, d, ..] = *rest else { return None };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & TYPE, value))
    })
}

/// The values of the attributes of one type.
fn inside(bytes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    attributes(bytes).filter(move |(found, _)| *found == kind).map(|(_, value)| value)
}

impl NetlinkDeserializable for MdbMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        // A bridge answers a dump with the type of the request.
        if ![RTM_NEWMDB, RTM_GETMDB].contains(&header.message_type) {
            return Err(DecodeError::from(format!(
                "message type {} of no multicast entry",
                header.message_type
            )));
        }
        let (Some(device), Some(rest)) = (number(payload, 4), payload.get(HEADER..)) else {
            return Err(DecodeError::from("a multicast entry that is cut off"));
        };
        // Where frames of multicast routers come from is told beside, and of no concern here.
        let infos = inside(rest, INSIDE).flat_map(|v| inside(v, INSIDE)).flat_map(|v| inside(v, INSIDE));
        Ok(Self::Entries(infos.filter_map(|info| told(device, info)).collect()))
    }
}

/// `None`: of no IP group.
fn told(device: u32, info: &[u8]) -> Option<MdbEntry> {
    let protocol = u16::from_be_bytes(*info.get(24..)?.first_chunk()?);
    let group = match protocol {
        ETH_P_IP => Ipv4Addr::from(*info.get(8..)?.first_chunk::<4>()?).into(),
        ETH_P_IPV6 => Ipv6Addr::from(*info.get(8..)?.first_chunk::<16>()?).into(),
        _ => return None,
    };
    let (mut vtep, mut usual) = (None, true);
    for (kind, value) in attributes(info.get(ENTRY..)?) {
        match kind {
            TOLD_DST => vtep = address(value),
            TOLD_SOURCE | TOLD_DST_PORT | TOLD_VNI | TOLD_IFINDEX => usual = false,
            _ => {}
        }
    }
    Some(MdbEntry { device, port: number(info, 0)?, group, vtep: vtep.filter(|_| usual) })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u16) -> NetlinkHeader {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        header
    }

    /// As the kernel tells of an entry, with these attributes behind it.
    fn message(group: IpAddr, behind: &[(u16, &[u8])]) -> Vec<u8> {
        let mut info = entry(7, group);
        for (kind, value) in behind {
            put_attribute(&mut info, *kind, value);
        }
        let mut bytes = info;
        for _ in 0..3 {
            let value = std::mem::take(&mut bytes);
            put_attribute(&mut bytes, INSIDE, &value);
        }
        [vec![AF_BRIDGE, 0, 0, 0, 5, 0, 0, 0], bytes].concat()
    }

    fn only(bytes: &[u8]) -> MdbEntry {
        let MdbMessage::Entries(mut entries) = MdbMessage::deserialize(&header(RTM_NEWMDB), bytes).unwrap()
        else {
            panic!("no entries");
        };
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    #[test]
    fn an_entry_is_read_and_one_that_weft_would_not_make_has_no_destination() {
        let (group, vtep): (IpAddr, IpAddr) = ("ff05::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let dst = (TOLD_DST, &octets(vtep)[..]);
        let found = only(&message(group, &[(1, &[0; 4]), dst]));
        assert_eq!(found, MdbEntry { device: 5, port: 7, group, vtep: Some(vtep) });
        for odd in [TOLD_SOURCE, TOLD_DST_PORT, TOLD_VNI, TOLD_IFINDEX] {
            assert_eq!(only(&message(group, &[dst, (odd, &[0; 4])])).vtep, None);
        }
    }

    #[test]
    fn what_is_cut_off_is_read_as_far_as_it_goes() {
        let whole = message("239.1.1.1".parse().unwrap(), &[(TOLD_DST, &[192, 0, 2, 1])]);
        for length in 0..whole.len() {
            if let Ok(MdbMessage::Entries(entries)) =
                MdbMessage::deserialize(&header(RTM_NEWMDB), &whole[..length])
            {
                assert_eq!(entries, []);
            }
        }
        assert!(MdbMessage::deserialize(&header(RTM_DELMDB), &whole).is_err());
    }

    #[test]
    fn a_request_names_device_group_and_destination() {
        let (group, vtep) = ("239.1.2.3".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let bytes = encoded(&MdbMessage::Set { present: true, vxlan: 9, group, vtep });
        assert_eq!((bytes[0], number(&bytes, 4)), (AF_BRIDGE, Some(9)));
        let found: Vec<_> = attributes(&bytes[HEADER..]).collect();
        assert_eq!(found[0], (SET_ENTRY, &entry(9, group)[..]));
        assert_eq!(attributes(found[1].1).collect::<Vec<_>>(), [(SET_DST, &[192, 0, 2, 1][..])]);
    }
}
