//! The networks of Docker up to 20.10 with `--cluster-store`: keys below `docker/network/v1.0/` by etcd's v2 API, as
//! libnetwork's data store writes them (moby 20.10, `libnetwork/network.go` and `drivers/overlay/ov_network.go`).

use super::{
    Definition, NoDefinition, Wishes,
    overlay::{DRIVER, Overlay, Range, propose},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Where the keys are, below the path of Docker's `--cluster-store`.
pub const FOLDER: &str = "docker/network/v1.0";

/// The options of `docker network create -o`, in the map of all options.
const GENERIC: &str = "com.docker.network.generic";

/// A network's record, as far as it is of use.
// The flags are what Docker tells, each independent of the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    id: String,
    name: String,
    #[serde(rename = "networkType")]
    driver: String,
    #[serde(default)]
    internal: bool,
    #[serde(default, rename = "enableIPv6")]
    enable_ipv6: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    ingress: bool,
    #[serde(default)]
    config_only: bool,
    #[serde(default)]
    ipam_type: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    generic: BTreeMap<String, serde_json::Value>,
    /// JSON in a string: what was asked for.
    #[serde(default)]
    ipam_v4_config: Option<String>,
    #[serde(default)]
    ipam_v6_config: Option<String>,
    /// JSON in a string: what was given.
    #[serde(default)]
    ipam_v4_info: Option<String>,
    #[serde(default)]
    ipam_v6_info: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Asked {
    sub_pool: String,
    gateway: String,
    aux_addresses: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Given {
    /// JSON in a string, once more.
    #[serde(rename = "IPAMData")]
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GivenData {
    pool: String,
    #[serde(default)]
    gateway: String,
}

/// What the driver has noted of a network.
#[derive(Deserialize)]
struct Noted {
    #[serde(default)]
    subnets: Vec<NotedSubnet>,
}

#[derive(Deserialize)]
struct NotedSubnet {
    #[serde(rename = "Vni")]
    vni: u32,
}

/// Reads the networks among `keys`, each with its value. A record that cannot be read is left, and told.
pub fn read(keys: &[(String, String)], wishes: Wishes) -> Result<Definition, NoDefinition> {
    let (mut definition, mut found) = (Definition::default(), false);
    let noted = format!("{FOLDER}/overlay/network/");
    let vnis: BTreeMap<&str, u32> = keys
        .iter()
        .filter_map(|(key, value)| {
            let (_, id) = key.rsplit_once(&noted)?;
            let noted: Noted = serde_json::from_str(value).ok()?;
            Some((id.trim_matches('/'), noted.subnets.first()?.vni))
        })
        .collect();
    let networks = format!("{FOLDER}/network/");
    for (key, value) in keys {
        let Some((_, id)) = key.rsplit_once(&networks) else { continue };
        found = true;
        match serde_json::from_str::<Network>(value) {
            Ok(network) if network.driver != DRIVER => {
                let reason = format!("it is of driver {:?}, not {DRIVER:?}", network.driver);
                definition.add(&network.name, Err(reason));
            }
            Ok(network) => {
                let vni = vnis.get(network.id.as_str()).copied();
                let name = network.name.clone();
                definition.add(&name, overlay(network, vni).and_then(|o| propose(o, wishes)));
            }
            Err(error) => definition.add(id, Err(format!("its record cannot be read: {error}"))),
        }
    }
    if found {
        return Ok(definition.sorted());
    }
    Err(NoDefinition {
        what: "Docker's cluster store",
        reason: format!(
            "there is no network below /{FOLDER}/network: is this the URL of Docker's --cluster-store?"
        ),
    })
}

fn overlay(network: Network, vni: Option<u32>) -> Result<Overlay, String> {
    let mut ranges = ranges(network.ipam_v4_config.as_deref(), network.ipam_v4_info.as_deref())?;
    ranges.extend(self::ranges(network.ipam_v6_config.as_deref(), network.ipam_v6_info.as_deref())?);
    let generic = network.generic.get(GENERIC).and_then(serde_json::Value::as_object);
    let option = |(key, value): (&String, &serde_json::Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (key.clone(), text)
    };
    Ok(Overlay {
        name: network.name,
        ranges,
        internal: network.internal,
        ipv6: network.enable_ipv6,
        attachable: network.attachable,
        ingress: network.ingress,
        config_only: network.config_only,
        labels: network.labels.unwrap_or_default(),
        options: generic.into_iter().flatten().map(option).collect(),
        vni,
        address_driver: network.ipam_type,
    })
}

/// The subnets that were given, with what had been asked for of each.
fn ranges(asked: Option<&str>, given: Option<&str>) -> Result<Vec<Range>, String> {
    let unreadable = |e: serde_json::Error| format!("its subnets cannot be read: {e}");
    let asked: Vec<Asked> = asked.map_or(Ok(Vec::new()), serde_json::from_str).map_err(unreadable)?;
    let given: Vec<Given> = given.map_or(Ok(Vec::new()), serde_json::from_str).map_err(unreadable)?;
    let mut asked = asked.into_iter();
    let mut ranges = Vec::new();
    for given in given {
        let data: GivenData = serde_json::from_str(&given.data).map_err(unreadable)?;
        let asked = asked.next().unwrap_or_default();
        let gateway = if data.gateway.is_empty() { asked.gateway } else { data.gateway };
        let reserved = asked.aux_addresses.unwrap_or_default();
        ranges.push(Range { subnet: data.pool, part: asked.sub_pool, gateway, reserved });
    }
    Ok(ranges)
}
