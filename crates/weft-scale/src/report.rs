//! What was measured.

use crate::{Shape, Spread, Usage, counted::Counts};
use serde::Serialize;

/// All of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The cluster.
    pub shape: Shape,
    /// The store, as its address begins.
    pub store: String,
    /// Seconds from the start of all hosts at once until every kernel held all of its networks.
    pub convergence_s: f64,
    /// What the hosts asked of the store meanwhile.
    pub start: Phase,
    /// Nothing happens.
    pub rest: Phase,
    /// One change after the other, each alone.
    pub single: Phase,
    /// Changes at a rate.
    pub storm: Phase,
    /// Changes a second that were made in the storm.
    pub storm_rate: f64,
    /// Seconds from the storm's last write until the last host had all of it.
    pub storm_lag_s: f64,
    /// Memory of all simulated hosts, divided by their number, in MiB.
    pub rss_mib_per_host: f64,
    /// Kernel objects of a host, on average.
    pub objects_per_host: f64,
}

/// A stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Phase {
    /// How long, in seconds.
    pub seconds: f64,
    /// From a change's begin until a host's kernel had it.
    pub reach: Spread,
    /// What the simulated hosts asked of the store.
    pub calls: Counts,
    /// Requests to the store, a second.
    pub requests_per_s: f64,
    /// Bytes between the simulated hosts and the store, in both directions, a second.
    pub wire_bytes_per_s: f64,
    /// The processes that were to be watched, as they were named.
    pub processes: Vec<(String, Usage)>,
}
