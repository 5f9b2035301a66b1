//! A network's bridge, in the overlay namespace.
//!
//! It learns no addresses and runs no spanning tree. Its default VLAN is off, so a static FDB entry is one entry and not a second
//! one for VLAN 1. Attributes: `linux/if_link.h`, `IFLA_BR_*`.
//!
//! It snoops IGMP and MLD (RFC 4541): multicast, but for that of link-local scope in IPv4, goes to the ports of members and to
//! the VXLAN device. Memberships that nobody asks for end after 260 s, so it is the querier itself. IGMP queries may come from
//! 0.0.0.0; MLD queries need a link-local address (RFC 3810, section 5.1.14), which is the only address it has, and without
//! which the kernel sends none. Where the host cannot keep the bridges' queries from one another (`filter`), they do not snoop.

use crate::{
    KernelError,
    device::{Bridging, Device, Settings, kind, link},
    linux::Host,
    netlink::{Netlink, Request},
    port::address_message,
    vxlan::switch_on_ipv6,
};
use ipnet::Ipv6Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo},
};
use std::{
    collections::HashSet,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};
use weft_model::{MacAddr, Vni};
use weft_plan::{Bridge, Features, bridge_name};

/// With more groups than this on all its ports together a bridge ceases to snoop (the kernel's default is 4096): enough for 64 ports
/// at their own limit.
const MOST_GROUPS: u32 = 1 << 16;

/// A bridge that begins to snoop asks twice, this long apart, in hundredths of a second (the kernel's default is half a minute): its
/// link-local address may not be ready at once.
const ASKS_AGAIN: u64 = 500;
/// By then it has been answered: who is asked takes up to 10 s.
const ANSWERED: Duration = Duration::from_secs(16);

/// The bridge that `device` is. One that is no bridge, or not one as weft makes them, is told to be down: it does
/// not do its work, and being changed puts it right.
pub(crate) fn observed(device: &Device, can_ask: &CanAsk, features: Features) -> Result<Bridge, KernelError> {
    let sound =
        device.kind == "bridge" && corrections(device, features).is_empty() && can_ask.is_true_of(device);
    Ok(Bridge { mac: device.mac, mtu: device.mtu()?, up: device.up && sound })
}

/// Whether it snoops.
pub(crate) fn is_snooping(device: &Device) -> bool {
    let Some(InfoData::Bridge(attributes)) = &device.data else { return false };
    attributes.contains(&InfoBridge::MulticastSnooping(true))
}

/// Which bridges can be the querier for IPv6.
pub(crate) enum CanAsk {
    /// Those whose MAC address's link-local address they have: their interface indexes with the address.
    With(HashSet<(u32, IpAddr)>),
    /// The kernel has no IPv6, so nobody need be asked.
    NotNeeded,
}

impl CanAsk {
    pub fn observe(overlay: &mut Netlink) -> Result<Self, KernelError> {
        if !Path::new("/proc/sys/net/ipv6").exists() {
            return Ok(Self::NotNeeded);
        }
        let addresses = overlay.addresses()?.into_iter();
        Ok(Self::With(addresses.collect()))
    }

    fn is_true_of(&self, bridge: &Device) -> bool {
        match self {
            Self::With(addresses) => addresses.contains(&(bridge.index, bridge.mac.link_local().into())),
            Self::NotNeeded => true,
        }
    }
}

