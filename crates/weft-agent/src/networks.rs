//! Making, naming and removing networks, and engines' copies of them.

use crate::{Agent, AgentError, api::NetworkSpec};
use ipnet::{IpNet, Ipv6Net};
use std::{collections::BTreeMap, net::Ipv6Addr};
use weft_model::{
    AddressDriver, Binding, Endpoint, MulticastRate, Network, NetworkId, NetworkName, Revision, Snapshot,
    Subnet, encode,
    schema::{self, Removing},
    unix_now,
};
use weft_plan::{choose_subnet, choose_vni, conflicting_route};
use weft_store::{Outcome, Record, Txn};

/// How often a verb starts again because another daemon was faster.
const ATTEMPTS: u32 = 100;

impl Agent {
    /// Makes a network: its record, its name, its VNI, all at once or nothing. With `engine_network`, also notes
    /// that this node's engine knows the network by that id.
    pub async fn create_network(
        &self,
        spec: NetworkSpec,
        engine_network: Option<&str>,
    ) -> Result<Network, AgentError> {
        if !spec.subnets.is_empty() {
            Subnet::validate_all(&spec.subnets)?;
        }
        check_mtu(&spec)?;
        check_rate(&spec)?;
        let _taking = self.takes()?;
        let id = NetworkId::random();
        for _ in 0..ATTEMPTS {
            let made_before = self.0.store.get(&schema::node_key(&self.0.node)).await?;
            // All direct networks until that one are known then; who makes another before this one is there changes it.
            let last_direct = if spec.direct { self.0.store.get(schema::DIRECT).await? } else { None };
            self.caught_up(std::slice::from_ref(&last_direct)).await?;
            let network = self.read(|s| self.draw_up(s, &spec, &id))?;
            let vni_key = schema::vni_key(network.vni);
            let mut txn = Txn::new()
                .absent(&vni_key)
                .put(schema::network_key(&id), encode(&network))
                .put(vni_key, encode(&id));
            if let Some(name) = &network.name {
                let key = schema::name_key(name);
                txn = txn.absent(&key).put(key, encode(&id));
            }
            if network.direct {
                txn = match last_direct {
                    Some(last) => txn.unchanged(schema::DIRECT, last.modified),
                    None => txn.absent(schema::DIRECT),
                };
                txn = txn.put(schema::DIRECT, encode(&id));
            }
            if let Some(engine_network) = engine_network {
                let binding = Binding { network: id.clone(), mirrored: false };
                txn = txn.put(schema::binding_key(&self.0.node, engine_network), encode(&binding));
            }
            match self.commit(self.with_attempt_counted(txn, made_before)).await? {
                Outcome::Committed(_) => {
                    tracing::info!(network = &*network.display_name(), vni = %network.vni, "network made");
                    return Ok(network);
                }
                Outcome::Refused(present) => {
                    if let (Some(name), Some(Some(holder))) = (&network.name, present.get(1)) {
                        return Err(self.name_taken(name, holder));
                    }
                    self.caught_up(&present).await?;
                }
            }
        }
        Err(AgentError::Contention("the table of VNIs".to_owned(), ATTEMPTS))
    }

    /// Makes a transaction one that is done once, however often it is sent, and at no time after another one of this node's: it
    /// writes the node's record as it is, on the condition that nobody has since `present` was read. Without, a message that
    /// arrives when the network was made by the next attempt, and removed again, would make it anew.
    pub(crate) fn with_attempt_counted(&self, txn: Txn, present: Option<Record>) -> Txn {
        let key = schema::node_key(&self.0.node);
        match present {
            Some(record) => txn.unchanged(&key, record.modified).put(key, record.value),
            None => txn.absent(&key).put(key, encode(&self.0.view.this())),
        }
    }

