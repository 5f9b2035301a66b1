//! A host: a machine, a kernel, a disk, a way to the store, and a daemon that runs or does not.

use crate::{
    Chance, Owner, Tasks,
    kernel::FakeKernel,
    machine::{Ether, FakeMachine},
    store::FakeStore,
    trace::Trace,
    wire::Wire,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};
use weft_agent::{Agent, AgentOptions, Carrier, Datapath, Running, World, start_in};
use weft_kernel::Kernel;
use weft_model::{EndpointId, NodeId, VniRange};
use weft_store::{Store, StoreOptions, StoreUrl};

/// See the module.
pub struct Host {
    /// Its number, from 1 on.
    pub number: usize,
    /// The machine.
    pub machine: Arc<FakeMachine>,
    /// The kernel: it outlives the daemon.
    pub kernel: Arc<FakeKernel>,
    /// The way to the store.
    pub wire: Arc<Wire>,
    /// Where its disk is.
    dir: PathBuf,
    tasks: Tasks,
    trace: Trace,
    chance: Chance,
    now: Mutex<Now>,
}

struct Now {
    running: Option<Running>,
    /// Counts starts and kills: whoever started the daemon knows by it whether it is still the same one.
    life: u64,
    /// It was told to leave the cluster: what its daemon does now ends with it.
    leaving: bool,
    /// When the daemon, its way to the store or the store itself was last not well.
    control: Instant,
    /// When the kernel or the address was last changed by somebody else, or refused something.
    data: Instant,
}

