//! What the fast path has, told in the objects of the plan: an object whose part here is missing or wrong is told to be
//! wrong, so that the comparison repairs it and counts it as drift; an entry that the kernel's own tables do not have is
//! told as an object that is wrong. Nothing that the kernel has is hidden: it may have to be removed.

use super::{
    counters::Owner,
    maps::{DirectEntry, NeighbourKey, PeerEntry, PeerKey, PortEntry, PortKey, Station, StationKey},
    plane::Plane,
    programs::Program,
    trunk::TRUNK,
};
use crate::{
    KernelError,
    observe::{Role, role},
};
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};
use weft_model::{MacAddr, Vni};
use weft_plan::{Direct, Fdb, HostState, Key, Neighbour, Object};

impl Plane {
    /// Reads everything and puts it into `state`, which is what the kernel's own tables have.
    pub fn observe(&mut self, state: &mut HostState) -> Result<(), KernelError> {
        self.maps.refresh()?;
        let devices = self.overlay.devices()?.into_iter();
        let ports = devices.filter(|device| role(&device.name) == Some(Role::Port));
        self.ports = ports.map(|device| (device.name, device.index)).collect();
        self.vxlans.clear();
        self.floods.clear();
        for (key, object) in state.iter() {
            match (key, object) {
                (Key::Vxlan(vni), Object::Vxlan(vxlan)) => {
                    self.vxlans.insert(*vni, vxlan.clone());
                }
                (Key::Flood(vni, vtep), _) => {
                    self.floods.insert((*vtep, *vni));
                }
                _ => {}
            }
        }
        self.sweep_due = true;
        self.base_due = !self.base_is_sound()?;
        if self.base_due
            && let Some(vni) = self.vxlans.keys().next()
            && let Some(Object::Vxlan(vxlan)) = state.get_mut(&Key::Vxlan(*vni))
        {
            vxlan.up = false;
        }
        self.compare_ports(state)?;
        self.compare_stations(state);
        self.compare_neighbours(state);
        self.tell_directs(state);
        Ok(())
    }

    /// Whether trunk, programs, pins and host entry are as they should be.
    fn base_is_sound(&mut self) -> Result<bool, KernelError> {
        let Some(trunk) = self.sides().sound_trunk()? else { return Ok(false) };
        let uplink = self.uplink()?;
        let mut in_host = vec![(Program::ToWire, TRUNK)];
        let receiver = uplink.iter().filter(|uplink| uplink.receives);
        in_host.extend(receiver.map(|uplink| (Program::FromWire, uplink.name.as_str())));
        let here = self.programs.are_attached(&self.host_namespace, &in_host)?;
        let there = self.programs.are_attached(&self.overlay_namespace, &[(Program::ToContainer, TRUNK)])?;
        let mut host = self.maps.host()?;
        host.version = 0;
        Ok(!here.contains(&false)
            && !there.contains(&false)
            && self.programs.maps_are_pinned()
            && host == self.host_entry(trunk, uplink.as_ref()))
    }

    fn compare_ports(&self, state: &mut HostState) -> Result<(), KernelError> {
        let wanted: Vec<_> = self.ports.keys().map(|name| (Program::FromContainer, name.as_str())).collect();
        let attached = self.programs.are_attached(&self.overlay_namespace, &wanted)?;
        let attached: HashMap<&str, bool> = wanted.iter().map(|(_, name)| *name).zip(attached).collect();
        for (key, object) in state.iter_mut() {
            let (Key::Port(vni, name), Object::Port(port)) = (key, object) else { continue };
            let listed = self.ports.get(name).is_some_and(|index| {
                let entry = self.maps.ports.entries().get(&PortKey(*index));
                let counter = self.maps.slots.of(Owner::Port(*index));
                counter.is_some_and(|counter| entry == Some(&PortEntry { vni: vni.get(), counter }))
            });
            port.up &= listed && attached.get(name.as_str()) == Some(&true);
        }
        Ok(())
    }

