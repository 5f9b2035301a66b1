//! From what the kernel has to what it should have: the fewest operations, in an order that works.
//!
//! Removals come first, in reverse order of [`Key`], then everything else in its order; so nothing is made before
//! what it stands on, and a device's name is free before it is used again. What the kernel takes away along
//! with a device (see [`crate::model_kernel`]) is not removed separately, and is made again when the device is.

use crate::state::{Fdb, HostState, Key, Object, Op, Port, Vxlan, keys_of, vxlan_name};
use std::{cmp::Ordering, collections::BTreeSet};
use weft_model::Vni;

/// The operations that turn `observed` into `desired`. Empty when they are alike, which costs one walk through both.
pub fn diff(desired: &HostState, observed: &HostState) -> Vec<Op> {
    let pair = Pair { desired, observed };
    let mut keys = pair.differing();
    let devices: Vec<&Key> = keys.iter().filter(|key| !pair.stays(key)).copied().collect();
    for key in devices {
        if let Key::Bridge(vni) | Key::Vxlan(vni) | Key::Port(vni, _) = key {
            keys.extend(pair.keys_of(*vni));
        }
    }
    pair.operations(&keys)
}

/// The same as [`diff`] where `desired` and `before` are known to differ in `keys` only, at a cost that
/// depends on their number and not on the size of the states.
///
/// `before` is what the kernel is believed to hold; [`crate::model_kernel::apply_ops`] keeps such a belief up to
/// date. `keys` is what [`crate::Planner::update`] returned: with a port that comes or goes they name the FDB
/// entries on it. What goes with a bridge or a VXLAN device is found here.
pub fn diff_keys(desired: &HostState, before: &HostState, keys: &BTreeSet<Key>) -> Vec<Op> {
    let pair = Pair { desired, observed: before };
    let mut all: BTreeSet<&Key> = keys.iter().collect();
    for key in keys {
        let (Key::Bridge(vni) | Key::Vxlan(vni)) = key else { continue };
        if !pair.stays(key) {
            all.extend(pair.keys_of(*vni));
        }
    }
    pair.operations(&all)
}

/// Whether an object is as it should be. What a port's far end should be is not part of that.
pub fn is_as_desired(desired: &Object, observed: &Object) -> bool {
    match (desired, observed) {
        (Object::Port(d), Object::Port(o)) => {
            (d.mtu, d.up, d.bridged, &d.tap) == (o.mtu, o.up, o.bridged, &o.tap)
        }
        (Object::GatewayPort(d), Object::GatewayPort(o)) => {
            (d.mtu, d.up, &d.gateways, &d.sandbox) == (o.mtu, o.up, &o.gateways, &o.sandbox)
        }
        _ => desired == observed,
    }
}

/// Whether an object can only become what it should be by being made again: a VXLAN device's socket is bound
/// once.
pub(crate) fn must_be_replaced(from: &Object, to: &Object) -> bool {
    match (from, to) {
        (Object::Vxlan(from), Object::Vxlan(to)) => (from.local, from.port) != (to.local, to.port),
        _ => std::mem::discriminant(from) != std::mem::discriminant(to),
    }
}

struct Pair<'a> {
    desired: &'a HostState,
    observed: &'a HostState,
}

