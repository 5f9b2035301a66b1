//! The ways out of this host's sandboxes: who carries one, who gets one, who inherits it.
//!
//! A sandbox has one at most. The first of its endpoints on a network that is not internal gets it; when that one is
//! removed, another takes it over with its devices and ports.

use crate::{Agent, AgentError, EndpointSpec, api::OutsideRequest, known::Known};
use weft_kernel::sandbox;
use weft_model::{Endpoint, Network, Outside, PublishedPort, encode, schema};
use weft_plan::choose_outside;
use weft_store::Txn;

/// What the interfaces of ways out are called in sandboxes: engines hand out `eth0`, `eth1` and so on themselves, also after this
/// one was made.
const INTERFACES: &str = "out";

impl Agent {
    /// The way out that an endpoint to make is to carry; `None`: its sandbox has one, or the network is internal. The caller
    /// holds `leading_out` until the endpoint is made.
    pub(crate) fn way_out(
        &self,
        spec: &EndpointSpec,
        network: &Network,
        request: OutsideRequest,
    ) -> Result<Option<Outside>, AgentError> {
        let Some(place) = spec.sandbox.as_ref().filter(|_| !network.internal) else { return Ok(None) };
        if let Some(wrong) = request.ports.iter().find(|port| !port.is_possible()) {
            return Err(AgentError::Invalid(format!(
                "{wrong} cannot be published: ports go from 1 to 65535"
            )));
        }
        let interface = sandbox::first_free_interface(&place.path, INTERFACES)?;
        self.0.view.look_up(|known| {
            if carriers(known).any(|e| e.sandbox.as_ref().is_some_and(|there| there.path == place.path)) {
                return Ok(None);
            }
            if let Some((port, holder)) = published_already(known, &request.ports) {
                return Err(AgentError::PortTaken { port: port.to_string(), holder });
            }
            let configured = self.0.options.gateway_subnet;
            let (ipv4, ipv6) = choose_outside(known.snapshot(), self.node(), network, configured)
                .ok_or_else(|| AgentError::NoGatewaySubnet(network.display_name().into_owned()))?;
            Ok(Some(Outside { id: spec.id.clone(), interface, ipv4, ipv6, ports: request.ports }))
        })
    }

    /// Adds to the removal of an endpoint that its way out goes on to another endpoint of its sandbox, if there is one.
    pub(crate) async fn with_way_out_handed_on(
        &self,
        txn: Txn,
        endpoint: &Endpoint,
    ) -> Result<Txn, AgentError> {
        let (Some(outside), Some(place)) = (&endpoint.outside, &endpoint.sandbox) else { return Ok(txn) };
        let heir = self.0.view.look_up(|known| {
            let mut heirs = known.own().filter(|e| {
                e.id != endpoint.id
                    && e.outside.is_none()
                    && e.sandbox.as_ref().is_some_and(|there| there.path == place.path)
                    && known.snapshot().networks.get(&e.network).is_some_and(|network| !network.internal)
            });
            heirs.next().map(schema::key_of_endpoint)
        });
        let Some(key) = heir else { return Ok(txn) };
        let Some(record) = self.0.store.get(&key).await? else { return Ok(txn) };
        let Ok(heir) = serde_json::from_slice::<Endpoint>(&record.value) else { return Ok(txn) };
        let heir = Endpoint { outside: Some(outside.clone()), ..heir };
        Ok(txn.unchanged(&key, record.modified).put(&key, encode(&heir)))
    }
}

/// This node's endpoints that carry a way out.
fn carriers(known: &Known) -> impl Iterator<Item = &Endpoint> {
    known.own().filter(|e| e.outside.is_some())
}

fn published_already(known: &Known, wanted: &[PublishedPort]) -> Option<(PublishedPort, String)> {
    carriers(known).find_map(|endpoint| {
        let theirs = &endpoint.outside.as_ref()?.ports;
        let taken = wanted.iter().find(|port| theirs.iter().any(|other| port.collides(other)))?;
        Some((taken.clone(), endpoint.display_name().into_owned()))
    })
}
