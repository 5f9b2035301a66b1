//! What a CNI call answers (specification 1.1, "Success"), and what plugins before this one have answered.

use super::{config::Config, version::Version};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_agent::api::EndpointView;
use weft_model::{MacAddr, Outside, gateway_in};

/// The result of ADD, without its version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The interfaces that were made.
    pub interfaces: Vec<Interface>,
    /// The addresses that were given.
    pub ips: Vec<Ip>,
    /// The routes that were made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Whom the container asks for names.
    pub dns: Dns,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The namespace that it is in; `None`: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// What others tell of theirs.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ip {
    /// With its prefix length.
    pub address: IpNet,
    /// Where its default route leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// `4` or `6`: until version 1.0 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Its destination.
    pub dst: IpNet,
    /// The next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// What others tell of theirs.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Whom to ask for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The domain of short names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of resolv.conf.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Answer {
    /// The answer for an endpoint that was made, behind what plugins before have answered.
    pub fn of(endpoint: &EndpointView, config: &Config) -> Self {
        let mut answer = config.previous.clone().unwrap_or_default();
        let first = answer.interfaces.len();
        let interface = |name: &str, mac: MacAddr| Interface {
            name: name.to_owned(),
            mac: Some(mac.to_string()),
            sandbox: endpoint.sandbox.clone(),
            more: Map::new(),
        };
        let name = endpoint.interface.clone().unwrap_or_default();
        answer.interfaces.push(interface(&name, endpoint.mac));
        let own = endpoint.addresses.iter().map(|net| address(*net, None, Some(first), config.version));
        let mut ips: Vec<Ip> = own.collect();
        if let Some(outside) = &endpoint.outside {
            answer.interfaces.push(interface(&outside.interface, outside.mac()));
            // portmap leads ports to the first address that is not known to be another interface's.
            let index = (!config.portmap).then_some(first + 1);
            let ways =
                outside.addresses().map(|net| address(net, Some(gateway_in(net)), index, config.version));
            let place = if config.portmap { 0 } else { ips.len() };
            ips.splice(place..place, ways);
            answer.routes.extend(default_routes(outside));
        }
        answer.ips.extend(ips);
        answer.dns.add(endpoint, &config.dns);
        answer
    }

    /// Whether it has all of these addresses.
    pub fn has(&self, addresses: &[IpNet]) -> bool {
        addresses.iter().all(|wanted| self.ips.iter().any(|ip| ip.address == *wanted))
    }

    /// Whether it has a default route.
    pub fn leads_out(&self) -> bool {
        self.routes.iter().any(|route| route.dst.prefix_len() == 0)
    }

    /// As it goes to standard output.
    pub fn to_json(&self, version: Version) -> String {
        #[derive(Serialize)]
        struct Versioned<'a> {
            #[serde(rename = "cniVersion")]
            version: &'static str,
            #[serde(flatten)]
            answer: &'a Answer,
        }
        serde_json::to_string(&Versioned { version: version.name(), answer: self }).unwrap_or_default()
    }
}

impl Dns {
    /// The sandbox's name server, and what the configuration says.
    fn add(&mut self, endpoint: &EndpointView, configured: &Self) {
        self.nameservers.extend(endpoint.name_server.map(|server| server.to_string()));
        self.nameservers.extend(configured.nameservers.iter().cloned());
        self.domain = self.domain.take().or_else(|| configured.domain.clone());
        self.search.extend(configured.search.iter().cloned());
        self.options.extend(configured.options.iter().cloned());
    }
}

fn address(net: IpNet, gateway: Option<IpAddr>, interface: Option<usize>, version: Version) -> Ip {
    let number = if net.addr().is_ipv4() { "4" } else { "6" };
    let version = version.has_ip_versions().then(|| number.to_owned());
    Ip { address: net, gateway, interface, version }
}

fn default_routes(outside: &Outside) -> impl Iterator<Item = Route> {
    let everywhere = |net: &IpNet| match net {
        IpNet::V4(_) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(_) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    };
    outside.addresses().map(move |net| Route {
        dst: everywhere(&net),
        gw: Some(gateway_in(net)),
        more: Map::new(),
    })
}