impl<'a> Pair<'a> {
    /// The keys whose objects are not alike in both, or in one of them only. Both are sorted: they are walked side by side.
    fn differing(&self) -> BTreeSet<&'a Key> {
        let mut differing = BTreeSet::new();
        let (mut desired, mut observed) = (self.desired.iter().peekable(), self.observed.iter().peekable());
        loop {
            let first = match (desired.peek(), observed.peek()) {
                (Some((d, _)), Some((o, _))) => d.cmp(o),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return differing,
            };
            let to = if first.is_le() { desired.next() } else { None };
            let from = if first.is_ge() { observed.next() } else { None };
            match (to, from) {
                (Some((_, to)), Some((_, from))) if is_as_desired(to, from) => {}
                (to, from) => differing.extend(to.or(from).map(|(key, _)| key)),
            }
        }
    }

    /// The keys of one network in both.
    fn keys_of(&self, vni: Vni) -> impl Iterator<Item = &'a Key> + use<'a> {
        keys_of(self.desired, vni).chain(keys_of(self.observed, vni))
    }

    fn operations(&self, keys: &BTreeSet<&Key>) -> Vec<Op> {
        let mut ops = Vec::new();
        for key in keys.iter().rev() {
            if self.has_to_be_removed(key) {
                ops.push(Op::Remove((*key).clone()));
            }
        }
        for key in keys {
            let Some(to) = self.desired.get(key) else { continue };
            match self.left_after_removals(key) {
                None => ops.push(Op::Create((*key).clone(), to.clone())),
                Some(from) if !is_as_desired(to, &from) => {
                    ops.push(Op::Change { key: (*key).clone(), from, to: to.clone() });
                }
                Some(_) => {}
            }
        }
        ops
    }

    fn has_to_be_removed(&self, key: &Key) -> bool {
        match key {
            Key::Filter
            | Key::Bridge(_)
            | Key::Vxlan(_)
            | Key::Port(..)
            | Key::LinkPeer(_)
            | Key::Gateway
            | Key::GatewayPort(_) => self.observed.contains_key(key) && !self.stays(key),
            _ => !self.desired.contains_key(key) && self.left_after_removals(key).is_some(),
        }
    }

    /// Whether a device is there, should be there, and can become what it should be.
    fn stays(&self, device: &Key) -> bool {
        match (self.desired.get(device), self.observed.get(device)) {
            (Some(desired), Some(observed)) => !must_be_replaced(observed, desired),
            _ => false,
        }
    }

    /// Whether what hangs on the bridge port named `port` is there still once devices have been removed.
    fn port_stays(&self, vni: Vni, port: &str) -> bool {
        let device = if port == vxlan_name(vni) { Key::Vxlan(vni) } else { Key::Port(vni, port.to_owned()) };
        // A device that neither state knows is somebody else's, and stays as it is.
        let foreign = !self.desired.contains_key(&device) && !self.observed.contains_key(&device);
        foreign || self.stays(&device)
    }

    /// What is left of an observed object once the devices that do not stay have taken away what hangs on them.
    fn left_after_removals(&self, key: &Key) -> Option<Object> {
        let object = self.observed.get(key)?;
        let Some(vni) = key.vni() else { return self.stays(key).then(|| object.clone()) };
        match object {
            Object::Filter(_)
            | Object::Bridge(_)
            | Object::LinkPeer(_)
            | Object::Gateway(_)
            | Object::GatewayPort(_) => self.stays(key).then(|| object.clone()),
            Object::Vxlan(vxlan) => {
                let bridged = vxlan.bridged && self.stays(&Key::Bridge(vni));
                self.stays(key).then(|| Object::Vxlan(Vxlan { bridged, ..vxlan.clone() }))
            }
            Object::Port(port) => {
                let bridged = port.bridged && self.stays(&Key::Bridge(vni));
                self.stays(key).then(|| Object::Port(Port { bridged, ..port.clone() }))
            }
            // It hangs on no device.
            Object::Direct(_) => Some(object.clone()),
            Object::Flood | Object::Neighbour(_) | Object::Group => {
                self.stays(&Key::Vxlan(vni)).then(|| object.clone())
            }
            Object::Fdb(fdb) => {
                let on_bridge = self.stays(&Key::Bridge(vni));
                let port = fdb.port.clone().filter(|port| on_bridge && self.port_stays(vni, port));
                let vtep = fdb.vtep.filter(|_| self.stays(&Key::Vxlan(vni)));
                (port.is_some() || vtep.is_some()).then_some(Object::Fdb(Fdb { port, vtep }))
            }
        }
    }
}
