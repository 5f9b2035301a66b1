//! A cluster within the test's process.

use crate::{
    Agent, AgentOptions, Datapath, EndpointSpec, ThisMachine,
    api::NetworkSpec,
    follow,
    followed::Followed,
    groups, membership,
    moving::{self, Moving, Opener},
    outbox::Outbox,
    reserve,
    start::{Carrier, adopt},
    view::{Link, View},
};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weft_kernel::{Kernel, KernelError, Snooped};
use weft_model::{
    Container, EndpointId, Mtu, Network, NetworkId, Node, NodeId, Revision, Sandbox, Snapshot, Vni,
};
use weft_plan::{HostState, Key, Op, model_kernel};
use weft_store::{
    Embedded, LeaseId, Limits, Listing, Outcome, Record, Store, StoreError, StoreOptions, StoreUrl, Txn,
    Watch,
};

/// A kernel that behaves as `weft_plan::model_kernel` says, and refuses on request.
#[derive(Default)]
pub(crate) struct ModelKernel {
    state: Mutex<HostState>,
    refused_kind: Mutex<Option<&'static str>>,
    changed: Notify,
    snooped: Mutex<BTreeMap<Vni, Snooped>>,
    memberships_changed: Notify,
    meanwhile: Mutex<Option<Meanwhile>>,
    removed: Mutex<BTreeSet<Key>>,
}

/// What happens while the kernel is read.
type Meanwhile = Box<dyn FnOnce() + Send>;

impl ModelKernel {
    pub(crate) fn state(&self) -> HostState {
        self.state.lock().unwrap().clone()
    }

    /// Somebody else changes the kernel.
    pub(crate) fn meddle(&self, meddle: impl FnOnce(&mut HostState)) {
        meddle(&mut self.state.lock().unwrap());
        self.changed.notify_one();
    }

    /// Its bridge knows that endpoints here are members of these groups, and of no others.
    pub(super) fn joined(&self, vni: Vni, groups: BTreeSet<IpAddr>) {
        self.snooped.lock().unwrap().insert(vni, Snooped { groups, complete: true });
        self.memberships_changed.notify_one();
    }

    /// While it is read the next time, this happens.
    pub(super) fn meanwhile(&self, happens: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(happens));
    }

    /// What the loop has removed since the start.
    pub(super) fn removed(&self) -> BTreeSet<Key> {
        self.removed.lock().unwrap().clone()
    }

    /// From now on refuses to make objects of this kind.
    pub(crate) fn refuse(&self, kind: Option<&'static str>) {
        *self.refused_kind.lock().unwrap() = kind;
    }
}

#[async_trait]
impl Kernel for ModelKernel {
    async fn observe(&self) -> Result<HostState, KernelError> {
        let state = self.state();
        if let Some(happens) = self.meanwhile.lock().unwrap().take() {
            happens();
        }
        Ok(state.into_iter().map(|(key, object)| (key, model_kernel::as_observed(&object))).collect())
    }

    async fn apply(&self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let mut state = self.state.lock().unwrap();
        let removes = ops.iter().filter(|op| matches!(op, Op::Remove(_)));
        self.removed.lock().unwrap().extend(removes.map(|op| op.key().clone()));
        let refused = *self.refused_kind.lock().unwrap();
        let refuse = |key: &Key, reason: &str| {
            Err(KernelError::Netlink { doing: format!("make {key}"), reason: reason.to_owned(), errno: 16 })
        };
        let one = |op: &Op, state: &mut HostState| match op {
            Op::Create(key, _) if refused == Some(key.kind()) => refuse(key, "device or resource busy"),
            op => model_kernel::apply_op(state, op).or_else(|e| refuse(op.key(), &e.to_string())),
        };
        ops.iter().map(|op| one(op, &mut state)).collect()
    }

    async fn changed(&self) -> Result<(), KernelError> {
        self.changed.notified().await;
        Ok(())
    }

