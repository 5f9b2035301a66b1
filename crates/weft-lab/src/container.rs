//! Container-like namespaces: what `weft attach` joins to a network, without an engine.

use crate::{Daemon, Host, LabError, NetNs};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// A container-like namespace on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name: `c1`.
    pub name: String,
    /// Its host: `h1`.
    pub host: String,
    /// Its namespace, with `eth0` on the network once it is attached.
    pub namespace: NetNs,
    /// Its addresses on the network, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Container {
    /// The container number `number` of a host, whether it exists or not.
    pub fn named(host: &Host, number: usize) -> Self {
        let name = format!("c{number}");
        let namespace = NetNs::named(&format!("{}-{name}", host.namespace.name()));
        Self { name, host: host.name.clone(), namespace, addresses: Vec::new() }
    }

    /// Makes the namespace and attaches it to a network. `more` are further arguments of `weft attach`.
    pub fn attach(&mut self, daemon: &Daemon, network: &str, more: &[&str]) -> Result<(), LabError> {
        if !self.namespace.exists() {
            NetNs::create(self.namespace.name())?;
        }
        let path = self.namespace.path().display().to_string();
        // Called what people call it in the lab, and not by the namespace, which also has the lab's name in it.
        let name = format!("{}/{}", self.host, self.name);
        daemon.weft(&[&["attach", network, "--netns", &path, "--name", &name], more].concat())?;
        self.addresses = addresses(&self.namespace, "eth0")?;
        Ok(())
    }

    /// Detaches it from a network.
    pub fn detach(&mut self, daemon: &Daemon, network: &str) -> Result<(), LabError> {
        let path = self.namespace.path().display().to_string();
        daemon.weft(&["detach", network, "--netns", &path])?;
        self.addresses.clear();
        Ok(())
    }

    /// Its first address.
    pub fn address(&self) -> Result<IpAddr, LabError> {
        self.addresses.first().copied().ok_or_else(|| LabError::Answer {
            what: format!("{}/{}", self.host, self.name),
            answer: "it has no address".to_owned(),
        })
    }

    /// Its address as text.
    pub fn ip(&self) -> Result<String, LabError> {
        self.address().map(|a| a.to_string())
    }

    /// Runs `argv` in it to its end.
    pub fn run(&self, argv: &[&str]) -> Result<String, LabError> {
        self.namespace.run(argv)
    }
}

/// The global addresses that a device has, as the kernel tells.
fn addresses(namespace: &NetNs, device: &str) -> Result<Vec<IpAddr>, LabError> {
    let links = namespace.ip_json(&["addr", "show", "dev", device, "scope", "global"])?;
    let infos = links.get(0).and_then(|l| l.get("addr_info")).and_then(Value::as_array);
    let mut found: Vec<IpAddr> = infos
        .into_iter()
        .flatten()
        .filter_map(|info| info.get("local").and_then(Value::as_str)?.parse().ok())
        .collect();
    found.sort();
    Ok(found)
}
