//! The network configuration of a CNI call, on standard input.

use super::{
    error::{BAD_CONFIGURATION, CniError, UNDECODABLE, UNSUPPORTED_FIELD},
    result::{Answer, Dns},
    version::Version,
};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};
use weft_model::{MacAddr, Mtu, MulticastRate, PublishedPort, Subnet};

/// What the configuration says, checked as far as it can be without the daemon.
// The flags are wishes, each independent of the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The version that it is written in, and that is answered in.
    pub version: Version,
    /// The network: its name in the cluster, or its id.
    pub network: String,
    /// The daemon's socket.
    pub socket: Option<PathBuf>,
    /// The subnets of the network, if this host may make it.
    pub subnets: Vec<Subnet>,
    /// Make it without a way out.
    pub internal: bool,
    /// Make it without outer headers between hosts on one link.
    pub direct: bool,
    /// Its MTU.
    pub mtu: Option<Mtu>,
    /// What an endpoint may send to many hosts at once.
    pub multicast_rate: Option<MulticastRate>,
    /// Lead containers out.
    pub outside: bool,
    /// Name the address of the way out first, for a `portmap` behind this plugin.
    pub portmap: bool,
    /// Name servers and search domains that the configuration adds.
    pub dns: Dns,
    /// What plugins before this one have answered.
    pub previous: Option<Answer>,
    /// Addresses asked for.
    pub addresses: Vec<IpAddr>,
    /// The MAC address asked for.
    pub mac: Option<MacAddr>,
    /// Other names of the container.
    pub aliases: Vec<String>,
    /// Ports that weft itself is to publish.
    pub ports: Vec<PublishedPort>,
    /// With GC: the attachments that stay, as container and interface.
    pub valid: Vec<(String, String)>,
}

#[allow(clippy::struct_excessive_bools)]
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    network: Option<String>,
    socket: Option<PathBuf>,
    #[serde(default)]
    subnets: Vec<WrittenSubnet>,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    direct: bool,
    mtu: Option<u32>,
    multicast_rate: Option<u32>,
    #[serde(default = "yes")]
    outside: bool,
    #[serde(default)]
    portmap: bool,
    #[serde(default)]
    dns: Dns,
    prev_result: Option<Value>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    ipam: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", default)]
    valid: Vec<ValidAttachment>,
}

const fn yes() -> bool {
    true
}

/// `"10.9.0.0/24"`, or an object with a range of its own.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenSubnet {
    Net(IpNet),
    Subnet(Subnet),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    ips: Vec<String>,
    mac: Option<String>,
    aliases: Option<Aliases>,
    port_mappings: Vec<PortMapping>,
}

/// The convention's list; Podman tells those of all networks by their names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Aliases {
    Here(Vec<String>),
    OfNetworks(BTreeMap<String, Vec<String>>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    host_port: u16,
    container_port: u16,
    #[serde(default = "tcp")]
    protocol: String,
    #[serde(rename = "hostIP", default)]
    host_ip: String,
}

fn tcp() -> String {
    "tcp".to_owned()
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    interface: String,
}

impl Config {
    /// Reads a configuration.
    pub fn read(text: &str) -> Result<Self, CniError> {
        let undecodable =
            |e| CniError::new(UNDECODABLE, format!("the network configuration cannot be read: {e}"));
        let raw: Raw = serde_json::from_str(text).map_err(undecodable)?;
        let version = Version::parse(&raw.cni_version)?;
        if raw.name.is_empty() {
            return Err(wrong("the network configuration has no name"));
        }
        if raw.ipam.as_ref().and_then(|ipam| ipam.get("type")).is_some() {
            let message = "\"ipam\" is not for this plugin: addresses are the cluster's, weft chooses them";
            return Err(CniError::new(UNSUPPORTED_FIELD, message));
        }
        let runtime = raw.runtime_config;
        let aliases = match runtime.aliases {
            None => Vec::new(),
            Some(Aliases::Here(aliases)) => aliases,
            Some(Aliases::OfNetworks(mut by_network)) => by_network.remove(&raw.name).unwrap_or_default(),
        };
        let previous = raw.prev_result.map(serde_json::from_value).transpose();
        Ok(Self {
            version,
            network: raw.network.unwrap_or(raw.name),
            socket: raw.socket,
            subnets: raw.subnets.into_iter().map(WrittenSubnet::into_subnet).collect(),
            internal: raw.internal,
            direct: raw.direct,
            multicast_rate: raw
                .multicast_rate
                .map(|rate| rate.to_string().parse())
                .transpose()
                .map_err(|e| wrong(format!("multicastRate: {e}")))?,
            mtu: raw.mtu.map(Mtu::new).transpose().map_err(|e| wrong(format!("mtu: {e}")))?,
            outside: raw.outside,
            portmap: raw.portmap,
            dns: raw.dns,
            previous: previous
                .map_err(|e| CniError::new(UNDECODABLE, format!("prevResult cannot be read: {e}")))?,
            addresses: runtime.ips.iter().map(|ip| address(ip)).collect::<Result<_, _>>()?,
            mac: mac(runtime.mac)?,
            aliases,
            ports: runtime.port_mappings.iter().map(PortMapping::published).collect::<Result<_, _>>()?,
            valid: raw.valid.into_iter().map(|valid| (valid.container, valid.interface)).collect(),
        })
    }
}

