//! The host's own network, which carries the tunnels: addresses, MTUs, routes.
//!
//! Everything here is about the calling thread's namespace and is read when asked.

use crate::{
    KernelError, Namespace,
    device::Device,
    events::{self, Events},
    gateway,
    netlink::{Netlink, Request},
    port::address_in,
};
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType},
};
use nix::libc;
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weft_model::{HostRoute, Mtu};

/// A device of the host's that tunnels can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub interface: String,
    /// Its global unicast addresses, IPv4 first; no link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Its MTU.
    pub mtu: Mtu,
}

impl Underlay {
    /// The device of that name; an error when there is none.
    pub fn of_interface(name: &str) -> Result<Self, KernelError> {
        let mut netlink = Netlink::open_here()?;
        let device = netlink.existing_device(name)?;
        let addresses = netlink.addresses()?;
        Self::of_device(&device, &addresses)
    }

    /// The device that has this address; an error when none has it.
    pub fn of_address(ip: IpAddr) -> Result<Self, KernelError> {
        let mut netlink = Netlink::open_here()?;
        let addresses = netlink.addresses()?;
        let index = addresses.iter().find(|(_, found)| *found == ip).map(|(index, _)| *index);
        let devices = netlink.devices()?;
        let device = devices.iter().find(|device| Some(device.index) == index);
        let absent =
            || KernelError::netlink(&format!("look for address {ip}"), "no device of this host has it", 0);
        Self::of_device(device.ok_or_else(absent)?, &addresses)
    }

    fn of_device(device: &Device, addresses: &[(u32, IpAddr)]) -> Result<Self, KernelError> {
        let own = addresses.iter().filter(|(index, ip)| *index == device.index && is_usable(*ip));
        let mut addresses: Vec<IpAddr> = own.map(|(_, ip)| *ip).collect();
        // Stable: the kernel's order within a family has the primary address first.
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(Self { interface: device.name.clone(), addresses, mtu: mtu_of(device)? })
    }
}

/// The way to another host, as the routing table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The largest packet that reaches it: the route's own MTU where it has one, else its device's.
    pub mtu: Mtu,
    /// It leads through a gateway: the host is not on the link.
    pub gateway: bool,
}

/// What the routing table says of the way to an address.
pub(crate) struct Way {
    /// The device's interface index; the first one's of several.
    pub device: Option<u32>,
    /// It leads through a gateway.
    pub gateway: bool,
    /// The route's own MTU, where it has one.
    mtu: Option<u32>,
}

/// The way to `to`. `None` when there is no route.
pub(crate) fn way(netlink: &mut Netlink, to: IpAddr) -> Result<Option<Way>, KernelError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.is_ipv4());
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.attributes = vec![RouteAttribute::Destination(to.into())];
    let doing = format!("look for the route to {to}");
    let answer = match netlink.request(Request::new(doing, 0, RouteNetlinkMessage::GetRoute(message))) {
        Err(e) if matches!(e.errno(), libc::ENETUNREACH | libc::EHOSTUNREACH) => return Ok(None),
        answer => answer?,
    };
    Ok(answer.into_iter().find_map(route_in).map(|route| Way {
        device: device_of(&route),
        gateway: route
            .attributes
            .iter()
            .any(|a| matches!(a, RouteAttribute::Gateway(_) | RouteAttribute::Via(_))),
        mtu: route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
                RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                _ => None,
            }),
            _ => None,
        }),
    }))
}

/// The way to `to`, and what fits through it. `None` when there is no route.
pub fn path(to: IpAddr) -> Result<Option<Path>, KernelError> {
    let mut netlink = Netlink::open_here()?;
    let Some(Way { device, gateway, mtu }) = way(&mut netlink, to)? else { return Ok(None) };
    let malformed = |e: weft_model::MtuError| {
        KernelError::netlink(&format!("look for the route to {to}"), &e.to_string(), 0)
    };
    let mtu = if let Some(mtu) = mtu {
        Some(Mtu::new(mtu).map_err(malformed)?)
    } else {
        let Some(index) = device else { return Ok(None) };
        let devices = netlink.devices()?;
        devices.iter().find(|device| device.index == index).map(mtu_of).transpose()?
    };
    Ok(mtu.map(|mtu| Path { mtu, gateway }))
}

