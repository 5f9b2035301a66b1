//! Making and removing endpoints. The verbs write records; the loop makes the devices; a verb answers when both
//! are done.

use crate::{
    Agent, AgentError,
    addresses::{ATTEMPTS, with_prefix},
    reserve::Patience,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;
use weft_model::{
    AddressClaim, ClaimKind, Container, Endpoint, EndpointId, MacAddr, Network, NetworkId, Outside, Revision,
    Sandbox, encode, schema, unix_now,
};
use weft_plan::{IpamError, Key, describe_holder, far_end_name, gateway_port_name, port_name};
use weft_store::{Outcome, Record, Txn};

/// An endpoint to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its id.
    pub id: EndpointId,
    /// The network.
    pub network: NetworkId,
    /// Who makes it.
    pub engine: String,
    /// The container, if known already.
    pub container: Option<Container>,
    /// Where its interface goes. `None`: it stays in the host's namespace until the engine takes it.
    pub sandbox: Option<Sandbox>,
    /// The sandbox's way out, where weft makes it and this endpoint is to carry it.
    pub outside: Option<Outside>,
    /// Its MAC address; else derived from its first IP address.
    pub mac: Option<MacAddr>,
    /// The addresses it should have: one of each family at most. This node may have claimed them before by
    /// [`Agent::claim_address`].
    pub addresses: Vec<IpAddr>,
    /// Choose an address for each family of the network's that `addresses` lacks.
    pub allocate: bool,
}

/// An address that an endpoint is to have.
struct Address {
    /// With its subnet's prefix length.
    net: IpNet,
    /// The claim by which this node holds it already: for the engine, or ahead.
    held: Option<Held>,
}

/// A claim of this node's that no endpoint has.
pub(crate) struct Held {
    pub(crate) revision: Revision,
    pub(crate) kind: ClaimKind,
}

impl Held {
    /// Its kind once an endpoint has the address.
    fn with_endpoint(&self) -> ClaimKind {
        match self.kind {
            ClaimKind::Ipam => ClaimKind::Ipam,
            ClaimKind::Reserved | ClaimKind::Endpoint => ClaimKind::Endpoint,
        }
    }
}

impl Agent {
    /// Claims an endpoint's addresses and writes its record, at once or not at all; then waits until this host's
    /// kernel has its port. Asked for again with the same id, answers with what is there.
    pub async fn create_endpoint(&self, spec: EndpointSpec) -> Result<Endpoint, AgentError> {
        let _taking = self.takes()?;
        self.follow_network(&spec.network).await?;
        if let Some(present) = self.endpoint(&spec.network, &spec.id) {
            let same = present.node == self.0.node
                && spec.addresses.iter().all(|wanted| present.addresses().any(|a| a == *wanted));
            return if same {
                Ok(present)
            } else {
                let id = spec.id.short();
                Err(AgentError::Invalid(format!("endpoint {id} exists already with other addresses")))
            };
        }
        let mut away = self.0.outbox.is_away();
        let mut patience = Patience::new(self);
        for _ in 0..ATTEMPTS {
            match self.try_endpoint(&spec, away).await {
                Ok(Some((endpoint, revision))) => return self.finish_endpoint(endpoint, revision).await,
                Ok(None) => {}
                Err(AgentError::Ipam(IpamError::Full { .. }))
                    if patience.for_the_reserves(self, &spec.network).await => {}
                Err(AgentError::Store(error)) if error.is_away() && !away => away = true,
                Err(error) => return Err(error),
            }
        }
        Err(AgentError::Contention(format!("network {}", spec.network.short()), ATTEMPTS))
    }

