//! `weft expose` and `weft unexpose`: the host itself on a network, by an interface in its own namespace. It gets an address
//! and the route to the network's subnet, nothing else: no default route, no forwarding. One for each network.

use crate::{
    Agent, AgentError, EndpointSpec,
    api::{ExposeRequest, UnexposeRequest},
};
use weft_model::{Container, Endpoint, EndpointId, HostRoute, Network, NetworkId, Sandbox};

/// The engine of endpoints that `weft expose` made.
const HOST: &str = "host";
/// What an error message calls it.
const THIS_HOST: &str = "this host";

impl Agent {
    /// Puts this host on a network. Nothing is left of a failure.
    pub async fn expose(&self, request: ExposeRequest) -> Result<Endpoint, AgentError> {
        let network = self.find_network(&request.network).await?;
        if let Some(present) = self.exposed(&network.id) {
            return Err(AgentError::AlreadyAttached {
                what: THIS_HOST.to_owned(),
                network: network.display_name().into_owned(),
                interface: present.sandbox.map_or_else(String::new, |s| s.interface),
            });
        }
        refuse_routed(&network, &weft_kernel::host_routes()?)?;
        let interface = match request.interface {
            Some(interface) => interface,
            None => weft_kernel::sandbox::first_free_interface(Sandbox::HOST, "weft")?,
        };
        let name = request.name.unwrap_or_else(|| self.0.view.this().name);
        self.create_endpoint(EndpointSpec {
            id: EndpointId::random(),
            network: network.id,
            engine: HOST.to_owned(),
            container: Some(Container {
                aliases: request.aliases,
                ..Container::new(interface.clone(), name)
            }),
            sandbox: Some(Sandbox::namespace(Sandbox::HOST, interface)),
            outside: None,
            mac: None,
            addresses: request.addresses,
            allocate: true,
        })
        .await
    }

    /// Takes this host off a network.
    pub async fn unexpose(&self, request: UnexposeRequest) -> Result<(), AgentError> {
        let network = self.find_network(&request.network).await?;
        let endpoint = self.exposed(&network.id).ok_or_else(|| AgentError::NotAttached {
            what: THIS_HOST.to_owned(),
            network: network.display_name().into_owned(),
        })?;
        self.remove_endpoint(&network.id, &endpoint.id).await
    }

    fn exposed(&self, network: &NetworkId) -> Option<Endpoint> {
        self.read(|s| {
            let mut endpoints = s.endpoints_on(network);
            endpoints.find(|e| e.node == *self.node() && e.engine == HOST).cloned()
        })
    }
}

/// A host that has a way to the same addresses already would lose one of the two.
fn refuse_routed(network: &Network, routes: &[HostRoute]) -> Result<(), AgentError> {
    for subnet in network.subnets.iter().map(|subnet| subnet.net) {
        if let Some(route) = routes.iter().find(|route| route.overlaps(subnet)) {
            return Err(AgentError::RoutedHere {
                network: network.display_name().into_owned(),
                subnet,
                route: route.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use weft_model::{AddressDriver, NodeId, Subnet, Vni};

    #[test]
    fn a_host_with_a_route_to_the_same_addresses_is_told_which() {
        let network = Network {
            id: NetworkId::random(),
            name: Some("net".parse().unwrap()),
            vni: Vni::new(4096).unwrap(),
            subnets: vec![Subnet::new("10.9.0.0/24".parse().unwrap())],
            mtu: None,
            internal: false,
            direct: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            address_driver: AddressDriver::Weft,
            created_by: NodeId::random(),
            created: 0,
        };
        let route = |net: &str| HostRoute { destination: net.parse().unwrap(), device: "eth1".to_owned() };
        refuse_routed(&network, &[route("10.8.0.0/16"), route("192.0.2.0/24")]).unwrap();
        for other in ["10.0.0.0/8", "10.9.0.0/24", "10.9.0.128/25", "10.9.0.7/32"] {
            let error = refuse_routed(&network, &[route(other)]).unwrap_err();
            let expected =
                format!("subnet 10.9.0.0/24 of network \"net\" overlaps this host's route {other} dev eth1");
            assert_eq!(error.to_string(), expected);
            assert!(error.hint().is_some());
        }
    }
}
