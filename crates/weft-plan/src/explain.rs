//! Who has an address, since when, and why it is or is not free: `weft address explain`.

use crate::{
    describe_holder,
    ipam::{Order, choose},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};
use weft_model::{AddressClaim, ClaimKind, Network, NetworkId, Snapshot};

/// What is known of an address on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// The address.
    pub address: IpAddr,
    /// Whether an endpoint could have it now.
    pub free: bool,
    /// Why, in words.
    pub reason: String,
}

/// What is known of `ip` on every network whose subnets hold it.
pub fn explain(snapshot: &Snapshot, ip: IpAddr) -> Vec<Explanation> {
    let networks = snapshot.networks.values();
    networks.filter_map(|network| explain_on(snapshot, network, ip)).collect()
}

fn explain_on(snapshot: &Snapshot, network: &Network, ip: IpAddr) -> Option<Explanation> {
    let subnet = network.subnet_of(ip)?;
    let none = BTreeMap::new();
    let claims = snapshot.addresses.get(&network.id).unwrap_or(&none);
    let reason = match claims.get(&ip) {
        Some(claim) => Some(describe_claim(snapshot, network, ip, claim)),
        None => choose(network, subnet, claims, Some(ip), Order::LowestFirst).err().map(|e| e.to_string()),
    };
    let outside = subnet.range.is_some_and(|range| !range.contains(&ip));
    Some(Explanation {
        network: network.id.clone(),
        network_name: network.display_name().into_owned(),
        address: ip,
        free: reason.is_none(),
        reason: reason.unwrap_or_else(|| {
            let how = if outside {
                "; only who asks for it by number gets it: it is outside of --ip-range"
            } else {
                ""
            };
            format!("nobody has it{how}")
        }),
    })
}

fn describe_claim(snapshot: &Snapshot, network: &Network, ip: IpAddr, claim: &AddressClaim) -> String {
    let holder = describe_holder(snapshot, &network.id, ip);
    let mut text = match (claim.kind, &claim.endpoint) {
        (ClaimKind::Reserved, _) => format!(
            "held by {holder}: given to the next container of that host that starts while the store is away, and given up \
             to whoever asks for it by number"
        ),
        (ClaimKind::Ipam, None) => {
            format!("held by {holder}, which no endpoint uses yet; the engine gives it back")
        }
        _ => format!("held by {holder}; given back when that goes"),
    };
    if !snapshot.nodes.contains_key(&claim.node) {
        text.push_str(". That node has left the cluster: `weft gc` gives it back");
    } else if snapshot.absent.contains(&claim.node) {
        text.push_str(
            ". That node's lease has ended and it is not seen from here: nothing is sent to it. When it is off for good, `weft gc \
             --dead-node` gives it back",
        );
    } else if !snapshot.alive.contains_key(&claim.node) {
        text.push_str(
            ". That node's lease has ended, but it may live on, cut off: when it is off for good, `weft gc --dead-node` gives it \
             back",
        );
    }
    text
}