    /// `None`: another daemon was faster with one of the addresses.
    async fn try_endpoint(
        &self,
        spec: &EndpointSpec,
        away: bool,
    ) -> Result<Option<(Endpoint, Revision)>, AgentError> {
        let network = self
            .read(|s| s.networks.get(&spec.network).cloned())
            .ok_or_else(|| AgentError::NoSuchNetwork(spec.network.to_string()))?;
        let addresses = self.addresses_for(spec, &network, away).await?;
        let Some(endpoint) = self.new_endpoint(spec, &addresses)? else { return Ok(None) };

        let key = schema::key_of_endpoint(&endpoint);
        let mut txn = Txn::new()
            .present(schema::network_key(&network.id))
            .absent(schema::removing_key(&network.id))
            .absent(&key);
        for address in &addresses {
            let key = schema::address_key(&network.id, address.net.addr());
            let kind = address.held.as_ref().map_or(ClaimKind::Endpoint, Held::with_endpoint);
            txn = match &address.held {
                Some(held) => txn.unchanged(&key, held.revision),
                None => txn.absent(&key),
            };
            txn = txn.put(key, encode(&self.new_claim(kind, Some(spec.id.clone()))));
            txn = self.with_request_met(txn, &network.id, address.net.addr());
        }
        let txn = txn.put(key, encode(&endpoint));
        let present = match self.commit(txn).await? {
            Outcome::Committed(revision) => return Ok(Some((endpoint, revision))),
            Outcome::Refused(present) => present,
        };
        match &present[..] {
            [None, ..] => Err(AgentError::NoSuchNetwork(network.id.to_string())),
            [_, Some(_), ..] => Err(self.removing(&network.id)),
            // The answer to an earlier attempt was lost, not the attempt.
            [_, _, Some(record), ..] => {
                let there = serde_json::from_slice::<Endpoint>(&record.value).ok();
                let ours = there.filter(|e| e.node == self.0.node);
                let foreign = || AgentError::Invalid(format!("endpoint {} exists already", spec.id.short()));
                ours.map(|e| Some((e, record.modified))).ok_or_else(foreign)
            }
            _ => {
                self.caught_up(&present).await?;
                Ok(None)
            }
        }
    }

    /// The addresses asked for and the ones chosen; nobody else has any of them as far as this node knows.
    async fn addresses_for(
        &self,
        spec: &EndpointSpec,
        network: &Network,
        away: bool,
    ) -> Result<Vec<Address>, AgentError> {
        let mut addresses = Vec::new();
        for &ip in &spec.addresses {
            let net = subnet_of(network, ip)?;
            self.ask_for(&network.id, ip).await?;
            let held = self.held(network, ip).await?;
            if held.is_none() {
                match self.choose_address(&network.id, net, Some(ip)) {
                    // The store has just said that nobody holds it, and this node's view that it does itself: the reserve
                    // takes and gives back all the time. The transaction decides.
                    Err(AgentError::Ipam(IpamError::Taken { .. })) if self.holds_in_view(&network.id, ip) => {
                    }
                    other => drop(other?),
                }
            }
            addresses.push(Address { net: with_prefix(ip, net), held });
        }
        for v4 in [true, false] {
            let wanted = addresses.iter().any(|a| a.net.addr().is_ipv4() == v4);
            if !spec.allocate || wanted {
                continue;
            }
            if !network.subnets.iter().any(|s| s.net.addr().is_ipv4() == v4) {
                continue;
            }
            if away {
                let (net, held) =
                    self.take_reserved(network, || self.reserved_of_family(network, v4)).await?;
                addresses.push(Address { net, held: Some(held) });
            } else {
                let chosen = self.choose_of_family(network, v4)?;
                addresses.extend(chosen.map(|net| Address { net, held: None }));
            }
        }
        match (&addresses[..], spec.addresses.len()) {
            ([], _) => Err(AgentError::Invalid("an endpoint needs an address".to_owned())),
            ([a, b], 2..) if a.net.addr().is_ipv4() == b.net.addr().is_ipv4() => {
                Err(AgentError::Invalid("an endpoint has one address of each family at most".to_owned()))
            }
            ([_, _, _, ..], _) => {
                Err(AgentError::Invalid("an endpoint has one address of each family at most".to_owned()))
            }
            _ => Ok(addresses),
        }
    }

    /// A free address of the family, from the first of the network's subnets that has one. `None`: the network
    /// has no subnet of that family.
    fn choose_of_family(&self, network: &Network, v4: bool) -> Result<Option<IpNet>, AgentError> {
        let mut full = None;
        for subnet in network.subnets.iter().filter(|s| s.net.addr().is_ipv4() == v4) {
            match self.choose_address(&network.id, subnet.net, None) {
                Ok(ip) => return Ok(Some(with_prefix(ip, subnet.net))),
                Err(error @ AgentError::Ipam(IpamError::Full { .. })) => full = Some(error),
                Err(error) => return Err(error),
            }
        }
        full.map_or(Ok(None), Err)
    }

