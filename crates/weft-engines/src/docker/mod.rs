//! Docker: `docker network create --driver weft` on one host, the same network on all of them.
//!
//! Two halves. The *plugin* ([`server`], [`driver`], [`ipam`]) answers the calls of this host's dockerd on
//! `/run/docker/plugins/weft.sock`: Docker's remote network driver and IPAM driver protocols. The *mirror*
//! ([`mirror`]) speaks to dockerd's API and keeps a copy of every named network of the cluster on this engine,
//! because an engine by itself knows only the networks that were made on it.
//!
//! The halves meet only in the cluster's records: which of the engine's network ids stands for which network is
//! a binding ([`weft_model::Binding`]). The plugin makes bindings, the mirror removes them when the engine does
//! not list the network any more. They hold no lock of one another's: dockerd calls the plugin while the mirror
//! waits for an answer of dockerd's.

mod cluster;
mod compare;
#[cfg(test)]
mod conversation;
mod driver;
mod engine;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_dockerd;
#[doc(hidden)]
pub mod fuzzing;
mod ipam;
mod leak;
mod mirror;
mod network;
mod plugin;
mod server;
mod socket;
mod wire;

use mirror::Mirror;
use plugin::Plugin;
use socket::PluginSocket;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use weft_agent::Agent;

/// How long calls of dockerd's that are under way may go on after the daemon was told to end.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Where Docker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOptions {
    /// The socket on which weft serves dockerd. Its file name without `.sock` is what dockerd calls the driver,
    /// so it must be [`DockerOptions::name`]. Default: `/run/docker/plugins/weft.sock`.
    pub plugin_socket: PathBuf,
    /// The address of dockerd's API: `unix://` and a path. Default: `unix:///var/run/docker.sock`.
    pub api: String,
    /// The name of the network driver and of the IPAM driver. Default: `weft`.
    pub name: String,
}

impl Default for DockerOptions {
    fn default() -> Self {
        Self {
            plugin_socket: PathBuf::from("/run/docker/plugins/weft.sock"),
            api: "unix:///var/run/docker.sock".to_owned(),
            name: "weft".to_owned(),
        }
    }
}

/// Why weft cannot serve an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Another process answers on the plugin socket.
    #[error("{} is served by another process: is a weft daemon running already?", .0.display())]
    SocketInUse(PathBuf),
    /// The plugin socket cannot be made.
    #[error("cannot make the Docker plugin socket {}: {reason}", .path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Not an address of dockerd's API that weft can use.
    #[error("{0:?} is not the address of a Docker engine on this host: expected unix:///PATH")]
    Api(String),
    /// The plugin's server ended by itself.
    #[error("the Docker plugin socket {} failed: {reason}", .path.display())]
    Server {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Serves this host's Docker engine until `shutdown`. No engine being there is no error: weft waits for one.
pub async fn run(
    agent: Agent,
    options: DockerOptions,
    shutdown: CancellationToken,
) -> Result<(), EngineError> {
    let api = options.api.strip_prefix("unix://").filter(|path| path.starts_with('/'));
    let api = api.ok_or_else(|| EngineError::Api(options.api.clone()))?.to_owned();
    let socket = PluginSocket::bind(&options.plugin_socket)?;
    tracing::info!(socket = %options.plugin_socket.display(), "serving Docker's plugin protocol");

    let plugin = Arc::new(Plugin::new(agent.clone()));
    let mirror = Mirror::new(agent, Arc::clone(plugin.calls()), options, api);
    tokio::select! {
        served = server::serve(socket, plugin, shutdown, LAST_CALLS) => served,
        never = mirror.run() => match never {},
    }
}
