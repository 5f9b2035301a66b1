//! Subnets that an engine's IPAM asked for before the network they are for exists.

use crate::{
    Agent, AgentError,
    addresses::with_prefix,
    networks::{free_subnet, refuse_routed_elsewhere, unique_local_subnet},
};
use ipnet::IpNet;
use std::net::IpAddr;
use weft_model::{NetworkId, Pool, Revision, Subnet, encode, schema, unix_now};
use weft_store::{Outcome, Txn};

const ATTEMPTS: u32 = 100;

impl Agent {
    /// Reserves a subnet for a network to come: `net`, or a free one of the family. Returns the pool's id.
    pub async fn create_pool(
        &self,
        net: Option<IpNet>,
        range: Option<IpNet>,
        v6: bool,
    ) -> Result<(String, Pool), AgentError> {
        // Random, like every identity of weft's.
        let id = NetworkId::random();
        let net = match net {
            Some(net) => net,
            None if v6 => unique_local_subnet(&id),
            None => self.read(free_subnet)?,
        };
        let subnet = Subnet { gateway: None, range, ..Subnet::new(net) };
        subnet.validate()?;
        self.read(|s| refuse_routed_elsewhere(s, net))?;
        let id = id.to_string();
        let pool = Pool { subnet, node: self.0.node.clone(), network: None, since: unix_now() };
        let key = schema::pool_key(&id);
        self.commit(Txn::new().absent(&key).put(key, encode(&pool))).await?;
        Ok((id, pool))
    }

    /// Reserves an address of a pool without a network: the gateway (the first address if none is wanted), or an
    /// auxiliary address.
    pub async fn reserve_in_pool(
        &self,
        id: &str,
        wanted: Option<IpAddr>,
        gateway: bool,
    ) -> Result<IpNet, AgentError> {
        self.change_pool(id, |pool| {
            let subnet = &mut pool.subnet;
            let ip = wanted.unwrap_or_else(|| Subnet::first_host(subnet.net));
            subnet.check_host(if gateway { "gateway" } else { "address" }, ip)?;
            if gateway {
                subnet.gateway = Some(ip);
            } else {
                subnet.reserved.insert(format!("aux-{ip}"), ip);
            }
            Ok(with_prefix(ip, subnet.net))
        })
        .await
    }

    /// A pool.
    pub fn pool(&self, id: &str) -> Option<Pool> {
        self.read(|s| s.pools.get(id).cloned())
    }

    /// The pools of this node that have no network yet and whose subnet is `net`, the oldest first. More than one: an
    /// engine was killed after it had asked for the others, or is about to make networks that cannot all be.
    pub fn unused_pools(&self, net: IpNet) -> Vec<(String, Pool)> {
        self.read(|s| {
            let ours = |p: &Pool| p.node == self.0.node && p.network.is_none() && p.subnet.net == net;
            let unused = s.pools.iter().filter(|(_, p)| ours(p));
            let mut unused: Vec<_> = unused.map(|(id, p)| (id.clone(), p.clone())).collect();
            unused.sort_by_key(|(_, p)| p.since);
            unused
        })
    }

    /// Notes which network a pool was for.
    pub async fn pool_became(&self, id: &str, network: &NetworkId) -> Result<(), AgentError> {
        self.change_pool(id, |pool| {
            pool.network = Some(network.clone());
            Ok(())
        })
        .await
    }

    /// Removes a pool. Idempotent.
    pub async fn release_pool(&self, id: &str) -> Result<(), AgentError> {
        let key = schema::pool_key(id);
        self.commit(Txn::new().present(&key).delete(key)).await?;
        Ok(())
    }

    async fn change_pool<R>(
        &self,
        id: &str,
        change: impl Fn(&mut Pool) -> Result<R, AgentError>,
    ) -> Result<R, AgentError> {
        let key = schema::pool_key(id);
        let missing = || AgentError::Invalid(format!("there is no address pool {id:?}"));
        for _ in 0..ATTEMPTS {
            let record = self.0.store.get(&key).await?.ok_or_else(missing)?;
            let mut pool: Pool = serde_json::from_slice(&record.value).map_err(|_| missing())?;
            let outcome = change(&mut pool)?;
            let txn = Txn::new().unchanged(&key, record.modified).put(&key, encode(&pool));
            if let Outcome::Committed(Revision(_)) = self.commit(txn).await? {
                return Ok(outcome);
            }
        }
        Err(AgentError::Contention(format!("pool {id}"), ATTEMPTS))
    }
}
