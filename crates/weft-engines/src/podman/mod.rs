//! Podman's network driver `weft`: a plugin of netavark's, for `podman network create -d weft` and `podman run --network`.
//!
//! netavark starts the program of the driver's name for each call (`info`, `create`, `setup NETNS`, `teardown NETNS`), with
//! JSON on standard input and output (`wire`). What the calls do, they ask this host's daemon for. Nothing is kept between two
//! calls. Source: netavark's `plugin-API.md`, version 1.0.0; the same since netavark 1.4.

mod network;
mod wire;

#[cfg(test)]
mod tests;

use crate::daemon::{self, Daemon};
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeMap, env, io::Read, process::ExitCode};
use weft_agent::api::{
    AttachRequest, AttachingEngine, Client, ClientError, DetachRequest, EndpointView, ErrorKind,
    OutsideRequest,
};
use weft_model::{Container, PortProtocol, PublishedPort};

/// The version of netavark's plugin API that is spoken.
const API: &str = "1.0.0";

/// Why a call was not done, in a sentence that Podman shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PluginError(String);

impl PluginError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<ClientError> for PluginError {
    fn from(error: ClientError) -> Self {
        match error.hint() {
            Some(hint) => Self(format!("{error} ({hint})")),
            None => Self(error.to_string()),
        }
    }
}

/// The program `weft-netavark`, installed as `weft` in a folder of netavark's plugins.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match answer(&arguments) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", json!({ "error": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

fn answer(arguments: &[String]) -> Result<String, PluginError> {
    let (command, rest) =
        arguments.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    if command == "info" {
        return Ok(json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API }).to_string());
    }
    let mut text = String::new();
    let unreadable = |e| PluginError::new(format!("standard input cannot be read: {e}"));
    std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
    let daemon = Client::new(daemon::socket(None));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |e| PluginError::new(format!("the daemon cannot be called: {e}"));
    runtime.map_err(failed)?.block_on(run(command, rest, &text, &daemon))
}

/// Does a call; what goes to standard output.
pub(crate) async fn run(
    command: &str,
    arguments: &[String],
    text: &str,
    daemon: &impl Daemon,
) -> Result<String, PluginError> {
    match (command, arguments) {
        ("create", []) => {
            let network = network::create(read(text)?, daemon).await?;
            serde_json::to_string(&network).map_err(|e| PluginError::new(e.to_string()))
        }
        ("setup", [netns]) => {
            let status = setup(netns, &read(text)?, daemon).await?;
            serde_json::to_string(&status).map_err(|e| PluginError::new(e.to_string()))
        }
        ("teardown", [netns]) => teardown(netns, &read(text)?, daemon).await.map(|()| String::new()),
        ("setup" | "teardown", _) => {
            Err(PluginError::new(format!("{command} wants the network namespace's path")))
        }
        _ => Err(PluginError::new(format!(
            "{command:?} is no call of netavark's to a plugin: netavark starts this program, as its driver weft"
        ))),
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, PluginError> {
    serde_json::from_str(text).map_err(|e| PluginError::new(format!("standard input makes no sense: {e}")))
}

async fn setup(netns: &str, call: &wire::Call, daemon: &impl Daemon) -> Result<wire::Status, PluginError> {
    let options = &call.network_options;
    let mac = options.static_mac.as_deref().filter(|mac| !mac.is_empty());
    let mac = mac.map(|mac| mac.parse().map_err(|e| PluginError::new(format!("static_mac: {e}"))));
    let ports: Vec<PublishedPort> = published(call.port_mappings.iter().flatten())?;
    let container = Container {
        id: call.container_id.clone(),
        name: call.container_name.clone(),
        aliases: aliases(call),
    };
    let request = AttachRequest {
        network: network::reference(&call.network).to_owned(),
        netns: netns.to_owned(),
        addresses: options.static_ips.clone().unwrap_or_default(),
        mac: mac.transpose()?,
        interface: Some(options.interface_name.clone()),
        aliases: vec![],
        name: None,
        engine: AttachingEngine::Podman,
        container: Some(container),
        outside: (!call.network.internal).then_some(OutsideRequest { ports }),
    };
    Ok(status(&daemon.attach(&request).await?))
}

/// Podman adds the short id, to which every container answers anyway.
fn aliases(call: &wire::Call) -> Vec<String> {
    let given = call.network_options.aliases.iter().flatten();
    given.filter(|alias| !call.container_id.starts_with(alias.as_str())).cloned().collect()
}

fn published<'a>(
    mappings: impl Iterator<Item = &'a wire::PortMapping>,
) -> Result<Vec<PublishedPort>, PluginError> {
    let mut ports = Vec::new();
    for mapping in mappings {
        let host_ip = Some(mapping.host_ip.as_str()).filter(|ip| !ip.is_empty());
        let host_ip = host_ip.map(|ip| {
            ip.parse().map_err(|_| PluginError::new(format!("port_mappings: {ip:?} is not an IP address")))
        });
        let host_ip = host_ip.transpose()?;
        for protocol in mapping.protocol.split(',') {
            let protocol = match protocol {
                "" => PortProtocol::Tcp,
                word => word.parse().map_err(|e| PluginError::new(format!("port_mappings: {e}")))?,
            };
            let (host_port, container_port) = (mapping.host_port, mapping.container_port);
            let count = mapping.range.max(1);
            ports.push(PublishedPort { protocol, host_ip, host_port, container_port, count });
        }
    }
    Ok(ports)
}

fn status(endpoint: &EndpointView) -> wire::Status {
    let subnets = endpoint.addresses.iter().map(|net| wire::Address { ipnet: *net, gateway: None }).collect();
    let interface = wire::Interface { mac_address: endpoint.mac.to_string(), subnets };
    wire::Status {
        dns_search_domains: Vec::new(),
        dns_server_ips: endpoint.name_server.into_iter().collect(),
        interfaces: BTreeMap::from([(endpoint.interface.clone().unwrap_or_default(), interface)]),
    }
}

/// What is gone already is done: Podman must be able to remove a container whatever has become of its network.
async fn teardown(netns: &str, call: &wire::Call, daemon: &impl Daemon) -> Result<(), PluginError> {
    let request = DetachRequest {
        network: network::reference(&call.network).to_owned(),
        netns: netns.to_owned(),
        engine: AttachingEngine::Podman,
        container: Some(call.container_id.clone()),
        interface: Some(call.network_options.interface_name.clone()),
    };
    match daemon.detach(&request).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
