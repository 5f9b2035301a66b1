//! The addresses that this host holds ahead, so that containers start while the store is away.
//!
//! On every network that has an endpoint here, a few addresses are claimed in the store for this node
//! ([`weft_plan::reserve_change`]). To every other host they are taken. When the last endpoint has gone they are kept for
//! a while: a container that was stopped may be started again.

use crate::{Agent, AgentError};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_model::{ClaimKind, Network, NetworkId, encode, schema};
use weft_plan::{reserve_change, reserved};
use weft_store::{Outcome, StoreError, Txn};

/// Changes are gathered for this long.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the reserve of a network without endpoints here is kept.
const KEPT: Duration = Duration::from_hours(1);

/// Keeps the reserve until `shutdown`.
pub(crate) async fn keep(agent: Agent, shutdown: CancellationToken) {
    let mut seen = agent.0.view.seen();
    let mut last_used: BTreeMap<NetworkId, Instant> = BTreeMap::new();
    loop {
        if !agent.0.outbox.is_away() {
            if let Err(error) = agent.settle_reserve(&mut last_used).await {
                tracing::warn!(%error, "the addresses held ahead are not as they should be; trying again");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = seen.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(KEPT) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
        seen.mark_unchanged();
    }
}

impl Agent {
    async fn settle_reserve(&self, last_used: &mut BTreeMap<NetworkId, Instant>) -> Result<(), AgentError> {
        let now = Instant::now();
        let changes = self.read(|s| {
            let ours = |id: &NetworkId| {
                s.endpoints.get(id).is_some_and(|all| all.values().any(|e| e.node == self.0.node))
            };
            let in_use: BTreeSet<_> = s.networks.keys().filter(|id| ours(id)).cloned().collect();
            last_used.extend(in_use.into_iter().map(|id| (id, now)));
            last_used.retain(|id, used| s.networks.contains_key(id) && now - *used < KEPT);
            let none = BTreeMap::new();
            let mut changes = Vec::new();
            for network in s.networks.values() {
                let claims = s.addresses.get(&network.id).unwrap_or(&none);
                for subnet in &network.subnets {
                    let used = last_used.contains_key(&network.id);
                    if !used && reserved(claims, subnet, &self.0.node).next().is_none() {
                        continue;
                    }
                    let change = reserve_change(network, subnet, claims, &self.0.node, s.nodes.len(), used);
                    changes.push((network.id.clone(), change));
                }
            }
            changes
        });
        for (network, change) in changes {
            for ip in change.claim {
                let (key, mark) = (schema::address_key(&network, ip), schema::removing_key(&network));
                let claim = self.new_claim(ClaimKind::Reserved, None);
                let txn = Txn::new().absent(&key).present(schema::network_key(&network)).absent(mark);
                // Refused: somebody else was faster, or the network goes. The next look sees it.
                if let Outcome::Refused(_) = self.0.store.commit(txn.put(key, encode(&claim))).await? {
                    break;
                }
            }
            for ip in change.release {
                let key = schema::address_key(&network, ip);
                let Some(record) = self.0.store.get(&key).await? else { continue };
                if is_reserve(&record.value) {
                    self.0.store.commit(Txn::new().unchanged(&key, record.modified).delete(key)).await?;
                }
            }
        }
        Ok(())
    }

    /// An address that this node holds ahead: `wanted`, or the lowest in `subnet`.
    pub(crate) fn reserved(
        &self,
        network: &Network,
        subnet: IpNet,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, AgentError> {
        let found = self.read(|s| {
            let subnet = network.subnets.iter().find(|s| s.net == subnet)?;
            let mut held = reserved(s.addresses.get(&network.id)?, subnet, &self.0.node);
            held.find(|ip| wanted.is_none_or(|wanted| wanted == *ip))
        });
        found.ok_or_else(|| {
            let what =
                wanted.map_or_else(|| format!("no address of {subnet} is"), |ip| format!("{ip} is not"));
            AgentError::Store(StoreError::Unreachable {
                store: self.0.store.address(),
                reason: format!(
                    "it is away, and {what} reserved for this host on network {:?}",
                    network.display_name()
                ),
            })
        })
    }

    /// The same of a family, with its subnet's prefix length.
    pub(crate) fn reserved_of_family(&self, network: &Network, v4: bool) -> Result<IpNet, AgentError> {
        let subnets = network.subnets.iter().filter(|s| s.net.addr().is_ipv4() == v4);
        let mut outcome = None;
        for subnet in subnets {
            match self.reserved(network, subnet.net, None) {
                Ok(ip) => return Ok(crate::addresses::with_prefix(ip, subnet.net)),
                Err(error) => outcome = Some(error),
            }
        }
        Err(outcome.unwrap_or_else(|| AgentError::NoSuchNetwork(network.id.to_string())))
    }
}

fn is_reserve(value: &[u8]) -> bool {
    serde_json::from_slice::<weft_model::AddressClaim>(value).is_ok_and(|c| c.kind == ClaimKind::Reserved)
}
