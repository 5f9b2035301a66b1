//! A kernel that does as it is told, in memory.

use crate::Arrivals;
use async_trait::async_trait;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weft_kernel::{Kernel, KernelError};
use weft_plan::{HostState, Key, Op, model_kernel};

/// What one host's kernel holds, by the rules of [`weft_plan::model_kernel`].
#[derive(Debug)]
pub struct FakeKernel {
    state: Mutex<HostState>,
    arrivals: Arc<Arrivals>,
}

impl FakeKernel {
    /// An empty one that tells `arrivals` what it is given.
    pub fn new(arrivals: Arc<Arrivals>) -> Self {
        Self { state: Mutex::default(), arrivals }
    }

    /// How many objects it holds.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many objects of a kind it holds.
    pub fn count(&self, is_of_it: impl Fn(&Key) -> bool) -> usize {
        self.lock().keys().filter(|key| is_of_it(key)).count()
    }

    /// What it holds.
    pub fn state(&self) -> HostState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HostState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Kernel for FakeKernel {
    async fn observe(&self) -> Result<HostState, KernelError> {
        Ok(self.state())
    }

    async fn apply(&self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let mut state = self.lock();
        let one = |op: &Op| {
            model_kernel::apply_op(&mut state, op).map_err(|refused| KernelError::Netlink {
                doing: format!("make {}", op.key()),
                reason: refused.to_string(),
                errno: 22,
            })
        };
        let results = ops.iter().map(one).collect();
        self.arrivals.see(ops);
        results
    }

    /// Nobody else changes it.
    async fn changed(&self) -> Result<(), KernelError> {
        std::future::pending().await
    }
}
