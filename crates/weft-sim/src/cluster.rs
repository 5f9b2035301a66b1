//! A cluster and a run of it: trouble for a while, then quiet.

use crate::{
    Chance, Owner, Tasks, check, faults,
    faults::Fault,
    host::Host,
    ledger::{Ledger, Stage},
    machine::Ether,
    records,
    store::FakeStore,
    trace::{LogToTrace, Trace},
    wire::Quality,
};
use std::{
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use weft_model::{NetworkId, UnixSeconds, schema, world};

/// When the simulated time begins: some moment in 2027.
const EPOCH: UnixSeconds = 1_800_000_000;
/// It has to be as it should be this long after all trouble has ended, at the latest.
const QUIET: Duration = Duration::from_secs(90);

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Hosts.
    pub hosts: usize,
    /// For how long there is trouble, in simulated time.
    pub trouble: Duration,
}

impl Default for Size {
    fn default() -> Self {
        Self { hosts: 3, trouble: Duration::from_secs(40) }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was promised and not kept; empty when all is well.
    pub broken: Vec<String>,
    /// What happened, line by line.
    pub trace: Vec<String>,
    /// A number that stands for the trace.
    pub hash: u64,
    /// How long it took after the trouble until all was as it should be, in simulated time.
    pub settled: Duration,
    /// How often a task was polled.
    pub polls: u64,
}

/// Everything there is.
pub struct Cluster {
    pub(crate) tasks: Tasks,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) store: Arc<FakeStore>,
    pub(crate) hosts: Vec<Arc<Host>>,
    pub(crate) ledger: Ledger,
}

/// What the daemons take for the machine.
struct SimulatedWorld {
    chance: Chance,
    tasks: Tasks,
    began: Instant,
    hosts: Vec<Arc<Host>>,
}

impl world::World for SimulatedWorld {
    fn unix_now(&self) -> UnixSeconds {
        let now = EPOCH + self.began.elapsed().as_secs();
        let Owner::Host(number) = self.tasks.current() else { return now };
        self.hosts.iter().find(|host| host.number == number).map_or(now, |host| host.machine.now(now))
    }

    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.chance.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Runs the cluster of this seed, with its hosts' disks below `disks`, which is left empty.
pub fn run(seed: u64, size: Size, disks: &Path) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let disks = tempfile::tempdir_in(disks)?;
    Ok(runtime.block_on(simulate(seed, size, disks.path())))
}

async fn simulate(seed: u64, size: Size, disks: &Path) -> Outcome {
    let chance = Chance::new(seed);
    let tasks = Tasks::new(chance.clone());
    let trace = Trace::new();
    let ledger = Ledger::new(trace.clone());
    let (promises, said) = (ledger.clone(), trace.clone());
    let store = Arc::new(FakeStore::new(Arc::new(move |batch, snapshot| {
        for change in &batch.changes {
            let what = if change.value.is_some() { "put" } else { "delete" };
            said.say("store", format_args!("{} {what} {}", batch.revision, change.key));
        }
        if let Some(fault) = records::fault(snapshot) {
            promises.broken(format!("at revision {}: {fault}", batch.revision));
        }
    })));
    let (parts, ether) = ((&tasks, &trace, &chance), Ether::default());
    let hosts: Vec<_> =
        (1..=size.hosts).map(|n| Arc::new(Host::new(n, disks, parts, (&store, &ether)))).collect();
    let _world = world::simulate(Rc::new(SimulatedWorld {
        chance: chance.clone(),
        tasks: tasks.clone(),
        began: Instant::now(),
        hosts: hosts.clone(),
    }));
    let _tasks = weft_store::task::simulate(Rc::new(tasks.clone()));
    let _log = tracing::subscriber::set_default(LogToTrace { trace: trace.clone(), tasks: tasks.clone() });
    let cluster =
        Arc::new(Cluster { tasks: tasks.clone(), chance, trace: trace.clone(), store, hosts, ledger });
    let directed = Arc::clone(&cluster);
    let settled = tasks.run(async move { directed.direct(size.trouble).await }).await;
    for host in &cluster.hosts {
        host.kill();
    }
    let broken = std::mem::take(&mut cluster.ledger.book().broken);
    Outcome { broken, trace: trace.lines(), hash: trace.hash(), settled, polls: tasks.polls() }
}

/// The tasks of the trouble: they end with it.
type Troubles = Mutex<Vec<weft_store::task::Abort>>;

