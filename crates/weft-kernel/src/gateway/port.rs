//! The near end of a sandbox's way out: the gateway's address on it, a route to each address of the sandbox.

use super::{Sysctls, are_set, is_port, set, sysctl};
use crate::{
    KernelError,
    device::{Bridging, Device, Settings},
    linux::Host,
    netlink::{Netlink, Request},
    port::{address_in, address_message, ensure_pair},
};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_plan::{GatewayPort, HostState, Key, Object};

/// By interface index.
type ByDevice<T> = BTreeMap<u32, BTreeSet<T>>;

/// Every device in the host's namespace that has the name of one.
pub(super) fn observe(host: &mut Host) -> Result<HostState, KernelError> {
    let mut state = HostState::new();
    let devices = host.underlay.devices()?.into_iter().filter(|device| is_port(&device.name));
    let devices: Vec<Device> = devices.collect();
    if devices.is_empty() {
        return Ok(state);
    }
    let mut addresses = addresses(&mut host.underlay)?;
    let mut routes = routes(&mut host.underlay)?;
    for device in devices {
        let sandbox = routes.remove(&device.index).unwrap_or_default();
        let settings = settings(&device.name, &sandbox);
        let port = GatewayPort {
            mtu: device.mtu()?,
            up: device.up
                && device.kind == "veth"
                && device.master.is_none()
                && host.underlay_namespace.run(|| are_set(&settings))?,
            gateways: ips(&addresses.remove(&device.index).unwrap_or_default()),
            sandbox,
            far_end: None,
        };
        state.insert(Key::GatewayPort(device.name), Object::GatewayPort(Box::new(port)));
    }
    Ok(state)
}

/// Makes or changes a sandbox's way out.
pub(crate) fn ensure(host: &mut Host, name: &str, want: &GatewayPort) -> Result<(), KernelError> {
    // Up only when it is set: what IPv6 does with a device that comes up is decided then.
    let was_up = host.underlay.device(name)?.is_some_and(|device| device.up);
    let with = |up| Settings { mac: None, mtu: want.mtu, up, group: None, bridge: Bridging::Detached };
    let far_end = want.far_end.as_deref();
    ensure_pair(&mut host.underlay, &host.underlay_namespace, name, far_end, &with(was_up))?;
    let settings = settings(name, &want.sandbox);
    host.underlay_namespace.run(|| set(&settings))??;
    let netlink = &mut host.underlay;
    let device = netlink.existing_device(name)?;
    let have = addresses(netlink)?.remove(&device.index).unwrap_or_default();
    for ip in want.gateways.difference(&ips(&have)) {
        let message = RouteNetlinkMessage::NewAddress(address_message(device.index, IpNet::from(*ip)));
        netlink.request(Request::new(
            format!("give {ip} to {name}"),
            NLM_F_CREATE | NLM_F_REPLACE,
            message,
        ))?;
    }
    for net in have.iter().filter(|net| !want.gateways.contains(&net.addr())) {
        let message = RouteNetlinkMessage::DelAddress(address_message(device.index, *net));
        netlink.request(Request::new(format!("take {net} from {name}"), 0, message))?;
    }
    netlink.settle(&device, &with(want.up))?;
    let have = routes(netlink)?.remove(&device.index).unwrap_or_default();
    for ip in want.sandbox.difference(&have) {
        let message = RouteNetlinkMessage::NewRoute(route_message(device.index, *ip));
        let doing = format!("route {ip} through {name}");
        netlink.request(Request::new(doing, NLM_F_CREATE | NLM_F_REPLACE, message))?;
    }
    for ip in have.difference(&want.sandbox) {
        let message = RouteNetlinkMessage::DelRoute(route_message(device.index, *ip));
        netlink.request(Request::new(format!("route {ip} no more through {name}"), 0, message))?;
    }
    Ok(())
}

/// The sysctls of a port, for the families of the sandbox's addresses.
fn settings(name: &str, sandbox: &BTreeSet<IpAddr>) -> Sysctls {
    // Connections from this host's loopback addresses to published ports; the rules keep others out of those.
    let mut settings = vec![(sysctl("ipv4", &format!("conf/{name}/route_localnet")), "1")];
    if sandbox.iter().any(IpAddr::is_ipv6) {
        settings.push((sysctl("ipv6", &format!("conf/{name}/disable_ipv6")), "0"));
        settings.push((sysctl("ipv6", &format!("conf/{name}/accept_ra")), "0"));
        // Nobody else can have its link-local address; to find that out would cost the sandbox a second.
        settings.push((sysctl("ipv6", &format!("conf/{name}/accept_dad")), "0"));
    }
    settings
}

fn ips(nets: &BTreeSet<IpNet>) -> BTreeSet<IpAddr> {
    nets.iter().map(IpNet::addr).collect()
}

/// The addresses of all devices, but for link-local ones: IPv6 makes one by itself.
fn addresses(netlink: &mut Netlink) -> Result<ByDevice<IpNet>, KernelError> {
    let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut found = ByDevice::<IpNet>::new();
    for message in netlink.dump("list the addresses", &query)? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let Some((index, ip)) = address_in(&message) else { continue };
        let Ok(net) = IpNet::new(ip, message.header.prefix_len) else { continue };
        if !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            found.entry(index).or_default().insert(net);
        }
    }
    Ok(found)
}

/// The single addresses that routes of weft's kind lead to, by device: those that the kernel makes itself are others.
fn routes(netlink: &mut Netlink) -> Result<ByDevice<IpAddr>, KernelError> {
    let mut found = ByDevice::<IpAddr>::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        for message in netlink.dump("list the routes", &RouteNetlinkMessage::GetRoute(message))? {
            let RouteNetlinkMessage::NewRoute(route) = message else { continue };
            if let Some((index, ip)) = host_route(&route) {
                found.entry(index).or_default().insert(ip);
            }
        }
    }
    Ok(found)
}

fn host_route(route: &RouteMessage) -> Option<(u32, IpAddr)> {
    let (mut ip, mut index) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    let ip = ip?;
    let single = route.header.destination_prefix_length == if ip.is_ipv4() { 32 } else { 128 };
    (single && route.header.protocol == RouteProtocol::Static).then_some((index?, ip))
}

fn route_message(index: u32, ip: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::Static;
    header.scope = if ip.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Destination(ip.into()), RouteAttribute::Oif(index)];
    message
}
