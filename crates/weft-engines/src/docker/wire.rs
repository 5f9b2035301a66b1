//! The bodies of dockerd's calls to a network and IPAM plugin, and of the answers.
//!
//! JSON as Go writes it: field names in its capitals, and `null` where a map or list has nothing in it. Source:
//! moby, `libnetwork/drivers/remote/api`, `libnetwork/ipams/remote/api` and `driverapi/ipamdata.go`, read at
//! 20.10.24, 26.1.4 and 28. Fields that weft has no use for are left out.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Go's nil is JSON's `null`: the same as nothing.
fn nil<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// `Plugin.Activate`: what this plugin is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Manifest {
    pub implements: [&'static str; 2],
}

/// `NetworkDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DriverCapabilities {
    /// `local`: each engine keeps its own list of networks (`global` is for swarm managers alone since Docker 23).
    pub scope: &'static str,
    /// `global`: containers on different hosts reach one another.
    pub connectivity_scope: &'static str,
    /// Whether `GwAllocCheck` should be called (Docker 28).
    pub gw_alloc_checker: bool,
}

/// `NetworkDriver.GwAllocCheck`: whether Docker should not reserve a gateway's address.
#[derive(Debug, Serialize)]
pub(super) struct GwAllocCheck {
    #[serde(rename = "SkipIPv4")]
    pub skip_ipv4: bool,
    #[serde(rename = "SkipIPv6")]
    pub skip_ipv6: bool,
}

/// `NetworkDriver.AllocateNetwork`, both ways: a swarm manager's options for its agents.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct AllocateNetwork {
    #[serde(deserialize_with = "nil")]
    pub options: BTreeMap<String, String>,
}

/// `NetworkDriver.CreateNetwork`. The network's name and labels are not told.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(deserialize_with = "nil")]
    pub options: Map<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "nil")]
    pub ipv4_data: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "nil")]
    pub ipv6_data: Vec<IpamData>,
}

/// A subnet of a network to make.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamData {
    /// Which IPAM driver's space it is from: `LocalDefault` for Docker's own.
    pub address_space: String,
    /// The subnet.
    pub pool: String,
    /// The gateway with the subnet's prefix length.
    pub gateway: String,
    /// Addresses to keep free, with prefix length. Docker's own IPAM yields `<nil>` for one that lies outside of
    /// `--ip-range`.
    #[serde(deserialize_with = "nil")]
    pub aux_addresses: BTreeMap<String, String>,
}

/// A call about a network: `NetworkDriver.DeleteNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkCall {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
}

/// A call about an endpoint: `NetworkDriver.DeleteEndpoint`, `Leave`, `EndpointOperInfo`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointCall {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(deserialize_with = "nil")]
    pub interface: Interface,
}

/// An endpoint's addresses. In the answer only what was empty in the call may be set.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Interface {
    /// IPv4 with prefix length.
    #[serde(rename = "Address")]
    pub address: String,
    /// IPv6 with prefix length.
    #[serde(rename = "AddressIPv6")]
    pub address_ipv6: String,
    #[serde(rename = "MacAddress")]
    pub mac_address: String,
}

/// The answer to `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreatedEndpoint {
    pub interface: Interface,
}

/// The answer to `NetworkDriver.EndpointOperInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointInfo {
    pub value: BTreeMap<String, String>,
}

/// `NetworkDriver.Join`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Join {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// The path of the container's network namespace.
    pub sandbox_key: String,
}

/// The answer to `NetworkDriver.Join`. It names no gateway: then Docker attaches `docker_gwbridge`, through which
/// the container reaches the world and published ports reach the container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub interface_name: InterfaceName,
}

/// Which device Docker is to move into the container, and the beginning of the name it gets there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: &'static str,
}

/// `IpamDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
pub(super) struct IpamCapabilities {
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac_address: bool,
    /// Whether dockerd repeats its requests at its start. weft's records outlive dockerd.
    #[serde(rename = "RequiresRequestReplay")]
    pub requires_request_replay: bool,
}

/// `IpamDriver.GetDefaultAddressSpaces`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AddressSpaces {
    pub local_default_address_space: &'static str,
    pub global_default_address_space: &'static str,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    /// The subnet; empty: the driver chooses.
    pub pool: String,
    /// `--ip-range`.
    pub sub_pool: String,
    /// `--ipam-opt`.
    #[serde(deserialize_with = "nil")]
    pub options: BTreeMap<String, String>,
    #[serde(rename = "V6")]
    pub v6: bool,
}

/// The answer to `IpamDriver.RequestPool`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct GivenPool {
    #[serde(rename = "PoolID")]
    pub id: String,
    #[serde(rename = "Pool")]
    pub subnet: String,
    #[serde(rename = "Data")]
    pub data: BTreeMap<String, String>,
}