impl Cluster {
    /// Trouble, then quiet; how long it took then until all was well.
    async fn direct(self: Arc<Self>, trouble: Duration) -> Duration {
        let store = Arc::clone(&self.store);
        let _ticks = self.tasks.spawn_as(Owner::World, async move {
            loop {
                sleep(Duration::from_millis(500)).await;
                store.end_leases();
            }
        });
        let looking = Arc::clone(&self);
        let _looks = self.tasks.spawn_as(Owner::World, async move { looking.keep_looking().await });
        for host in &self.hosts {
            host.start();
        }
        // Some runs are wild and some are not; each has troubles of its own.
        let likely: Vec<Fault> = faults::ALL.into_iter().filter(|_| self.chance.one_in(3)).collect();
        let pace = [300, 1000, 2500][self.chance.below(3)];
        self.trace.say("world", format_args!("{} hosts, {likely:?}", self.hosts.len()));
        sleep(Duration::from_secs(2)).await;
        let (began, troubles) = (Instant::now(), Troubles::default());
        while began.elapsed() < trouble && !self.is_broken() {
            self.happens(&likely, &troubles);
            sleep(self.chance.millis(10..pace)).await;
        }
        self.calm(&troubles);
        if self.chance.one_in(4) {
            self.one_stays_off().await;
        }
        let calm = Instant::now();
        while !self.is_broken() {
            sleep(Duration::from_secs(1)).await;
            let Some(unsettled) = self.unsettled() else {
                if let Some(unkept) = self.unkept() {
                    self.ledger.broken(unkept);
                }
                break;
            };
            if calm.elapsed() > QUIET {
                self.ledger.broken(format!("after {QUIET:?} of quiet: {unsettled}"));
                break;
            }
            if calm.elapsed() > Duration::from_secs(5) {
                self.tidy_up().await;
            }
        }
        calm.elapsed()
    }

    fn is_broken(&self) -> bool {
        !self.ledger.book().broken.is_empty()
    }

    /// One thing happens.
    fn happens(self: &Arc<Self>, likely: &[Fault], troubles: &Troubles) {
        let Some(host) = self.chance.pick(&self.hosts).cloned() else { return };
        let this = Arc::clone(self);
        let work: weft_store::task::Work = match self.chance.below(12) {
            0..4 => {
                let Some(fault) = self.chance.pick(likely).copied() else { return };
                Box::pin(this.suffer(fault, host))
            }
            4 | 5 => Box::pin(this.make_network(host)),
            6 => {
                let Some(network) = self.any_network(&host) else { return };
                Box::pin(async move { this.remove_network(&host, network.id).await })
            }
            n => {
                let Some(network) = self.any_network(&host) else { return };
                if n < 10 {
                    Box::pin(this.attach(host, network))
                } else {
                    Box::pin(this.run_container(host, network))
                }
            }
        };
        let abort = self.tasks.spawn_as(Owner::World, work);
        troubles.lock().unwrap_or_else(PoisonError::into_inner).push(abort);
    }

    /// The trouble ends: everything is put right, whoever was about to do something lets it be.
    fn calm(&self, troubles: &Troubles) {
        self.trace.say("world", "=== quiet");
        for abort in troubles.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            abort();
        }
        if self.store.is_down() {
            self.store.start();
        }
        for host in &self.hosts {
            if host.kernel.refuses() {
                host.disturb_data();
                host.kernel.refuse(None);
            }
            host.wire.set(Quality::GOOD);
            if host.is_leaving() {
                host.reboot();
                self.ledger.host_lost(host.number);
            }
            host.start();
        }
        let mut book = self.ledger.book();
        book.in_hand.clear();
        for (id, container) in &mut book.containers {
            if container.stage == Stage::Asked {
                container.stage = Stage::Leaving;
            }
            if container.stage == Stage::Leaving
                && let Some(host) = self.hosts.iter().find(|host| host.number == container.host)
            {
                host.end_sandbox(id);
            }
        }
    }

    /// A machine is off for so long that the others withdraw what is on it: they are looked at all the time.
    async fn one_stays_off(&self) {
        let Some(host) = self.chance.pick(&self.hosts) else { return };
        self.trace.say(host.name(), "=== is off");
        host.reboot();
        self.ledger.host_lost(host.number);
        sleep(check::WITHDRAWN + Duration::from_secs(5)).await;
        host.start();
    }

    /// What an operator and the engines do from time to time.
    async fn tidy_up(&self) {
        for host in &self.hosts {
            self.sweep(host).await;
        }
        let Some(host) = self.hosts.first() else { return };
        let mine: Vec<_> = self.hosts.iter().filter_map(|host| host.node()).collect();
        if mine.len() < self.hosts.len() {
            return;
        }
        // Removals that were begun and not ended.
        for key in self.store.keys(schema::REMOVING) {
            if let Some(id) = key.strip_prefix(schema::REMOVING).and_then(|id| id.parse::<NetworkId>().ok()) {
                self.remove_network(host, id).await;
            }
        }
        let dead = self.store.look(|s| {
            let dead = s.nodes.keys().filter(|id| !mine.contains(id) && !s.alive.contains_key(*id));
            dead.cloned().collect::<Vec<_>>()
        });
        for node in dead {
            self.declare_dead(host, node).await;
        }
        self.collect(host).await;
    }
}

/// The bound within which containers reach one another: see [`check::BOUND`].
pub const BOUND: Duration = check::BOUND;
