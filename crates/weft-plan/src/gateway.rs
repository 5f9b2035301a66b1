//! The gateway of this host and its ports: what the sandboxes here that weft leads out need together.
//!
//! Planned as a whole from the endpoints of this node that carry a way out ([`Outside`]): there is one set of rules, for
//! the subnets and published ports of all of them. Of two endpoints that carry the same way out (records that
//! contradict each other) the one whose rank is greater counts.

use crate::{
    plan::rank,
    state::{FarEndSandbox, Gateway, GatewayPort, Key, Object, PortFarEnd, Published, gateway_port_name},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{Endpoint, EndpointId, Mtu, Outside, Sandbox, gateway_in};

/// The gateway and its ports for these endpoints of this node; nothing where none has a way out. `mtu` is the wire's.
pub(crate) fn gateway<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, mtu: Mtu) -> BTreeMap<Key, Object> {
    let mut outsides: BTreeMap<&EndpointId, (&Endpoint, &Outside, &Sandbox)> = BTreeMap::new();
    for endpoint in endpoints {
        let (Some(outside), Some(sandbox)) = (&endpoint.outside, &endpoint.sandbox) else { continue };
        let greater = outsides
            .get(&outside.id)
            .is_none_or(|(other, ..)| rank(&other.id, other) < rank(&endpoint.id, endpoint));
        if greater {
            outsides.insert(&outside.id, (endpoint, outside, sandbox));
        }
    }
    let mut state = BTreeMap::new();
    let mut gateway = Gateway { subnets: BTreeSet::new(), published: BTreeSet::new(), sound: true };
    for (_, outside, sandbox) in outsides.into_values() {
        gateway.subnets.extend(outside.addresses().map(|net| net.trunc()));
        gateway.published.extend(published(outside));
        let key = Key::GatewayPort(gateway_port_name(&outside.id));
        state.insert(key, Object::GatewayPort(Box::new(port(outside, sandbox, mtu))));
    }
    if !state.is_empty() {
        state.insert(Key::Gateway, Object::Gateway(Box::new(gateway)));
    }
    state
}

/// A port at no certain address of the host leads to the sandbox's address of either family.
fn published(outside: &Outside) -> impl Iterator<Item = Published> + use<'_> {
    outside.ports.iter().flat_map(|port| {
        let same_family = move |to: &IpAddr| port.host_ip.is_none_or(|ip| ip.is_ipv4() == to.is_ipv4());
        let to = outside.addresses().map(|net| net.addr()).filter(same_family);
        to.map(|to| Published { port: port.clone(), to })
    })
}

fn port(outside: &Outside, sandbox: &Sandbox, mtu: Mtu) -> GatewayPort {
    let gateways: BTreeSet<IpAddr> = outside.addresses().map(gateway_in).collect();
    let sandbox = FarEndSandbox {
        inode: sandbox.inode,
        path: sandbox.path.clone(),
        interface: outside.interface.clone(),
        addresses: outside.addresses().collect(),
        gateways: gateways.iter().copied().collect(),
    };
    let far_end = PortFarEnd {
        name: gateway_port_name(&outside.id),
        mac: outside.mac(),
        sandbox: Some(sandbox),
        tap_owner: None,
    };
    let sandbox = outside.addresses().map(|net| net.addr()).collect();
    GatewayPort { mtu, up: true, gateways, sandbox, far_end: Some(Box::new(far_end)) }
}