    fn compare_stations(&self, state: &mut HostState) {
        let mut lost_peers = BTreeSet::new();
        for (key, object) in state.iter_mut() {
            let (Key::Fdb(vni, mac), Object::Fdb(fdb)) = (key, object) else { continue };
            let key = StationKey { vni: vni.get(), mac: *mac };
            let found = self.maps.stations.entries().get(&key).filter(|found| self.is_counted(**found));
            let right = match (fdb.vtep, fdb.port.as_ref().and_then(|port| self.ports.get(port))) {
                (Some(told), _) => {
                    matches!(found, Some(Station::Remote { vtep, .. }) if *vtep == told)
                        // A peer that the programs do not know is told by one of its stations.
                        && (self.is_peer(told) || !lost_peers.insert(told))
                }
                (None, Some(port)) => {
                    matches!(found, Some(Station::Local { ifindex, .. }) if ifindex == port)
                }
                (None, None) => true,
            };
            if !right {
                *fdb = half(fdb.vtep);
            }
        }
        self.tell_stations(state);
    }

    /// Whether a station's counter is its port's or peer's.
    fn is_counted(&self, station: Station) -> bool {
        let owner = match station {
            Station::Local { ifindex, .. } => Owner::Port(ifindex),
            Station::Remote { vtep, .. } => Owner::Peer(vtep),
        };
        self.maps.slots.of(owner) == Some(station.counter())
    }

    /// Stations that the kernel's FDBs do not have.
    fn tell_stations(&self, state: &mut HostState) {
        let alive: BTreeSet<u32> = self.ports.values().copied().collect();
        for (key, station) in self.maps.stations.entries() {
            let Ok(vni) = Vni::new(key.vni) else { continue };
            let vtep = match station {
                Station::Remote { vtep, .. } => Some(*vtep),
                Station::Local { ifindex, .. } if alive.contains(ifindex) => None,
                Station::Local { .. } => continue,
            };
            if self.vxlans.contains_key(&vni) {
                state.entry(Key::Fdb(vni, key.mac)).or_insert(Object::Fdb(half(vtep)));
            }
        }
    }

    /// Whether the programs know a host as a peer.
    fn is_peer(&self, vtep: IpAddr) -> bool {
        let counter = self.maps.slots.of(Owner::Peer(vtep));
        let found = self.maps.peers.entries().get(&PeerKey(vtep));
        counter.is_some_and(|counter| found == Some(&PeerEntry { counter }))
    }

    /// What is for direct networks, which the programs alone know.
    fn tell_directs(&self, state: &mut HostState) {
        for (key, entry) in self.maps.directs.entries() {
            let DirectEntry { vni, mac, prefix, sends } = *entry;
            // An entry that cannot be of a network has to go, too.
            let Some(vni) = Vni::new(vni).or_else(|_| Vni::new(1)).ok() else { continue };
            state.insert(Key::Direct(vni, key.0), Object::Direct(Direct { mac, prefix, sends }));
        }
        for (key, entry) in self.maps.link_peers.entries() {
            state.insert(Key::LinkPeer(key.0), Object::LinkPeer(entry.0));
        }
    }

    fn compare_neighbours(&self, state: &mut HostState) {
        let found = self.maps.neighbours.entries();
        for (key, object) in state.iter_mut() {
            let (Key::Neighbour(vni, address), Object::Neighbour(neighbour)) = (key, object) else {
                continue;
            };
            let entry = found.get(&NeighbourKey { vni: vni.get(), address: *address });
            if entry.is_none_or(|entry| entry.mac != neighbour.mac) {
                // One of the two is wrong: told as neither, both are put right.
                neighbour.mac = MacAddr::ZERO;
            }
        }
        for key in found.keys() {
            let Ok(vni) = Vni::new(key.vni) else { continue };
            if self.vxlans.contains_key(&vni) {
                let neighbour = Object::Neighbour(Neighbour { mac: MacAddr::ZERO });
                state.entry(Key::Neighbour(vni, key.address)).or_insert(neighbour);
            }
        }
    }
}

/// An FDB object that is never as it should be, so it is put right, or removed.
fn half(vtep: Option<IpAddr>) -> Fdb {
    Fdb { port: None, vtep: Some(vtep.unwrap_or(Ipv4Addr::UNSPECIFIED.into())) }
}