/// `IpamDriver.ReleasePool`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReleasePool {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
}

/// `IpamDriver.RequestAddress` and `ReleaseAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct AddressCall {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The address asked for; empty: any.
    pub address: String,
    #[serde(deserialize_with = "nil")]
    pub options: BTreeMap<String, String>,
}

/// The answer to `IpamDriver.RequestAddress`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Address {
    /// With the subnet's prefix length.
    pub address: String,
    pub data: BTreeMap<String, String>,
}

/// An answer with nothing in it: done.
#[derive(Debug, Serialize)]
pub(super) struct Done {}

#[cfg(test)]
mod tests {
    use super::*;

    /// As dockerd 26.1.5 sends it for `docker network create --driver weft -o weft.vni=5000 --aux-address …`.
    const CREATE_NETWORK: &str = r#"{
        "NetworkID":"2f3a…","Options":{"com.docker.network.enable_ipv6":false,
          "com.docker.network.generic":{"weft.vni":"5000"}},
        "IPv4Data":[{"AddressSpace":"LocalDefault","AuxAddresses":{"far":"<nil>","near":"10.9.0.7/24"},
          "Gateway":"10.9.0.1/24","Pool":"10.9.0.0/24"}],"IPv6Data":[]}"#;

    #[test]
    fn a_network_is_read_as_docker_sends_it() {
        let call: CreateNetwork = serde_json::from_str(CREATE_NETWORK).unwrap();
        assert_eq!(call.ipv4_data[0].address_space, "LocalDefault");
        assert_eq!(call.ipv4_data[0].gateway, "10.9.0.1/24");
        assert_eq!(call.ipv4_data[0].aux_addresses["far"], "<nil>");
        assert!(call.options.contains_key("com.docker.network.generic"));
    }

    #[test]
    fn nil_maps_and_lists_of_go_are_empty_ones() {
        let call: CreateNetwork =
            serde_json::from_str(r#"{"NetworkID":"a","Options":null,"IPv4Data":null,"IPv6Data":null}"#)
                .unwrap();
        assert!(call.options.is_empty() && call.ipv4_data.is_empty() && call.ipv6_data.is_empty());
        let call: AddressCall =
            serde_json::from_str(r#"{"PoolID":"p","Address":"","Options":null}"#).unwrap();
        assert!(call.options.is_empty());
        let call: CreateEndpoint = serde_json::from_str(
            r#"{"NetworkID":"n","EndpointID":"e","Interface":null,"Options":{"com.docker.network.portmap":[]}}"#,
        )
        .unwrap();
        assert_eq!(call.interface, Interface::default());
    }

    #[test]
    fn an_endpoint_and_a_join_are_read_as_docker_sends_them() {
        let call: CreateEndpoint = serde_json::from_str(
            r#"{"NetworkID":"n","EndpointID":"e",
                "Interface":{"Address":"10.9.0.2/24","AddressIPv6":"fd00:9::2/64","MacAddress":""},
                "Options":{"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}]}}"#,
        )
        .unwrap();
        assert_eq!(call.interface.address_ipv6, "fd00:9::2/64");
        let call: Join = serde_json::from_str(
            r#"{"NetworkID":"n","EndpointID":"e","SandboxKey":"/var/run/docker/netns/1a2b3c4d5e6f",
                "Options":{"com.docker.network.endpoint.exposedports":[]}}"#,
        )
        .unwrap();
        assert_eq!(call.sandbox_key, "/var/run/docker/netns/1a2b3c4d5e6f");
    }

    #[test]
    fn answers_carry_the_names_that_docker_reads() {
        let joined = Joined {
            interface_name: InterfaceName { src_name: "weftc0123456789".to_owned(), dst_prefix: "eth" },
        };
        assert_eq!(
            serde_json::to_string(&joined).unwrap(),
            r#"{"InterfaceName":{"SrcName":"weftc0123456789","DstPrefix":"eth"}}"#
        );
        let capabilities = IpamCapabilities { requires_mac_address: false, requires_request_replay: false };
        assert_eq!(
            serde_json::to_string(&capabilities).unwrap(),
            r#"{"RequiresMACAddress":false,"RequiresRequestReplay":false}"#
        );
        let created = CreatedEndpoint {
            interface: Interface { mac_address: "02:42:0a:09:00:02".to_owned(), ..Interface::default() },
        };
        assert_eq!(
            serde_json::to_string(&created).unwrap(),
            r#"{"Interface":{"Address":"","AddressIPv6":"","MacAddress":"02:42:0a:09:00:02"}}"#
        );
    }
}
