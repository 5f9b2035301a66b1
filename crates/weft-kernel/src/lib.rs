//! The only crate that touches the kernel: namespaces, netlink; it observes and it applies.

use async_trait::async_trait;
use weft_plan::{HostState, Op};

mod error;
pub use error::KernelError;

/// A host's kernel, as the reconcile loop sees it. [`Linux`] is the real one; a simulation has its own.
///
/// What an implementer must guarantee: `observe` reports every object of weft's in the overlay namespace,
/// known or unknown, as it is at that moment; `apply` does one operation completely or says why not, and doing
/// an operation that is already done succeeds.
#[async_trait]
pub trait Kernel: Send + Sync + 'static {
    /// What the kernel has.
    async fn observe(&self) -> Result<HostState, KernelError>;

    /// Does the operations in their order. One result for each; a failed one does not stop the others.
    async fn apply(&self, ops: &[Op]) -> Vec<Result<(), KernelError>>;

    /// Waits until somebody (also this daemon) has changed a device, an FDB or a neighbour entry in the overlay
    /// namespace, or until such news may have been lost: then it is time to observe. Events that came in between
    /// two calls are reported by the second.
    async fn changed(&self) -> Result<(), KernelError>;
}