impl WrittenSubnet {
    fn into_subnet(self) -> Subnet {
        match self {
            Self::Net(net) => Subnet::new(net),
            Self::Subnet(subnet) => subnet,
        }
    }
}

impl PortMapping {
    fn published(&self) -> Result<PublishedPort, CniError> {
        let host_ip = match self.host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse().map_err(|_| wrong(format!("portMappings: {ip:?} is not an IP address")))?),
        };
        let protocol = self.protocol.parse().map_err(|e| wrong(format!("portMappings: {e}")))?;
        let (host_port, container_port) = (self.host_port, self.container_port);
        let port = PublishedPort { protocol, host_ip, host_port, container_port, count: 1 };
        if port.is_possible() {
            Ok(port)
        } else {
            Err(wrong(format!("portMappings: {port} is not possible")))
        }
    }
}

fn wrong(message: impl Into<String>) -> CniError {
    CniError::new(BAD_CONFIGURATION, message)
}

/// With or without a prefix length, which the network knows.
fn address(text: &str) -> Result<IpAddr, CniError> {
    let ip = text.split('/').next().unwrap_or_default();
    ip.parse().map_err(|_| wrong(format!("ips: {text:?} is not an IP address")))
}

fn mac(text: Option<String>) -> Result<Option<MacAddr>, CniError> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|e| wrong(format!("mac: {e}")))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<Config, CniError> {
        Config::read(&format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"weft-cni"{rest}}}"#))
    }

    #[test]
    fn the_network_is_the_configurations_name_unless_it_names_another() {
        let config = read("").unwrap();
        assert_eq!((config.network.as_str(), config.outside), ("net", true));
        assert_eq!(read(r#","network":"blue","outside":false"#).unwrap().network, "blue");
    }

    #[test]
    fn what_the_runtime_asks_for_is_read() {
        let config = read(
            r#","subnets":["10.9.0.0/24",{"net":"fd09::/64"}],"mtu":1400,"runtimeConfig":{"ips":["10.9.0.7/24","fd09::7"],
            "mac":"02:00:00:00:00:07","aliases":["db"],
            "portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":"192.0.2.1"}]}"#,
        )
        .unwrap();
        assert_eq!(config.addresses, ["10.9.0.7", "fd09::7"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!((config.subnets.len(), config.aliases.len()), (2, 1));
        assert_eq!(config.mac.unwrap().to_string(), "02:00:00:00:00:07");
        assert_eq!(config.ports[0].to_string(), "192.0.2.1:8080->80/tcp");
        let podmans = read(r#","runtimeConfig":{"aliases":{"net":["a","b"],"other":["c"]}}"#).unwrap();
        assert_eq!(podmans.aliases, ["a", "b"]);
    }

    #[test]
    fn the_attachments_that_stay_are_read() {
        let config = read(r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#).unwrap();
        assert_eq!(config.valid, [("c1".to_owned(), "eth0".to_owned())]);
    }

    #[test]
    fn what_makes_no_sense_has_its_number() {
        let code = |text: &str| Config::read(text).unwrap_err().code;
        assert_eq!(code("{"), UNDECODABLE);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","name":1}"#), UNDECODABLE);
        assert_eq!(code(r#"{"cniVersion":"9.0.0","name":"net"}"#), super::super::error::INCOMPATIBLE_VERSION);
        assert_eq!(code(r#"{"cniVersion":"1.0.0"}"#), BAD_CONFIGURATION);
        for (rest, number) in [
            (r#","ipam":{"type":"host-local"}"#, UNSUPPORTED_FIELD),
            (r#","prevResult":{"ips":1}"#, UNDECODABLE),
            (r#","mtu":1"#, BAD_CONFIGURATION),
            (r#","multicastRate":10000001"#, BAD_CONFIGURATION),
            (r#","runtimeConfig":{"ips":["x"]}"#, BAD_CONFIGURATION),
            (r#","runtimeConfig":{"mac":"x"}"#, BAD_CONFIGURATION),
            (r#","runtimeConfig":{"portMappings":[{"hostPort":0,"containerPort":1}]}"#, BAD_CONFIGURATION),
            (
                r#","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"icmp"}]}"#,
                BAD_CONFIGURATION,
            ),
            (
                r#","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"x"}]}"#,
                BAD_CONFIGURATION,
            ),
        ] {
            assert_eq!(read(rest).unwrap_err().code, number, "{rest}");
        }
        assert!(read(r#","ipam":{}"#).is_ok());
    }
}
