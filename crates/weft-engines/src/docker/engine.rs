//! dockerd's API, as far as the mirror uses it.

use super::{
    compare::{EngineNetwork, short},
    plugin::{COPY_OF, MTU},
};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::{EventMessage, Ipam, IpamConfig, Network as ListedNetwork, NetworkCreateRequest},
    query_parameters::{EventsOptions, InspectContainerOptions, InspectNetworkOptions, ListNetworksOptions},
};
use futures::Stream;
use std::collections::{BTreeMap, HashMap};
use weft_agent::NetworkDetails;
use weft_model::{Container, Network, Subnet, UnixSeconds};

/// How long dockerd may take for an answer, in seconds: it calls the plugin meanwhile, and is slow under load.
const TIMEOUT: u64 = 60;

/// The bridge through which Docker connects containers of multi-host networks to the world.
pub(super) const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// A connected engine.
pub(super) struct Engine {
    docker: Docker,
    driver: String,
    /// Its version.
    pub version: String,
}

/// Why the engine did not do something.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It does not answer, or not as an engine: start again with a new connection.
    #[error(transparent)]
    Away(Error),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } if message.is_empty() => {
                Self::Refused(format!("it answers with status {status_code}"))
            }
            Error::DockerResponseServerError { message, .. } => Self::Refused(message),
            other => Self::Away(other),
        }
    }
}

/// An endpoint as the engine knows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EngineEndpoint {
    /// Its id.
    pub id: String,
    /// The container; `None` when its sandbox is gone.
    pub container: Option<Container>,
}

impl Engine {
    /// Connects to the engine at the socket `path`. `driver` is weft's name there.
    pub async fn connect(path: &str, driver: &str) -> Result<Self, ApiError> {
        let docker = Docker::connect_with_unix(path, TIMEOUT, API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await?;
        let version = docker.version().await?.version.unwrap_or_default();
        Ok(Self { docker, driver: driver.to_owned(), version })
    }

    /// Its network events from `since` on.
    pub fn events(&self, since: UnixSeconds) -> impl Stream<Item = Result<EventMessage, Error>> + use<> {
        let filters = HashMap::from([("type".to_owned(), vec!["network".to_owned()])]);
        let options = EventsOptions {
            since: Some(since.to_string()),
            filters: Some(filters),
            ..EventsOptions::default()
        };
        self.docker.events(Some(options))
    }

    /// All its networks.
    pub async fn networks(&self) -> Result<Vec<EngineNetwork>, ApiError> {
        let networks = self.docker.list_networks(None::<ListNetworksOptions>).await?;
        Ok(networks.into_iter().map(listed).collect())
    }

    /// The endpoints on one of its networks; `None` if there is no such network.
    pub async fn endpoints(&self, network: &str) -> Result<Option<Vec<EngineEndpoint>>, ApiError> {
        let found = match self.docker.inspect_network(network, None::<InspectNetworkOptions>).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            other => other?,
        };
        let endpoints = found.containers.unwrap_or_default().into_iter();
        let endpoints = endpoints.map(|(container, endpoint)| EngineEndpoint {
            id: endpoint.endpoint_id.unwrap_or_default(),
            // Without a sandbox it stands there under its own id.
            container: (!container.starts_with("ep-"))
                .then(|| Container::new(container, endpoint.name.unwrap_or_default())),
        });
        Ok(Some(endpoints.collect()))
    }