    async fn memberships(&self) -> Result<BTreeMap<Vni, Snooped>, KernelError> {
        Ok(self.snooped.lock().unwrap().clone())
    }

    async fn memberships_changed(&self) -> Result<(), KernelError> {
        self.memberships_changed.notified().await;
        Ok(())
    }
}

/// The way to a store, which can be cut.
pub(crate) struct Cable {
    store: Arc<dyn Store>,
    cut: watch::Sender<bool>,
    deaf: AtomicBool,
}

impl Cable {
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.deaf.store(false, Ordering::SeqCst);
        self.cut.send_replace(false);
    }

    /// From now on transactions take effect, but their answers are lost.
    pub(crate) fn lose_answers(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    fn broken(&self) -> StoreError {
        StoreError::Unreachable { store: self.store.address(), reason: "the cable is cut".to_owned() }
    }

    fn whole(&self) -> Result<(), StoreError> {
        if *self.cut.borrow() { Err(self.broken()) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Cable {
    fn address(&self) -> String {
        self.store.address()
    }
    fn limits(&self) -> Limits {
        self.store.limits()
    }
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.whole()?;
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.whole()?;
        self.store.list(prefix).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.whole()?;
        let mut cut = self.cut.subscribe();
        let until = async move {
            // The cable outlives its daemon.
            let _ = cut.wait_for(|cut| *cut).await;
        };
        let changes = self.store.watch(prefix, after).await?;
        Ok(changes.take_until(until).chain(stream::iter([Err(self.broken())])).boxed())
    }
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.whole()?;
        let outcome = self.store.commit(txn).await;
        if self.deaf.load(Ordering::SeqCst) { Err(self.broken()) } else { outcome }
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.whole()?;
        self.store.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.whole()?;
        self.store.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.whole()?;
        self.store.revoke(lease).await
    }
}

/// One daemon of the cluster.
pub(crate) struct Host {
    pub(crate) cable: Arc<Cable>,
    pub(crate) agent: Agent,
    pub(crate) kernel: Arc<ModelKernel>,
    shutdown: CancellationToken,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    pub(crate) store: Arc<dyn Store>,
    /// Stores that the cluster can move to, by their URLs.
    pub(crate) others: Arc<Mutex<BTreeMap<String, Arc<dyn Store>>>>,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path().join("store.redb")).await.unwrap());
        Self { dir, store, others: Arc::default() }
    }

    /// Another store, empty, that the cluster can move to by this URL.
    pub(crate) async fn other_store(&self, url: &str) -> Arc<dyn Store> {
        let name = format!("other-{}.redb", self.others.lock().unwrap().len());
        let store: Arc<dyn Store> = Arc::new(Embedded::open(self.dir.path().join(name)).await.unwrap());
        self.others.lock().unwrap().insert(url.to_owned(), Arc::clone(&store));
        store
    }

    fn opener(&self) -> Opener {
        let others = Arc::clone(&self.others);
        Box::new(move |mark| {
            let others = Arc::clone(&others);
            Box::pin(async move {
                let url = mark.to.unwrap_or_default();
                let found = others.lock().unwrap().get(&url).cloned();
                found.ok_or(StoreError::Unreachable { store: url, reason: "there is none".to_owned() })
            })
        })
    }

    /// A host with the VTEP address 192.0.2.`n`.
    pub(crate) async fn host(&self, n: u8) -> Host {
        let node = node(n);
        membership::write(self.store.as_ref(), &node).await.unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (cut, deaf) = (watch::Sender::new(false), AtomicBool::new(false));
        let cable = Arc::new(Cable { store: Arc::clone(&self.store), cut, deaf });
        let options = options(self.dir.path(), &node.name);
        std::fs::create_dir_all(&options.state_dir).unwrap();
        let followed = Followed::new(&options.state_dir.join("networks.json"), BTreeSet::new()).unwrap();
        let view = Arc::new(View::new(node.clone(), Snapshot::default(), followed));
        let store = Arc::clone(&cable) as Arc<dyn Store>;
        let file = options.state_dir.join(Moving::FILE);
        let moving = Moving::find(store, "local".to_owned(), file, self.opener()).await.unwrap();
        let moving = Arc::new(moving);
        let store = Arc::clone(&moving) as Arc<dyn Store>;
        let outbox =
            Arc::new(Outbox::open(&options.state_dir, store, Arc::clone(&view), node.id.clone()).unwrap());
        tasks.spawn(follow::run(Arc::clone(&outbox), Arc::clone(&view), shutdown.clone()));
        view.link().wait_for(|link| *link == Link::Up).await.unwrap();
        let kernel = Arc::new(ModelKernel::default());
        let agent = adopt(
            options,
            &node,
            outbox,
            view,
            (
                Carrier { kernel: Arc::clone(&kernel) as Arc<dyn Kernel>, datapath: "a model".to_owned() },
                Arc::new(ThisMachine),
            ),
            &tasks,
            shutdown.clone(),
        )
        .await;
        tasks.spawn(reserve::keep(agent.clone(), shutdown.clone()));
        tasks.spawn(groups::keep(agent.clone(), shutdown.clone()));
        tasks.spawn(moving::follow_marks(moving, agent.clone(), shutdown.clone()));
        Host { cable, agent, kernel, shutdown }
    }
}