/// The unicast routes of the main table, IPv4 and IPv6, without default routes, link-local and loopback ones and those of
/// the gateway, which come and go with sandboxes and keep clear of networks by themselves.
pub fn host_routes() -> Result<Vec<HostRoute>, KernelError> {
    let mut netlink = Netlink::open_here()?;
    let names: HashMap<u32, String> = netlink.devices()?.into_iter().map(|d| (d.index, d.name)).collect();
    let mut routes = Vec::new();
    for is_ipv4 in [true, false] {
        let mut message = RouteMessage::default();
        message.header.address_family = family(is_ipv4);
        let answer = netlink.dump("list the routes", &RouteNetlinkMessage::GetRoute(message))?;
        for route in answer.into_iter().filter_map(route_in) {
            let Some(destination) = destination_of(&route) else { continue };
            let device = device_of(&route).and_then(|index| names.get(&index));
            if let Some(device) = device.filter(|device| !gateway::is_port(device)) {
                routes.push(HostRoute { destination, device: device.clone() });
            }
        }
    }
    routes.sort();
    routes.dedup();
    Ok(routes)
}

/// All addresses of the host's devices.
pub fn host_addresses() -> Result<BTreeSet<IpAddr>, KernelError> {
    let addresses = Netlink::open_here()?.addresses()?;
    Ok(addresses.into_iter().map(|(_, address)| address).collect())
}

/// A subscription to changes of the host's addresses, devices and routes.
pub struct UnderlayWatch(Events);

impl UnderlayWatch {
    /// Waits until one changes. Changes in between two calls are reported by the second.
    pub async fn changed(&self) -> Result<(), KernelError> {
        self.0.wait().await
    }
}

/// Subscribes to changes of the host's addresses, devices and routes.
pub fn watch_underlay() -> Result<UnderlayWatch, KernelError> {
    let groups =
        [events::LINK, events::IPV4_ADDRESS, events::IPV6_ADDRESS, events::IPV4_ROUTE, events::IPV6_ROUTE];
    Events::subscribe(&Namespace::current()?, &groups).map(UnderlayWatch)
}

impl Netlink {
    /// All addresses of all devices, with the devices' interface indexes.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, KernelError> {
        Ok(self.prefixes()?.into_iter().map(|(index, net)| (index, net.addr())).collect())
    }

    /// The same, each with the length of its prefix.
    pub(crate) fn prefixes(&mut self) -> Result<Vec<(u32, IpNet)>, KernelError> {
        let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answer = self.dump("list the addresses", &query)?;
        let addresses = answer.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => {
                let (index, address) = address_in(message)?;
                Some((index, IpNet::new(address, message.header.prefix_len).ok()?))
            }
            _ => None,
        });
        Ok(addresses.collect())
    }
}

/// The device's MTU; the loopback device's 65536 is more than an IP packet can have.
fn mtu_of(device: &Device) -> Result<Mtu, KernelError> {
    let bytes = if device.loopback { device.mtu.min(65535) } else { device.mtu };
    Device { mtu: bytes, ..device.clone() }.mtu()
}

fn is_usable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

fn family(is_ipv4: bool) -> AddressFamily {
    if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_in(message: RouteNetlinkMessage) -> Option<RouteMessage> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    }
}

/// The device a route leads to; the first one's of several.
fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

/// The destination of a route that a new subnet must keep clear of.
fn destination_of(route: &RouteMessage) -> Option<IpNet> {
    let header = &route.header;
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    if table.unwrap_or(u32::from(header.table)) != main || header.kind != RouteType::Unicast {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let net = IpNet::new(address.unwrap_or(any), header.destination_prefix_length).ok()?;
    (net.prefix_len() > 0 && is_usable(net.addr())).then_some(net)
}
