//! The veth pair of an endpoint: one end a port of the network's bridge, the other the container's interface.
//!
//! A pair is made by one request, with both ends where they belong: when the container's interface name is taken
//! or its namespace is not there, nothing has been made. It is finished far end first, so that one left half made by a daemon's
//! end is known. The device group of the host-side end holds the VNI, so
//! that a port that fell off its bridge is still known by its network. Source: veth(4), `IFLA_GROUP`.

use crate::{
    KernelError, Namespace,
    device::{Device, ENDPOINT_PORT, Settings, kind, link},
    linux::{Host, set_sysctl},
    netlink::{Netlink, Request},
    tap::{self, Joint, Taps},
};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use nix::libc;
use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};
use weft_model::{Sandbox, Vni};
use weft_plan::{FarEndSandbox, Port, PortFarEnd};

/// The port that `device` is. Something else of that name is told to be down: being changed puts it right.
/// `bridge` is its network's bridge.
pub(crate) fn observed(device: &Device, bridge: Option<u32>, taps: &Taps) -> Result<Port, KernelError> {
    let mtu = device.mtu()?;
    Ok(Port {
        mtu,
        up: device.up && device.kind == "veth",
        bridged: device.is_port_of(bridge, &ENDPOINT_PORT),
        tap: taps.of(&device.name, mtu),
        far_end: None,
    })
}

/// Makes the pair, or changes its host-side end.
pub(crate) fn ensure(host: &mut Host, vni: Vni, name: &str, want: &Port) -> Result<(), KernelError> {
    let bridge = host.bridging(vni, want.bridged, &ENDPOINT_PORT)?;
    let settings = Settings { mac: None, mtu: want.mtu, up: want.up, group: Some(vni.get()), bridge };
    if has_lost_its_far_end(host, want)? {
        host.overlay.delete_device(name)?;
    }
    let was_there = host.overlay.device(name)?.is_some();
    ensure_pair(&mut host.overlay, &host.underlay_namespace, name, want.far_end.as_deref(), &settings)?;
    let outcome = settle_tap(host, vni, name, want);
    if outcome.is_err() && !was_there {
        // A pair without its tap is of no use to anybody.
        host.overlay.delete_device(name)?;
    }
    outcome
}

/// Makes the pair whose near end is in the namespace of `near`, or changes that end.
pub(crate) fn ensure_pair(
    near: &mut Netlink,
    host_namespace: &Namespace,
    name: &str,
    far_end: Option<&PortFarEnd>,
    settings: &Settings,
) -> Result<(), KernelError> {
    if let Some(found) = near.device(name)? {
        if found.kind == "veth" && is_finished(&found) {
            return near.settle(&found, settings);
        }
        near.delete_device(name)?;
    }
    let Some(far_end) = far_end else {
        let reason = "it is not there, and where its other end belongs is not known";
        return Err(KernelError::netlink(&format!("create device {name}"), reason, 0));
    };
    let far_namespace = match &far_end.sandbox {
        Some(sandbox) => namespace_of(host_namespace, sandbox)?,
        None => host_namespace.clone(),
    };
    create_pair(near, name, settings, far_end, &far_namespace)?;
    let outcome = finish(near, name, settings, far_end, &far_namespace);
    if outcome.is_err() {
        // Half a pair would look finished to the next observation. The other end goes with this one.
        near.delete_device(name)?;
    }
    outcome
}

/// The sandbox's namespace, if it is the one that was meant.
fn namespace_of(host: &Namespace, sandbox: &FarEndSandbox) -> Result<Namespace, KernelError> {
    if sandbox.path == Sandbox::HOST {
        return Ok(host.clone());
    }
    Namespace::open_if_still(&sandbox.path, sandbox.inode)
}

/// Whether the end that a tap is to be joined with has been taken out of the host's namespace, or renamed.
fn has_lost_its_far_end(host: &mut Host, want: &Port) -> Result<bool, KernelError> {
    match (&want.tap, &want.far_end) {
        (Some(_), Some(far_end)) => Ok(host.underlay.device(&far_end.name)?.is_none()),
        _ => Ok(false),
    }
}

fn settle_tap(host: &mut Host, vni: Vni, port: &str, want: &Port) -> Result<(), KernelError> {
    let (Some(tap), Some(far_end)) = (&want.tap, &want.far_end) else { return Ok(()) };
    tap::join(
        host,
        &Joint { vni, port, far_end: &far_end.name, tap, owner: far_end.tap_owner, mtu: want.mtu },
    )
}