impl Host {
    /// A host that is off, with an empty disk in a folder of its own below `dir`.
    pub fn new(
        number: usize,
        dir: &Path,
        (tasks, trace, chance): (&Tasks, &Trace, &Chance),
        (store, ether): (&Arc<FakeStore>, &Ether),
    ) -> Self {
        let began = Instant::now();
        Self {
            number,
            machine: Arc::new(FakeMachine::new(FakeMachine::address(number), ether, chance)),
            kernel: Arc::new(FakeKernel::new(chance.clone())),
            wire: Arc::new(Wire::new(Arc::clone(store), tasks.clone(), chance.clone())),
            dir: dir.join(format!("h{number}")),
            tasks: tasks.clone(),
            trace: trace.clone(),
            chance: chance.clone(),
            now: Mutex::new(Now { running: None, life: 0, leaving: false, control: began, data: began }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `h1`.
    pub fn name(&self) -> String {
        format!("h{}", self.number)
    }

    /// The daemon, if it runs.
    pub fn agent(&self) -> Option<Agent> {
        self.lock().running.as_ref().map(|running| running.agent().clone())
    }

    /// The id of the node that it is, if its daemon runs.
    pub fn node(&self) -> Option<NodeId> {
        self.agent().map(|agent| agent.node().clone())
    }

    /// Starts the daemon, and again whenever its start fails, as a supervisor does.
    pub fn start(self: &Arc<Self>) {
        let life = {
            let mut now = self.lock();
            if now.life % 2 == 1 {
                return;
            }
            now.life += 1;
            now.life
        };
        self.machine.switch(true);
        let host = Arc::clone(self);
        let _supervises = self.tasks.spawn_as(Owner::World, async move { host.supervise(life).await });
    }

    async fn supervise(self: Arc<Self>, life: u64) {
        while self.lock().life == life {
            let (sender, started) = oneshot::channel();
            let (options, kernel) = (self.options(), Arc::clone(&self.kernel) as Arc<dyn Kernel>);
            let world = World {
                store: Arc::clone(&self.wire) as Arc<dyn Store>,
                kernel: move |_: &AgentOptions| Ok(Carrier { kernel, datapath: "simulated".to_owned() }),
                machine: Arc::clone(&self.machine) as Arc<dyn weft_agent::Machine>,
                goes_on_taking: true,
            };
            let _starts = self.tasks.spawn_as(Owner::Host(self.number), async move {
                // Nobody hears it when the supervisor was told to stop.
                drop(sender.send(start_in(options, world).await));
            });
            match started.await {
                Ok(Ok(running)) => {
                    let mut now = self.lock();
                    if now.life == life {
                        self.trace.say(
                            self.name(),
                            format_args!("the daemon runs as {}", running.agent().node().short()),
                        );
                        now.running = Some(running);
                    }
                    return;
                }
                Ok(Err(error)) => {
                    self.trace.say(self.name(), format_args!("the daemon does not start: {error}"));
                    self.tasks.kill(Owner::Host(self.number));
                    tokio::time::sleep(self.chance.millis(500..3000)).await;
                }
                Err(_) => return,
            }
        }
    }

    fn options(&self) -> AgentOptions {
        AgentOptions {
            cluster_store: StoreUrl::Local,
            store_options: StoreOptions::default(),
            advertise: None,
            join_token: None,
            node_name: self.name(),
            state_dir: self.dir.join("state"),
            run_dir: self.dir.join("run"),
            overlay_netns: self.name(),
            datapath: Datapath::Auto,
            vxlan_port: 4789,
            gateway_subnet: None,
            vni_range: VniRange::default(),
            dns_domain: None,
            reconcile_interval: Duration::from_secs(2),
            lease_ttl: Duration::from_secs(6),
            store_timeout: Duration::from_secs(5),
        }
    }

    /// Ends the daemon as `kill -9` does.
    pub fn kill(&self) {
        let running = {
            let mut now = self.lock();
            now.life += now.life % 2;
            now.leaving = false;
            now.running.take()
        };
        self.tasks.kill(Owner::Host(self.number));
        drop(running);
    }

    /// The machine goes off: nothing is left in the kernel, and no container runs. It goes on when the daemon is started.
    pub fn reboot(&self) {
        self.kill();
        self.machine.switch(false);
        self.kernel.meddle(std::collections::BTreeMap::clear);
        self.remove(&self.dir.join("netns"));
        self.disturb_data();
    }

    /// Notes that it was told to leave the cluster.
    pub fn leaves(&self) {
        self.lock().leaving = true;
    }

    /// Whether it was, and its daemon has not ended yet.
    pub fn is_leaving(&self) -> bool {
        self.lock().leaving
    }

    /// The disk is replaced.
    pub fn lose_disk(&self) {
        self.remove(&self.dir);
    }

    fn remove(&self, dir: &Path) {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.trace.say(self.name(), format_args!("{}: {error}", dir.display()));
            }
            _ => {}
        }
    }

    /// The path of a container's sandbox.
    pub fn sandbox(&self, id: &EndpointId) -> PathBuf {
        self.dir.join("netns").join(id.short())
    }

    /// Makes a container's sandbox. What stands in for a namespace is a file: weft looks whether it is there.
    pub fn make_sandbox(&self, id: &EndpointId) {
        let path = self.sandbox(id);
        let made = std::fs::create_dir_all(self.dir.join("netns")).and_then(|()| std::fs::write(&path, b""));
        if let Err(error) = made {
            self.trace.say(self.name(), format_args!("{}: {error}", path.display()));
        }
    }

    /// Ends a container: its sandbox goes.
    pub fn end_sandbox(&self, id: &EndpointId) {
        match std::fs::remove_file(self.sandbox(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.trace.say(self.name(), format_args!("the sandbox of {}: {error}", id.short()));
            }
            _ => {}
        }
    }

    /// Notes that the daemon or its way to the store is not well.
    pub fn disturb_control(&self) {
        self.lock().control = Instant::now();
    }

    /// Notes that somebody else has changed what carries its frames.
    pub fn disturb_data(&self) {
        self.lock().data = Instant::now();
    }

    /// When somebody else last did.
    pub fn data_disturbed(&self) -> Instant {
        self.lock().data
    }

    /// Since when nothing is wrong with it.
    pub fn well_since(&self) -> Instant {
        let now = self.lock();
        now.control.max(now.data)
    }
}
