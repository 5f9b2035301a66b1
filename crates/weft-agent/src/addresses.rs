//! Claiming addresses: by compare-and-swap in the store, so that no two endpoints ever have the same one.

use crate::{Agent, AgentError, endpoints::Held, reserve::Patience};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};
use weft_model::{
    AddressClaim, AddressDriver, ClaimKind, EndpointId, Network, NetworkId, Subnet, encode, schema, unix_now,
};
use weft_plan::{IpamError, Order, choose, describe_holder};
use weft_store::{Outcome, Txn};

/// How often a claim starts again because another daemon was faster. Each time the loser has seen the address
/// that it lost, so even two daemons in lockstep need no more attempts than they claim addresses.
pub(crate) const ATTEMPTS: u32 = 4096;

impl Agent {
    /// Claims an address of the network's `subnet` for an engine's IPAM: `wanted`, or a free one.
    pub async fn claim_address(
        &self,
        network: &NetworkId,
        subnet: IpNet,
        wanted: Option<IpAddr>,
    ) -> Result<IpNet, AgentError> {
        let _taking = self.takes()?;
        self.follow_network(network).await?;
        let mut away = self.0.outbox.is_away();
        let mut patience = Patience::new(self);
        for _ in 0..ATTEMPTS {
            if away {
                return self.claim_reserved(network, subnet, wanted).await;
            }
            if let Some(ip) = wanted {
                self.ask_for(network, ip).await?;
                if self.held_ahead_by(network, ip).as_ref() == Some(&self.0.node) {
                    return self.claim_reserved(network, subnet, wanted).await;
                }
            }
            let ip = match self.choose_address(network, subnet, wanted) {
                Err(AgentError::Ipam(IpamError::Full { .. }))
                    if patience.for_the_reserves(self, network).await =>
                {
                    continue;
                }
                chosen => chosen?,
            };
            let (key, mark) = (schema::address_key(network, ip), schema::removing_key(network));
            let claim = self.new_claim(ClaimKind::Ipam, None);
            let _unanswered = self.0.claiming.begin(&key);
            let txn = Txn::new()
                .absent(&key)
                .present(schema::network_key(network))
                .absent(mark)
                .put(key, encode(&claim));
            match self.commit(self.with_request_met(txn, network, ip)).await {
                Err(AgentError::Store(error)) if error.is_away() => away = true,
                Err(error) => return Err(error),
                Ok(Outcome::Committed(_)) => return Ok(with_prefix(ip, subnet)),
                Ok(Outcome::Refused(present)) => match &present[..] {
                    [Some(_), ..] => self.caught_up(&present).await?,
                    [_, None, _] => return Err(AgentError::NoSuchNetwork(network.to_string())),
                    _ => return Err(self.removing(network)),
                },
            }
        }
        Err(AgentError::Contention(format!("subnet {subnet}"), ATTEMPTS))
    }

    /// As [`Agent::claim_address`]: one of those that this node holds ahead.
    async fn claim_reserved(
        &self,
        network: &NetworkId,
        subnet: IpNet,
        wanted: Option<IpAddr>,
    ) -> Result<IpNet, AgentError> {
        let record = self
            .read(|s| s.networks.get(network).cloned())
            .ok_or_else(|| AgentError::NoSuchNetwork(network.to_string()))?;
        for _ in 0..ATTEMPTS {
            let pick = || self.reserved(&record, subnet, wanted).map(|ip| with_prefix(ip, subnet));
            let (net, held) = self.take_reserved(&record, pick).await?;
            let key = schema::address_key(network, net.addr());
            let claim = self.new_claim(ClaimKind::Ipam, None);
            let _unanswered = self.0.claiming.begin(&key);
            let txn = Txn::new().unchanged(&key, held.revision).put(key, encode(&claim));
            if let Outcome::Committed(_) = self.commit(txn).await? {
                return Ok(net);
            }
        }
        Err(AgentError::Contention(format!("subnet {subnet}"), ATTEMPTS))
    }