fn create_pair(
    near: &mut Netlink,
    name: &str,
    settings: &Settings,
    far_end: &PortFarEnd,
    far_namespace: &Namespace,
) -> Result<(), KernelError> {
    let far_name = far_end.sandbox.as_ref().map_or(&far_end.name, |sandbox| &sandbox.interface);
    let peer = link(
        0,
        vec![
            LinkAttribute::IfName(far_name.clone()),
            LinkAttribute::NetNsFd(far_namespace.as_fd().as_raw_fd()),
            LinkAttribute::Address(far_end.mac.0.to_vec()),
            LinkAttribute::Mtu(settings.mtu.get()),
        ],
    );
    let mut attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(settings.mtu.get()),
        kind(InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))),
    ];
    attributes.extend(settings.group.map(LinkAttribute::Group));
    near.create_device(name, link(0, attributes)).map_err(|error| {
        // The name of this end is free, that was looked at: so it is the other end's.
        if error.errno() != libc::EEXIST {
            return error;
        }
        let place = match &far_end.sandbox {
            Some(sandbox) => format!("namespace {}", sandbox.path),
            None => "the host's namespace".to_owned(),
        };
        let reason = format!("an interface named {far_name} is already in {place}");
        KernelError::netlink(&format!("create device {name}"), &reason, libc::EEXIST)
    })
}

fn finish(
    near: &mut Netlink,
    name: &str,
    settings: &Settings,
    far_end: &PortFarEnd,
    far_namespace: &Namespace,
) -> Result<(), KernelError> {
    let made = near.existing_device(name)?;
    // The other end first: see `is_finished`.
    if let Some(sandbox) = &far_end.sandbox {
        set_up_in_sandbox(sandbox, far_namespace)?;
    }
    near.settle(&made, settings)?;
    near.set_alias(&made, &format!("weft endpoint {}", name.trim_start_matches("weft-")))
}

/// Whether a pair was made to its end. A daemon that is killed in the middle leaves one whose near end was never up and has
/// no alias, and whose far end may have no address: nobody can tell from here, so it is made again.
fn is_finished(near_end: &Device) -> bool {
    near_end.up || near_end.alias.is_some()
}

/// Gives the container's interface its addresses, sets it up and leads the default routes through it.
fn set_up_in_sandbox(sandbox: &FarEndSandbox, namespace: &Namespace) -> Result<(), KernelError> {
    if sandbox.addresses.iter().any(|address| address.addr().is_ipv6()) {
        // Engines switch IPv6 off in the namespaces of containers that have had no IPv6 address so far.
        let path = Path::new("/proc/sys/net/ipv6/conf").join(&sandbox.interface).join("disable_ipv6");
        namespace.run(|| set_sysctl(&path, "0"))??;
    }
    if sandbox.path == Sandbox::HOST {
        // A container that advertises itself as a router must not become the host's way out.
        let path = Path::new("/proc/sys/net/ipv6/conf").join(&sandbox.interface).join("accept_ra");
        namespace.run(|| set_sysctl(&path, "0"))??;
    }
    let mut netlink = Netlink::open(namespace)?;
    let device = netlink.existing_device(&sandbox.interface)?;
    for address in &sandbox.addresses {
        let doing = format!("give {address} to {} in {}", sandbox.interface, sandbox.path);
        let message = RouteNetlinkMessage::NewAddress(address_message(device.index, *address));
        netlink.request(Request::new(doing, NLM_F_CREATE | NLM_F_REPLACE, message))?;
    }
    let mut message = link(device.index, Vec::new());
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.set_device(&format!("set {} in {} up", sandbox.interface, sandbox.path), message)?;
    sandbox.gateways.iter().try_for_each(|gateway| add_default_route(&mut netlink, &device, *gateway))
}

/// A sandbox that has a default route already keeps it: somebody else leads it out.
fn add_default_route(netlink: &mut Netlink, device: &Device, gateway: IpAddr) -> Result<(), KernelError> {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if gateway.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(device.index)];
    let doing = format!("lead the default route of {} to {gateway}", device.name);
    let request = Request::new(doing, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRoute(message));
    match netlink.request(request) {
        Err(error) if error.errno() != libc::EEXIST => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    match address {
        IpNet::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            if v4.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
            }
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // The store knows that the address is nobody else's; detection would only delay its first use.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    message
}

/// A device's addresses, as netlink tells of them, with their interface index.
pub(crate) fn address_in(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links Address is the other side.
            AddressAttribute::Local(ip) => return Some((message.header.index, *ip)),
            AddressAttribute::Address(ip) => address = Some((message.header.index, *ip)),
            _ => {}
        }
    }
    address
}
