//! What goes wrong, and is put right again.

use crate::{cluster::Cluster, host::Host, machine::FakeMachine, wire::Quality};
use std::sync::Arc;
use tokio::time::sleep;
use weft_model::schema;
use weft_plan::{Fdb, HostState, Key, Object, Op, model_kernel};

/// A kind of thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of a daemon, which is started again.
    Kill,
    /// A machine goes off and on.
    Reboot,
    /// A machine comes back with an empty disk.
    LostDisk,
    /// A host leaves the cluster, as by `weft down`, and comes back.
    Down,
    /// The store is down for a while; sometimes it comes back with its history compacted.
    StoreDown,
    /// The store compacts its history.
    Compaction,
    /// A host's way to the store is cut, in one direction or both.
    Cut,
    /// A host's messages take long.
    Slow,
    /// Answers are lost.
    LostAnswers,
    /// A host's connections are reset.
    Reset,
    /// The lease of a host that lives is ended.
    LeaseLost,
    /// A wall clock jumps.
    ClockJump,
    /// A kernel refuses to make objects of a kind.
    Refusal,
    /// Somebody deletes or alters kernel objects.
    Drift,
    /// A machine gets another address.
    NewAddress,
    /// An operator declares a host dead that does not answer.
    DeclaredDead,
}

/// All of them.
pub const ALL: [Fault; 16] = [
    Fault::Kill,
    Fault::Reboot,
    Fault::LostDisk,
    Fault::Down,
    Fault::StoreDown,
    Fault::Compaction,
    Fault::Cut,
    Fault::Slow,
    Fault::LostAnswers,
    Fault::Reset,
    Fault::LeaseLost,
    Fault::ClockJump,
    Fault::Refusal,
    Fault::Drift,
    Fault::NewAddress,
    Fault::DeclaredDead,
];

impl Cluster {
    /// It goes wrong, on `host` where it concerns one, and is put right after a while.
    pub async fn suffer(self: Arc<Self>, fault: Fault, host: Arc<Host>) {
        self.trace.say(host.name(), format_args!("--- {fault:?}"));
        match fault {
            Fault::Kill => {
                host.kill();
                self.starts_again(&host).await;
            }
            Fault::Reboot | Fault::LostDisk => {
                host.reboot();
                self.ledger.host_lost(host.number);
                if fault == Fault::LostDisk {
                    host.lose_disk();
                }
                // Often so long that the others notice.
                sleep(self.chance.millis(0..40_000)).await;
                host.start();
            }
            Fault::Down => {
                host.leaves();
                self.ledger.host_lost(host.number);
                self.ask(&host, "down", async move |agent| agent.leave().await).await;
                // Whether or not there was an answer, the daemon ends, and takes its kernel objects with it.
                host.reboot();
                self.ledger.host_lost(host.number);
                self.starts_again(&host).await;
            }
            Fault::StoreDown => {
                self.store.stop();
                sleep(self.chance.millis(500..20_000)).await;
                if self.chance.one_in(2) {
                    self.store.compact(0);
                }
                self.store.start();
                self.trace.say("store", "is up");
            }
            Fault::Compaction => self.store.compact(self.chance.below(3)),
            Fault::Cut => {
                let (to_store, from_store) =
                    [(false, false), (true, false), (false, true)][self.chance.below(3)];
                self.degrade(&host, Quality { to_store, from_store, ..Quality::GOOD }).await;
            }
            Fault::Slow => {
                let most = [300, 2000, 8000][self.chance.below(3)];
                self.degrade(&host, Quality { latency: 20..most, ..Quality::GOOD }).await;
            }
            Fault::LostAnswers => self.degrade(&host, Quality { lost: Some(2), ..Quality::GOOD }).await,
            Fault::Reset => host.wire.reset(),
            Fault::LeaseLost => {
                if let Some(node) = host.node() {
                    self.store.end_lease_of(&schema::alive_key(&node));
                }
            }
            Fault::ClockJump => {
                let seconds = host.machine.jump(&self.chance);
                self.trace.say(host.name(), format_args!("its clock is {seconds} s ahead"));
            }
            Fault::Refusal => {
                host.kernel.refuse(
                    ["bridge", "vxlan", "port", "fdb", "neighbour", "flood"]
                        .get(self.chance.below(6))
                        .copied(),
                );
                sleep(self.chance.millis(500..8000)).await;
                host.disturb_data();
                host.kernel.refuse(None);
            }
            Fault::Drift => {
                host.disturb_data();
                let met: Vec<String> = host.kernel.meddle(|state| self.meddle(state));
                self.trace.say(host.name(), format_args!("somebody changes {}", met.join(", ")));
            }
            Fault::NewAddress => {
                // Now and then one that another machine has or had.
                let vtep = FakeMachine::address(self.chance.below(2 * self.hosts.len() + 2));
                if self.hosts.iter().any(|other| other.machine.vtep() == vtep) {
                    return;
                }
                host.disturb_data();
                host.machine.set_vtep(vtep);
                self.trace.say(host.name(), format_args!("its address is {vtep}"));
            }
            Fault::DeclaredDead => {
                let dead = self.store.look(|s| {
                    let dead = s.nodes.keys().filter(|id| !s.alive.contains_key(*id));
                    dead.cloned().collect::<Vec<_>>()
                });
                if let Some(node) = self.chance.pick(&dead) {
                    self.declare_dead(&host, node.clone()).await;
                }
            }
        }
    }

    async fn starts_again(&self, host: &Arc<Host>) {
        sleep(self.chance.millis(0..10_000)).await;
        host.start();
    }

    async fn degrade(&self, host: &Host, quality: Quality) {
        self.trace.say(host.name(), format_args!("{quality:?}"));
        host.wire.set(quality);
        sleep(self.chance.millis(500..20_000)).await;
        host.wire.set(Quality::GOOD);
        self.trace.say(host.name(), "its way to the store is good again");
    }

    /// Changes up to three objects; tells which.
    fn meddle(&self, state: &mut HostState) -> Vec<String> {
        let mut met = Vec::new();
        for _ in 0..=self.chance.below(3) {
            let keys: Vec<Key> = state.keys().cloned().collect();
            let Some(key) = self.chance.pick(&keys) else { break };
            met.push(key.to_string());
            let altered = match state.get(key).cloned() {
                Some(Object::Fdb(fdb)) => {
                    Some(Object::Fdb(Fdb { vtep: Some(FakeMachine::address(77)), ..fdb }))
                }
                Some(Object::Bridge(mut bridge)) => {
                    bridge.up = false;
                    Some(Object::Bridge(bridge))
                }
                Some(Object::Vxlan(mut vxlan)) => {
                    vxlan.bridged = false;
                    Some(Object::Vxlan(vxlan))
                }
                Some(Object::Port(mut port)) => {
                    port.up = false;
                    Some(Object::Port(port))
                }
                _ => None,
            };
            let op = match altered.filter(|_| self.chance.one_in(2)) {
                Some(object) => Op::Create(key.clone(), object),
                None => Op::Remove(key.clone()),
            };
            // What the kernel would not take from others either changes nothing.
            let _ = model_kernel::apply_op(state, &op);
        }
        met
    }
}