/// Makes or changes the network's bridge.
pub(crate) fn ensure(host: &mut Host, vni: Vni, want: &Bridge) -> Result<(), KernelError> {
    let can_ask = CanAsk::observe(&mut host.overlay)?;
    let name = bridge_name(vni);
    let settings =
        Settings { mac: Some(want.mac), mtu: want.mtu, up: want.up, group: None, bridge: Bridging::NoPort };
    let found = match host.overlay.device(&name)? {
        Some(found) if found.kind == "bridge" => found,
        Some(_) => {
            host.overlay.delete_device(&name)?;
            create(&mut host.overlay, vni, want)?
        }
        None => create(&mut host.overlay, vni, want)?,
    };
    // Before it asks for the first time.
    if found.ipv6_off {
        switch_on_ipv6(host, &name)?;
    }
    let as_wanted = Device { mac: want.mac, ..found.clone() };
    if !can_ask.is_true_of(&as_wanted) {
        add_link_local(&mut host.overlay, &found, want.mac)?;
    }
    for correction in corrections(&found, host.features) {
        if matches!(correction, InfoBridge::MulticastSnooping(true) | InfoBridge::MulticastQuerier(_)) {
            host.began_to_snoop.insert(vni, Instant::now());
        }
        let message = link(found.index, vec![kind(InfoKind::Bridge, InfoData::Bridge(vec![correction]))]);
        host.overlay.set_device(&format!("change bridge {name}"), message)?;
    }
    host.overlay.settle(&found, &settings)
}

impl Host {
    /// Whether a bridge that snoops has had the time to learn of all memberships.
    pub(crate) fn knows_memberships(&self, vni: Vni) -> bool {
        self.began_to_snoop.get(&vni).is_none_or(|since| since.elapsed() > ANSWERED)
    }
}

/// No detection of duplicates: all hosts' bridges of a network have this address, and none sends it to another.
fn add_link_local(overlay: &mut Netlink, bridge: &Device, mac: MacAddr) -> Result<(), KernelError> {
    let address = Ipv6Net::new_assert(mac.link_local(), 64);
    let message = RouteNetlinkMessage::NewAddress(address_message(bridge.index, address.into()));
    let doing = format!("give bridge {} its link-local address", bridge.name);
    overlay.request(Request::new(doing, NLM_F_CREATE | NLM_F_REPLACE, message)).map(drop)
}

fn create(overlay: &mut Netlink, vni: Vni, want: &Bridge) -> Result<Device, KernelError> {
    let name = bridge_name(vni);
    let attributes = vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::Address(want.mac.0.to_vec()),
        LinkAttribute::Mtu(want.mtu.get()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    overlay.create_device(&name, link(0, attributes))?;
    let made = overlay.existing_device(&name)?;
    overlay.set_alias(&made, &format!("weft network {vni}"))?;
    Ok(made)
}

/// The attributes that are not as weft has them, with the values they should have. Those that are right are not
/// named: a kernel without VLAN filtering refuses to hear that it should be off.
fn corrections(device: &Device, features: Features) -> Vec<InfoBridge> {
    let Some(InfoData::Bridge(attributes)) = &device.data else { return Vec::new() };
    let wrong = attributes.iter().filter_map(|attribute| match attribute {
        InfoBridge::StpState(state) if *state != BridgeStpState::Disabled => {
            Some(InfoBridge::StpState(BridgeStpState::Disabled))
        }
        InfoBridge::ForwardDelay(1..) => Some(InfoBridge::ForwardDelay(0)),
        InfoBridge::MulticastHashMax(most) if *most != MOST_GROUPS => {
            Some(InfoBridge::MulticastHashMax(MOST_GROUPS))
        }
        InfoBridge::MulticastStartupQueryInterval(interval) if *interval != ASKS_AGAIN => {
            Some(InfoBridge::MulticastStartupQueryInterval(ASKS_AGAIN))
        }
        InfoBridge::MulticastSnooping(on) if *on != features.filter => {
            Some(InfoBridge::MulticastSnooping(features.filter))
        }
        InfoBridge::MulticastQuerier(false) if features.filter => Some(InfoBridge::MulticastQuerier(true)),
        InfoBridge::VlanFiltering(true) => Some(InfoBridge::VlanFiltering(false)),
        InfoBridge::VlanDefaultPvid(1..) => Some(InfoBridge::VlanDefaultPvid(0)),
        _ => None,
    });
    let mut wrong: Vec<InfoBridge> = wrong.collect();
    wrong.sort_by_key(|attribute| match attribute {
        // While the spanning tree runs, the kernel refuses a forward delay of 0.
        InfoBridge::StpState(_) => 0,
        // It asks at once, as is set by then.
        InfoBridge::MulticastQuerier(_) => 2,
        _ => 1,
    });
    wrong
}