    /// This node's claim on `ip`, by an engine's IPAM call or ahead, if there is one without an endpoint.
    pub(crate) async fn held(&self, network: &Network, ip: IpAddr) -> Result<Option<Held>, AgentError> {
        let Some(record) = self.0.store.get(&schema::address_key(&network.id, ip)).await? else {
            return Ok(None);
        };
        let claim = serde_json::from_slice::<AddressClaim>(&record.value).ok();
        let ours = claim.filter(|c| c.node == self.0.node && c.endpoint.is_none());
        if let Some(AddressClaim { kind: kind @ (ClaimKind::Ipam | ClaimKind::Reserved), .. }) = ours {
            return Ok(Some(Held { revision: record.modified, kind }));
        }
        // The store knows the claim; this node's view may not yet, and could not tell whose it is.
        self.caught_up(&[Some(record)]).await?;
        let holder = self.read(|s| describe_holder(s, &network.id, ip));
        let network = network.display_name().into_owned();
        Err(AgentError::Ipam(IpamError::Taken { ip, network, holder }))
    }

    /// Whether the view has a claim of this node's on `ip` that no endpoint uses.
    fn holds_in_view(&self, network: &NetworkId, ip: IpAddr) -> bool {
        self.read(|s| {
            let claim = s.addresses.get(network).and_then(|claims| claims.get(&ip));
            claim.is_some_and(|c| c.node == self.0.node && c.endpoint.is_none())
        })
    }

    /// `None`: another endpoint has come to one of the addresses since they were chosen.
    fn new_endpoint(
        &self,
        spec: &EndpointSpec,
        addresses: &[Address],
    ) -> Result<Option<Endpoint>, AgentError> {
        let Some(mac) = self.choose_mac(spec, addresses)? else { return Ok(None) };
        let nets = || addresses.iter().map(|a| a.net);
        Ok(Some(Endpoint {
            id: spec.id.clone(),
            network: spec.network.clone(),
            node: self.0.node.clone(),
            engine: spec.engine.clone(),
            container: spec.container.clone(),
            sandbox: spec.sandbox.clone(),
            outside: spec.outside.clone(),
            mac,
            ipv4: nets().find_map(|n| if let IpNet::V4(n) = n { Some(n) } else { None::<Ipv4Net> }),
            ipv6: nets().find_map(|n| if let IpNet::V6(n) = n { Some(n) } else { None::<Ipv6Net> }),
            epoch: self.0.epoch,
            created: unix_now(),
        }))
    }

    /// The MAC address that is asked for, or one that nobody has; `None` as [`Agent::new_endpoint`].
    fn choose_mac(&self, spec: &EndpointSpec, addresses: &[Address]) -> Result<Option<MacAddr>, AgentError> {
        if let Some(mac) = spec.mac {
            return self.free_mac(spec, addresses, mac);
        }
        let other = MacAddr::for_endpoint(&spec.id);
        let first = addresses.iter().map(|a| a.net.addr()).min_by_key(IpAddr::is_ipv6);
        // What is derived may have been given to somebody by hand, or come of another IPv6 address.
        self.free_mac(spec, addresses, first.map_or(other, MacAddr::for_address))
            .or_else(|_| self.free_mac(spec, addresses, other))
    }

    /// This MAC address, if no other endpoint has it; `None` as [`Agent::new_endpoint`].
    fn free_mac(
        &self,
        spec: &EndpointSpec,
        addresses: &[Address],
        mac: MacAddr,
    ) -> Result<Option<MacAddr>, AgentError> {
        if !mac.is_unicast() {
            return Err(AgentError::Invalid(format!("MAC address {mac} is not a unicast address")));
        }
        self.read(|s| {
            let mut others = s.endpoints_on(&spec.network).filter(|e| e.id != spec.id);
            let Some(holder) = others.find(|e| e.mac == mac) else { return Ok(Some(mac)) };
            // One of its addresses leads to it.
            if addresses.iter().any(|a| s.endpoint_at(&spec.network, a.net.addr()) == Some(holder)) {
                return Ok(None);
            }
            Err(AgentError::MacTaken { mac, holder: holder.display_name().into_owned() })
        })
    }

    /// Waits for the port; takes everything back when it cannot be made.
    async fn finish_endpoint(&self, endpoint: Endpoint, revision: Revision) -> Result<Endpoint, AgentError> {
        let made = self.port_made(&endpoint, revision).await;
        if endpoint.sandbox.is_some() {
            self.names_are_served().await;
        }
        if let Err(error) = made {
            if let Err(undo) = self.withdraw(&endpoint.network, &endpoint.id).await {
                tracing::error!(endpoint = endpoint.id.short(), %undo, "a failed endpoint could not be withdrawn");
            }
            return Err(error);
        }
        tracing::info!(
            endpoint = endpoint.id.short(),
            network = endpoint.network.short(),
            address = %endpoint.addresses().map(|a| a.to_string()).collect::<Vec<_>>().join(","),
            "endpoint made"
        );
        Ok(endpoint)
    }

