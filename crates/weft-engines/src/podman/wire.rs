//! What netavark tells a plugin, and what it wants to hear (netavark's `plugin-API.md`, version 1.0.0).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, net::IpAddr};

/// A network, as Podman keeps it. What weft does not read goes back as it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Podman's id of it.
    pub id: String,
    /// `weft`.
    pub driver: String,
    /// Its subnets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<Vec<Pool>>,
    /// Whether it has IPv6.
    pub ipv6_enabled: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether Podman's own name server knows it.
    pub dns_enabled: bool,
    /// Driver options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Who chooses addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// The rest.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The prefix.
    pub subnet: IpNet,
    /// The gateway's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Where addresses are chosen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_range: Option<Range>,
}

/// From the one address to the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Range {
    /// The first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_ip: Option<IpAddr>,
    /// The last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_ip: Option<IpAddr>,
}

/// What `setup` and `teardown` are told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Call {
    /// The container's id.
    pub container_id: String,
    /// Its name.
    #[serde(default)]
    pub container_name: String,
    /// The ports of the host that lead to it.
    #[serde(default)]
    pub port_mappings: Option<Vec<PortMapping>>,
    /// The network.
    pub network: Network,
    /// How it is to be on that.
    pub network_options: Options,
}

/// How a container is to be on a network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Options {
    /// Other names of it.
    #[serde(default)]
    pub aliases: Option<Vec<String>>,
    /// The interface's name.
    pub interface_name: String,
    /// The addresses asked for.
    #[serde(default)]
    pub static_ips: Option<Vec<IpAddr>>,
    /// The MAC address asked for.
    #[serde(default)]
    pub static_mac: Option<String>,
}

/// Ports of the host, one after another, that lead to as many of the container.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PortMapping {
    /// The first of the container's.
    pub container_port: u16,
    /// The host's address; empty: all.
    #[serde(default)]
    pub host_ip: String,
    /// The first of the host's.
    pub host_port: u16,
    /// `tcp`, `udp`, `sctp`, or several with commas between.
    #[serde(default)]
    pub protocol: String,
    /// How many.
    #[serde(default)]
    pub range: u16,
}

/// The answer to `setup`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// Domains to search.
    pub dns_search_domains: Vec<String>,
    /// Whom the container asks for names.
    pub dns_server_ips: Vec<IpAddr>,
    /// What was made, by name.
    pub interfaces: BTreeMap<String, Interface>,
}

/// An interface that was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interface {
    /// Its MAC address.
    pub mac_address: String,
    /// Its addresses.
    pub subnets: Vec<Address>,
}

/// An address that was given.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Address {
    /// With its prefix length.
    pub ipnet: IpNet,
    /// Where the default route leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}
