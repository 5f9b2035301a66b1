//! What the kernel has: every device of weft's in the overlay namespace with its entries, read by five dumps, and the
//! gateway in the host's (`gateway`).
//!
//! A device is weft's by its name: `weft-br<VNI>`, `weft-vx<VNI>`, and anything else that begins with `weft-` counts
//! as a port. What has such a name and is not what it should be is reported too, as down, so that it is put right
//! or removed.

use crate::{
    KernelError, Snooped, bridge,
    device::Device,
    fast_path::TRUNK,
    fdb::{self, FdbEntry, Place},
    filter, gateway,
    linux::Host,
    neighbour::{self, NeighbourEntry},
    port,
    tap::Taps,
    vxlan,
};
use netlink_packet_route::RouteNetlinkMessage;
use std::collections::{BTreeMap, HashMap};
use weft_model::{MacAddr, Vni};
use weft_plan::{Fdb, Features, HostState, Key, Neighbour, Object, bridge_name, vxlan_name};

/// What a device is to weft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Bridge(Vni),
    Vxlan(Vni),
    Port,
}

/// What a device of that name is to weft; `None`: somebody else's.
pub(crate) fn role(name: &str) -> Option<Role> {
    if name == TRUNK {
        return None;
    }
    let numbered = |prefix: &str, name_of: fn(Vni) -> String| {
        let vni: Vni = name.strip_prefix(prefix)?.parse().ok()?;
        (name_of(vni) == name).then_some(vni)
    };
    if let Some(vni) = numbered("weft-br", bridge_name) {
        Some(Role::Bridge(vni))
    } else if let Some(vni) = numbered("weft-vx", vxlan_name) {
        Some(Role::Vxlan(vni))
    } else {
        name.starts_with("weft-").then_some(Role::Port)
    }
}

/// The devices of the overlay namespace by their interface indexes.
struct Devices {
    devices: HashMap<u32, Device>,
    bridges: HashMap<Vni, u32>,
}

impl Devices {
    fn new(devices: Vec<Device>) -> Self {
        let bridges = devices.iter().filter(|d| d.kind == "bridge");
        let bridges = bridges.filter_map(|d| match role(&d.name) {
            Some(Role::Bridge(vni)) => Some((vni, d.index)),
            _ => None,
        });
        let bridges = bridges.collect();
        Self { devices: devices.into_iter().map(|d| (d.index, d)).collect(), bridges }
    }

    fn bridge(&self, vni: Vni) -> Option<u32> {
        self.bridges.get(&vni).copied()
    }

    /// The network whose bridge the device is, or is a port of.
    fn network_of_bridge(&self, index: u32) -> Option<Vni> {
        let device = self.devices.get(&index)?;
        match role(&device.name)? {
            Role::Bridge(vni) => Some(vni),
            _ => match role(&self.devices.get(&device.master?)?.name)? {
                Role::Bridge(vni) => Some(vni),
                _ => None,
            },
        }
    }

    fn network_of_vxlan(&self, index: u32) -> Option<Vni> {
        match role(&self.devices.get(&index)?.name)? {
            Role::Vxlan(vni) => Some(vni),
            _ => None,
        }
    }

    /// A port's network: the one it was made for, or the one whose bridge it is on. A device of which neither
    /// is known is nobody's: it counts with VNI 1, which makes it one to be removed.
    fn network_of_port(&self, device: &Device) -> Option<Vni> {
        let made_for = Vni::new(device.group).ok();
        made_for.or_else(|| self.network_of_bridge(device.index)).or_else(|| Vni::new(1).ok())
    }
}

impl Host {
    /// Every object of weft's in the overlay namespace.
    pub fn observe(&mut self) -> Result<HostState, KernelError> {
        self.keep_overlay_namespace()?;
        let devices = Devices::new(self.overlay.devices()?);
        let can_ask = bridge::CanAsk::observe(&mut self.overlay)?;
        let taps = Taps::observe(&mut self.underlay)?;
        let mut state = gateway::observe(self)?;
        for device in devices.devices.values() {
            state.extend(observed_device(&devices, (&taps, &can_ask, self.features), device)?);
        }
        taps.add_orphans(&mut state);
        if self.features.filter
            && let Some(filter) = filter::observe(self)?
        {
            state.insert(Key::Filter, Object::Filter(filter));
        }
        self.taps = taps.into_names();
        for message in self.overlay.dump("list the FDB entries", &fdb::all())? {
            let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
            if let Some(entry) = FdbEntry::of(&message) {
                add_fdb_entry(&mut state, &devices, &entry);
            }
        }
        for message in self.overlay.dump("list the neighbour entries", &neighbour::all())? {
            let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
            let Some(entry) = NeighbourEntry::of(&message) else { continue };
            if let Some(vni) = devices.network_of_vxlan(entry.device) {
                let neighbour = Object::Neighbour(Neighbour { mac: entry.mac });
                state.insert(Key::Neighbour(vni, entry.address), neighbour);
            }
        }
        for entry in self.mdb.entries()? {
            if let (Some(vni), Some(vtep)) = (devices.network_of_vxlan(entry.device), entry.vtep) {
                state.insert(Key::Group(vni, entry.group, vtep), Object::Group);
            }
        }
        Ok(state)
    }