    async fn port_made(&self, endpoint: &Endpoint, revision: Revision) -> Result<(), AgentError> {
        let what = format!("endpoint {}", endpoint.display_name());
        self.applied(&endpoint.network, revision, &what).await?;
        let network = self
            .read(|s| s.networks.get(&endpoint.network).cloned())
            .ok_or_else(|| AgentError::NoSuchNetwork(endpoint.network.to_string()))?;
        match self.failure_of(endpoint, &network) {
            Some(reason) => Err(AgentError::NotApplied { what, reason }),
            None => Ok(()),
        }
    }

    /// Why this host's kernel does not have one of the endpoint's devices.
    pub(crate) fn failure_of(&self, endpoint: &Endpoint, network: &Network) -> Option<String> {
        let vni = network.vni;
        let failures = &self.0.reconciled.borrow().failures;
        let keys = [Key::Bridge(vni), Key::Vxlan(vni), Key::Port(vni, port_name(&endpoint.id))];
        let way_out = endpoint.outside.as_ref().map(|o| Key::GatewayPort(gateway_port_name(&o.id)));
        let gateway = way_out.iter().flat_map(|port| [&Key::Gateway, port]);
        keys.iter().chain(gateway).find_map(|key| failures.get(key)).cloned()
    }

    /// An endpoint.
    pub fn endpoint(&self, network: &NetworkId, id: &EndpointId) -> Option<Endpoint> {
        self.read(|s| s.endpoint(network, id).cloned())
    }

    /// Notes where the engine is about to put an endpoint's interface. The far end stays in the host's namespace
    /// for the engine to take; its name there is answered.
    pub async fn join_endpoint(
        &self,
        network: &NetworkId,
        id: &EndpointId,
        sandbox: Sandbox,
    ) -> Result<String, AgentError> {
        self.change_endpoint(network, id, |e| e.sandbox = Some(sandbox.clone()))
            .await?
            .ok_or_else(|| AgentError::NoSuchEndpoint(id.to_string()))?;
        self.names_are_served().await;
        Ok(far_end_name(id))
    }

    /// Forgets the sandbox of an endpoint. Idempotent.
    pub async fn leave_endpoint(&self, network: &NetworkId, id: &EndpointId) -> Result<(), AgentError> {
        self.change_endpoint(network, id, |e| e.sandbox = None).await?;
        Ok(())
    }

    /// Names the container of an endpoint. Idempotent; an endpoint that is gone is no error.
    pub async fn set_container(
        &self,
        network: &NetworkId,
        id: &EndpointId,
        container: Container,
    ) -> Result<(), AgentError> {
        if self.endpoint(network, id).is_some_and(|e| e.container.as_ref() == Some(&container)) {
            return Ok(());
        }
        self.change_endpoint(network, id, |e| e.container = Some(container.clone())).await?;
        Ok(())
    }

    /// `None`: there is no such endpoint of this node.
    async fn change_endpoint(
        &self,
        network: &NetworkId,
        id: &EndpointId,
        change: impl Fn(&mut Endpoint),
    ) -> Result<Option<Endpoint>, AgentError> {
        let key = schema::endpoint_key(network, id);
        for _ in 0..ATTEMPTS {
            let Some(record) = self.0.store.get(&key).await? else { return Ok(None) };
            let Ok(mut endpoint) = serde_json::from_slice::<Endpoint>(&record.value) else { return Ok(None) };
            if endpoint.node != self.0.node {
                return Ok(None);
            }
            change(&mut endpoint);
            let txn = Txn::new().unchanged(&key, record.modified).put(&key, encode(&endpoint));
            if let Outcome::Committed(_) = self.commit(txn).await? {
                return Ok(Some(endpoint));
            }
        }
        Err(AgentError::Contention(format!("endpoint {}", id.short()), ATTEMPTS))
    }

    /// Removes an endpoint of this node and the claims that came with it, and waits until this host's kernel has
    /// let go of it. Idempotent.
    pub async fn remove_endpoint(&self, network: &NetworkId, id: &EndpointId) -> Result<(), AgentError> {
        if let Some(revision) = self.withdraw(network, id).await? {
            tracing::info!(endpoint = id.short(), network = network.short(), "endpoint removed");
            self.applied(network, revision, &format!("the removal of endpoint {}", id.short())).await?;
        }
        Ok(())
    }

