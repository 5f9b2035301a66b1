//! A daemon's start and end.

use crate::{
    Agent, AgentError, AgentOptions, Datapath, Machine, ThisMachine, absence,
    agent::{Inner, LISTING_TIMEOUT},
    api, cache, follow,
    followed::Followed,
    groups, leftovers, membership,
    moving::{self, Moving, Opener},
    outbox::Outbox,
    reconcile::Reconciler,
    reserve, resolvers,
    under_way::UnderWay,
    view::{Link, View},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weft_kernel::{FastPath, Kernel, KernelError, Linux, LinuxOptions, fast_path, requirements};
use weft_model::{
    NetworkId, Node, NodeId, Snapshot, encode,
    schema::{self, Meta, Moved, Scope},
};
use weft_store::{
    EMBEDDED_FILE, JoinToken, OpenOptions, Opened, OptionError, Outcome, Store, StoreError, StoreOptions,
    StoreUrl, Txn,
    embedded::{Authority, AuthorityError},
    probe, task,
};

/// The file in the state directory that a daemon holds locked while it runs.
pub const LOCK_FILE: &str = "lock";

/// A daemon that runs.
pub struct Running {
    agent: Agent,
    tasks: TaskTracker,
    cache: PathBuf,
    _lock: StateLock,
}

impl Running {
    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Cancelled when the daemon is to end: by [`Running::stop`], or because the host has left the cluster.
    pub fn ending(&self) -> CancellationToken {
        self.agent.0.shutdown.clone()
    }

    /// Ends the daemon. The data path stays as it is: containers go on talking, and the next start adopts it.
    /// Only when the host has left the cluster ([`Agent::leave`]), all of it is removed.
    pub async fn stop(self) -> Result<(), AgentError> {
        self.agent.0.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if self.agent.0.outbox.member.has_left() {
            weft_kernel::remove_everything(&self.agent.0.options.overlay_netns).await?;
            remove_file(&self.cache)?;
        }
        Ok(())
    }
}

/// Starts a daemon: checks the host, opens the store, adopts what the kernel has, serves the API. Returns when
/// all of that is done. When it cannot start it says why, and has changed nothing but its own directories.
pub async fn start(options: AgentOptions) -> Result<Running, AgentError> {
    requirements::check()?;
    make_dir(&options.state_dir)?;
    make_dir(&options.run_dir)?;
    let lock = StateLock::take(&options.state_dir)?;
    let node = membership::load_or_create_id(&options.state_dir)?;
    let machine: Arc<dyn Machine> = Arc::new(ThisMachine);
    let this = machine.describe(&options, &node, 0)?;
    for vtep in &this.vteps {
        requirements::check_udp_port(options.vxlan_port, *vtep, &options.overlay_netns)?;
    }

    let chosen = Chosen::by(&options)?;
    let goes_on_taking = chosen.goes_on_taking(&options)?;
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let moving = Arc::new(open_store(&options, &this, &tasks, &shutdown).await?);
    let kernel = |options: &AgentOptions| open_kernel(options, chosen);
    let world = World { store: Arc::clone(&moving) as Arc<dyn Store>, kernel, machine, goes_on_taking };
    let running = run(options, this, world, (tasks, shutdown), lock).await?;
    let inner = &running.agent.0;
    spawn(&running.tasks, moving::follow_marks(moving, running.agent.clone(), inner.shutdown.clone()));
    let socket = inner.options.run_dir.join("weft.sock");
    spawn(
        &running.tasks,
        api::serve(api::bind(&socket)?, socket, running.agent.clone(), inner.shutdown.clone()),
    );
    Ok(running)
}

/// What a daemon lives on: the store, this host's kernel, the machine.
pub struct World<K> {
    /// Where the records are.
    pub store: Arc<dyn Store>,
    /// Opens the kernel. Asked when the store has answered: what it changes has to wait until the daemon can start.
    pub kernel: K,
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// Packets of direct networks that an earlier daemon of this host took are taken without a pause while the kernel is opened.
    pub goes_on_taking: bool,
}

/// Starts a daemon in a world of the caller's, without an API socket: in a simulation, in a test.
pub async fn start_in<K>(options: AgentOptions, world: World<K>) -> Result<Running, AgentError>
where
    K: FnOnce(&AgentOptions) -> Result<Carrier, AgentError>,
{
    make_dir(&options.state_dir)?;
    let lock = StateLock::take(&options.state_dir)?;
    let node = membership::load_or_create_id(&options.state_dir)?;
    let this = world.machine.describe(&options, &node, 0)?;
    run(options, this, world, (TaskTracker::new(), CancellationToken::new()), lock).await
}

/// Meets the store, adopts what the kernel has, and starts everything but the API.
async fn run<K>(
    options: AgentOptions,
    this: Node,
    world: World<K>,
    (tasks, shutdown): (TaskTracker, CancellationToken),
    lock: StateLock,
) -> Result<Running, AgentError>
where
    K: FnOnce(&AgentOptions) -> Result<Carrier, AgentError>,
{
    let World { store, kernel, machine, goes_on_taking } = world;
    let node = this.id.clone();
    let cache = options.state_dir.join("snapshot.json");
    let kept = cache::load(&cache, &store.address());
    let (last, connected) = meet_store(store.as_ref(), &node, kept.as_ref()).await?;
    let known = last.is_some();
    let (stored, started, direct) = last.map_or((0, 0, None), |last| (last.epoch, last.started, last.direct));
    let epoch = membership::count_start(&options.state_dir, stored);
    let this = Node { epoch, started: this.started.max(started), direct, ..this };
    if connected {
        membership::write(store.as_ref(), &this).await?;
    }

    let path = options.state_dir.join("networks.json");
    let followed = match Followed::load(&path)? {
        Some(networks) => Followed::noted(&path, networks),
        None if known => {
            Followed::new(&path, networks_of(store.as_ref(), &node, kept.as_ref(), connected).await?)?
        }
        None => Followed::new(&path, BTreeSet::new())?,
    };
    let view = Arc::new(View::new(this.clone(), kept.unwrap_or_default(), followed));
    let outbox = Arc::new(Outbox::open(&options.state_dir, store, Arc::clone(&view), node.clone())?);
    spawn(&tasks, follow::run(Arc::clone(&outbox), Arc::clone(&view), shutdown.clone()));
    if connected {
        first_listing(&view, outbox.as_ref(), &options).await?;
    }

    if !goes_on_taking && this.direct.is_some() {
        membership::take_nothing_directly(outbox.as_ref(), &view, connected).await?;
    }
    let kernel = kernel(&options)?;
    tracing::info!(datapath = kernel.datapath, "the data path is chosen");
    let agent = adopt(options, &this, outbox, view, (kernel, machine), &tasks, shutdown.clone()).await;
    let inner = &agent.0;
    let (outbox, view) = (Arc::clone(&inner.outbox), Arc::clone(&inner.view));
    let kept = cache::Kept::new(cache.clone(), outbox, view);
    spawn(&tasks, kept.keep(Arc::clone(&inner.troubles), shutdown.clone()));
    spawn(&tasks, membership::keep(Arc::clone(inner), shutdown.clone()));
    spawn(&tasks, absence::keep(Arc::clone(inner), shutdown.clone()));
    spawn(&tasks, reserve::keep(agent.clone(), shutdown.clone()));
    spawn(&tasks, groups::keep(agent.clone(), shutdown.clone()));
    if let Some((domain, done)) = inner.options.dns_domain.clone().zip(inner.names_served.clone()) {
        spawn(&tasks, resolvers::keep(agent.clone(), domain, done, shutdown.clone()));
    }
    spawn(&tasks, leftovers::run(agent.clone(), shutdown));
    Ok(Running { agent, tasks, cache, _lock: lock })
}

/// The kernel, and how it carries frames, in the words of `weft status`.
pub struct Carrier {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// How it carries frames.
    pub datapath: String,
}

/// Starts a task that the daemon's end waits for.
fn spawn(tasks: &TaskTracker, work: impl Future<Output = ()> + Send + 'static) {
    // It ends by itself: all of them hear of the shutdown.
    let _runs = task::spawn(tasks.track_future(work));
}

/// Which data path it is to be, before anything has changed.
enum Chosen {
    Programs,
    /// The kernel's, in the words of `weft status`.
    Kernel(String),
}

impl Chosen {
    fn by(options: &AgentOptions) -> Result<Self, KernelError> {
        match (options.datapath, fast_path::probe) {
            (Datapath::Kernel, _) => Ok(Self::Kernel("kernel (asked for with --datapath)".to_owned())),
            (Datapath::Ebpf, probe) => probe().map(|()| Self::Programs),
            (Datapath::Auto, probe) => {
                Ok(probe().map_or_else(|e| Self::Kernel(format!("kernel ({e})")), |()| Self::Programs))
            }
        }
    }

    /// See [`World::goes_on_taking`].
    fn goes_on_taking(&self, options: &AgentOptions) -> Result<bool, KernelError> {
        Ok(matches!(self, Self::Programs) && !fast_path::has_another_layout(&options.overlay_netns)?)
    }
}

/// The kernel with the data path that was chosen. What an earlier daemon has left of the other one goes.
fn open_kernel(options: &AgentOptions, chosen: Chosen) -> Result<Carrier, AgentError> {
    let linux = LinuxOptions { overlay_netns: options.overlay_netns.clone() };
    let datapath = match chosen {
        Chosen::Kernel(reason) => reason,
        Chosen::Programs => match FastPath::new(&linux) {
            Ok(kernel) => return Ok(Carrier { kernel: Arc::new(kernel), datapath: "ebpf".to_owned() }),
            Err(error) if options.datapath == Datapath::Auto => format!("kernel ({error})"),
            Err(error) => return Err(error.into()),
        },
    };
    fast_path::remove(&options.overlay_netns)?;
    Ok(Carrier { kernel: Arc::new(Linux::new(&linux)?), datapath })
}

/// Makes the agent and starts its loop; returns when the loop has adopted what the kernel has.
pub(crate) async fn adopt(
    options: AgentOptions,
    this: &Node,
    outbox: Arc<Outbox>,
    view: Arc<View>,
    (carrier, machine): (Carrier, Arc<dyn Machine>),
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Agent {
    let Carrier { kernel, datapath } = carrier;
    let (the_loop, mut reconciled) =
        Reconciler::new(this.id.clone(), Arc::clone(&view), Arc::clone(&kernel), options.reconcile_interval);
    let inner = Inner {
        node: this.id.clone(),
        epoch: this.epoch,
        names_served: options.dns_domain.is_some().then(|| watch::Sender::new(0)),
        options,
        store: Arc::clone(&outbox) as Arc<dyn Store>,
        outbox,
        view,
        kernel,
        machine,
        datapath,
        reconciled: reconciled.clone(),
        reserving: tokio::sync::Mutex::new(true),
        leading_out: tokio::sync::Mutex::default(),
        asking: UnderWay::default(),
        claiming: UnderWay::default(),
        engines: Mutex::new(BTreeMap::new()),
        troubles: Arc::default(),
        shutdown: shutdown.clone(),
        taking: TaskTracker::new(),
    };
    let telling = Arc::clone(&inner.outbox);
    let until = shutdown.clone();
    spawn(tasks, async move { telling.run(until).await });
    spawn(tasks, the_loop.run(shutdown));
    // The loop's first word is that it has adopted. An error would mean that it ended, as the daemon then does.
    let _ = reconciled.changed().await;
    Agent(Arc::new(inner))
}

async fn open_store(
    options: &AgentOptions,
    this: &Node,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<Moving, AgentError> {
    let authority = authority(options)?;
    let token = join_token(options, authority.as_deref())?;
    let open = OpenOptions {
        state_dir: options.state_dir.clone(),
        join_token: token.clone(),
        options: options.store_options.clone(),
        timeout: options.store_timeout,
    };
    let (configured, file) = (options.cluster_store.to_string(), options.state_dir.join(Moving::FILE));
    if let Some(mark) = moving::kept(&file, &configured)?
        && options.cluster_store == StoreUrl::Local
        && !options.state_dir.join(EMBEDDED_FILE).exists()
    {
        // It has moved and was taken away since. An empty one in its place would be another cluster's.
        let opener = opener(open);
        return Moving::find(opener(mark).await?, configured, file, opener).await;
    }
    let Opened { store, embedded } = weft_store::open(&options.cluster_store, &open).await?;
    if let (Some(embedded), Some(address), Some(token), Some(authority)) =
        (embedded, this.advertise, token, authority)
    {
        let operators = options.store_options.tls().map_err(|e| AgentError::Invalid(e.to_string()))?;
        let tls = authority
            .server_config(operators.as_ref())
            .map_err(|e: AuthorityError| AgentError::Invalid(e.to_string()))?;
        let listener = listen(address).await?;
        let shutdown = shutdown.clone();
        spawn(tasks, weft_store::embedded::serve(listener, embedded, token, tls, shutdown));
    }
    Moving::find(store, configured, file, opener(open)).await
}

/// Opens the stores that the cluster moves to, with what this daemon was started with besides.
fn opener(open: OpenOptions) -> Opener {
    Box::new(move |mark: Moved| {
        let open = open.clone();
        Box::pin(async move {
            let invalid = |e: String| StoreError::Invalid(format!("the URL or the options of a move: {e}"));
            let to = mark.to.unwrap_or_default();
            let url = to.parse::<StoreUrl>().map_err(|e| invalid(e.to_string()))?;
            let options = match mark.options.as_str() {
                "" => StoreOptions::default(),
                text => text.parse().map_err(|e: OptionError| invalid(e.to_string()))?,
            };
            Ok(weft_store::open(&url, &OpenOptions { options, ..open }).await?.store)
        })
    })
}

/// The CA by whose certificates other daemons know this one, if it has a store to serve.
fn authority(options: &AgentOptions) -> Result<Option<Arc<Authority>>, AgentError> {
    if options.cluster_store != StoreUrl::Local {
        return Ok(None);
    }
    match Authority::load_or_create(&options.state_dir.join(Authority::FILE)) {
        Ok(authority) => Ok(Some(Arc::new(authority))),
        Err(error) => Err(AgentError::Invalid(error.to_string())),
    }
}

/// The token that other daemons need for this daemon's store, or that this daemon needs for another's.
fn join_token(
    options: &AgentOptions,
    authority: Option<&Authority>,
) -> Result<Option<JoinToken>, AgentError> {
    match (&options.join_token, authority, &options.cluster_store) {
        (Some(token), Some(authority), _) if token.pin() != authority.pin() => {
            Err(AgentError::Invalid(format!(
                "the join token is of another daemon's store: leave it out, the right one is in {}",
                options.state_dir.join(JoinToken::FILE).display()
            )))
        }
        (Some(token), ..) => Ok(Some(token.clone())),
        (None, Some(authority), _) => {
            let path = options.state_dir.join(JoinToken::FILE);
            let token = JoinToken::load_or_create(&path, authority.pin());
            token.map(Some).map_err(|e| AgentError::Invalid(e.to_string()))
        }
        (None, None, StoreUrl::Remote { server }) => Err(AgentError::Invalid(format!(
            "the store weft://{server} needs a join token: give --join-token or --join-token-file, as found in \
             {} in the state directory of that daemon",
            JoinToken::FILE
        ))),
        (None, None, _) => Ok(None),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|e| AgentError::InUse {
        what: format!("{address}, where this daemon's store is to be served,"),
        reason: format!("{e}; choose another port with --cluster-advertise"),
    })
}

/// Checks the store's schema and reads this node's last record. A store that does not answer is no obstacle if a
/// snapshot was kept: then what is known goes on. Returns whether the store answered, too.
async fn meet_store(
    store: &dyn Store,
    node: &NodeId,
    kept: Option<&Snapshot>,
) -> Result<(Option<Node>, bool), AgentError> {
    match probe(store).await {
        Ok(()) => {}
        Err(error @ StoreError::Unreachable { .. }) => {
            let Some(kept) = kept else { return Err(error.into()) };
            tracing::warn!(%error, revision = %kept.revision, "starting with the snapshot that was kept");
            return Ok((kept.nodes.get(node).cloned(), false));
        }
        Err(error) => return Err(error.into()),
    }
    let meta = encode(&Meta { schema: schema::VERSION });
    if let Outcome::Refused(present) =
        store.commit(Txn::new().absent(schema::META).put(schema::META, meta)).await?
    {
        let record = present.into_iter().next().flatten();
        let meta = record.and_then(|r| serde_json::from_slice::<Meta>(&r.value).ok());
        if meta.as_ref().map(|m| m.schema) != Some(schema::VERSION) {
            return Err(AgentError::Invalid(format!(
                "the store {} holds records of schema {}, this weft writes schema {}: upgrade it, or use \
                 another prefix",
                store.address(),
                meta.map_or("unknown".to_owned(), |m| m.schema.to_string()),
                schema::VERSION
            )));
        }
    }
    let record = store.get(&schema::node_key(node)).await?;
    Ok((record.and_then(|r| serde_json::from_slice(&r.value).ok()), true))
}

/// The networks on which a node has left something, for one that has not noted them.
async fn networks_of(
    store: &dyn Store,
    node: &NodeId,
    kept: Option<&Snapshot>,
    connected: bool,
) -> Result<BTreeSet<NetworkId>, AgentError> {
    let of = |s: &Snapshot| {
        let endpoints = s.all_endpoints().filter(|e| e.node == *node).map(|e| e.network.clone());
        let claimed = s.addresses.iter().filter(|(_, claims)| claims.values().any(|c| c.node == *node));
        endpoints.chain(claimed.map(|(network, _)| network.clone())).collect()
    };
    if !connected {
        return Ok(kept.map(of).unwrap_or_default());
    }
    let listing = store.list(schema::ON).await?;
    let records = listing.records.into_iter().map(|r| (r.key, r.value));
    Ok(of(&Snapshot::from_records(listing.revision, records).0))
}

/// Waits for the first listings: planning without them would take down what a previous daemon has built.
async fn first_listing(view: &View, store: &dyn Store, options: &AgentOptions) -> Result<(), AgentError> {
    let (mut link, mut seen) = (view.link(), view.seen());
    let followed: Vec<_> = view.followed.all().into_iter().map(Scope::Network).collect();
    let all = async {
        let up = link.wait_for(|link| *link == Link::Up).await.is_ok();
        up && seen.wait_for(|seen| followed.iter().all(|scope| seen.of(scope).is_some())).await.is_ok()
    };
    match tokio::time::timeout(options.store_timeout.max(LISTING_TIMEOUT), all).await {
        Ok(true) => Ok(()),
        _ => Err(AgentError::Store(StoreError::Unreachable {
            store: store.address(),
            reason: "it answered once, but did not list its records".to_owned(),
        })),
    }
}

fn make_dir(path: &Path) -> Result<(), AgentError> {
    std::fs::create_dir_all(path).map_err(|e| AgentError::file(path, &e))
}

fn remove_file(path: &Path) -> Result<(), AgentError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(AgentError::file(path, &e)),
        _ => Ok(()),
    }
}

/// Keeps a second daemon away from a state directory; the kernel lets go of it when the process ends, however.
struct StateLock {
    _file: std::fs::File,
}

impl StateLock {
    fn take(state_dir: &Path) -> Result<Self, AgentError> {
        let path = state_dir.join(LOCK_FILE);
        let file = std::fs::File::create(&path).map_err(|e| AgentError::file(&path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(AgentError::InUse {
                what: state_dir.display().to_string(),
                reason: "another weft daemon runs with it; stop it, or give this one its own --state-dir, \
                         --run-dir and --overlay-netns"
                    .to_owned(),
            }),
            Err(std::fs::TryLockError::Error(e)) => Err(AgentError::file(&path, &e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        let error = StateLock::take(dir.path()).err().unwrap().to_string();
        assert!(error.contains("another weft daemon"), "{error}");
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }
}