/// The record of host `n`.
pub(crate) fn node(n: u8) -> Node {
    Node {
        id: NodeId::random(),
        name: format!("h{n}"),
        vteps: vec![format!("192.0.2.{n}").parse().unwrap()],
        vxlan_port: 4789,
        underlay_mtu: Mtu::new(1500).unwrap(),
        advertise: None,
        version: "test".to_owned(),
        epoch: 1,
        started: 0,
        routes: vec![],
        direct: None,
    }
}

pub(crate) fn options(dir: &Path, name: &str) -> AgentOptions {
    AgentOptions {
        cluster_store: StoreUrl::Local,
        store_options: StoreOptions::default(),
        advertise: None,
        join_token: None,
        node_name: name.to_owned(),
        state_dir: dir.join(name),
        run_dir: dir.join(name),
        overlay_netns: name.to_owned(),
        datapath: Datapath::Auto,
        vxlan_port: 4789,
        gateway_subnet: None,
        vni_range: "4096-4099".parse().unwrap(),
        dns_domain: None,
        reconcile_interval: Duration::from_millis(200),
        lease_ttl: Duration::from_secs(5),
        store_timeout: Duration::from_secs(5),
    }
}

impl Host {
    pub(crate) async fn network(&self, name: &str, subnet: &str) -> Network {
        self.agent.create_network(spec(name, subnet), None).await.unwrap()
    }

    /// Waits until this host knows the network.
    pub(crate) async fn knows(&self, network: &NetworkId) {
        self.until_known(network, true).await;
    }

    /// Waits until it has heard that the network is gone.
    pub(crate) async fn forgets(&self, network: &NetworkId) {
        self.until_known(network, false).await;
    }

    async fn until_known(&self, network: &NetworkId, known: bool) {
        let mut networks = self.agent.networks_changed();
        while self.agent.read(|s| s.networks.contains_key(network)) != known {
            networks.changed().await.unwrap();
        }
    }
}

pub(crate) fn spec(name: &str, subnet: &str) -> NetworkSpec {
    NetworkSpec {
        name: Some(name.parse().unwrap()),
        subnets: vec![weft_model::Subnet::new(subnet.parse().unwrap())],
        ..NetworkSpec::default()
    }
}

/// An endpoint that takes any address.
pub(crate) fn endpoint(network: &NetworkId) -> EndpointSpec {
    EndpointSpec {
        id: EndpointId::random(),
        network: network.clone(),
        engine: "netns".to_owned(),
        container: Some(Container::new("/run/netns/web", "web")),
        sandbox: Some(Sandbox::namespace("/run/netns/web", "eth0")),
        outside: None,
        mac: None,
        addresses: vec![],
        allocate: true,
    }
}
