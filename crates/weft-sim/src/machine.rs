//! A machine that is none: its address, its clock, its containers' sandboxes.

use crate::Chance;
use futures::{StreamExt, stream, stream::BoxStream};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::sync::Notify;
use weft_agent::{AgentError, AgentOptions, Machine};
use weft_kernel::{KernelError, Path};
use weft_model::{Mtu, Node, NodeId, UnixSeconds, unix_now};

/// See the module.
pub struct FakeMachine {
    vtep: Mutex<IpAddr>,
    /// Those that it had before.
    had: Mutex<Vec<IpAddr>>,
    changed: Arc<Notify>,
    /// How far its wall clock is from everybody's.
    clock: AtomicI64,
}

impl FakeMachine {
    /// One at `vtep`, with a clock that is right.
    pub fn new(vtep: IpAddr) -> Self {
        Self {
            vtep: Mutex::new(vtep),
            had: Mutex::default(),
            changed: Arc::new(Notify::new()),
            clock: AtomicI64::new(0),
        }
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

    fn changes(&self) -> Result<BoxStream<'static, Result<(), KernelError>>, KernelError> {
        let changes = stream::unfold(Arc::clone(&self.changed), async |changed| {
            changed.notified().await;
            Some((Ok(()), changed))
        });
        Ok(changes.boxed())
    }
}
