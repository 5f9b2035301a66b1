//! `weft attach` and `weft detach`: any network namespace on a network, no engine needed.

use crate::{
    Agent, AgentError, EndpointSpec,
    api::{AttachRequest, DetachRequest},
    leftovers::{NETNS, inode_to_note, is_gone},
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};
use weft_model::{Container, Endpoint, EndpointId, NetworkId, Sandbox};

impl Agent {
    /// Attaches a namespace to a network: an interface in it, with an address. Nothing is left of a failure.
    pub async fn attach(&self, request: AttachRequest) -> Result<Endpoint, AgentError> {
        let network = self.find_network(&request.network).await?;
        let path = Path::new(&request.netns);
        if !path.is_absolute() || !path.exists() {
            return Err(AgentError::Invalid(format!(
                "there is no network namespace at {:?}: give the path of one, as in /run/netns/blue",
                request.netns
            )));
        }
        if is_own_namespace(path) {
            return Err(AgentError::Invalid(format!(
                "{:?} is the host's own network namespace: `weft expose {}` puts the host on a network",
                request.netns,
                network.display_name()
            )));
        }
        if let Some(present) = self.attached(&network.id, &request.netns) {
            // Of a process that has ended and whose pid another one has by now.
            if present.sandbox.as_ref().is_some_and(is_gone) {
                self.remove_endpoint(&network.id, &present.id).await?;
            } else {
                return Err(AgentError::AlreadyAttached {
                    netns: request.netns,
                    network: network.display_name().to_owned(),
                    interface: present.sandbox.map_or_else(String::new, |s| s.interface),
                });
            }
        }
        let interface = match request.interface {
            Some(interface) => interface,
            None => weft_kernel::sandbox::first_free_interface(&request.netns, "eth")?,
        };
        let name = request.name.unwrap_or_else(|| {
            path.file_name().map_or_else(|| request.netns.clone(), |n| n.to_string_lossy().into_owned())
        });
        self.create_endpoint(EndpointSpec {
            id: EndpointId::random(),
            network: network.id,
            engine: NETNS.to_owned(),
            container: Some(Container {
                aliases: request.aliases,
                ..Container::new(request.netns.clone(), name)
            }),
            sandbox: Some(Sandbox {
                inode: inode_to_note(path),
                ..Sandbox::namespace(request.netns, interface)
            }),
            mac: request.mac,
            addresses: request.addresses,
            allocate: true,
        })
        .await
    }

    /// Detaches a namespace from a network.
    pub async fn detach(&self, request: DetachRequest) -> Result<(), AgentError> {
        let network = self.find_network(&request.network).await?;
        let endpoint = self.attached(&network.id, &request.netns).ok_or(AgentError::NotAttached {
            netns: request.netns,
            network: network.display_name().to_owned(),
        })?;
        self.remove_endpoint(&network.id, &endpoint.id).await
    }

    fn attached(&self, network: &NetworkId, netns: &str) -> Option<Endpoint> {
        self.read(|s| {
            let mut endpoints = s.endpoints.get(network)?.values();
            endpoints.find(|e| is_attached(e, self, netns)).cloned()
        })
    }
}

fn is_attached(endpoint: &Endpoint, agent: &Agent, netns: &str) -> bool {
    endpoint.node == *agent.node()
        && endpoint.engine == NETNS
        && endpoint.sandbox.as_ref().is_some_and(|s| s.path == netns)
}

/// Whether the namespace at `path` is that of the daemon, by whatever name.
fn is_own_namespace(path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    // What cannot be looked at is refused where it is opened.
    matches!((identity(path), identity(Path::new(Sandbox::HOST))), (Ok(a), Ok(b)) if a == b)
}