    /// An address held ahead, and its claim: another verb of this host may have been faster with the first that is picked.
    pub(crate) async fn take_reserved(
        &self,
        network: &Network,
        pick: impl Fn() -> Result<IpNet, AgentError>,
    ) -> Result<(IpNet, Held), AgentError> {
        for _ in 0..ATTEMPTS {
            let net = pick()?;
            match self.held(network, net.addr()).await {
                Ok(Some(held)) if held.kind == ClaimKind::Reserved => return Ok((net, held)),
                Ok(_) | Err(AgentError::Ipam(IpamError::Taken { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(AgentError::Contention(format!("network {}", network.id.short()), ATTEMPTS))
    }

    /// Gives back an address that this node claimed for an engine's IPAM. Idempotent. Where an endpoint has it still (its
    /// removal failed, and the engine goes on all the same), it is free when that has gone.
    pub async fn release_address(&self, network: &NetworkId, ip: IpAddr) -> Result<(), AgentError> {
        let key = schema::address_key(network, ip);
        // What no engine has been told of none can give back: an earlier claim is meant, which has gone.
        let unanswered = self.0.claiming.contains(&key);
        let Some(record) = self.0.store.get(&key).await? else { return Ok(()) };
        if unanswered || self.0.claiming.contains(&key) {
            return Ok(());
        }
        let claim = serde_json::from_slice::<AddressClaim>(&record.value).ok();
        let Some(claim) = claim.filter(|c| c.node == self.0.node && c.kind == ClaimKind::Ipam) else {
            return Ok(());
        };
        let txn = Txn::new().unchanged(&key, record.modified);
        let txn = if claim.endpoint.is_some() {
            txn.put(key, encode(&AddressClaim { kind: ClaimKind::Endpoint, ..claim }))
        } else if self.0.outbox.is_away() {
            // See `with_claim_given_back`.
            txn.put(key, encode(&self.new_claim(ClaimKind::Reserved, None)))
        } else {
            txn.delete(key)
        };
        self.commit(txn).await?;
        Ok(())
    }

    /// An address of `subnet` that nobody has as far as this node knows.
    pub(crate) fn choose_address(
        &self,
        network: &NetworkId,
        subnet: IpNet,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, AgentError> {
        self.read(|s| {
            let missing = || AgentError::NoSuchNetwork(network.to_string());
            let record = s.networks.get(network).ok_or_else(missing)?;
            let none = BTreeMap::new();
            let taken = s.addresses.get(network).unwrap_or(&none);
            choose(record, find_subnet(record, subnet)?, taken, wanted, order(record))
                .map_err(|e| e.held_by(|ip| describe_holder(s, network, ip)).into())
        })
    }

    pub(crate) fn new_claim(&self, kind: ClaimKind, endpoint: Option<EndpointId>) -> AddressClaim {
        AddressClaim { kind, node: self.0.node.clone(), endpoint, since: unix_now() }
    }

    pub(crate) fn removing(&self, network: &NetworkId) -> AgentError {
        let name = self.read(|s| s.networks.get(network).map(|n| n.display_name().into_owned()));
        AgentError::NetworkRemoving(name.unwrap_or_else(|| network.short()))
    }
}

/// Where an engine hands out addresses itself, from the bottom, everyone else begins at the top.
fn order(network: &Network) -> Order {
    match network.address_driver {
        AddressDriver::Weft => Order::LowestFirst,
        AddressDriver::Engine(_) => Order::HighestFirst,
    }
}

fn find_subnet(network: &Network, net: IpNet) -> Result<&Subnet, AgentError> {
    network.subnets.iter().find(|s| s.net == net).ok_or_else(|| {
        AgentError::Invalid(format!("network {:?} has no subnet {net}", network.display_name()))
    })
}

/// The address with its subnet's prefix length.
pub(crate) fn with_prefix(ip: IpAddr, subnet: IpNet) -> IpNet {
    // An address and the prefix length of a subnet that holds it are of one family.
    IpNet::new(ip, subnet.prefix_len()).unwrap_or(subnet)
}
