//! Forwarding entries: on the bridge (which port?) and on the VXLAN device (which VTEP?).
//!
//! Both are neighbour messages of the family `AF_BRIDGE` (bridge(8), `linux/neighbour.h`): `NTF_MASTER` reaches
//! the bridge by its port, `NTF_SELF` the device itself. Bridge entries are static (`NUD_NOARP`): `NUD_PERMANENT`
//! would mean that the frame is for the host. Entries are made with replace, never exclusively; only the all-zero
//! entry, which has many destinations, appends (the kernel adds none twice).

use crate::{device::mac_of, netlink::Request};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use std::net::IpAddr;
use weft_model::MacAddr;

/// `NUD_NOARP` and `NUD_PERMANENT`.
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;

/// An entry of a bridge or a VXLAN device, as a dump tells of it.
pub(crate) struct FdbEntry {
    /// The device: the bridge's port, or the VXLAN device.
    pub device: u32,
    pub mac: MacAddr,
    pub place: Place,
}

/// In whose table it is.
pub(crate) enum Place {
    /// The bridge's, as a static entry or (false) as something that was learned.
    Bridge { fixed: bool },
    /// The VXLAN device's. `None`: without a destination, or with one weft would not make (another UDP port,
    /// VNI or uplink).
    Device { vtep: Option<IpAddr> },
}

/// The dump request for all entries of all devices.
pub(crate) fn all() -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    RouteNetlinkMessage::GetNeighbour(message)
}

impl FdbEntry {
    /// The entry in a message; `None` for what the kernel makes by itself (the entries of devices' own MAC
    /// addresses, of multicast filters, of VLANs).
    pub fn of(message: &NeighbourMessage) -> Option<Self> {
        let own = message.header.flags.contains(NeighbourFlags::Own);
        let (mut mac, mut vtep, mut usual) = (None, None, true);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(mac_of(bytes)),
                NeighbourAttribute::Destination(address) => vtep = ip_of(address),
                NeighbourAttribute::Vlan(_) => return None,
                NeighbourAttribute::Port(_) | NeighbourAttribute::Vni(_) | NeighbourAttribute::IfIndex(_) => {
                    usual = false;
                }
                _ => {}
            }
        }
        // A state is a set of bits: `bridge fdb add` makes entries of VXLAN devices NOARP and PERMANENT.
        let state = u16::from(message.header.state);
        let (permanent, fixed) = (state & PERMANENT != 0, state & NOARP != 0);
        let place = match (own, permanent) {
            (true, _) => Place::Device { vtep: vtep.filter(|_| usual && permanent) },
            (false, true) => return None,
            (false, false) => Place::Bridge { fixed },
        };
        Some(Self { device: message.header.ifindex, mac: mac?, place })
    }
}

/// Frames for `mac` leave the bridge through `port`.
pub(crate) fn put_on_bridge(port: u32, mac: MacAddr) -> Request {
    let message = message(port, mac, NeighbourState::Noarp, NeighbourFlags::Controller);
    let doing = format!("add FDB entry {mac} to the bridge");
    Request::new(doing, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
}

/// The bridge's entry for `mac` at `port` goes.
pub(crate) fn remove_from_bridge(port: u32, mac: MacAddr) -> Request {
    let message = message(port, mac, NeighbourState::Noarp, NeighbourFlags::Controller);
    let doing = format!("remove FDB entry {mac} from the bridge");
    Request::new(doing, 0, RouteNetlinkMessage::DelNeighbour(message))
}

/// Asks a bridge for its entry for `mac`: see [`port_in`].
pub(crate) fn find_on_bridge(bridge: u32, mac: MacAddr) -> Request {
    let mut message = message(0, mac, NeighbourState::None, NeighbourFlags::empty());
    message.attributes.push(NeighbourAttribute::Controller(bridge));
    let doing = format!("look for FDB entry {mac} on the bridge");
    Request::new(doing, 0, RouteNetlinkMessage::GetNeighbour(message))
}

/// The port in a bridge's answer; `None` when the entry is a device's own.
pub(crate) fn port_in(answer: &[RouteNetlinkMessage]) -> Option<u32> {
    answer.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(m) if u16::from(m.header.state) & PERMANENT == 0 => {
            Some(m.header.ifindex)
        }
        _ => None,
    })
}

/// Frames for `mac` (all-zero: also broadcast, multicast and unknown ones) are sent to `vtep`.
pub(crate) fn put_on_vxlan(vxlan: u32, mac: MacAddr, vtep: IpAddr) -> Request {
    let mut message = message(vxlan, mac, NeighbourState::Permanent, NeighbourFlags::Own);
    message.attributes.push(NeighbourAttribute::Destination(vtep.into()));
    let doing = format!("add FDB entry {mac} to VTEP {vtep}");
    let how = if mac == MacAddr::ZERO { NLM_F_APPEND } else { NLM_F_REPLACE };
    Request::new(doing, NLM_F_CREATE | how, RouteNetlinkMessage::NewNeighbour(message))
}

/// The VXLAN device's entry for `mac` goes: the one to `vtep`, or all of it.
pub(crate) fn remove_from_vxlan(vxlan: u32, mac: MacAddr, vtep: Option<IpAddr>) -> Request {
    let mut message = message(vxlan, mac, NeighbourState::Permanent, NeighbourFlags::Own);
    message.attributes.extend(vtep.map(|vtep| NeighbourAttribute::Destination(vtep.into())));
    let doing = format!("remove FDB entry {mac} from the VXLAN device");
    Request::new(doing, 0, RouteNetlinkMessage::DelNeighbour(message))
}

fn message(device: u32, mac: MacAddr, state: NeighbourState, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = state;
    message.header.flags = flags;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

/// In messages of the family `AF_BRIDGE` an address is known by its length alone.
fn ip_of(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}
