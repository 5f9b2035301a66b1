//! Endpoints that come and go at a rate.

use crate::{Arrivals, Shape, shape::records_of};
use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use weft_model::Endpoint;
use weft_store::{Outcome, Store, Txn};

/// Connections that the changes are written over.
const WRITERS: usize = 8;
/// Transactions under way at once.
const UNDER_WAY: usize = 64;
/// The numbers of the endpoints that come and go, out of the way of those that stay.
const FIRST: usize = 50_000;

/// Changes at a rate: endpoints are added, then removed, evenly over all networks.
pub struct Storm {
    /// The cluster.
    pub shape: Shape,
    /// Changes a second.
    pub rate: u32,
    /// How long.
    pub lasts: Duration,
}

impl Storm {
    /// How many changes it makes: an even number.
    pub fn changes(&self) -> usize {
        let changes = u64::from(self.rate) * self.lasts.as_millis() as u64 / 1000;
        usize::try_from(changes / 2 * 2).unwrap_or(usize::MAX)
    }

    /// How many arrivals there will be: each change at each host of its network.
    pub fn arrivals(&self) -> usize {
        let hosts: Vec<_> = (0..self.shape.networks).map(|n| self.shape.hosts_of(n).len()).collect();
        (0..self.changes()).map(|change| hosts[self.network(change)]).sum()
    }

    /// The first half of the changes adds, the second half removes the same again.
    fn number(&self, change: usize) -> usize {
        change % (self.changes() / 2).max(1)
    }

    fn network(&self, change: usize) -> usize {
        self.number(change) % self.shape.networks
    }

    fn endpoint(&self, change: usize) -> Result<Endpoint> {
        let network = self.network(change);
        let hosts = self.shape.hosts_of(network);
        let of_network = self.number(change) / self.shape.networks;
        Shape::endpoint(network, FIRST + of_network, hosts[of_network % hosts.len()])
    }

    /// Makes the changes. Returns the time it took, which is longer than asked for where the store cannot keep up.
    pub async fn blow(&self, stores: &[Arc<dyn Store>], arrivals: &Arrivals) -> Result<Duration> {
        let changes = self.changes();
        let endpoints: Vec<Endpoint> = (0..changes / 2).map(|n| self.endpoint(n)).collect::<Result<_>>()?;
        let start = tokio::time::Instant::now();
        let begun = Instant::now();
        let all = stream::iter(0..changes).map(|change| {
            let endpoint = &endpoints[self.number(change)];
            let store = &stores[change % stores.len().clamp(1, WRITERS)];
            let due = start + Duration::from_secs(1) * u32::try_from(change).unwrap_or(u32::MAX) / self.rate;
            async move {
                tokio::time::sleep_until(due).await;
                let vni = self.shape.network(self.network(change))?.vni;
                arrivals.begin(vni, endpoint.mac);
                let records = records_of(endpoint);
                let txn = records.into_iter().fold(Txn::new(), |txn, (key, value)| {
                    if change < changes / 2 { txn.put(key, value) } else { txn.delete(key) }
                });
                match store.commit(txn).await? {
                    Outcome::Committed(_) => anyhow::Ok(()),
                    Outcome::Refused(_) => bail!("a write without a condition was refused"),
                }
            }
        });
        all.buffered(UNDER_WAY).try_collect::<Vec<()>>().await?;
        Ok(begun.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_arrives_at_every_host_of_the_networks_that_it_changes() {
        let shape = Shape { hosts: 4, endpoints: 0, networks: 2, parts: 1 };
        let storm = Storm { shape, rate: 10, lasts: Duration::from_secs(1) };
        assert_eq!((storm.changes(), storm.arrivals()), (10, 20));
    }
}