    /// The record of a network to make, chosen and checked against the snapshot.
    fn draw_up(
        &self,
        snapshot: &Snapshot,
        spec: &NetworkSpec,
        id: &NetworkId,
    ) -> Result<Network, AgentError> {
        if let Some(name) = &spec.name
            && let Some(holder) = snapshot.names.get(name)
        {
            return Err(AgentError::NameTaken { name: name.to_string(), holder: describe(snapshot, holder) });
        }
        let mut subnets = spec.subnets.clone();
        if subnets.is_empty() {
            subnets.push(Subnet::new(free_subnet(snapshot)?));
        }
        if spec.ipv6 && !subnets.iter().any(|s| s.net.addr().is_ipv6()) {
            subnets.push(Subnet::new(unique_local_subnet(id)));
        }
        for subnet in &subnets {
            refuse_routed_elsewhere(snapshot, subnet.net)?;
            if spec.direct {
                refuse_shared_addresses(snapshot, subnet.net)?;
            }
        }
        let range = self.0.options.vni_range;
        let vni = match spec.vni {
            Some(vni) if !range.contains(vni) => return Err(AgentError::VniOutside(vni, range)),
            Some(vni) => match snapshot.vnis.get(&vni) {
                Some(holder) => {
                    return Err(AgentError::VniTaken { vni, holder: describe(snapshot, holder) });
                }
                None => vni,
            },
            None => choose_vni(range, &snapshot.vnis, 0).ok_or(AgentError::NoVni(range))?,
        };
        let address_driver = if spec.engine_addresses {
            AddressDriver::Engine(self.0.node.clone())
        } else {
            AddressDriver::Weft
        };
        Ok(Network {
            id: id.clone(),
            name: spec.name.clone(),
            vni,
            subnets,
            mtu: spec.mtu,
            internal: spec.internal,
            direct: spec.direct,
            labels: spec.labels.clone(),
            options: spec.options.clone(),
            address_driver,
            created_by: self.0.node.clone(),
            created: unix_now(),
        })
    }

    fn name_taken(&self, name: &NetworkName, holder: &Record) -> AgentError {
        let holder = serde_json::from_slice::<NetworkId>(&holder.value)
            .map_or_else(|_| "an unreadable record".to_owned(), |id| self.read(|s| describe(s, &id)));
        AgentError::NameTaken { name: name.to_string(), holder }
    }