    async fn withdraw(&self, network: &NetworkId, id: &EndpointId) -> Result<Option<Revision>, AgentError> {
        let key = schema::endpoint_key(network, id);
        for _ in 0..ATTEMPTS {
            let Some(record) = self.0.store.get(&key).await? else { return Ok(None) };
            // Where the store does not answer for a claim, the view does: it must be as new as the endpoint.
            self.caught_up(&[Some(record.clone())]).await?;
            let endpoint: Option<Endpoint> = serde_json::from_slice(&record.value).ok();
            if endpoint.as_ref().is_some_and(|e| e.node != self.0.node) {
                return Ok(None);
            }
            let mut txn = Txn::new().unchanged(&key, record.modified).delete(&key);
            for ip in endpoint.iter().flat_map(Endpoint::addresses) {
                let claim = self.0.store.get(&schema::address_key(network, ip)).await?;
                txn = with_claim_given_back(txn, claim, id, self.0.outbox.is_away());
            }
            if let Some(endpoint) = &endpoint {
                txn = self.with_way_out_handed_on(txn, endpoint).await?;
            }
            if let Outcome::Committed(revision) = self.commit(txn).await? {
                return Ok(Some(revision));
            }
        }
        Err(AgentError::Contention(format!("endpoint {}", id.short()), ATTEMPTS))
    }
}

/// Adds to the removal of endpoint `id` what becomes of its claim: one that came with it goes with it, one that
/// an engine's IPAM call took stays until an IPAM call gives it back. While the store is away nothing can be reserved
/// anew, so what is given back is kept for the next one.
pub(crate) fn with_claim_given_back(txn: Txn, record: Option<Record>, id: &EndpointId, away: bool) -> Txn {
    let Some(record) = record else { return txn };
    let Ok(claim) = serde_json::from_slice::<AddressClaim>(&record.value) else { return txn };
    if claim.endpoint.as_ref() != Some(id) {
        return txn;
    }
    let txn = txn.unchanged(&record.key, record.modified);
    let kind = match claim.kind {
        ClaimKind::Endpoint | ClaimKind::Reserved if !away => return txn.delete(record.key),
        ClaimKind::Endpoint | ClaimKind::Reserved => ClaimKind::Reserved,
        ClaimKind::Ipam => ClaimKind::Ipam,
    };
    txn.put(record.key, encode(&AddressClaim { kind, endpoint: None, ..claim }))
}

fn subnet_of(network: &Network, ip: IpAddr) -> Result<IpNet, AgentError> {
    network.subnet_of(ip).map(|s| s.net).ok_or_else(|| {
        let subnets = network.subnets.iter().map(|s| s.net).collect();
        AgentError::Ipam(IpamError::Outside { ip, network: network.display_name().into_owned(), subnets })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cluster::{Cluster, endpoint};

    #[tokio::test]
    async fn an_address_that_another_got_meanwhile_is_chosen_anew_and_is_no_conflict_of_mac_addresses() {
        let cluster = Cluster::new().await;
        let host = cluster.host(1).await;
        let network = host.network("blue", "10.9.0.0/24").await;
        let chosen = host.agent.choose_of_family(&network, true).unwrap().unwrap();
        let faster = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
        assert_eq!(faster.ipv4.map(IpNet::V4), Some(chosen));
        let addresses = [Address { net: chosen, held: None }];
        assert_eq!(host.agent.new_endpoint(&endpoint(&network.id), &addresses).unwrap(), None);

        let next = host.agent.choose_of_family(&network, true).unwrap().unwrap();
        let addresses = [Address { net: next, held: None }];
        let twin = EndpointSpec { mac: Some(faster.mac), ..endpoint(&network.id) };
        let error = host.agent.new_endpoint(&twin, &addresses).unwrap_err();
        assert!(matches!(error, AgentError::MacTaken { mac, .. } if mac == faster.mac), "{error}");
    }

    #[tokio::test]
    async fn a_mac_address_given_by_hand_keeps_nobody_from_the_address_that_leads_to_it() {
        let cluster = Cluster::new().await;
        let host = cluster.host(1).await;
        let network = host.network("blue", "10.9.0.0/24").await;
        let [next, far] = ["10.9.0.2", "10.9.0.9"].map(|ip| ip.parse().unwrap());
        let mac = Some(MacAddr::for_address(next));
        let by_hand = EndpointSpec { mac, addresses: vec![far], ..endpoint(&network.id) };
        host.agent.create_endpoint(by_hand).await.unwrap();
        let made = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
        assert_eq!(made.addresses().next(), Some(next));
        assert_eq!(made.mac, MacAddr::for_endpoint(&made.id));
    }
}
