//! A network's bridge, in the overlay namespace.
//!
//! It learns nothing, runs no spanning tree and has no addresses; multicast snooping is off, so multicast goes
//! to every port like broadcast. Its default VLAN is off, so a static FDB entry is one entry and not a second one
//! for VLAN 1. Attributes: `linux/if_link.h`, `IFLA_BR_*`.

use crate::{
    KernelError,
    device::{Bridging, Device, Settings, kind, link},
    netlink::Netlink,
};
use netlink_packet_route::link::{BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo};
use weft_model::Vni;
use weft_plan::{Bridge, bridge_name};

/// The bridge that `device` is. One that is no bridge, or not one as weft makes them, is told to be down: it does
/// not do its work, and being changed puts it right.
pub(crate) fn observed(device: &Device) -> Result<Bridge, KernelError> {
    Ok(Bridge { mac: device.mac, mtu: device.mtu()?, up: device.up && is_sound(device) })
}

/// Makes or changes the network's bridge.
pub(crate) fn ensure(overlay: &mut Netlink, vni: Vni, want: &Bridge) -> Result<(), KernelError> {
    let name = bridge_name(vni);
    let settings =
        Settings { mac: Some(want.mac), mtu: want.mtu, up: want.up, group: None, bridge: Bridging::NoPort };
    let found = match overlay.device(&name)? {
        Some(found) if found.kind == "bridge" => found,
        Some(_) => {
            overlay.delete_device(&name)?;
            create(overlay, vni, want)?
        }
        None => create(overlay, vni, want)?,
    };
    for correction in corrections(&found) {
        let message = link(found.index, vec![kind(InfoKind::Bridge, InfoData::Bridge(vec![correction]))]);
        overlay.set_device(&format!("change bridge {name}"), message)?;
    }
    overlay.settle(&found, &settings)
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
fn corrections(device: &Device) -> Vec<InfoBridge> {
    let Some(InfoData::Bridge(attributes)) = &device.data else { return Vec::new() };
    let wrong = attributes.iter().filter_map(|attribute| match attribute {
        InfoBridge::StpState(state) if *state != BridgeStpState::Disabled => {
            Some(InfoBridge::StpState(BridgeStpState::Disabled))
        }
        InfoBridge::ForwardDelay(1..) => Some(InfoBridge::ForwardDelay(0)),
        InfoBridge::MulticastSnooping(true) => Some(InfoBridge::MulticastSnooping(false)),
        InfoBridge::VlanFiltering(true) => Some(InfoBridge::VlanFiltering(false)),
        InfoBridge::VlanDefaultPvid(1..) => Some(InfoBridge::VlanDefaultPvid(0)),
        _ => None,
    });
    let mut wrong: Vec<InfoBridge> = wrong.collect();
    // While the spanning tree runs, the kernel refuses a forward delay of 0.
    wrong.sort_by_key(|attribute| !matches!(attribute, InfoBridge::StpState(_)));
    wrong
}

fn is_sound(device: &Device) -> bool {
    device.kind == "bridge" && corrections(device).is_empty()
}
