//! A machine that is none: its address, its clock, its containers' sandboxes.

use crate::Chance;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use weft_agent::{AgentError, AgentOptions, Machine};
use weft_kernel::{KernelError, Path};
use weft_model::{Mtu, Node, NodeId, UnixSeconds, unix_now};
use weft_plan::Sight;

/// How long the kernel asks for a neighbour.
const ASKING: Duration = Duration::from_secs(3);
/// How long a look waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// The network between the machines: who answers at which address.
#[derive(Clone, Debug, Default)]
pub struct Ether(Arc<Mutex<BTreeMap<IpAddr, Answer>>>);

impl Ether {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a machine does when it is looked at.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Answers,
    /// Its firewall drops what asks.
    Drops,
}

/// See the module.
pub struct FakeMachine {
    vtep: Mutex<IpAddr>,
    /// Those that it had before.
    had: Mutex<Vec<IpAddr>>,
    changed: Arc<Notify>,
    ether: Ether,
    answer: Answer,
    /// Since when it has no power.
    off: Mutex<Option<Instant>>,
    /// How far its wall clock is from everybody's.
    clock: AtomicI64,
}

impl FakeMachine {
    /// One at `vtep` that is on, with a clock that is right. One in three has a firewall.
    pub fn new(vtep: IpAddr, ether: &Ether, chance: &Chance) -> Self {
        let answer = if chance.one_in(3) { Answer::Drops } else { Answer::Answers };
        let machine = Self {
            vtep: Mutex::new(vtep),
            had: Mutex::default(),
            changed: Arc::new(Notify::new()),
            ether: ether.clone(),
            answer,
            off: Mutex::new(None),
            clock: AtomicI64::new(0),
        };
        machine.switch(true);
        machine
    }

    /// It goes on or off.
    pub fn switch(&self, on: bool) {
        let mut off = self.off.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ether = self.ether.lock();
        if on {
            *off = None;
            ether.insert(self.vtep(), self.answer);
        } else {
            off.get_or_insert_with(Instant::now);
            ether.remove(&self.vtep());
        }
    }

    /// Since when it is off, if it is.
    pub fn off_since(&self) -> Option<Instant> {
        *self.off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the `n`th machine.
    pub fn address(n: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, u8::try_from(n % 250).unwrap_or(0) + 1))
    }

    /// Its address.
    pub fn vtep(&self) -> IpAddr {
        *self.vtep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It gets another address.
    pub fn set_vtep(&self, vtep: IpAddr) {
        let before = std::mem::replace(&mut *self.vtep.lock().unwrap_or_else(PoisonError::into_inner), vtep);
        if self.ether.lock().remove(&before).is_some() {
            self.switch(true);
        }
        self.had.lock().unwrap_or_else(PoisonError::into_inner).push(before);
        self.changed.notify_one();
    }

    /// Whether it had this address before, and has another now.
    pub fn had(&self, vtep: IpAddr) -> bool {
        vtep != self.vtep() && self.had.lock().unwrap_or_else(PoisonError::into_inner).contains(&vtep)
    }

    /// Its wall clock jumps: by up to a day, either way.
    pub fn jump(&self, chance: &Chance) -> i64 {
        let seconds = i64::try_from(chance.below(2 * 86_400)).unwrap_or(0) - 86_400;
        self.clock.store(seconds, Ordering::SeqCst);
        seconds
    }

    /// What its clock says when the right time is `now`.
    pub fn now(&self, now: UnixSeconds) -> UnixSeconds {
        now.saturating_add_signed(self.clock.load(Ordering::SeqCst))
    }
}

impl Machine for FakeMachine {
    fn describe(&self, options: &AgentOptions, id: &NodeId, epoch: u64) -> Result<Node, AgentError> {
        let underlay_mtu = Mtu::new(1500).map_err(|e| AgentError::Invalid(e.to_string()))?;
        Ok(Node {
            id: id.clone(),
            name: options.node_name.clone(),
            vteps: vec![self.vtep()],
            vxlan_port: options.vxlan_port,
            underlay_mtu,
            advertise: None,
            version: "simulated".to_owned(),
            epoch,
            started: unix_now(),
            routes: vec![],
            direct: None,
        })
    }

    fn addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        Ok(BTreeSet::from([self.vtep()]))
    }

    fn path(&self, _peer: IpAddr) -> Option<Path> {
        None
    }

    fn look(&self, at: SocketAddr) -> BoxFuture<'_, Sight> {
        async move {
            let answer = self.ether.lock().get(&at.ip()).copied();
            match answer {
                Some(Answer::Answers) => {
                    sleep(Duration::from_millis(1)).await;
                    Sight::Present
                }
                Some(Answer::Drops) => {
                    sleep(PATIENCE).await;
                    Sight::Silent
                }
                None => {
                    sleep(ASKING).await;
                    Sight::Nobody
                }
            }
        }
        .boxed()
    }

    fn changes(&self) -> Result<BoxStream<'static, Result<(), KernelError>>, KernelError> {
        let changes = stream::unfold(Arc::clone(&self.changed), async |changed| {
            changed.notified().await;
            Some((Ok(()), changed))
        });
        Ok(changes.boxed())
    }
}