    /// Notes that this node's engine has a copy of the network under the id `engine_network`.
    pub async fn bind(
        &self,
        engine_network: &str,
        network: &NetworkId,
        mirrored: bool,
    ) -> Result<(), AgentError> {
        let _taking = self.takes()?;
        let binding = Binding { network: network.clone(), mirrored };
        let known = self.read(|s| {
            s.bindings.get(&self.0.node).and_then(|b| b.get(engine_network)).is_some_and(|b| *b == binding)
        });
        if known {
            return Ok(());
        }
        let txn = Txn::new()
            .present(schema::network_key(network))
            .put(schema::binding_key(&self.0.node, engine_network), encode(&binding));
        match self.commit(txn).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Refused(_) => Err(AgentError::NoSuchNetwork(network.to_string())),
        }
    }

    /// Forgets that the engine knows a network as `engine_network`. Idempotent.
    pub async fn unbind(&self, engine_network: &str) -> Result<(), AgentError> {
        let key = schema::binding_key(&self.0.node, engine_network);
        self.commit(Txn::new().present(&key).delete(key)).await?;
        Ok(())
    }

    /// The network that this node's engine knows as `engine_network`.
    pub fn bound(&self, engine_network: &str) -> Option<Network> {
        self.read(|s| {
            let binding = s.bindings.get(&self.0.node)?.get(engine_network)?;
            s.networks.get(&binding.network).cloned()
        })
    }

    /// Gives a network without a name its name, and what else its engine told of it by now: all of it appears to
    /// the other nodes at once, since they copy a network when it has its name.
    pub async fn name_network(
        &self,
        id: &NetworkId,
        name: NetworkName,
        details: NetworkDetails,
    ) -> Result<(), AgentError> {
        for _ in 0..ATTEMPTS {
            let (mut network, modified) = self.network_record(id).await?;
            if network.name.as_ref() == Some(&name) {
                return Ok(());
            }
            if let Some(present) = &network.name {
                return Err(AgentError::Invalid(format!(
                    "network {} is called {present}: it cannot be renamed to {name}",
                    id.short()
                )));
            }
            network.name = Some(name.clone());
            details.complete(&mut network);
            let (key, name_key) = (schema::network_key(id), schema::name_key(&name));
            let txn = Txn::new()
                .unchanged(&key, modified)
                .absent(&name_key)
                .put(key, encode(&network))
                .put(name_key, encode(id));
            match self.commit(txn).await? {
                Outcome::Committed(_) => {
                    tracing::info!(network = name.as_str(), id = id.short(), "network named");
                    return Ok(());
                }
                Outcome::Refused(present) => {
                    if let Some(Some(holder)) = present.get(1) {
                        return Err(self.name_taken(&name, holder));
                    }
                }
            }
        }
        Err(AgentError::Contention(format!("network {}", id.short()), ATTEMPTS))
    }

    async fn network_record(&self, id: &NetworkId) -> Result<(Network, Revision), AgentError> {
        let missing = || AgentError::NoSuchNetwork(id.to_string());
        let record = self.0.store.get(&schema::network_key(id)).await?.ok_or_else(missing)?;
        let network = serde_json::from_slice(&record.value).map_err(|_| missing())?;
        Ok((network, record.modified))
    }

    /// Removes a network with its name, VNI, address claims and pools; refused while it has endpoints anywhere.
    /// Engines' copies go when their mirrors see that it is gone. Idempotent.
    pub async fn remove_network(&self, id: &NetworkId) -> Result<(), AgentError> {
        let (key, mark) = (schema::network_key(id), schema::removing_key(id));
        for _ in 0..ATTEMPTS {
            let network = match self.network_record(id).await {
                Ok((network, _)) => network,
                Err(AgentError::NoSuchNetwork(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            // From the mark on nothing new can join: see `schema::Removing`.
            let removing = Removing { node: self.0.node.clone(), since: unix_now() };
            let txn = Txn::new().present(&key).absent(&mark).put(&mark, encode(&removing));
            let marked = match self.0.store.commit(txn).await? {
                Outcome::Committed(revision) => revision,
                // Another daemon's, or one that ended in the middle: its removal goes on here.
                Outcome::Refused(present) => match present.into_iter().nth(1).flatten() {
                    Some(record) => record.modified,
                    None => continue,
                },
            };
            let endpoints = self.0.store.list(&schema::endpoints_of(id)).await?;
            if !endpoints.records.is_empty() {
                self.0.store.commit(Txn::new().unchanged(&mark, marked).delete(&mark)).await?;
                return Err(self.in_use(&network, &endpoints.records));
            }
            if self.finish_removal(&network, &mark, marked).await? {
                tracing::info!(network = &*network.display_name(), id = id.short(), "network removed");
                return Ok(());
            }
        }
        Err(AgentError::Contention(format!("network {}", id.short()), ATTEMPTS))
    }

    /// Removes the records of a network that nothing can join any more. `false`: the mark is another one by now.
    async fn finish_removal(
        &self,
        network: &Network,
        mark: &str,
        marked: Revision,
    ) -> Result<bool, AgentError> {
        let claims = self.0.store.list(&schema::addresses_of(&network.id)).await?;
        let wanted = self.0.store.list(&schema::wanted_of(&network.id)).await?;
        let groups = self.0.store.list(&schema::groups_of(&network.id)).await?;
        // One compare goes with each chunk.
        let most = self.0.store.limits().operations.saturating_sub(1).max(1);
        for chunk in [claims.records, wanted.records, groups.records].concat().chunks(most) {
            let txn = Txn::new().unchanged(mark, marked);
            let txn = chunk.iter().fold(txn, |txn, record| txn.delete(&record.key));
            if let Outcome::Refused(_) = self.0.store.commit(txn).await? {
                return Ok(false);
            }
        }
        let mut txn = Txn::new()
            .unchanged(mark, marked)
            .delete(mark)
            .delete(schema::network_key(&network.id))
            .delete(schema::vni_key(network.vni));
        if let Some(name) = &network.name {
            txn = txn.delete(schema::name_key(name));
        }
        let pools = self.read(|s| {
            let of_network = s.pools.iter().filter(|(_, p)| p.network.as_ref() == Some(&network.id));
            of_network.map(|(id, _)| id.clone()).collect::<Vec<_>>()
        });
        txn = pools.iter().fold(txn, |txn, pool| txn.delete(schema::pool_key(pool)));
        Ok(matches!(self.commit(txn).await?, Outcome::Committed(_)))
    }

    fn in_use(&self, network: &Network, endpoints: &[Record]) -> AgentError {
        const SHOWN: usize = 5;
        let shown = endpoints.iter().take(SHOWN).map(|record| {
            serde_json::from_slice::<Endpoint>(&record.value)
                .map_or_else(|_| record.key.clone(), |e| self.read(|s| describe_endpoint(s, &e)))
        });
        let mut list = shown.collect::<Vec<_>>().join(", ");
        if endpoints.len() > SHOWN {
            list.push_str(", …");
        }
        AgentError::NetworkInUse {
            network: network.display_name().into_owned(),
            count: endpoints.len(),
            list,
        }
    }
}

/// What an engine tells of a network only after it was made. (Docker's `CreateNetwork` call carries neither labels
/// nor ip-ranges; its API lists both.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkDetails {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The subnets as the engine lists them. Of these, only ranges and reserved addresses that the network's
    /// own subnets lack are taken.
    pub subnets: Vec<Subnet>,
}

impl NetworkDetails {
    fn complete(&self, network: &mut Network) {
        network.labels.extend(self.labels.clone());
        for subnet in &mut network.subnets {
            for known in self.subnets.iter().filter(|known| known.net == subnet.net) {
                subnet.range = subnet.range.or(known.range.filter(|range| subnet.net.contains(range)));
                let reserved = known.reserved.iter().filter(|(_, ip)| subnet.net.contains(*ip));
                for (label, ip) in reserved {
                    subnet.reserved.entry(label.clone()).or_insert(*ip);
                }
            }
        }
    }
}

/// An IPv4 subnet that no network or pool has and no host routes elsewhere.
pub(crate) fn free_subnet(snapshot: &Snapshot) -> Result<IpNet, AgentError> {
    let networks = snapshot.networks.values().flat_map(|n| n.subnets.iter().map(|s| s.net));
    let pools = snapshot.pools.values().map(|p| p.subnet.net);
    let routes = snapshot.nodes.values().flat_map(|n| &n.routes);
    choose_subnet(networks.chain(pools), routes).ok_or(AgentError::NoSubnet)
}

/// Refuses a subnet that any host has a route to, with that route.
pub(crate) fn refuse_routed_elsewhere(snapshot: &Snapshot, subnet: IpNet) -> Result<(), AgentError> {
    match conflicting_route(snapshot.nodes.values(), subnet) {
        Some((node, route)) => {
            Err(AgentError::RouteConflict { subnet, node: node.name.clone(), route: route.clone() })
        }
        None => Ok(()),
    }
}

/// Refuses a subnet for a direct network if another direct one has any of its addresses: they alone tell which network a packet
/// without outer headers is of.
fn refuse_shared_addresses(snapshot: &Snapshot, subnet: IpNet) -> Result<(), AgentError> {
    let direct = snapshot.networks.values().filter(|network| network.direct);
    for (other, theirs) in direct.flat_map(|network| network.subnets.iter().map(move |s| (network, s.net))) {
        if subnet.contains(&theirs) || theirs.contains(&subnet) {
            let holder = describe(snapshot, &other.id);
            return Err(AgentError::DirectOverlap { subnet, holder, theirs });
        }
    }
    Ok(())
}

/// A /64 whose 40 bits of global id come from a network's or pool's id, which is random (RFC 4193, section 3.2.2).
pub(crate) fn unique_local_subnet(id: &NetworkId) -> IpNet {
    // An id has at least 12 hexadecimal digits, so ten of them are 40 bits.
    let global_id = u128::from_str_radix(&id.first(10), 16).unwrap_or(0);
    let prefix = Ipv6Addr::from((0xfd << 120) | (global_id << 80));
    IpNet::V6(Ipv6Net::new_assert(prefix, 64))
}

/// An MTU below 1280 cannot carry IPv6 (RFC 8200, section 5).
fn check_mtu(spec: &NetworkSpec) -> Result<(), AgentError> {
    let has_ipv6 = spec.ipv6 || spec.subnets.iter().any(|s| s.net.addr().is_ipv6());
    match spec.mtu {
        Some(mtu) if has_ipv6 && mtu.get() < 1280 => Err(AgentError::Invalid(format!(
            "MTU {mtu} is too small: a network with IPv6 needs 1280 bytes at least"
        ))),
        _ => Ok(()),
    }
}

fn check_rate(spec: &NetworkSpec) -> Result<(), AgentError> {
    let Some(text) = spec.options.get(MulticastRate::OPTION) else { return Ok(()) };
    let checked = text.parse::<MulticastRate>().map(drop);
    checked.map_err(|e| AgentError::Invalid(format!("option {}: {e}", MulticastRate::OPTION)))
}

/// `blue, 1a2b3c4d5e6f, made on node h1`
fn describe(snapshot: &Snapshot, id: &NetworkId) -> String {
    match snapshot.networks.get(id) {
        Some(network) => format!(
            "{}, {}, made on node {}",
            network.display_name(),
            id.short(),
            snapshot.node_name(&network.created_by)
        ),
        None => id.short(),
    }
}

/// `web (10.0.0.2) on node h1`
fn describe_endpoint(snapshot: &Snapshot, endpoint: &Endpoint) -> String {
    let addresses = endpoint.addresses().map(|a| a.to_string()).collect::<Vec<_>>().join(", ");
    format!("{} ({addresses}) on node {}", endpoint.display_name(), snapshot.node_name(&endpoint.node))
}
