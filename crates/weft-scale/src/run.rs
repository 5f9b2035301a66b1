//! One run: the hosts start, rest, see single changes, see a storm.

use crate::{
    Arrivals, Calls, Door, Host, Phase, Process, Report, Shape, Spread, Storm,
    counted::Counts,
    oracle::Oracle,
    process::{Glimpse, wire_bytes},
};
use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use weft_model::{Snapshot, schema};
use weft_plan::Key;
use weft_store::Store;

/// Hosts that start at the same time. A thousand at once on the cores of one machine would let each other's connections to the
/// store time out, which no cluster of machines does.
const STARTERS: usize = 64;
/// Looks for the end of something that takes seconds.
const LOOK: Duration = Duration::from_millis(20);

/// What to do.
#[derive(Clone, Debug)]
pub struct Run {
    /// The cluster. Its networks and endpoints are in the store already.
    pub shape: Shape,
    /// The store.
    pub door: Door,
    /// How long to look at rest.
    pub rest: Duration,
    /// How many changes one by one.
    pub single: usize,
    /// Changes a second in the storm.
    pub rate: u32,
    /// How long the storm lasts.
    pub storm: Duration,
    /// How long the hosts may take for anything.
    pub patience: Duration,
    /// Processes to watch, by name.
    pub watch: Vec<(String, Process)>,
    /// The device that the simulated hosts reach the store by.
    pub device: String,
}

/// Runs it, and stops the hosts. Fails when a host's kernel does not become what the records say.
#[allow(clippy::cast_precision_loss, reason = "none of it is counted that far")]
pub async fn measure(run: &Run) -> Result<Report> {
    let arrivals = Arc::new(Arrivals::default());
    let calls = Arc::new(Calls::default());
    let memory = Process::this().rss_mib()?;
    let observed = Watching { run, arrivals: &arrivals, calls: &calls };

    let look = observed.begin()?;
    let begun = Instant::now();
    let hosts: Vec<Host> = stream::iter(0..run.shape.hosts)
        .map(|number| Host::start(&run.shape, number, &run.door, &arrivals, &calls))
        .buffer_unordered(STARTERS)
        .try_collect()
        .await?;
    let door = run.door.open().await?;
    let asked = Instant::now();
    let oracle = Oracle::new(records(door.as_ref()).await?);
    let wanted =
        |host: &Host| oracle.wanted(host.agent().node()).keys().filter(|k| is_from_the_start(k)).count();
    let wanted: Vec<usize> = hosts.iter().map(wanted).collect();
    // The oracle plans every host from nothing: its time is not the cluster's.
    let asked = asked.elapsed();
    until(run.patience, "hosts with all of their networks", || {
        let has = |host: &Host| host.kernel().count(is_from_the_start);
        hosts.iter().zip(&wanted).filter(|(host, wanted)| has(host) != **wanted).count()
    })
    .await?;
    let convergence_s = begun.elapsed().saturating_sub(asked).as_secs_f64();
    let start = look.end()?;
    tracing::info!(convergence_s, "converged");

    settle(&calls).await;
    let rss = Process::this().rss_mib()? - memory;
    let look = observed.begin()?;
    tokio::time::sleep(run.rest).await;
    let rest = look.end()?;
    tracing::info!("rested");

    let storms: Vec<Arc<dyn Store>> = stream::iter(0..4).then(|_| run.door.open()).try_collect().await?;
    let look = observed.begin()?;
    // Slow enough for each to be alone.
    let single =
        Storm { shape: run.shape, rate: 20, lasts: Duration::from_millis(50) * u32::try_from(run.single)? };
    blow(run, &single, &storms, &arrivals).await?;
    let single = look.end()?;
    tracing::info!(p99 = single.reach.p99_ms, "single changes");

    let look = observed.begin()?;
    let storm = Storm { shape: run.shape, rate: run.rate, lasts: run.storm };
    let (took, storm_lag_s) = blow(run, &storm, &storms, &arrivals).await?;
    let storm_rate = (2 * storm.gust()) as f64 / took.as_secs_f64();
    let storm = look.end()?;
    tracing::info!(p99 = storm.reach.p99_ms, storm_rate, storm_lag_s, "storm");

    check(&hosts, door.as_ref(), run.patience).await?;
    let count = run.shape.hosts as f64;
    let objects = hosts.iter().map(|host| host.kernel().len()).sum::<usize>() as f64;
    let report = Report {
        shape: run.shape,
        store: run.door.url.to_string(),
        convergence_s,
        start,
        rest,
        single,
        storm,
        storm_rate,
        storm_lag_s,
        rss_mib_per_host: rss / count,
        objects_per_host: objects / count,
    };
    stream::iter(hosts)
        .for_each_concurrent(None, |host| async move {
            if let Err(error) = host.stop().await {
                tracing::warn!(%error, "a host does not end well");
            }
        })
        .await;
    Ok(report)
}

