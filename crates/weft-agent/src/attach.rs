//! Putting a network namespace on a network and taking it off again: for `weft attach`, CNI and Podman.

use crate::{
    Agent, AgentError, EndpointSpec,
    api::{AttachRequest, AttachingEngine, DetachRequest},
    leftovers::{inode_to_note, is_gone},
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};
use weft_kernel::sandbox;
use weft_model::{Container, Endpoint, EndpointId, Network, NetworkId, Sandbox};

/// The engines whose namespaces weft itself sets up, as endpoints' records name them.
pub(crate) const ATTACHING: [&str; 3] = ["netns", "cni", "podman"];

impl AttachingEngine {
    /// Its name in endpoints' records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netns => ATTACHING[0],
            Self::Cni => ATTACHING[1],
            Self::Podman => ATTACHING[2],
        }
    }
}

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
        let attachment = Attachment::of(&request)?;
        if let Some(present) = self.attached(&network.id, &attachment) {
            // Of a process that has ended and whose pid another one has by now.
            if present.sandbox.as_ref().is_some_and(is_gone) {
                self.remove_endpoint(&network.id, &present.id).await?;
            } else {
                return Err(AgentError::AlreadyAttached {
                    what: attachment.what(),
                    network: network.display_name().into_owned(),
                    interface: present.sandbox.map_or_else(String::new, |s| s.interface),
                });
            }
        }
        let interface = match &request.interface {
            Some(interface) => interface.clone(),
            None => sandbox::first_free_interface(&request.netns, "eth")?,
        };
        if request.engine != AttachingEngine::Netns {
            sandbox::set_loopback_up(&request.netns)?;
        }
        let engine = request.engine.name().to_owned();
        let sandbox =
            Sandbox { inode: inode_to_note(path), ..Sandbox::namespace(request.netns.clone(), interface) };
        let mut spec = EndpointSpec {
            id: EndpointId::random(),
            network: network.id.clone(),
            engine,
            container: Some(container_of(&request, path)),
            sandbox: Some(sandbox),
            outside: None,
            mac: request.mac,
            addresses: request.addresses,
            allocate: true,
        };
        let Some(outside) = request.outside else { return self.create_endpoint(spec).await };
        let _turn = self.0.leading_out.lock().await;
        spec.outside = self.way_out(&spec, &network, outside)?;
        self.create_endpoint(spec).await
    }

    /// Detaches a namespace from a network.
    pub async fn detach(&self, request: DetachRequest) -> Result<(), AgentError> {
        let (_, endpoint) = self.find_attached(&request).await?;
        self.remove_endpoint(&endpoint.network, &endpoint.id).await
    }

    /// The endpoint of an attachment that is there and intact: its devices were made, and the namespace has the interface
    /// with its addresses. An error tells what is missing.
    pub async fn check(&self, request: DetachRequest) -> Result<Endpoint, AgentError> {
        let (network, endpoint) = self.find_attached(&request).await?;
        let addresses = endpoint.ipv4.map(Into::into).into_iter().chain(endpoint.ipv6.map(Into::into));
        let mut interfaces = Vec::new();
        if let Some(sandbox) = &endpoint.sandbox {
            interfaces.push((&sandbox.interface, addresses.collect()));
        }
        if let Some(outside) = &endpoint.outside {
            interfaces.push((&outside.interface, outside.addresses().collect::<Vec<_>>()));
        }
        let path = match (&endpoint.sandbox, request.netns.as_str()) {
            (Some(sandbox), "") => sandbox.path.clone(),
            _ => request.netns.clone(),
        };
        let reason = match self.failure_of(&endpoint, &network) {
            Some(reason) => Some(reason),
            None => interfaces
                .into_iter()
                .find_map(|(name, nets)| sandbox::missing(&path, name, &nets).transpose())
                .transpose()?,
        };
        match reason {
            None => Ok(endpoint),
            Some(reason) => Err(AgentError::NotIntact {
                what: Attachment::of_detach(&request)?.what(),
                network: network.display_name().into_owned(),
                reason,
            }),
        }
    }

    async fn find_attached(&self, request: &DetachRequest) -> Result<(Network, Endpoint), AgentError> {
        let network = self.find_network(&request.network).await?;
        let attachment = Attachment::of_detach(request)?;
        let endpoint = self.attached(&network.id, &attachment).ok_or_else(|| AgentError::NotAttached {
            what: attachment.what(),
            network: network.display_name().into_owned(),
        })?;
        Ok((network, endpoint))
    }

    fn attached(&self, network: &NetworkId, attachment: &Attachment) -> Option<Endpoint> {
        self.read(|s| {
            let mut endpoints = s.endpoints_on(network);
            endpoints.find(|e| e.node == *self.node() && attachment.is(e)).cloned()
        })
    }
}

fn container_of(request: &AttachRequest, path: &Path) -> Container {
    if let Some(container) = &request.container {
        return container.clone();
    }
    let last =
        || path.file_name().map_or_else(|| request.netns.clone(), |n| n.to_string_lossy().into_owned());
    Container {
        aliases: request.aliases.clone(),
        ..Container::new(request.netns.clone(), request.name.clone().unwrap_or_else(last))
    }
}

/// What an attachment is known by, on one network.
enum Attachment {
    /// The namespace's path.
    Netns(String),
    /// The engine, its container, and the interface: the namespace may be gone.
    Engine { engine: AttachingEngine, container: String, interface: Option<String> },
}

impl Attachment {
    fn of(request: &AttachRequest) -> Result<Self, AgentError> {
        let container = request.container.as_ref().map(|container| container.id.clone());
        let attachment = Self::new(request.engine, &request.netns, container, request.interface.clone())?;
        if let Self::Engine { interface: None, .. } = attachment {
            return Err(AgentError::Invalid("an engine has to name the interface".to_owned()));
        }
        Ok(attachment)
    }

    fn of_detach(request: &DetachRequest) -> Result<Self, AgentError> {
        Self::new(request.engine, &request.netns, request.container.clone(), request.interface.clone())
    }

    fn new(
        engine: AttachingEngine,
        netns: &str,
        container: Option<String>,
        interface: Option<String>,
    ) -> Result<Self, AgentError> {
        match (engine, container) {
            (AttachingEngine::Netns, _) => Ok(Self::Netns(netns.to_owned())),
            (engine, Some(container)) => Ok(Self::Engine { engine, container, interface }),
            (..) => Err(AgentError::Invalid("an engine has to name the container".to_owned())),
        }
    }

    fn is(&self, endpoint: &Endpoint) -> bool {
        let has = |name: &String| endpoint.sandbox.as_ref().is_some_and(|s| s.interface == *name);
        match self {
            Self::Netns(path) => {
                endpoint.engine == AttachingEngine::Netns.name()
                    && endpoint.sandbox.as_ref().is_some_and(|s| s.path == *path)
            }
            Self::Engine { engine, container, interface } => {
                endpoint.engine == engine.name()
                    && endpoint.container.as_ref().is_some_and(|c| c.id == *container)
                    && interface.as_ref().is_none_or(has)
            }
        }
    }

    /// In the words of an error.
    fn what(&self) -> String {
        match self {
            Self::Netns(path) => path.clone(),
            Self::Engine { container, interface: Some(interface), .. } => {
                format!("{interface} of container {container}")
            }
            Self::Engine { container, .. } => format!("container {container}"),
        }
    }
}

/// Whether the namespace at `path` is that of the daemon, by whatever name.
fn is_own_namespace(path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    // What cannot be looked at is refused where it is opened.
    matches!((identity(path), identity(Path::new(Sandbox::HOST))), (Ok(a), Ok(b)) if a == b)
}
