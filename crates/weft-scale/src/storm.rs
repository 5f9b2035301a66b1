//! Endpoints that come and go at a rate.

use crate::{
    Arrivals, Shape,
    shape::{commit, records_of},
};
use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use weft_model::Endpoint;
use weft_store::{Store, Txn};

/// Connections that the changes are written over.
const WRITERS: usize = 8;
/// Transactions under way at once.
const UNDER_WAY: usize = 512;
/// The numbers of the endpoints that come and go, out of the way of those that stay.
const FIRST: usize = 50_000;

/// Changes at a rate: endpoints are added, then removed, evenly over all networks. In two gusts: what was removed before a
/// host heard of it would never arrive there.
pub struct Storm {
    /// The cluster.
    pub shape: Shape,
    /// Changes a second.
    pub rate: u32,
    /// How long.
    pub lasts: Duration,
}

impl Storm {
    /// How many changes a gust makes: half of all.
    pub fn gust(&self) -> usize {
        let changes = u128::from(self.rate) * self.lasts.as_millis() / 2000;
        usize::try_from(changes).unwrap_or(usize::MAX)
    }

    /// How many arrivals there will be of a gust: each change at each host of its network but
    /// the one that has the endpoint.
    pub fn arrivals(&self) -> usize {
        let hosts: Vec<_> = (0..self.shape.networks).map(|n| self.shape.hosts_of(n).len() - 1).collect();
        (0..self.gust()).map(|number| hosts[number % self.shape.networks]).sum()
    }

    fn endpoint(&self, number: usize) -> Result<Endpoint> {
        let (network, of_network) = (number % self.shape.networks, number / self.shape.networks);
        let hosts = self.shape.hosts_of(network);
        Shape::endpoint(network, FIRST + of_network, hosts[of_network % hosts.len()])
    }

    /// One gust: adds the endpoints, or removes them again. Returns the time it took, which is longer than asked for where
    /// the store cannot keep up.
    pub async fn blow(&self, adds: bool, stores: &[Arc<dyn Store>], arrivals: &Arrivals) -> Result<Duration> {
        let endpoints: Vec<Endpoint> = (0..self.gust()).map(|n| self.endpoint(n)).collect::<Result<_>>()?;
        let start = tokio::time::Instant::now();
        let begun = Instant::now();
        let all = stream::iter(endpoints.iter().enumerate()).map(|(number, endpoint)| {
            let store = &stores[number % stores.len().clamp(1, WRITERS)];
            let due = start + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / self.rate;
            async move {
                tokio::time::sleep_until(due).await;
                let vni = self.shape.network(number % self.shape.networks)?.vni;
                arrivals.begin(vni, endpoint.mac);
                let txn = records_of(endpoint).into_iter().fold(Txn::new(), |txn, (key, value)| {
                    if adds { txn.put(key, value) } else { txn.delete(key) }
                });
                commit(store.as_ref(), txn).await
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
    fn a_storm_arrives_at_every_other_host_of_the_networks_that_it_changes() {
        let shape = Shape { hosts: 4, endpoints: 0, networks: 2, parts: 1 };
        let storm = Storm { shape, rate: 10, lasts: Duration::from_secs(1) };
        assert_eq!((storm.gust(), storm.arrivals()), (5, 5));
    }
}