    /// See [`crate::Kernel::memberships`].
    pub fn memberships(&mut self) -> Result<BTreeMap<Vni, Snooped>, KernelError> {
        let devices = Devices::new(self.overlay.devices()?);
        let snooping = devices
            .bridges
            .iter()
            .filter(|(_, index)| devices.devices.get(index).is_some_and(bridge::is_snooping));
        let mut found: BTreeMap<Vni, Snooped> = snooping
            .map(|(vni, _)| (*vni, Snooped { complete: self.knows_memberships(*vni), ..Snooped::default() }))
            .collect();
        for entry in self.mdb.entries()? {
            let port = devices.devices.get(&entry.port).map(|device| role(&device.name));
            // What came in by the VXLAN device is another host's to tell; the bridge itself is no endpoint.
            if let (Some(Some(Role::Port)), Some(vni)) = (port, devices.network_of_bridge(entry.device))
                && let Some(snooped) = found.get_mut(&vni)
            {
                snooped.groups.insert(entry.group);
            }
        }
        Ok(found)
    }
}

fn observed_device(
    devices: &Devices,
    (taps, can_ask, features): (&Taps, &bridge::CanAsk, Features),
    device: &Device,
) -> Result<Option<(Key, Object)>, KernelError> {
    Ok(match role(&device.name) {
        Some(Role::Bridge(vni)) => {
            Some((Key::Bridge(vni), Object::Bridge(bridge::observed(device, can_ask, features)?)))
        }
        Some(Role::Vxlan(vni)) => {
            let vxlan = vxlan::observed(device, vni, devices.bridge(vni))?;
            Some((Key::Vxlan(vni), Object::Vxlan(vxlan)))
        }
        Some(Role::Port) => match devices.network_of_port(device) {
            Some(vni) => {
                let port = port::observed(device, devices.bridge(vni), taps)?;
                Some((Key::Port(vni, device.name.clone()), Object::Port(port)))
            }
            None => None,
        },
        None => None,
    })
}

/// Adds the half of an FDB object that an entry is.
fn add_fdb_entry(state: &mut HostState, devices: &Devices, entry: &FdbEntry) {
    let vni = match entry.place {
        Place::Bridge { .. } => devices.network_of_bridge(entry.device),
        Place::Device { .. } => devices.network_of_vxlan(entry.device),
    };
    let Some(vni) = vni else { return };
    if let (MacAddr::ZERO, Place::Device { vtep }) = (entry.mac, &entry.place) {
        if let Some(vtep) = vtep {
            state.insert(Key::Flood(vni, *vtep), Object::Flood);
        }
        return;
    }
    let nothing = || Object::Fdb(Fdb { port: None, vtep: None });
    let object = state.entry(Key::Fdb(vni, entry.mac)).or_insert_with(nothing);
    let Object::Fdb(fdb) = object else { return };
    match entry.place {
        Place::Device { vtep } => fdb.vtep = vtep,
        Place::Bridge { fixed: true } => {
            fdb.port = devices.devices.get(&entry.device).map(|device| device.name.clone());
        }
        // Learned, so learning was on: an object without a port, to be replaced or removed.
        Place::Bridge { fixed: false } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_its_exact_name() {
        let vni = Vni::new(4096).unwrap();
        assert!(role("weft-br4096") == Some(Role::Bridge(vni)));
        assert!(role("weft-vx4096") == Some(Role::Vxlan(vni)));
        for port in ["weft-0123456789", "weft-br", "weft-br04096", "weft-vx99999999", "weft-bridge"] {
            assert!(role(port) == Some(Role::Port), "{port}");
        }
        for other in ["eth0", "weftc0123456789", "lo", "weft", "weft-trunk"] {
            assert!(role(other).is_none(), "{other}");
        }
    }
}
