//! The networks of a swarm: the JSON that `docker network inspect $(docker network ls -q)` prints.

use super::{
    Definition, NoDefinition, Wishes,
    overlay::{DRIVER, Overlay, Range, propose},
};
use serde::Deserialize;
use std::collections::BTreeMap;

// The flags are what Docker tells, each independent of the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    name: String,
    driver: String,
    #[serde(default, rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(default, rename = "IPAM")]
    ipam: Ipam,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    ingress: bool,
    #[serde(default)]
    config_only: bool,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    config: Option<Vec<Config>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    subnet: String,
    #[serde(default, rename = "IPRange")]
    range: String,
    #[serde(default)]
    gateway: String,
    #[serde(default)]
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

/// Reads the networks of driver overlay. The others are left, and told.
pub fn read(json: &[u8], wishes: Wishes) -> Result<Definition, NoDefinition> {
    let networks: Vec<Network> = serde_json::from_slice(json).map_err(|e| NoDefinition {
        what: "what `docker network inspect` prints",
        reason: format!("a JSON array of networks was expected: {e}"),
    })?;
    let mut definition = Definition::default();
    for network in networks {
        let name = network.name.clone();
        let proposal = if network.driver == DRIVER {
            propose(overlay(network), wishes)
        } else {
            Err(format!("it is of driver {:?}, not {DRIVER:?}", network.driver))
        };
        definition.add(&name, proposal);
    }
    Ok(definition.sorted())
}

fn overlay(network: Network) -> Overlay {
    let range = |config: Config| Range {
        subnet: config.subnet,
        part: config.range,
        gateway: config.gateway,
        reserved: config.auxiliary_addresses.unwrap_or_default(),
    };
    Overlay {
        name: network.name,
        ranges: network.ipam.config.unwrap_or_default().into_iter().map(range).collect(),
        internal: network.internal,
        ipv6: network.enable_ipv6,
        attachable: network.attachable,
        ingress: network.ingress,
        config_only: network.config_only,
        labels: network.labels.unwrap_or_default(),
        options: network.options.unwrap_or_default(),
        vni: None,
        address_driver: network.ipam.driver,
    }
}
