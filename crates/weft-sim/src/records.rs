//! What must hold of the records at every single revision.

use std::collections::BTreeMap;
use weft_model::{ClaimKind, Endpoint, MacAddr, Snapshot};

/// The first thing that is wrong with the records, if anything is.
pub fn fault(snapshot: &Snapshot) -> Option<String> {
    networks(snapshot).or_else(|| endpoints(snapshot)).or_else(|| claims(snapshot))
}

/// Every network has its name and its VNI, and nothing else has one.
fn networks(snapshot: &Snapshot) -> Option<String> {
    for (id, network) in &snapshot.networks {
        if snapshot.vnis.get(&network.vni) != Some(id) {
            return Some(format!("network {} does not hold its VNI {}", id.short(), network.vni));
        }
        if let Some(name) = &network.name
            && snapshot.names.get(name) != Some(id)
        {
            return Some(format!("network {} does not hold its name {name}", id.short()));
        }
    }
    for (name, id) in &snapshot.names {
        if !snapshot.networks.contains_key(id) {
            return Some(format!("the name {name} is held by network {}, which is not there", id.short()));
        }
    }
    for (vni, id) in &snapshot.vnis {
        if !snapshot.networks.contains_key(id) {
            return Some(format!("VNI {vni} is held by network {}, which is not there", id.short()));
        }
    }
    None
}

/// Every endpoint is on a network, holds its addresses, and has a MAC address of its own.
fn endpoints(snapshot: &Snapshot) -> Option<String> {
    for (network, endpoints) in &snapshot.endpoints {
        if !snapshot.networks.contains_key(network) {
            return Some(format!("an endpoint is on network {}, which is not there", network.short()));
        }
        let mut macs: BTreeMap<MacAddr, &Endpoint> = BTreeMap::new();
        for endpoint in endpoints.values() {
            let id = endpoint.id.short();
            for ip in endpoint.addresses() {
                let claim = snapshot.addresses.get(network).and_then(|claims| claims.get(&ip));
                if !claim
                    .is_some_and(|c| c.endpoint.as_ref() == Some(&endpoint.id) && c.node == endpoint.node)
                {
                    return Some(format!("endpoint {id} does not hold its address {ip}: {claim:?}"));
                }
            }
            if let Some(other) = macs.insert(endpoint.mac, endpoint) {
                return Some(format!("endpoints {id} and {} have one MAC address", other.id.short()));
            }
        }
    }
    None
}

/// Every claim is of an endpoint that has the address, or of none.
fn claims(snapshot: &Snapshot) -> Option<String> {
    for (network, claims) in &snapshot.addresses {
        if !snapshot.networks.contains_key(network) {
            return Some(format!("an address of network {} is claimed, which is not there", network.short()));
        }
        for (ip, claim) in claims {
            let endpoint = claim.endpoint.as_ref().and_then(|id| snapshot.endpoint(network, id));
            let has = endpoint.is_some_and(|e| e.addresses().any(|a| a == *ip));
            let right = match (claim.kind, &claim.endpoint) {
                (ClaimKind::Reserved | ClaimKind::Ipam, None) => true,
                (ClaimKind::Endpoint | ClaimKind::Ipam, Some(_)) => has,
                (ClaimKind::Reserved, Some(_)) | (ClaimKind::Endpoint, None) => false,
            };
            if !right {
                return Some(format!("the claim of {ip} is of nobody who has it: {claim:?}"));
            }
        }
    }
    None
}
