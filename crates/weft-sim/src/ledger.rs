//! What the cluster has promised: every answer that a daemon gave, so that it can be held to it.

use crate::trace::Trace;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::Instant;
use weft_model::{Endpoint, EndpointId, Network, NetworkId, NodeId};

/// Where a thing is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was asked for; nobody has answered.
    Asked,
    /// It was answered for: it must be there until somebody wants it gone.
    Lives,
    /// Somebody wanted it gone, or was never told that it is there: it must be gone in the end.
    Leaving,
}

/// A container's endpoint.
#[derive(Clone, Debug)]
pub struct Container {
    /// The host that it runs on.
    pub host: usize,
    /// The node that the host was.
    pub node: NodeId,
    /// The network.
    pub network: NetworkId,
    /// Where it is in its life.
    pub stage: Stage,
    /// What was answered.
    pub endpoint: Option<Endpoint>,
    /// Since when it is at this stage.
    pub since: Instant,
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    trace: Trace,
}

/// All promises.
#[derive(Default)]
pub struct Book {
    /// Containers.
    pub containers: BTreeMap<EndpointId, Container>,
    /// Networks.
    pub networks: BTreeMap<NetworkId, (Stage, Network)>,
    /// Networks that somebody wanted gone, perhaps before their maker was answered.
    pub unwanted: BTreeSet<NetworkId>,
    /// Nodes that an operator has declared dead: their promises count for nothing.
    pub doomed: BTreeSet<NodeId>,
    /// Addresses that an engine was given and has not given back.
    pub in_hand: BTreeMap<(NetworkId, IpAddr), (usize, NodeId)>,
    /// What was promised and not kept.
    pub broken: Vec<String>,
}

impl Book {
    /// The containers that must be there.
    pub fn living(&self) -> impl Iterator<Item = (&Container, &Endpoint)> {
        let living =
            self.containers.values().filter(|c| c.stage == Stage::Lives && !self.doomed.contains(&c.node));
        living.filter_map(|c| Some((c, c.endpoint.as_ref()?)))
    }
}

impl Ledger {
    /// An empty one.
    pub fn new(trace: Trace) -> Self {
        Self { book: Arc::default(), trace }
    }

    /// All of it.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that must never be is.
    pub fn broken(&self, what: impl Into<String>) {
        let what = what.into();
        self.trace.say("CHECK", &what);
        self.book().broken.push(what);
    }

    /// A container is to be on `network`.
    pub fn asked(&self, id: &EndpointId, host: usize, node: NodeId, network: NetworkId) {
        let since = Instant::now();
        let container = Container { host, node, network, stage: Stage::Asked, endpoint: None, since };
        self.book().containers.insert(id.clone(), container);
    }

    /// A daemon has answered that it is.
    pub fn lives(&self, endpoint: &Endpoint) {
        let mut book = self.book();
        let clash = book.living().find(|(_, other)| {
            other.network == endpoint.network
                && other.id != endpoint.id
                && other.addresses().any(|ip| endpoint.addresses().any(|ours| ours == ip))
        });
        let clash = clash.map(|(container, other)| {
            format!(
                "{:?} of {} has the address of {:?} of h{}",
                endpoint.id,
                endpoint.node.short(),
                other.id,
                container.host
            )
        });
        let doomed = book.doomed.contains(&endpoint.node);
        if let Some(container) = book.containers.get_mut(&endpoint.id)
            && container.stage == Stage::Asked
        {
            container.stage = Stage::Lives;
            container.endpoint = Some(endpoint.clone());
            container.since = Instant::now();
        }
        drop(book);
        if let Some(clash) = clash.filter(|_| !doomed) {
            self.broken(format!("two containers were given one address: {clash}"));
        }
    }

    /// A daemon has answered an engine that it may use an address.
    pub fn in_hand(&self, network: &NetworkId, ip: IpAddr, host: usize, node: &NodeId) {
        let mut book = self.book();
        let had = book.in_hand.insert((network.clone(), ip), (host, node.clone()));
        let clash = had.filter(|(_, other)| !book.doomed.contains(other) && !book.doomed.contains(node));
        drop(book);
        if let Some((other, _)) = clash {
            self.broken(format!("{ip} was given to the engine of h{host} while that of h{other} has it"));
        }
    }

    /// An engine is about to give an address back.
    pub fn given_back(&self, network: &NetworkId, ip: IpAddr, host: usize) {
        let mut book = self.book();
        let key = (network.clone(), ip);
        if book.in_hand.get(&key).is_some_and(|(at, _)| *at == host) {
            book.in_hand.remove(&key);
        }
    }

    /// It is not wanted any more.
    pub fn leaving(&self, id: &EndpointId) {
        if let Some(container) = self.book().containers.get_mut(id)
            && container.stage != Stage::Leaving
        {
            (container.stage, container.since) = (Stage::Leaving, Instant::now());
        }
    }

    /// The containers of a host are no more, and what they were given is in nobody's hands.
    pub fn host_lost(&self, host: usize) {
        let mut book = self.book();
        for container in book.containers.values_mut().filter(|c| c.host == host) {
            container.stage = Stage::Leaving;
        }
        book.in_hand.retain(|_, (at, _)| *at != host);
    }

    /// A daemon has answered that a network was made.
    pub fn network_made(&self, network: &Network) {
        let mut book = self.book();
        if book.unwanted.contains(&network.id) {
            book.networks.insert(network.id.clone(), (Stage::Leaving, network.clone()));
            return;
        }
        let living = book.networks.values().filter(|(stage, _)| *stage == Stage::Lives);
        let clash = living
            .map(|(_, other)| other)
            .find(|other| other.vni == network.vni || other.name == network.name);
        let clash = clash.map(|other| format!("{network:?} and {other:?}"));
        book.networks.insert(network.id.clone(), (Stage::Lives, network.clone()));
        drop(book);
        if let Some(clash) = clash {
            self.broken(format!("two networks have one name or VNI: {clash}"));
        }
    }

    /// A network is not wanted any more.
    pub fn network_leaving(&self, id: &NetworkId) {
        let mut book = self.book();
        book.unwanted.insert(id.clone());
        if let Some((stage, _)) = book.networks.get_mut(id) {
            *stage = Stage::Leaving;
        }
    }
}
