//! Neighbour entries on VXLAN devices: from them ARP (RFC 826) and Neighbour Solicitations (RFC 4861) of local
//! containers are answered on this host.
//!
//! They are permanent, so the kernel neither ages them nor counts them against `gc_thresh3`.

use crate::{device::mac_of, netlink::Request};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};
use std::net::IpAddr;
use weft_model::MacAddr;

/// A permanent entry, as a dump tells of it.
pub(crate) struct NeighbourEntry {
    pub device: u32,
    pub address: IpAddr,
    pub mac: MacAddr,
}

/// The dump request for all entries of all devices, IPv4 and IPv6.
pub(crate) fn all() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())
}

impl NeighbourEntry {
    /// The entry in a message; `None` for one that is not permanent: the kernel made it and will drop it.
    pub fn of(message: &NeighbourMessage) -> Option<Self> {
        if message.header.state != NeighbourState::Permanent {
            return None;
        }
        let (mut address, mut mac) = (None, MacAddr::ZERO);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some((*v4).into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some((*v6).into()),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_of(bytes),
                _ => {}
            }
        }
        Some(Self { device: message.header.ifindex, address: address?, mac })
    }
}

/// `address` has the MAC address `mac`.
pub(crate) fn put(vxlan: u32, address: IpAddr, mac: MacAddr) -> Request {
    let mut message = message(vxlan, address);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let doing = format!("add neighbour {address} at {mac}");
    Request::new(doing, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
}

/// The entry for `address` goes.
pub(crate) fn remove(vxlan: u32, address: IpAddr) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(message(vxlan, address));
    Request::new(format!("remove neighbour {address}"), 0, message)
}

fn message(vxlan: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = vxlan;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}
