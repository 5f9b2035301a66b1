//! What must hold: at every moment, and once it has been quiet for a while.

use crate::{cluster::Cluster, host::Host, ledger::Stage};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use weft_agent::Agent;
use weft_model::{ClaimKind, Endpoint, EndpointId, NodeId, Revision, Snapshot, Vni, schema};
use weft_plan::{
    HostState, Key, Object, RESERVE, leaks, model_kernel::as_observed, plan, port_name, vxlan_name,
};

/// Two containers whose hosts have both been well for this long reach one another.
pub const BOUND: Duration = Duration::from_secs(25);
/// A machine that has been off for this long is sent nothing by hosts that are well: its lease has to end, and it has to be missed.
pub const WITHDRAWN: Duration = Duration::from_secs(30);
/// How often it is looked whether they do.
const LOOK: Duration = Duration::from_millis(500);

/// Two containers on two hosts: who, and where.
type Pair = (EndpointId, EndpointId);

impl Cluster {
    /// Looks over and over whether containers reach one another, until the run ends.
    pub async fn keep_looking(self: Arc<Self>) {
        let mut reached: BTreeMap<Pair, bool> = BTreeMap::new();
        let mut looked = Instant::now();
        loop {
            self.note_disturbances();
            let now = self.look_at_pairs(&reached, looked);
            if let Some(fault) = self.sent_to_nobody() {
                self.ledger.broken(fault);
            }
            (reached, looked) = (now, Instant::now());
            sleep(LOOK).await;
        }
    }

    fn note_disturbances(&self) {
        for host in &self.hosts {
            if self.store.is_down() || !host.wire.is_good() || host.agent().is_none() {
                host.disturb_control();
            }
            // Whoever takes a host out of the cluster takes its containers out of their networks.
            if host.kernel.refuses() || host.is_leaving() {
                host.disturb_data();
            }
        }
    }

    fn look_at_pairs(&self, before: &BTreeMap<Pair, bool>, looked: Instant) -> BTreeMap<Pair, bool> {
        let mut now = BTreeMap::new();
        let mut faults = Vec::new();
        {
            let book = self.ledger.book();
            let living: Vec<_> = book.living().collect();
            for (a, from) in &living {
                for (b, to) in living.iter().filter(|(b, _)| b.host != a.host && b.network == a.network) {
                    let Some((_, network)) = book.networks.get(&a.network) else { continue };
                    let (Some(here), Some(there)) = (self.host(a.host), self.host(b.host)) else { continue };
                    let pair = (from.id.clone(), to.id.clone());
                    let missing = missing_link(network.vni, (here, from), (there, to));
                    let well = [here.well_since(), there.well_since(), a.since, b.since].into_iter().max();
                    let words = |why: &str| {
                        format!(
                            "{} on {} does not reach {} on {}: {why}",
                            from.id.short(),
                            here.name(),
                            to.id.short(),
                            there.name()
                        )
                    };
                    if let Some(why) = &missing {
                        if well.is_some_and(|well| well.elapsed() > BOUND) {
                            faults.push(words(&format!("{why}; nothing has been wrong for {BOUND:?}")));
                        }
                        let touched = [here.data_disturbed(), there.data_disturbed()];
                        let disturbed = touched.iter().any(|at| *at + Duration::from_secs(1) > looked);
                        if before.get(&pair) == Some(&true) && !disturbed && !self.is_outdated(here, there) {
                            faults
                                .push(words(&format!("{why}; it did, and nobody has touched either kernel")));
                        }
                    }
                    let heard = self.has_heard(here, there, to) || before.get(&pair) == Some(&true);
                    now.insert(pair, heard && missing.is_none());
                }
            }
        }
        if let Some(fault) = faults.into_iter().next() {
            self.ledger.broken(fault);
        }
        now
    }

    /// Whether a host knows another at an address that this had before, or a third one at this one's address: what is told late is
    /// heard of late.
    fn is_outdated(&self, here: &Host, there: &Host) -> bool {
        let known_at = |id: NodeId| {
            here.agent()?.read(|s| s.nodes.get(&id).and_then(|node| node.vteps.first().copied()))
        };
        there.node().and_then(known_at).is_some_and(|at| there.machine.had(at))
            || self.hosts.iter().any(|other| other.machine.had(there.machine.vtep()))
    }

    /// Whether a host knows an endpoint on another as it is. One that it has not heard of, or not at this address, may be reached by
    /// chance: at an address that it has from another; and so may one on a host that has left meanwhile and is back. Of the
    /// former's end it is about to hear.
    fn has_heard(&self, here: &Host, there: &Host, to: &Endpoint) -> bool {
        let (Some(agent), Some(node)) = (here.agent(), there.node()) else { return false };
        let start = |s: &Snapshot| s.nodes.get(&node).map(|node| (node.epoch, node.started));
        let known = agent.endpoint(&to.network, &to.id);
        known.is_some_and(|known| known.addresses().eq(to.addresses()))
            && agent.read(start) == self.store.look(start)
    }

