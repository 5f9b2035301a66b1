//! The fast path of one host: programs, maps and trunk, changed along with the kernel's own tables.
//!
//! An object of the plan has its part here: a port its entry and its program, an FDB object its station, a flood object
//! its peer, a neighbour object its neighbour, the VXLAN devices together the host entry, the trunk and the program
//! at the uplink. What is for direct networks is here alone. The order of changes keeps frames safe: the trunk and the host are there before the first entry
//! that needs them, and go after the last. Where they cannot be had, no port is listed, so every frame takes
//! the kernel's path.

use super::{
    counters::{Counters, Owner},
    maps::{
        DirectEntry, DirectKey, HostEntry, LinkPeerEntry, LinkPeerKey, Maps, NeighbourEntry, NeighbourKey,
        PortEntry, PortKey, Station, StationKey,
    },
    pins::Pins,
    programs::{Program, Programs},
    trunk::{Sides, TRUNK, Trunk},
    uplink::Uplink,
};
use crate::{KernelError, NAMED_NAMESPACES, Namespace, netlink::Netlink};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::Path,
};
use weft_model::{MacAddr, Vni};
use weft_plan::{Direct, Fdb, Key, Object, Op, Vxlan};

type Outcome = Result<(), KernelError>;

/// See the module.
pub(super) struct Plane {
    pub(super) overlay_namespace: Namespace,
    pub(super) overlay: Netlink,
    pub(super) host_namespace: Namespace,
    pub(super) host: Netlink,
    pub(super) programs: Programs,
    pub(super) maps: Maps,
    /// The interface indexes of the near ends that were seen or made, by name.
    pub(super) ports: BTreeMap<String, u32>,
    /// The VXLAN devices that were seen or made.
    pub(super) vxlans: BTreeMap<Vni, Vxlan>,
    /// The floods that were seen or made.
    pub(super) floods: BTreeSet<(IpAddr, Vni)>,
    /// Something may hang on nothing: see [`Plane::sweep`].
    pub(super) sweep_due: bool,
    /// The trunk, the program at the uplink or the host entry is not as it should be.
    pub(super) base_due: bool,
}

impl Plane {
    /// Loads the programs, or takes over those that are there; makes the trunk. The calling thread's namespace is the
    /// host's, the overlay namespace is there.
    pub fn open(overlay_netns: &str) -> Result<Self, KernelError> {
        let host_namespace = Namespace::current()?;
        let overlay_namespace = Namespace::open(Path::new(NAMED_NAMESPACES).join(overlay_netns))?;
        let mut overlay = Netlink::open(&overlay_namespace)?;
        let mut host = Netlink::open(&host_namespace)?;
        let pins = Pins::of(overlay_netns);
        let mut sides = Sides { overlay: &mut overlay, host: &mut host, host_namespace: &host_namespace };
        // Without a trunk the namespace is a new one, and what is pinned is about devices of an earlier life.
        if sides.sound_trunk()?.is_none() {
            pins.remove_all()?;
            sides.ensure_trunk()?;
        }
        let (programs, mut maps) = Programs::load(&pins).or_else(|error| {
            // Maps of another layout under this one's name: nothing of them can be used.
            tracing::warn!(%error, "what is pinned cannot be adopted; beginning anew");
            pins.remove_all()?;
            Programs::load(&pins)
        })?;
        maps.refresh()?;
        Ok(Self {
            overlay_namespace,
            overlay,
            host_namespace,
            host,
            programs,
            maps,
            ports: BTreeMap::new(),
            vxlans: BTreeMap::new(),
            floods: BTreeSet::new(),
            sweep_due: true,
            base_due: true,
        })
    }

    /// What has to be gone before the kernel's own tables lose it.
    pub fn before(&mut self, ops: &[Op]) -> Outcome {
        for op in ops {
            match op {
                Op::Remove(key) => self.remove(key)?,
                Op::Change { key, .. } => self.sweep_due |= others_hang_on(key),
                Op::Create(..) => {}
            }
        }
        self.maps.publish()
    }

    /// What follows the kernel's own tables, where those could be changed.
    pub fn after(&mut self, ops: &[Op], outcomes: &mut [Outcome]) {
        for (op, outcome) in ops.iter().zip(outcomes.iter()) {
            let (Op::Create(key, want) | Op::Change { key, to: want, .. }) = op else { continue };
            if let (Key::Vxlan(vni), Object::Vxlan(vxlan), Ok(())) = (key, want, outcome) {
                self.vxlans.insert(*vni, vxlan.clone());
                self.base_due = true;
            }
        }
        let base = if self.base_due { self.settle_base() } else { Ok(()) };
        for (op, outcome) in ops.iter().zip(outcomes.iter_mut()) {
            let (Op::Create(key, want) | Op::Change { key, to: want, .. }) = op else { continue };
            if outcome.is_ok() {
                *outcome = base.clone().and_then(|()| self.put(key, want));
            }
        }
        let swept = self.sweep().and_then(|()| self.maps.publish());
        if let Err(error) = base.and(swept) {
            tracing::warn!(%error, "the fast path is not as it should be; the next audit tries again");
        }
    }

