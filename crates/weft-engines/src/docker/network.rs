//! What `docker network create` asks for, read out of dockerd's `CreateNetwork` call.

use super::{
    plugin::{ADDRESS_SPACES, COPY_OF, CallError, DIRECT, MTU, OPTION_PREFIX, VNI},
    wire::{CreateNetwork, IpamData},
};
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, net::IpAddr};
use weft_agent::api::NetworkSpec;
use weft_model::{MulticastRate, NetworkId, Subnet};

/// The key under which the `-o` options stand.
const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";

/// What a `CreateNetwork` call wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A new network of the cluster.
    New(NetworkSpec),
    /// A copy on this engine of a network that exists, with these subnets.
    Copy {
        /// The network.
        of: NetworkId,
        /// The subnets that Docker's IPAM gave it.
        subnets: Vec<IpNet>,
    },
}

/// Reads the call.
pub(super) fn read(call: &CreateNetwork) -> Result<Request, CallError> {
    let options = driver_options(&call.options);
    let data = || call.ipv4_data.iter().chain(&call.ipv6_data);
    let subnets = data().map(read_subnet).collect::<Result<Vec<_>, _>>()?;
    if let Some(id) = options.get(COPY_OF) {
        let of = id.parse().map_err(|_| CallError::NothingToCopy(id.clone()))?;
        return Ok(Request::Copy { of, subnets: subnets.iter().map(|s| s.net).collect() });
    }
    let known = [VNI, DIRECT, MulticastRate::OPTION];
    let unknown = |key: &&String| key.starts_with(OPTION_PREFIX) && !known.contains(&key.as_str());
    if let Some(key) = options.keys().find(unknown) {
        return Err(CallError::UnknownOption(key.clone()));
    }
    Ok(Request::New(NetworkSpec {
        name: None,
        subnets,
        // Docker chooses or asks for the IPv6 subnet itself.
        ipv6: false,
        vni: options.get(VNI).map(|v| CallError::vni(v)).transpose()?,
        mtu: options.get(MTU).map(|v| CallError::mtu(v)).transpose()?,
        internal: call.options.get(INTERNAL).is_some_and(is_true),
        direct: options.get(DIRECT).map(|v| CallError::direct(v)).transpose()?.unwrap_or(false),
        labels: BTreeMap::new(),
        engine_addresses: data().any(|d| !ADDRESS_SPACES.contains(&d.address_space.as_str())),
        options,
    }))
}

/// The `-o` options. They stand under a key of their own, in some versions under that key once more.
fn driver_options(all: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    if let Some(Value::Object(generic)) = all.get(GENERIC) {
        options = driver_options(generic);
        let plain = generic.iter().filter(|(key, _)| *key != GENERIC);
        options.extend(plain.map(|(key, value)| (key.clone(), text(value))));
    }
    options
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_true(value: &Value) -> bool {
    matches!(text(value).as_str(), "true" | "1")
}

fn read_subnet(data: &IpamData) -> Result<Subnet, CallError> {
    let net = Subnet::parse_net(&data.pool)?;
    let gateway = address_of(&data.gateway);
    // One outside of the ip-range comes as "<nil>" from Docker's own IPAM: the mirror learns of it later.
    let reserved = data.aux_addresses.iter().filter_map(|(name, a)| Some((name.clone(), address_of(a)?)));
    Ok(Subnet { net, gateway, range: None, reserved: reserved.collect() })
}

/// The address in `10.9.0.1/24` or `10.9.0.1`.
pub(super) fn address_of(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(generic: &str, space: &str) -> CreateNetwork {
        serde_json::from_str(&format!(
            r#"{{"NetworkID":"n","Options":{{"com.docker.network.enable_ipv6":true,
                "com.docker.network.internal":true,"com.docker.network.generic":{generic}}},
                "IPv4Data":[{{"AddressSpace":"{space}","Gateway":"10.9.0.1/24","Pool":"10.9.0.0/24",
                  "AuxAddresses":{{"printer":"10.9.0.7/24","far":"<nil>"}}}}],
                "IPv6Data":[{{"AddressSpace":"{space}","Gateway":"fd00:9::1/64","Pool":"fd00:9::/64"}}]}}"#
        ))
        .unwrap()
    }

    fn new(generic: &str, space: &str) -> NetworkSpec {
        match read(&call(generic, space)).unwrap() {
            Request::New(spec) => spec,
            Request::Copy { .. } => panic!("a copy"),
        }
    }

    #[test]
    fn subnets_options_and_flags_are_read() {
        let spec = new(
            r#"{"weft.vni":"5000","com.docker.network.driver.mtu":"1400","color":"red"}"#,
            "LocalDefault",
        );
        assert_eq!(spec.vni.unwrap().get(), 5000);
        assert_eq!(spec.mtu.unwrap().get(), 1400);
        assert!(spec.internal && spec.engine_addresses);
        assert!(!spec.direct && new(r#"{"weft.direct":"true"}"#, "LocalDefault").direct);
        assert_eq!(spec.options["color"], "red");
        assert_eq!(spec.options[VNI], "5000", "the options are kept as they were given");
        assert_eq!(spec.subnets.len(), 2);
        assert_eq!(spec.subnets[0].gateway, Some("10.9.0.1".parse().unwrap()));
        assert_eq!(spec.subnets[0].reserved["printer"], "10.9.0.7".parse::<IpAddr>().unwrap());
        assert!(!spec.subnets[0].reserved.contains_key("far"));
        assert_eq!(spec.subnets[1].net, "fd00:9::/64".parse().unwrap());
    }

    #[test]
    fn the_address_space_tells_whose_ipam_it_is() {
        assert!(new("{}", "LocalDefault").engine_addresses);
        assert!(!new("{}", ADDRESS_SPACES[0]).engine_addresses);
    }

    #[test]
    fn options_may_be_nested_once_more_or_null() {
        let spec = new(r#"{"com.docker.network.generic":{"weft.vni":"77"}}"#, "LocalDefault");
        assert_eq!(spec.vni.unwrap().get(), 77);
        assert_eq!(spec.options.len(), 1);
        assert!(new("null", "LocalDefault").options.is_empty());
    }

    #[test]
    fn a_copy_names_its_network() {
        let of = NetworkId::random();
        let request =
            read(&call(&format!(r#"{{"weft.network":"{of}","weft.vni":"9"}}"#), "weft-local")).unwrap();
        let subnets = vec!["10.9.0.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()];
        assert_eq!(request, Request::Copy { of, subnets });
    }

    #[test]
    fn wrong_options_are_refused_with_the_right_ones_named() {
        for (generic, expected) in [
            (r#"{"weft.vnid":"5"}"#, "weft.vni"),
            (r#"{"weft.vni":"0"}"#, "1 to 16777215"),
            (r#"{"weft.vni":"red"}"#, "weft.vni=red"),
            (r#"{"weft.direct":"maybe"}"#, "weft.direct=maybe"),
            (r#"{"com.docker.network.driver.mtu":"9"}"#, "68 to 65535"),
            (r#"{"weft.network":"blue"}"#, "no network with that id"),
        ] {
            let message = read(&call(generic, "LocalDefault")).unwrap_err().message();
            assert!(message.contains(expected), "{generic}: {message}");
        }
    }
}
