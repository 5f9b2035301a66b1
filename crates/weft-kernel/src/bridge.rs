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
use netlink_packet_route::link::{BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute};
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
    match overlay.device(&name)? {
        Some(found) if found.kind == "bridge" => {
            if !is_sound(&found) {
                let message = link(found.index, vec![kind(InfoKind::Bridge, InfoData::Bridge(attributes()))]);
                overlay.set_device(&format!("change bridge {name}"), message)?;
            }
            return overlay.settle(&found, &settings);
        }
        Some(_) => overlay.delete_device(&name)?,
        None => {}
    }
    let message = link(
        0,
        vec![
            LinkAttribute::IfName(name.clone()),
            LinkAttribute::Address(want.mac.0.to_vec()),
            LinkAttribute::Mtu(want.mtu.get()),
            kind(InfoKind::Bridge, InfoData::Bridge(attributes())),
        ],
    );
    overlay.create_device(&name, message)?;
    let made = overlay.existing_device(&name)?;
    overlay.set_alias(&made, &format!("weft network {vni}"))?;
    overlay.settle(&made, &settings)
}

fn attributes() -> Vec<InfoBridge> {
    vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::ForwardDelay(0),
        InfoBridge::MulticastSnooping(false),
        InfoBridge::VlanFiltering(false),
        InfoBridge::VlanDefaultPvid(0),
    ]
}

fn is_sound(device: &Device) -> bool {
    let Some(InfoData::Bridge(attributes)) = &device.data else { return false };
    attributes.iter().all(|attribute| match attribute {
        InfoBridge::StpState(state) => *state == BridgeStpState::Disabled,
        InfoBridge::MulticastSnooping(on) | InfoBridge::VlanFiltering(on) => !on,
        InfoBridge::VlanDefaultPvid(vlan) => *vlan == 0,
        _ => true,
    })
}