    fn remove(&mut self, key: &Key) -> Outcome {
        if let Key::LinkPeer(mac) = key {
            return self.maps.link_peers.remove(LinkPeerKey(*mac));
        }
        let Some(vni) = key.vni() else { return Ok(()) };
        self.sweep_due |= others_hang_on(key);
        match key {
            // What hangs on it goes with it; a bridge takes the ports' stations too.
            Key::Bridge(_) => self.maps.stations.remove_where(|key, _| key.vni == vni.get()),
            Key::Vxlan(_) => {
                self.base_due = true;
                self.vxlans.remove(&vni);
                self.floods.retain(|(_, of)| *of != vni);
                let remote = |key: &StationKey, to: &Station| {
                    key.vni == vni.get() && matches!(to, Station::Remote { .. })
                };
                self.maps.stations.remove_where(remote)?;
                self.maps.neighbours.remove_where(|key, _| key.vni == vni.get())
            }
            Key::Port(_, name) => {
                self.programs.detach(Program::FromContainer, name)?;
                match self.ports.remove(name) {
                    Some(index) => self.remove_port(vni, index),
                    None => Ok(()),
                }
            }
            Key::Flood(_, vtep) => {
                self.floods.remove(&(*vtep, vni));
                Ok(())
            }
            Key::Fdb(_, mac) => self.maps.stations.remove(StationKey { vni: vni.get(), mac: *mac }),
            Key::Neighbour(_, address) => {
                self.maps.neighbours.remove(NeighbourKey { vni: vni.get(), address: *address })
            }
            Key::Direct(_, address) => {
                let key = DirectKey(*address);
                let of = self.maps.directs.entries().get(&key).and_then(|entry| Vni::new(entry.vni).ok());
                // It may be another network's by now.
                if of.is_some_and(|of| of != vni) { Ok(()) } else { self.maps.directs.remove(key) }
            }
            // Multicast is the kernel's.
            Key::Filter | Key::Group(..) | Key::LinkPeer(_) | Key::Gateway | Key::GatewayPort(_) => Ok(()),
        }
    }

    /// The entries of a port that is gone or about to go.
    fn remove_port(&mut self, vni: Vni, index: u32) -> Outcome {
        self.maps.ports.remove(PortKey(index))?;
        let behind = |key: &StationKey, to: &Station| {
            key.vni == vni.get() && matches!(to, Station::Local { ifindex, .. } if *ifindex == index)
        };
        self.maps.stations.remove_where(behind)
    }

    fn put(&mut self, key: &Key, want: &Object) -> Outcome {
        if let (Key::LinkPeer(mac), Object::LinkPeer(vtep)) = (key, want) {
            return self.maps.link_peers.put(LinkPeerKey(*mac), LinkPeerEntry(*vtep));
        }
        let Some(vni) = key.vni() else { return Ok(()) };
        match (key, want) {
            (Key::Port(_, name), _) => self.put_port(vni, name),
            (Key::Flood(_, vtep), _) => {
                self.floods.insert((*vtep, vni));
                self.maps.put_peer(*vtep).map(drop)
            }
            (Key::Fdb(_, mac), Object::Fdb(fdb)) => self.put_station(vni, *mac, fdb),
            (Key::Neighbour(_, address), Object::Neighbour(want)) => {
                let key = NeighbourKey { vni: vni.get(), address: *address };
                self.maps.neighbours.put(key, NeighbourEntry { mac: want.mac })
            }
            (Key::Direct(_, address), Object::Direct(want)) => {
                let Direct { mac, prefix, sends } = *want;
                self.maps.directs.put(DirectKey(*address), DirectEntry { vni: vni.get(), mac, prefix, sends })
            }
            _ => Ok(()),
        }
    }

    fn put_port(&mut self, vni: Vni, name: &str) -> Outcome {
        let index = self.overlay.existing_device(name)?.index;
        if let Some(earlier) = self.ports.insert(name.to_owned(), index).filter(|earlier| *earlier != index) {
            self.remove_port(vni, earlier)?;
        }
        let counter = self.maps.slot(Owner::Port(index))?;
        self.maps.ports.put(PortKey(index), PortEntry { vni: vni.get(), counter })?;
        self.programs.attach(&self.overlay_namespace, Program::FromContainer, name)
    }

    fn put_station(&mut self, vni: Vni, mac: MacAddr, fdb: &Fdb) -> Outcome {
        let key = StationKey { vni: vni.get(), mac };
        let station = match (fdb.vtep, &fdb.port) {
            (Some(vtep), _) => Station::Remote { vtep, counter: self.maps.put_peer(vtep)? },
            (None, Some(port)) => {
                let ifindex = match self.ports.get(port) {
                    Some(index) => *index,
                    None => self.overlay.existing_device(port)?.index,
                };
                Station::Local { ifindex, counter: self.maps.slot(Owner::Port(ifindex))? }
            }
            (None, None) => return self.maps.stations.remove(key),
        };
        self.maps.stations.put(key, station)
    }