    /// What a container answers to on the network that it has this endpoint on, besides its name. None if it is gone.
    pub async fn aliases(&self, container: &str, endpoint: &str) -> Result<Vec<String>, ApiError> {
        let found = match self.docker.inspect_container(container, None::<InspectContainerOptions>).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(vec![]),
            other => other?,
        };
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let here = networks.into_values().find(|n| n.endpoint_id.as_deref() == Some(endpoint));
        Ok(here.and_then(|n| n.aliases).unwrap_or_default())
    }

    /// Makes the copy of a network. One that would be the second of its name is taken back and an error: Docker
    /// 20.10 makes it and only warns.
    pub async fn create_copy(&self, network: &Network) -> Result<(), ApiError> {
        let made = self.docker.create_network(copy_of(network, &self.driver)).await?;
        if made.warning.contains("already exists") {
            self.remove(&made.id).await?;
            return Err(ApiError::Refused(made.warning));
        }
        if !made.warning.is_empty() {
            tracing::warn!(network = &*network.display_name(), warning = made.warning, "Docker warns");
        }
        Ok(())
    }

    /// Removes a network. One that is gone is no error.
    pub async fn remove(&self, network: &str) -> Result<(), ApiError> {
        match self.docker.remove_network(network).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Makes `docker_gwbridge` if it is not there, as Docker itself does at the first container that needs it.
    /// Early, so that the subnet it takes is not one that an overlay network has by then.
    pub async fn ensure_gateway_bridge(&self) -> Result<(), ApiError> {
        if self.networks().await?.iter().any(|n| n.name == GATEWAY_BRIDGE) {
            return Ok(());
        }
        let options = [
            ("com.docker.network.bridge.name", GATEWAY_BRIDGE),
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ];
        let request = NetworkCreateRequest {
            name: GATEWAY_BRIDGE.to_owned(),
            driver: Some("bridge".to_owned()),
            options: Some(options.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            ..NetworkCreateRequest::default()
        };
        let made = self.docker.create_network(request).await?;
        tracing::info!(id = short(&made.id), "made {GATEWAY_BRIDGE}");
        Ok(())
    }
}

/// A network as dockerd's list tells of it.
pub(super) fn listed(network: ListedNetwork) -> EngineNetwork {
    let sorted = |map: Option<HashMap<_, _>>| map.unwrap_or_default().into_iter().collect();
    let subnets = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    EngineNetwork {
        id: network.id.unwrap_or_default(),
        name: network.name.unwrap_or_default(),
        driver: network.driver.unwrap_or_default(),
        options: sorted(network.options),
        details: NetworkDetails {
            labels: sorted(network.labels),
            subnets: subnets.iter().filter_map(subnet_of).collect(),
        },
    }
}

/// A subnet as it was given to `docker network create`. One that Docker chose has nothing else to tell.
fn subnet_of(config: &IpamConfig) -> Option<Subnet> {
    let text = |field: &Option<String>| field.as_deref().and_then(|text| text.parse().ok());
    let reserved = config.auxiliary_addresses.iter().flatten();
    Some(Subnet {
        net: config.subnet.as_deref()?.parse().ok()?,
        gateway: config.gateway.as_deref().and_then(super::network::address_of),
        range: text(&config.ip_range),
        reserved: reserved.filter_map(|(name, ip)| Some((name.clone(), ip.parse().ok()?))).collect(),
    })
}

/// The request that makes a copy of the network: the same to look at, its addresses from weft's IPAM, and marked.
fn copy_of(network: &Network, driver: &str) -> NetworkCreateRequest {
    let mark = || HashMap::from([(COPY_OF.to_owned(), network.id.to_string())]);
    let mut options: HashMap<_, _> = network.options.clone().into_iter().collect();
    options.extend(mark());
    if let Some(mtu) = network.mtu {
        options.entry(MTU.to_owned()).or_insert_with(|| mtu.to_string());
    }
    let has = |ipv6: bool| network.subnets.iter().any(|s| s.net.addr().is_ipv6() == ipv6);
    NetworkCreateRequest {
        name: network.display_name().into_owned(),
        driver: Some(driver.to_owned()),
        internal: Some(network.internal),
        // Engines before 28 do not know this field and always want IPv4.
        enable_ipv4: (!has(false)).then_some(false),
        enable_ipv6: Some(has(true)),
        ipam: Some(Ipam {
            driver: Some(driver.to_owned()),
            config: Some(network.subnets.iter().map(config_of).collect()),
            options: Some(mark()),
        }),
        options: Some(options),
        labels: Some(network.labels.clone().into_iter().collect()),
        ..NetworkCreateRequest::default()
    }
}

fn config_of(subnet: &Subnet) -> IpamConfig {
    let reserved: &BTreeMap<_, _> = &subnet.reserved;
    IpamConfig {
        subnet: Some(subnet.net.to_string()),
        ip_range: subnet.range.map(|r| r.to_string()),
        gateway: subnet.gateway.map(|g| g.to_string()),
        auxiliary_addresses: (!reserved.is_empty())
            .then(|| reserved.iter().map(|(name, ip)| (name.clone(), ip.to_string())).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{AddressDriver, NetworkId, NodeId, Vni};

    #[test]
    fn a_copy_looks_like_its_network_and_is_read_back_as_one() {
        let subnet = Subnet {
            range: Some("10.9.0.128/25".parse().unwrap()),
            reserved: BTreeMap::from([("printer".to_owned(), "10.9.0.7".parse().unwrap())]),
            ..Subnet::new("10.9.0.0/24".parse().unwrap())
        };
        let network = Network {
            id: NetworkId::random(),
            name: Some("blue".parse().unwrap()),
            vni: Vni::new(4096).unwrap(),
            subnets: vec![subnet, Subnet::new("fd00:9::/64".parse().unwrap())],
            mtu: Some("1400".parse().unwrap()),
            internal: true,
            direct: false,
            labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
            options: BTreeMap::from([("weft.vni".to_owned(), "4096".to_owned())]),
            address_driver: AddressDriver::Weft,
            created_by: NodeId::random(),
            created: 0,
        };
        let request = serde_json::to_value(copy_of(&network, "weft")).unwrap();
        assert_eq!(request["Name"], "blue");
        assert_eq!((&request["Driver"], &request["IPAM"]["Driver"]), (&"weft".into(), &"weft".into()));
        assert_eq!(request["Options"][COPY_OF], network.id.to_string());
        assert_eq!(request["Options"][MTU], "1400");
        assert_eq!(request["Options"]["weft.vni"], "4096");
        assert_eq!(request["IPAM"]["Options"][COPY_OF], network.id.to_string());
        assert_eq!(request["EnableIPv6"], true);
        assert!(request.get("EnableIPv4").is_none());

        // What Docker lists of it has the same fields.
        let listed = listed(serde_json::from_value(request).unwrap());
        assert_eq!(listed.options[COPY_OF], network.id.to_string());
        assert_eq!(listed.details, NetworkDetails { labels: network.labels, subnets: network.subnets });
    }
}
