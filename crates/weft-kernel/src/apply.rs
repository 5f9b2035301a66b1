//! Changing the kernel: devices one by one, runs of operations on entries as one pipeline.

use crate::{
    KernelError, bridge, fdb, filter, gateway,
    linux::Host,
    mdb::{self, MdbMessage},
    neighbour,
    netlink::{Message, Netlink, Request, RouteSocket},
    port, tap, vxlan,
};
use netlink_packet_route::RouteNetlinkMessage;
use std::collections::HashMap;
use weft_model::{MacAddr, Vni};
use weft_plan::{Fdb, Key, Object, Op, bridge_name, vxlan_name};

type Outcome = Result<(), KernelError>;

/// Operations in one pipeline: the requests of all of a network of 100,000 endpoints would take 100 MiB at a time.
const PIPELINE: usize = 8192;

impl Host {
    /// Does the operations in their order; one result for each.
    pub fn apply(&mut self, ops: &[Op]) -> Vec<Outcome> {
        if let Err(error) = self.keep_overlay_namespace() {
            return ops.iter().map(|_| Err(error.clone())).collect();
        }
        let mut outcomes = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let entries = rest.iter().take(PIPELINE).take_while(|op| is_entry(op.key())).count();
            if entries == 0 {
                outcomes.push(self.apply_to_device(first));
                rest = &rest[1..];
            } else {
                outcomes.extend(self.apply_entries(&rest[..entries]));
                rest = &rest[entries..];
            }
        }
        outcomes
    }

    fn apply_to_device(&mut self, op: &Op) -> Outcome {
        if matches!(op.key(), Key::Direct(..) | Key::LinkPeer(_)) {
            // Of the fast path alone.
            return Ok(());
        }
        let (key, want) = match op {
            Op::Create(key, want) | Op::Change { key, to: want, .. } => (key, want),
            Op::Remove(Key::Bridge(vni)) => return self.overlay.delete_device(&bridge_name(*vni)),
            Op::Remove(Key::Vxlan(vni)) => return self.overlay.delete_device(&vxlan_name(*vni)),
            Op::Remove(Key::Port(_, name)) => {
                tap::release(self, name)?;
                return self.overlay.delete_device(name);
            }
            Op::Remove(Key::Filter) => return filter::remove(self),
            Op::Remove(Key::Gateway) => return gateway::remove(&self.underlay_namespace),
            Op::Remove(Key::GatewayPort(name)) => return self.underlay.delete_device(name),
            Op::Remove(key) => return Err(mismatch(key)),
        };
        match (key, want) {
            (Key::Bridge(vni), Object::Bridge(want)) => bridge::ensure(self, *vni, want),
            (Key::Vxlan(vni), Object::Vxlan(want)) => vxlan::ensure(self, *vni, want),
            (Key::Port(vni, name), Object::Port(want)) => port::ensure(self, *vni, name, want),
            (Key::Filter, Object::Filter(want)) => filter::ensure(self, want),
            (Key::Gateway, Object::Gateway(want)) => gateway::ensure(self, want),
            (Key::GatewayPort(name), Object::GatewayPort(want)) => gateway::ensure_port(self, name, want),
            _ => Err(mismatch(key)),
        }
    }

    /// Does operations on entries, all requests of a kind in flight together.
    pub(crate) fn apply_entries(&mut self, ops: &[Op]) -> Vec<Outcome> {
        // Groups have messages of their own. In the order of keys they stand together.
        let is_group = |op: &Op| matches!(op.key(), Key::Group(..));
        let runs = ops.chunk_by(|a, b| is_group(a) == is_group(b));
        runs.flat_map(|run| match run {
            [first, ..] if is_group(first) => self.apply_groups(run),
            _ => self.apply_forwarding(run),
        })
        .collect()
    }

    fn apply_groups(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let mut indexes = Indexes::default();
        let (mut outcomes, mut steps) = (Vec::with_capacity(ops.len()), Vec::with_capacity(ops.len()));
        for (number, op) in ops.iter().enumerate() {
            match group_step(op, &mut indexes, &mut self.overlay) {
                Ok(step) => {
                    steps.extend(step.map(|step| (number, step)));
                    outcomes.push(Ok(()));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        take_steps(&mut self.mdb, steps, &mut outcomes);
        outcomes
    }

    /// The same for FDB and neighbour entries.
    fn apply_forwarding(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let mut indexes = Indexes::default();
        let on_bridge = self.find_bridge_entries(ops, &mut indexes);
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(ops.len());
        let mut all = Vec::with_capacity(ops.len());
        for (number, op) in ops.iter().enumerate() {
            let steps = steps_of(op, on_bridge.get(&number).copied(), &mut indexes, &mut self.overlay);
            match steps {
                Ok(steps) => {
                    all.extend(steps.into_iter().map(|step| (number, step)));
                    outcomes.push(Ok(()));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        take_steps(&mut self.overlay, all, &mut outcomes);
        outcomes
    }

    /// To remove a bridge's entry its port must be named, and an operation that removes one does not say it: so
    /// the bridges are asked. The ports by the numbers of the operations.
    fn find_bridge_entries(&mut self, ops: &[Op], indexes: &mut Indexes) -> HashMap<usize, u32> {
        let (mut numbers, mut requests) = (Vec::new(), Vec::new());
        for (number, op) in ops.iter().enumerate() {
            let (vni, mac) = match op {
                Op::Remove(Key::Fdb(vni, mac)) => (*vni, *mac),
                Op::Change { key: Key::Fdb(vni, mac), to: Object::Fdb(Fdb { port: None, .. }), .. } => {
                    (*vni, *mac)
                }
                _ => continue,
            };
            // A bridge that cannot be looked at is as good as gone here; what follows will tell the error.
            if let Ok(Some(bridge)) = indexes.of(&mut self.overlay, &bridge_name(vni)) {
                numbers.push(number);
                requests.push(fdb::find_on_bridge(bridge, mac));
            }
        }
        let answers = self.overlay.pipeline(requests);
        let found = numbers.into_iter().zip(answers);
        found.filter_map(|(number, answer)| Some((number, fdb::port_in(&answer.ok()?)?))).collect()
    }
}

/// A request that is part of an operation.
struct Step<M = RouteNetlinkMessage> {
    request: Request<M>,
    /// Success also when the object is not there.
    removes: bool,
}

fn put<M>(request: Request<M>) -> Step<M> {
    Step { request, removes: false }
}

fn remove<M>(request: Request<M>) -> Step<M> {
    Step { request, removes: true }
}

/// Sends the steps of operations, by number, and notes which operations failed.
fn take_steps<M: Message>(
    netlink: &mut RouteSocket<M>,
    steps: Vec<(usize, Step<M>)>,
    outcomes: &mut [Outcome],
) {
    let (origins, requests): (Vec<_>, Vec<_>) =
        steps.into_iter().map(|(number, step)| ((number, step.removes), step.request)).unzip();
    for ((number, removes), answer) in origins.into_iter().zip(netlink.pipeline(requests)) {
        let Err(error) = answer else { continue };
        let already_gone = removes && error.is_absent();
        if outcomes[number].is_ok() && !already_gone {
            outcomes[number] = Err(error);
        }
    }
}

/// `None`: an entry went with its device.
fn group_step(
    op: &Op,
    indexes: &mut Indexes,
    netlink: &mut Netlink,
) -> Result<Option<Step<MdbMessage>>, KernelError> {
    let Key::Group(vni, group, vtep) = op.key() else { return Err(mismatch(op.key())) };
    Ok(match op {
        Op::Remove(_) => {
            let vxlan = indexes.of(netlink, &vxlan_name(*vni))?;
            vxlan.map(|vxlan| remove(mdb::remove(vxlan, *group, *vtep)))
        }
        Op::Create(..) | Op::Change { .. } => {
            Some(put(mdb::put(indexes.vxlan(netlink, *vni)?, *group, *vtep)))
        }
    })
}

fn steps_of(
    op: &Op,
    on_bridge: Option<u32>,
    indexes: &mut Indexes,
    netlink: &mut Netlink,
) -> Result<Vec<Step>, KernelError> {
    let (key, want) = match op {
        Op::Create(key, want) | Op::Change { key, to: want, .. } => (key, want),
        Op::Remove(key) => {
            let vni = key.vni().ok_or_else(|| mismatch(key))?;
            let vxlan = indexes.of(netlink, &vxlan_name(vni))?;
            return Ok(removal(key, vxlan, on_bridge));
        }
    };
    let vni = key.vni().ok_or_else(|| mismatch(key))?;
    Ok(match (key, want) {
        (Key::Flood(_, vtep), Object::Flood) => {
            vec![put(fdb::put_on_vxlan(indexes.vxlan(netlink, vni)?, MacAddr::ZERO, *vtep))]
        }
        (Key::Neighbour(_, address), Object::Neighbour(want)) => {
            vec![put(neighbour::put(indexes.vxlan(netlink, vni)?, *address, want.mac))]
        }
        (Key::Fdb(_, mac), Object::Fdb(want)) => {
            let mut steps = Vec::with_capacity(2);
            match want.vtep {
                Some(vtep) => steps.push(put(fdb::put_on_vxlan(indexes.vxlan(netlink, vni)?, *mac, vtep))),
                None if matches!(op, Op::Change { .. }) => {
                    let vxlan = indexes.of(netlink, &vxlan_name(vni))?;
                    steps.extend(vxlan.map(|vxlan| remove(fdb::remove_from_vxlan(vxlan, *mac, None))));
                }
                None => {}
            }
            match &want.port {
                Some(port) => steps.push(put(fdb::put_on_bridge(indexes.existing(netlink, port)?, *mac))),
                None => steps.extend(on_bridge.map(|port| remove(fdb::remove_from_bridge(port, *mac)))),
            }
            steps
        }
        _ => return Err(mismatch(key)),
    })
}

/// An entry goes with its device, so without the device there is nothing to do.
fn removal(key: &Key, vxlan: Option<u32>, on_bridge: Option<u32>) -> Vec<Step> {
    let mut steps = Vec::with_capacity(2);
    match key {
        Key::Flood(_, vtep) => {
            steps.extend(vxlan.map(|vxlan| fdb::remove_from_vxlan(vxlan, MacAddr::ZERO, Some(*vtep))));
        }
        Key::Fdb(_, mac) => {
            steps.extend(vxlan.map(|vxlan| fdb::remove_from_vxlan(vxlan, *mac, None)));
            steps.extend(on_bridge.map(|port| fdb::remove_from_bridge(port, *mac)));
        }
        Key::Neighbour(_, address) => steps.extend(vxlan.map(|vxlan| neighbour::remove(vxlan, *address))),
        Key::Filter
        | Key::Bridge(_)
        | Key::Vxlan(_)
        | Key::Port(..)
        | Key::Group(..)
        | Key::Direct(..)
        | Key::LinkPeer(_)
        | Key::Gateway
        | Key::GatewayPort(_) => {}
    }
    steps.into_iter().map(remove).collect()
}

/// Interface indexes by name, asked once per pipeline.
#[derive(Default)]
struct Indexes(HashMap<String, Option<u32>>);

impl Indexes {
    fn of(&mut self, netlink: &mut Netlink, name: &str) -> Result<Option<u32>, KernelError> {
        if let Some(known) = self.0.get(name) {
            return Ok(*known);
        }
        let index = netlink.device(name)?.map(|device| device.index);
        self.0.insert(name.to_owned(), index);
        Ok(index)
    }

    fn existing(&mut self, netlink: &mut Netlink, name: &str) -> Result<u32, KernelError> {
        let absent = || KernelError::netlink(&format!("look at device {name}"), "it is not there", 0);
        self.of(netlink, name)?.ok_or_else(absent)
    }

    fn vxlan(&mut self, netlink: &mut Netlink, vni: Vni) -> Result<u32, KernelError> {
        self.existing(netlink, &vxlan_name(vni))
    }
}

/// Whether it stands on a bridge or a VXLAN device and is none.
pub(crate) fn is_entry(key: &Key) -> bool {
    matches!(key, Key::Flood(..) | Key::Fdb(..) | Key::Neighbour(..) | Key::Group(..))
}

fn mismatch(key: &Key) -> KernelError {
    KernelError::netlink(&format!("change {key}"), "its object is of another kind", 0)
}