    /// A host that sends frames to a machine that has been off for long.
    fn sent_to_nobody(&self) -> Option<String> {
        let off = self
            .hosts
            .iter()
            .filter(|there| there.machine.off_since().is_some_and(|since| since.elapsed() > WITHDRAWN));
        let pairs = off.flat_map(|there| self.hosts.iter().map(move |here| (here, there)));
        let well =
            |here: &Host| here.machine.off_since().is_none() && here.well_since().elapsed() > WITHDRAWN;
        pairs.filter(|(here, _)| well(here)).find_map(|(here, there)| {
            let vtep = there.machine.vtep();
            here.kernel.look(|state| {
                let sent =
                    state.iter().find(|(_, object)| matches!(object, Object::Fdb(f) if f.vtep == Some(vtep)));
                sent.map(|(key, _)| format!("{} has {key} to {}, which is off", here.name(), there.name()))
            })
        })
    }

    /// The first thing that is not as it should be once it is quiet, if anything is.
    pub fn unsettled(&self) -> Option<String> {
        let stored = self.store.snapshot();
        for host in &self.hosts {
            let name = host.name();
            let Some(agent) = host.agent() else { return Some(format!("{name} does not run")) };
            let problems: Vec<_> =
                agent.status().problems.into_iter().filter(|p| !p.contains("has refused")).collect();
            if !problems.is_empty() {
                return Some(format!("{name}: {}", problems.join("; ")));
            }
            if !agent.read(|s| *s == known_to(&agent, &stored, s.revision)) {
                let known = agent.read(Snapshot::to_records);
                let should = agent.read(|s| known_to(&agent, &stored, s.revision).to_records());
                let other = known
                    .iter()
                    .find(|r| !should.contains(r))
                    .or_else(|| should.iter().find(|r| !known.contains(r)));
                let key = other.map_or_else(|| "another record", |(key, _)| key.as_str());
                return Some(format!("{name} does not know what the store knows: {key}"));
            }
            let wanted = plan(&stored, agent.node());
            let kernel = host.kernel.state();
            if let Some(key) = difference(&wanted, &kernel) {
                return Some(format!("the kernel of {name} is not as planned: {key}"));
            }
            let vtep = stored.nodes.get(agent.node()).and_then(|node| node.vteps.first().copied());
            if vtep != Some(host.machine.vtep()) {
                return Some(format!("{name} is known at {vtep:?}"));
            }
            if !stored.alive.contains_key(agent.node()) {
                return Some(format!("{name} has no lease"));
            }
            let snooped = host.kernel.snooped();
            for (id, network) in &stored.networks {
                let told = stored.groups.get(id).and_then(|all| all.get(agent.node()));
                if told.map(|told| &told.groups) != snooped.get(&network.vni).map(|known| &known.groups) {
                    return Some(format!("{name} tells other groups of network {} than it has", id.short()));
                }
            }
        }
        if let Some(leak) = leaks(&stored).first() {
            return Some(format!("{} is left: {}", leak.key, leak.reason));
        }
        if let Some((network, _)) = stored.wanted.iter().find(|(_, all)| !all.is_empty()) {
            return Some(format!("a request for an address of network {} is left", network.short()));
        }
        for prefix in [schema::REMOVING, schema::POOLS] {
            if let Some(key) = self.store.keys(prefix).first() {
                return Some(format!("{key} is left"));
            }
        }
        self.unowned()
    }

    /// A record that nobody was promised and nobody gives back.
    fn unowned(&self) -> Option<String> {
        let stored = self.store.snapshot();
        let book = self.ledger.book();
        for endpoint in stored.all_endpoints() {
            let wanted = book.containers.get(&endpoint.id).is_some_and(|c| c.stage == Stage::Lives);
            if !wanted {
                return Some(format!("endpoint {} is of no container", endpoint.id.short()));
            }
        }
        let mut held: BTreeMap<(&NodeId, String), usize> = BTreeMap::new();
        for (network, claims) in &stored.addresses {
            let subnets = stored.networks.get(network).map(|n| n.subnets.as_slice()).unwrap_or_default();
            for (ip, claim) in claims {
                if claim.kind == ClaimKind::Ipam && claim.endpoint.is_none() {
                    return Some(format!("{ip} was given to an engine that has no container with it"));
                }
                if claim.kind == ClaimKind::Reserved {
                    let subnet = subnets.iter().find(|s| s.net.contains(ip)).map(|s| s.net.to_string());
                    *held.entry((&claim.node, format!("{network}{subnet:?}"))).or_default() += 1;
                }
            }
        }
        let much = held.into_iter().find(|(_, count)| *count > RESERVE);
        much.map(|((node, _), count)| format!("{count} addresses are held ahead by node {}", node.short()))
    }

