//! A network's VXLAN device (RFC 7348): in the overlay namespace, with its UDP socket in the host's.
//!
//! The kernel keeps the namespace that asked for the device as the one its socket is opened in, and `IFLA_NET_NS_FD`
//! puts the device itself elsewhere. The device learns nothing (`nolearning`), answers ARP and ND from its neighbour
//! entries and swallows those that it cannot answer (`proxy`); the outer source address is always set (`local`).
//! Outer UDP checksums are real ones, over IPv6 too; that a peer's frames over IPv6 have none (RFC 6935: those of the
//! fast path) is accepted. Attributes: `linux/if_link.h`, `IFLA_VXLAN_*`.
//!
//! IPv6 is on, as the kernel takes no neighbour entries for ND otherwise, but the device has no address of its own
//! (`addr_gen_mode` none), so it says nothing by itself.

use crate::{
    KernelError,
    apply::is_entry,
    device::{Bridging, Device, PortSettings, Settings, VXLAN_PORT, kind, link},
    linux::{Host, set_sysctl},
};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute};
use nix::libc;
use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd},
    path::Path,
};
use weft_model::Vni;
use weft_plan::{Op, Vxlan, vxlan_name};

/// What makes a VXLAN device the one it is.
struct Tunnel {
    id: u32,
    local: IpAddr,
    port: u16,
    /// Nothing that weft does not set is set, and what it sets is.
    sound: bool,
}

/// The VXLAN device that `device` is. One that is not as weft makes them is told to be down: being changed puts it
/// right. `bridge` is its network's bridge.
pub(crate) fn observed(device: &Device, vni: Vni, bridge: Option<u32>) -> Result<Vxlan, KernelError> {
    let tunnel = tunnel(device);
    let sound = tunnel.sound && tunnel.id == vni.get() && !device.ipv6_off;
    Ok(Vxlan {
        local: tunnel.local,
        port: tunnel.port,
        mac: device.mac,
        mtu: device.mtu()?,
        up: device.up && sound,
        bridged: device.is_port_of(bridge, &VXLAN_PORT),
    })
}

/// Makes or changes the network's VXLAN device. Its entries stay, also when it has to be made
/// again because the kernel cannot change what differs.
pub(crate) fn ensure(host: &mut Host, vni: Vni, want: &Vxlan) -> Result<(), KernelError> {
    let name = vxlan_name(vni);
    let bridge = host.bridging(vni, want.bridged, &VXLAN_PORT)?;
    let settings = Settings { mac: Some(want.mac), mtu: want.mtu, up: want.up, group: None, bridge };
    let Some(found) = host.overlay.device(&name)? else {
        return create(host, vni, want, &settings);
    };
    let entries = if found.mac == want.mac && is_changeable(&found, vni, want) {
        Vec::new()
    } else {
        // A new MAC address makes the kernel flush the neighbour entries; a new device has none at all.
        host.entries_of(vni)?
    };
    if is_changeable(&found, vni, want) {
        if tunnel(&found).local != want.local {
            let data = InfoData::Vxlan(vec![local(want.local)]);
            let message = link(found.index, vec![kind(InfoKind::Vxlan, data)]);
            host.overlay.set_device(&format!("set the local address of device {name}"), message)?;
        }
        if found.ipv6_off {
            switch_on_ipv6(host, &name)?;
        }
        host.overlay.settle(&found, &settings)?;
    } else {
        host.overlay.delete_device(&name)?;
        create(host, vni, want, &settings)?;
    }
    refill(host, vni, &entries);
    Ok(())
}

fn create(host: &mut Host, vni: Vni, want: &Vxlan, settings: &Settings) -> Result<(), KernelError> {
    let name = vxlan_name(vni);
    let mut data = vec![
        InfoVxlan::Id(vni.get()),
        local(want.local),
        InfoVxlan::Port(want.port),
        InfoVxlan::Learning(false),
        InfoVxlan::Proxy(true),
    ];
    // For one family only: the kernel shares a port's socket among devices of like flags.
    // No outer checksums (RFC 7348, section 5; over IPv6, RFC 6935 and 6936): the inner packet has its own, and the fast path
    // of other hosts takes only frames without.
    data.extend(match want.local {
        IpAddr::V4(_) => vec![InfoVxlan::UDPCsum(false)],
        IpAddr::V6(_) => vec![InfoVxlan::UDPZeroCsumTX(true), InfoVxlan::UDPZeroCsumRX(true)],
    });
    let attributes = vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::NetNsFd(host.overlay_namespace.as_fd().as_raw_fd()),
        LinkAttribute::Address(want.mac.0.to_vec()),
        LinkAttribute::Mtu(want.mtu.get()),
        kind(InfoKind::Vxlan, InfoData::Vxlan(data)),
    ];
    host.underlay.create_device(&name, link(0, attributes))?;
    let made = host.overlay.existing_device(&name)?;
    host.overlay.set_alias(&made, &format!("weft network {vni}"))?;
    let outcome = switch_on_ipv6(host, &name).and_then(|()| host.overlay.settle(&made, settings));
    if outcome.is_err() {
        // The device would be there and carry nothing.
        host.overlay.delete_device(&name)?;
    }
    // The socket is opened when the device is set up.
    outcome.map_err(|error| match error.errno() {
        libc::EADDRINUSE => KernelError::PortTaken {
            port: want.port,
            hint: format!("device {name} cannot have its socket; `ss -lunp` tells who has the port"),
        },
        _ => error,
    })
}