    /// The trunk, the program at the uplink and the host entry, as the VXLAN devices demand. When they cannot be had,
    /// all frames take the kernel's path.
    fn settle_base(&mut self) -> Outcome {
        let outcome = self.try_settle_base();
        self.base_due = outcome.is_err();
        if outcome.is_err() {
            self.maps.ports.remove_where(|_, _| true)?;
            self.maps.publish()?;
            self.maps.set_host(HostEntry::NONE)?;
        }
        outcome
    }

    fn try_settle_base(&mut self) -> Outcome {
        self.programs.pin_maps()?;
        let trunk = self.sides().ensure_trunk()?;
        self.programs.attach(&self.host_namespace, Program::ToWire, TRUNK)?;
        self.programs.attach(&self.overlay_namespace, Program::ToContainer, TRUNK)?;
        let uplink = self.uplink()?;
        let receiver = uplink.iter().find(|uplink| uplink.receives).map(|uplink| uplink.name.as_str());
        self.programs.detach_others(Program::FromWire, receiver.as_slice())?;
        if let Some(device) = receiver {
            self.programs.attach(&self.host_namespace, Program::FromWire, device)?;
        }
        let host = self.host_entry(trunk, uplink.as_ref());
        self.maps.set_host(host)
    }

    pub(super) fn sides(&mut self) -> Sides<'_> {
        Sides { overlay: &mut self.overlay, host: &mut self.host, host_namespace: &self.host_namespace }
    }

    /// The device that has the VTEP address.
    pub(super) fn uplink(&mut self) -> Result<Option<Uplink>, KernelError> {
        match self.vxlans.values().next() {
            Some(vxlan) => Uplink::of(&mut self.host, vxlan.local),
            None => Ok(None),
        }
    }

    /// What the host entry should be, but for its version. All VXLAN devices have one VTEP and one port.
    pub(super) fn host_entry(&self, trunk: Trunk, uplink: Option<&Uplink>) -> HostEntry {
        let Some(vxlan) = self.vxlans.values().next() else { return HostEntry::NONE };
        let largest = self.vxlans.values().map(|vxlan| vxlan.mtu.get()).max().unwrap_or(0);
        HostEntry {
            vtep: vxlan.local,
            trunk_overlay: trunk.overlay,
            trunk_host: trunk.host,
            udp_port: vxlan.port,
            // A network may have been given an MTU that its tunnel does not carry.
            mtu: uplink.map_or(largest, |uplink| largest.min(uplink.inner_mtu)),
            version: 0,
        }
    }

    /// Removes what hangs on nothing, as the kernel does with its own tables: entries of ports that are gone and of
    /// networks without a VXLAN device, peers that nothing is sent to, counters of neither. Peers follow from floods and
    /// stations: those that are missing are made.
    fn sweep(&mut self) -> Outcome {
        if !std::mem::take(&mut self.sweep_due) {
            return Ok(());
        }
        let alive: BTreeSet<u32> = self.ports.values().copied().collect();
        let networks: BTreeSet<u32> = self.vxlans.keys().map(|vni| vni.get()).collect();
        let maps = &mut self.maps;
        maps.ports.remove_where(|key, _| !alive.contains(&key.0))?;
        maps.neighbours.remove_where(|key, _| !networks.contains(&key.vni))?;
        maps.stations.remove_where(|key, to| match to {
            Station::Local { ifindex, .. } => !alive.contains(ifindex),
            Station::Remote { .. } => !networks.contains(&key.vni),
        })?;
        let sent_to = maps.stations.entries().values().filter_map(|to| match to {
            Station::Remote { vtep, .. } => Some(*vtep),
            Station::Local { .. } => None,
        });
        let needed: BTreeSet<IpAddr> = sent_to.chain(self.floods.iter().map(|(vtep, _)| *vtep)).collect();
        maps.peers.remove_where(|key, _| !needed.contains(&key.0))?;
        needed.iter().try_for_each(|vtep| maps.put_peer(*vtep).map(drop))?;
        maps.slots.retain(|owner| match owner {
            Owner::Port(index) => alive.contains(&index),
            Owner::Peer(vtep) => needed.contains(&vtep),
        });
        let names: Vec<&str> = self.ports.keys().map(String::as_str).collect();
        self.programs.detach_others(Program::FromContainer, &names)
    }

    /// What was counted.
    pub fn count(&self) -> Result<Counters, KernelError> {
        let names: HashMap<u32, String> =
            self.ports.iter().map(|(name, index)| (*index, name.clone())).collect();
        self.maps.count(&names)
    }
}

/// Whether something else in the maps may be there for the sake of an object, so that a look through all of them is due when it
/// goes. Not for what comes and goes with every endpoint elsewhere: of that there may be 100,000, and a host that is sent to is
/// a peer as long as it is flooded to.
fn others_hang_on(key: &Key) -> bool {
    matches!(key, Key::Bridge(_) | Key::Vxlan(_) | Key::Port(..) | Key::Flood(..))
}