    /// What was promised and is not so, now that everything has settled.
    pub fn unkept(&self) -> Option<String> {
        let stored = self.store.snapshot();
        let book = self.ledger.book();
        for (container, endpoint) in book.living() {
            let network = &container.network;
            if !stored.networks.contains_key(network) {
                let removed = book.networks.get(network).is_none_or(|(stage, _)| *stage == Stage::Leaving);
                if removed {
                    continue;
                }
            }
            let found = stored.endpoint(network, &endpoint.id);
            match found {
                None => {
                    return Some(format!("endpoint {} of h{} is lost", endpoint.id.short(), container.host));
                }
                Some(found) if found.addresses().ne(endpoint.addresses()) => {
                    return Some(format!(
                        "endpoint {} has other addresses than it was told",
                        endpoint.id.short()
                    ));
                }
                Some(_) => {}
            }
        }
        for (id, (stage, network)) in &book.networks {
            let same =
                stored.networks.get(id).is_some_and(|n| (n.vni, &n.name) == (network.vni, &network.name));
            if *stage == Stage::Lives && !same {
                return Some(format!("network {} is lost", network.display_name()));
            }
        }
        None
    }

    fn host(&self, number: usize) -> Option<&Host> {
        self.hosts.iter().find(|host| host.number == number).map(Arc::as_ref)
    }
}

fn difference(wanted: &HostState, kernel: &HostState) -> Option<String> {
    let wanted: HostState = wanted.iter().map(|(key, object)| (key.clone(), as_observed(object))).collect();
    let keys = wanted.keys().chain(kernel.keys());
    let key = keys.into_iter().find(|key| wanted.get(key) != kernel.get(key))?;
    Some(format!("{key} should be {:?} and is {:?}", wanted.get(key), kernel.get(key)))
}

/// What a frame from one container to the other would lack.
fn missing_link(
    vni: Vni,
    (here, from): (&Host, &Endpoint),
    (there, to): (&Host, &Endpoint),
) -> Option<String> {
    let (our_vtep, their_vtep) = (here.machine.vtep(), there.machine.vtep());
    let sent = here.kernel.look(|state| {
        local(state, vni, our_vtep, from).or_else(|| {
            let fdb = state.get(&Key::Fdb(vni, to.mac));
            let to_there = matches!(fdb, Some(Object::Fdb(f))
                if f.vtep == Some(their_vtep) && f.port.as_deref() == Some(&vxlan_name(vni)));
            if !to_there {
                return Some(format!("the FDB entry is {fdb:?}, the VTEP {their_vtep}"));
            }
            to.addresses().find_map(|ip| match state.get(&Key::Neighbour(vni, ip)) {
                Some(Object::Neighbour(neighbour)) if neighbour.mac == to.mac => None,
                other => Some(format!("the neighbour entry of {ip} is {other:?}")),
            })
        })
    });
    sent.or_else(|| {
        there.kernel.look(|state| local(state, vni, their_vtep, to)).map(|why| format!("there, {why}"))
    })
}

/// What an endpoint lacks on its own host.
fn local(state: &HostState, vni: Vni, vtep: std::net::IpAddr, endpoint: &Endpoint) -> Option<String> {
    let port = port_name(&endpoint.id);
    let bridge = matches!(state.get(&Key::Bridge(vni)), Some(Object::Bridge(b)) if b.up);
    let vxlan =
        matches!(state.get(&Key::Vxlan(vni)), Some(Object::Vxlan(v)) if v.up && v.bridged && v.local == vtep);
    let pair = matches!(state.get(&Key::Port(vni, port.clone())), Some(Object::Port(p)) if p.up && p.bridged);
    let fdb = matches!(state.get(&Key::Fdb(vni, endpoint.mac)), Some(Object::Fdb(f)) if f.port.as_ref() == Some(&port));
    let lacking = [
        (bridge, "the bridge"),
        (vxlan, "the VXLAN device"),
        (pair, "the port"),
        (fdb, "the port's FDB entry"),
    ];
    lacking.into_iter().find(|(there, _)| !there).map(|(_, what)| format!("{what} is not as it should be"))
}

/// What a host has to know of these records: the members of the networks that it follows, and all else.
fn known_to(agent: &Agent, stored: &Snapshot, revision: Revision) -> Snapshot {
    let mut known = Snapshot { revision, ..stored.clone() };
    known.keep_networks(|network| agent.follows(network));
    known
}
