//! A host's kernel, as [`weft_plan::model_kernel`] says that one behaves: it takes its time, refuses when told to, and
//! other people change it. Every endpoint is a member of one of a few multicast groups.

use crate::Chance;
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use weft_kernel::{Kernel, KernelError, Snooped};
use weft_model::Vni;
use weft_plan::{HostState, Key, Object, Op, model_kernel};

/// See the module.
pub struct FakeKernel {
    chance: Chance,
    state: Mutex<HostState>,
    refused: Mutex<Option<&'static str>>,
    changed: Notify,
    memberships_changed: Notify,
}

impl FakeKernel {
    /// One with nothing of weft's in it.
    pub fn new(chance: Chance) -> Self {
        let (changed, memberships_changed) = (Notify::new(), Notify::new());
        Self { chance, state: Mutex::default(), refused: Mutex::default(), changed, memberships_changed }
    }

    fn lock(&self) -> MutexGuard<'_, HostState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds.
    pub fn state(&self) -> HostState {
        self.lock().clone()
    }

    /// Looks at what it holds.
    pub fn look<R>(&self, look: impl FnOnce(&HostState) -> R) -> R {
        look(&self.lock())
    }

    /// Somebody else changes it.
    pub fn meddle<R>(&self, meddle: impl FnOnce(&mut HostState) -> R) -> R {
        let outcome = meddle(&mut self.lock());
        self.changed.notify_one();
        self.memberships_changed.notify_one();
        outcome
    }

    /// What its bridges know of the ports on them.
    pub fn snooped(&self) -> BTreeMap<Vni, Snooped> {
        let mut found: BTreeMap<Vni, Snooped> = BTreeMap::new();
        for (key, object) in self.lock().iter() {
            match (key, object) {
                (Key::Bridge(vni), _) => {
                    found.insert(*vni, Snooped { complete: true, ..Snooped::default() });
                }
                (Key::Port(vni, name), Object::Port(port)) if port.bridged && port.up => {
                    let last = name.bytes().last().unwrap_or_default() % 3;
                    if let Some(bridge) = found.get_mut(vni) {
                        bridge.groups.insert(IpAddr::from([239, 1, 1, last]));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// From now on it makes no objects of this kind.
    pub fn refuse(&self, kind: Option<&'static str>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = kind;
    }

    /// Whether it refuses anything.
    pub fn refuses(&self) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn apply_one(&self, op: &Op) -> Result<(), KernelError> {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let refuse = |key: &Key, reason: String| {
            Err(KernelError::Netlink { doing: format!("make {key}"), reason, errno: 16 })
        };
        match op {
            Op::Create(key, _) if refused == Some(key.kind()) => {
                refuse(key, "device or resource busy".to_owned())
            }
            op => {
                let outcome = model_kernel::apply_op(&mut self.lock(), op);
                self.changed.notify_one();
                self.memberships_changed.notify_one();
                outcome.or_else(|e| refuse(op.key(), e.to_string()))
            }
        }
    }
}

#[async_trait]
impl Kernel for FakeKernel {
    async fn observe(&self) -> Result<HostState, KernelError> {
        tokio::time::sleep(self.chance.millis(1..20)).await;
        Ok(self.state())
    }

    async fn apply(&self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            if self.chance.one_in(3) {
                tokio::time::sleep(self.chance.millis(1..5)).await;
            }
            results.push(self.apply_one(op));
        }
        results
    }

    async fn changed(&self) -> Result<(), KernelError> {
        self.changed.notified().await;
        Ok(())
    }

    async fn memberships(&self) -> Result<BTreeMap<Vni, Snooped>, KernelError> {
        tokio::time::sleep(self.chance.millis(1..20)).await;
        Ok(self.snooped())
    }

    async fn memberships_changed(&self) -> Result<(), KernelError> {
        self.memberships_changed.notified().await;
        Ok(())
    }
}
