//! What is proposed, beside what the cluster has: to be made, there already, or in conflict.

use super::Proposal;
use weft_agent::api::NetworkSpec;
use weft_model::{Network, Subnet, VniRange};

/// What is to become of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is made, as this.
    Make(Proposal),
    /// The cluster has it.
    There,
    /// The cluster has another one of its name: in what they differ.
    Other(String),
}

/// What is to become of `proposal` in a cluster with these networks, which uses the VNIs of `range` (unknown: any). Its VNI is kept
/// if it is free; which VNI carries a network makes no difference to anybody on it.
pub fn fit(mut proposal: Proposal, networks: &[Network], range: Option<VniRange>) -> Fit {
    let spec = &mut proposal.spec;
    if let Some(present) = networks.iter().find(|network| network.name == spec.name) {
        let differences = differences(spec, present);
        return if differences.is_empty() { Fit::There } else { Fit::Other(differences.join("; ")) };
    }
    if let Some(vni) = spec.vni {
        let holder = networks.iter().find(|network| network.vni == vni);
        let reason = match (holder, range) {
            (Some(holder), _) => Some(format!("network {:?} has it", holder.display_name())),
            (None, Some(range)) if !range.contains(vni) => {
                Some(format!("this cluster uses {range} (--vni-range)"))
            }
            _ => None,
        };
        if let Some(reason) = reason {
            proposal.notes.push(format!("VNI {vni} is not kept, weft chooses one: {reason}"));
            spec.vni = None;
        }
    }
    Fit::Make(proposal)
}

fn differences(spec: &NetworkSpec, present: &Network) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, same: bool, wanted: String, there: String| {
        if !same {
            differences.push(format!("{what}: {wanted} proposed, {there} there"));
        }
    };
    // weft may have been left to choose these.
    if !spec.subnets.is_empty() {
        let of_spec = sorted(&spec.subnets);
        let there: Vec<Subnet> =
            present.subnets.iter().filter(|s| !spec.ipv6 || s.net.addr().is_ipv4()).cloned().collect();
        let there = sorted(&there);
        compare("subnets", of_spec == there, told(&of_spec), told(&there));
    }
    let bytes = |mtu: Option<weft_model::Mtu>| mtu.map_or("the path's".to_owned(), |mtu| mtu.to_string());
    compare("MTU", spec.mtu == present.mtu, bytes(spec.mtu), bytes(present.mtu));
    compare(
        "internal",
        spec.internal == present.internal,
        spec.internal.to_string(),
        present.internal.to_string(),
    );
    compare("direct", spec.direct == present.direct, spec.direct.to_string(), present.direct.to_string());
    let labels = |labels| format!("{labels:?}");
    compare("labels", spec.labels == present.labels, labels(&spec.labels), labels(&present.labels));
    differences
}

fn sorted(subnets: &[Subnet]) -> Vec<Subnet> {
    let mut sorted = subnets.to_vec();
    sorted.sort_by_key(|subnet| subnet.net);
    sorted
}

fn told(subnets: &[Subnet]) -> String {
    let told = subnets.iter().map(|subnet| {
        let mut text = subnet.net.to_string();
        for (what, value) in [
            ("gateway", subnet.gateway.map(|ip| ip.to_string())),
            ("range", subnet.range.map(|net| net.to_string())),
        ] {
            text.extend(value.map(|value| format!(" {what} {value}")));
        }
        text.extend(subnet.reserved.iter().map(|(name, ip)| format!(" {name} {ip}")));
        text
    });
    told.collect::<Vec<_>>().join(", ")
}