/// Lets a device have IPv6: neighbour entries, and no address that it is not given.
pub(crate) fn switch_on_ipv6(host: &Host, name: &str) -> Result<(), KernelError> {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(name);
    // `IN6_ADDR_GEN_MODE_NONE` is 1 (`linux/if_link.h`); it comes first, or there is a link-local address.
    let settings = [
        (folder.join("addr_gen_mode"), "1"),
        // What a container advertises as a router is no affair of this namespace's.
        (folder.join("accept_ra"), "0"),
        (folder.join("disable_ipv6"), "0"),
    ];
    host.overlay_namespace.run(|| settings.iter().try_for_each(|(path, value)| set_sysctl(path, value)))?
}

/// Puts entries back that were there before. One that fails is told and left to the next audit.
fn refill(host: &mut Host, vni: Vni, entries: &[Op]) {
    for (op, outcome) in entries.iter().zip(host.apply_entries(entries)) {
        if let Err(error) = outcome {
            tracing::warn!(%vni, %error, key = ?op.key(), "an entry was lost when its device was made again");
        }
    }
}

impl Host {
    /// The network's entries on bridge and VXLAN device, as operations that make them.
    fn entries_of(&mut self, vni: Vni) -> Result<Vec<Op>, KernelError> {
        let state = self.observe()?;
        let entries = state.into_iter().filter(|(key, _)| key.vni() == Some(vni) && is_entry(key));
        Ok(entries.map(|(key, object)| Op::Create(key, object)).collect())
    }

    /// The network's bridge, to make a device its port.
    pub(crate) fn bridging(
        &mut self,
        vni: Vni,
        bridged: bool,
        settings: &'static PortSettings,
    ) -> Result<Bridging, KernelError> {
        if !bridged {
            return Ok(Bridging::Detached);
        }
        let bridge = self.overlay.existing_device(&weft_plan::bridge_name(vni))?;
        Ok(Bridging::PortOf(bridge.index, settings))
    }
}

fn local(address: IpAddr) -> InfoVxlan {
    match address {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    }
}

/// Whether the kernel can make `device` what it should be (`vxlan_changelink`: the local address, within its
/// family).
fn is_changeable(device: &Device, vni: Vni, want: &Vxlan) -> bool {
    let tunnel = tunnel(device);
    tunnel.sound
        && tunnel.id == vni.get()
        && tunnel.port == want.port
        && tunnel.local.is_ipv4() == want.local.is_ipv4()
}

/// The UDP port, when `device` is a VXLAN device.
pub(crate) fn udp_port(device: &Device) -> Option<u16> {
    (device.kind == "vxlan").then(|| tunnel(device).port)
}

fn tunnel(device: &Device) -> Tunnel {
    let mut found = Tunnel { id: 0, local: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0, sound: true };
    let (mut proxy, mut learning, mut zero_checksums) = (false, false, false);
    let Some(InfoData::Vxlan(attributes)) = &device.data else {
        return Tunnel { sound: false, ..found };
    };
    for attribute in attributes {
        match attribute {
            InfoVxlan::Id(id) => found.id = *id,
            InfoVxlan::Local(v4) => found.local = IpAddr::V4(*v4),
            InfoVxlan::Local6(v6) => found.local = IpAddr::V6(*v6),
            InfoVxlan::Port(port) => found.port = *port,
            InfoVxlan::Learning(on) => learning = *on,
            InfoVxlan::Proxy(on) => proxy = *on,
            InfoVxlan::UDPZeroCsumRX(on) => zero_checksums = *on,
            InfoVxlan::Link(0) => {}
            // A default destination or a fixed uplink would send frames where no record says so.
            InfoVxlan::Group(_)
            | InfoVxlan::Group6(_)
            | InfoVxlan::Link(_)
            | InfoVxlan::Rsc(true)
            | InfoVxlan::CollectMetadata(true) => found.sound = false,
            _ => {}
        }
    }
    // A device that was made inside the overlay namespace has its socket there, where no route leads out.
    found.sound &= zero_checksums == found.local.is_ipv6();
    found.sound &= proxy && !learning && device.linked_elsewhere && !found.local.is_unspecified();
    found
}