/// Whether an object follows from what is in the store before the hosts start. Only of its multicast groups does the real
/// daemon tell at a time of its own: when its bridges have heard everybody.
fn is_from_the_start(key: &Key) -> bool {
    !matches!(key, Key::Group(..))
}

/// Every kernel holds exactly what the planner's oracle makes of the records.
async fn check(hosts: &[Host], store: &dyn Store, patience: Duration) -> Result<()> {
    let oracle = Oracle::new(records(store).await?);
    // As many as can be compared in seconds: all of a small cluster.
    let some: Vec<&Host> = hosts.iter().step_by(hosts.len().div_ceil(100)).collect();
    until(patience, "kernels as the records say", || {
        some.iter().filter(|host| host.kernel().state() != oracle.wanted(host.agent().node())).count()
    })
    .await
}

async fn records(store: &dyn Store) -> Result<Snapshot> {
    let listing = store.list(schema::ALL).await?;
    let records = listing.records.into_iter().map(|r| (r.key, r.value));
    let (snapshot, bad) = Snapshot::from_records(listing.revision, records);
    if let Some(bad) = bad.first() {
        bail!("{bad}");
    }
    Ok(snapshot)
}

/// Makes the changes and waits until they have arrived everywhere. The time of the writes, and the wait behind the last of
/// them, in seconds.
async fn blow(
    run: &Run,
    storm: &Storm,
    stores: &[Arc<dyn Store>],
    arrivals: &Arrivals,
) -> Result<(Duration, f64)> {
    let (mut took, mut lag, mut wanted) = (Duration::ZERO, 0.0, 0);
    for adds in [true, false] {
        took += storm.blow(adds, stores, arrivals).await?;
        wanted += storm.arrivals();
        let written = Instant::now();
        until(run.patience, "arrivals", || wanted.saturating_sub(arrivals.count())).await?;
        lag = written.elapsed().as_secs_f64();
    }
    Ok((took, lag))
}

/// Waits until nothing is missing.
async fn until(patience: Duration, what: &str, missing: impl Fn() -> usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = missing();
        if left == 0 {
            return Ok(());
        }
        if begun.elapsed() > patience {
            bail!("{what}: {left} are missing after {} s", patience.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the hosts have stopped writing: reserves are claimed after the start.
async fn settle(calls: &Calls) {
    let mut before = calls.counts();
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = calls.counts();
        if now.since(before).commit == 0 {
            return;
        }
        before = now;
    }
}

struct Watching<'a> {
    run: &'a Run,
    arrivals: &'a Arrivals,
    calls: &'a Calls,
}

struct Look<'a> {
    watching: &'a Watching<'a>,
    begun: Instant,
    calls: Counts,
    bytes: u64,
    processes: Vec<(String, Glimpse)>,
}

impl Watching<'_> {
    fn begin(&self) -> Result<Look<'_>> {
        let glimpse = |(name, process): &(String, Process)| Ok((name.clone(), process.glimpse()?));
        let _before: Spread = self.arrivals.take();
        Ok(Look {
            watching: self,
            begun: Instant::now(),
            calls: self.calls.counts(),
            bytes: wire_bytes(&self.run.device)?,
            processes: self.run.watch.iter().map(glimpse).collect::<Result<_>>()?,
        })
    }
}

impl Look<'_> {
    #[allow(clippy::cast_precision_loss)]
    fn end(self) -> Result<Phase> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let calls = self.watching.calls.counts().since(self.calls);
        let bytes = wire_bytes(&self.watching.run.device)? - self.bytes;
        let usage = |(name, glimpse): &(String, Glimpse)| Ok((name.clone(), glimpse.usage()?));
        Ok(Phase {
            seconds,
            reach: self.watching.arrivals.take(),
            calls,
            requests_per_s: calls.sum() as f64 / seconds,
            wire_bytes_per_s: bytes as f64 / seconds,
            processes: self.processes.iter().map(usage).collect::<Result<_>>()?,
        })
    }
}
