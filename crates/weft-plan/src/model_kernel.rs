//! What operations do to a kernel, as a model of it: for tests and simulations, and for a daemon that wants to know
//! what the kernel should look like after what it has just done.
//!
//! Modelled is what Linux takes away by itself: a VXLAN device takes its flood, FDB, neighbour and
//! group entries with it; a port the bridge's FDB entries on it; a bridge all of its FDB entries, and its ports are ports no
//! more. Refused is what Linux refuses: entries on devices that are not there.

use crate::{
    diff::must_be_replaced,
    state::{Fdb, HostState, Key, Object, Op, keys_of, vxlan_name},
};
use weft_model::Vni;

/// An operation that a kernel would not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} cannot be made or changed: {reason}")]
pub struct OpRefused {
    /// What the operation was about.
    pub key: Key,
    /// Why not.
    pub reason: &'static str,
}

/// Does all operations in order; stops at the first that is refused.
pub fn apply_ops(kernel: &mut HostState, ops: &[Op]) -> Result<(), OpRefused> {
    ops.iter().try_for_each(|op| apply_op(kernel, op))
}

/// Does one operation. All are idempotent: what is there is replaced, what is gone need not be removed.
pub fn apply_op(kernel: &mut HostState, op: &Op) -> Result<(), OpRefused> {
    match op {
        Op::Create(key, object) | Op::Change { key, to: object, .. } => set(kernel, key, object),
        Op::Remove(key) => {
            remove(kernel, key);
            Ok(())
        }
    }
}

fn set(kernel: &mut HostState, key: &Key, object: &Object) -> Result<(), OpRefused> {
    // What is the host's stands on nothing.
    let Some(vni) = key.vni() else {
        kernel.insert(key.clone(), as_observed(object));
        return Ok(());
    };
    let refuse = |reason| Err(OpRefused { key: key.clone(), reason });
    let before = kernel.get(key);
    let was_bridged = before.is_some_and(is_bridged);
    match object {
        Object::Filter(_)
        | Object::Bridge(_)
        | Object::Direct(_)
        | Object::LinkPeer(_)
        | Object::Gateway(_)
        | Object::GatewayPort(_) => {}
        Object::Vxlan(_) | Object::Port(_) => {
            if is_bridged(object) && !kernel.contains_key(&Key::Bridge(vni)) {
                return refuse("its bridge is not there");
            }
            if before.is_some_and(|before| must_be_replaced(before, object)) {
                return refuse("the address and port of its socket cannot be changed");
            }
        }
        Object::Flood | Object::Neighbour(_) | Object::Group => {
            if !kernel.contains_key(&Key::Vxlan(vni)) {
                return refuse("its VXLAN device is not there");
            }
        }
        Object::Fdb(fdb) => {
            if fdb.vtep.is_some() && !kernel.contains_key(&Key::Vxlan(vni)) {
                return refuse("its VXLAN device is not there");
            }
            if let Some(port) = &fdb.port
                && !kernel.get(&port_key(vni, port)).is_some_and(is_bridged)
            {
                return refuse("its port is not a port of the bridge");
            }
        }
    }
    kernel.insert(key.clone(), as_observed(object));
    if was_bridged && !is_bridged(object) {
        lose_entries(kernel, vni, |fdb| on_port(fdb, vni, key).then_some(Half::Bridge));
    }
    if let Object::Vxlan(vxlan) = object
        && !vxlan.up
    {
        // Linux flushes all neighbours of a device that goes down, permanent ones too.
        lose_objects(kernel, vni, |key| matches!(key, Key::Neighbour(..)));
    }
    Ok(())
}

fn remove(kernel: &mut HostState, key: &Key) {
    if kernel.remove(key).is_none() {
        return;
    }
    let Some(vni) = key.vni() else { return };
    match key {
        Key::Bridge(_) => {
            lose_entries(kernel, vni, |_| Some(Half::Bridge));
            let keys: Vec<Key> = keys_of(kernel, vni)
                .filter(|k| matches!(k, Key::Vxlan(_) | Key::Port(..)))
                .cloned()
                .collect();
            for key in keys {
                match kernel.get_mut(&key) {
                    Some(Object::Vxlan(vxlan)) => vxlan.bridged = false,
                    Some(Object::Port(port)) => port.bridged = false,
                    _ => {}
                }
            }
        }
        Key::Vxlan(_) => {
            lose_entries(kernel, vni, |fdb| on_port(fdb, vni, key).then_some(Half::Bridge));
            lose_entries(kernel, vni, |_| Some(Half::Vxlan));
            lose_objects(kernel, vni, |key| {
                matches!(key, Key::Flood(..) | Key::Neighbour(..) | Key::Group(..))
            });
        }
        Key::Port(..) => {
            lose_entries(kernel, vni, |fdb| on_port(fdb, vni, key).then_some(Half::Bridge));
        }
        Key::Filter
        | Key::Flood(..)
        | Key::Fdb(..)
        | Key::Neighbour(..)
        | Key::Group(..)
        | Key::Direct(..)
        | Key::LinkPeer(_)
        | Key::Gateway
        | Key::GatewayPort(_) => {}
    }
}

/// An object as it would be seen once it was made: the kernel does not tell what a port's far end should be.
pub fn as_observed(object: &Object) -> Object {
    let mut object = object.clone();
    match &mut object {
        Object::Port(port) => port.far_end = None,
        Object::GatewayPort(port) => port.far_end = None,
        _ => {}
    }
    object
}

/// Which of the two entries of an [`Fdb`].
enum Half {
    Bridge,
    Vxlan,
}

fn lose_objects(kernel: &mut HostState, vni: Vni, lost: impl Fn(&Key) -> bool) {
    let keys: Vec<Key> = keys_of(kernel, vni).filter(|key| lost(key)).cloned().collect();
    for key in keys {
        kernel.remove(&key);
    }
}

fn lose_entries(kernel: &mut HostState, vni: Vni, lost: impl Fn(&Fdb) -> Option<Half>) {
    let keys: Vec<Key> = keys_of(kernel, vni).filter(|k| matches!(k, Key::Fdb(..))).cloned().collect();
    for key in keys {
        let Some(Object::Fdb(fdb)) = kernel.get_mut(&key) else { continue };
        match lost(fdb) {
            Some(Half::Bridge) => fdb.port = None,
            Some(Half::Vxlan) => fdb.vtep = None,
            None => {}
        }
        if *fdb == (Fdb { port: None, vtep: None }) {
            kernel.remove(&key);
        }
    }
}

fn on_port(fdb: &Fdb, vni: Vni, device: &Key) -> bool {
    fdb.port.as_ref().is_some_and(|port| port_key(vni, port) == *device)
}

fn port_key(vni: Vni, device: &str) -> Key {
    if device == vxlan_name(vni) { Key::Vxlan(vni) } else { Key::Port(vni, device.to_owned()) }
}

fn is_bridged(object: &Object) -> bool {
    match object {
        Object::Vxlan(vxlan) => vxlan.bridged,
        Object::Port(port) => port.bridged,
        _ => false,
    }
}
