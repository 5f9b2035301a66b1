//! Where the daemon's background work runs: on tokio's threads, or in a simulation that decides itself which task goes
//! on next.
//!
//! A simulation puts itself in tokio's place on its own thread ([`simulate`]); no other thread notices.

use std::{cell::RefCell, future::Future, pin::Pin, rc::Rc};
use tokio::task::JoinError;

/// What a task does.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Ends a task wherever it is; one that has ended already is left alone.
pub type Abort = Box<dyn Fn() + Send + Sync>;

/// Runs tasks in the place of tokio. Called on the thread that runs the simulation.
pub trait Spawner {
    /// Starts a task, and tells how to end it.
    fn spawn(&self, work: Work) -> Abort;
}

thread_local! {
    static SIMULATED: RefCell<Option<Rc<dyn Spawner>>> = const { RefCell::new(None) };
}

/// Puts `spawner` in the place of tokio on this thread, until the answer is dropped.
pub fn simulate(spawner: Rc<dyn Spawner>) -> Simulated {
    Simulated(SIMULATED.replace(Some(spawner)))
}

/// See [`simulate`].
#[must_use = "dropped, it ends the simulation"]
pub struct Simulated(Option<Rc<dyn Spawner>>);

impl Drop for Simulated {
    fn drop(&mut self) {
        SIMULATED.replace(self.0.take());
    }
}

fn simulated() -> Option<Rc<dyn Spawner>> {
    SIMULATED.with_borrow(Clone::clone)
}

/// A task that runs. Dropping this leaves it alone.
pub struct Task(Abort);

impl Task {
    /// Ends it wherever it is.
    pub fn abort(&self) {
        (self.0)();
    }

    /// Ends it, wherever it is, when the answer is dropped.
    #[must_use]
    pub fn end_on_drop(self) -> EndOnDrop {
        EndOnDrop(self)
    }
}

/// A task that ends when this is dropped.
pub struct EndOnDrop(Task);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a task. Must be called within a tokio runtime.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Task {
    let Some(spawner) = simulated() else {
        let handle = tokio::spawn(work).abort_handle();
        return Task(Box::new(move || handle.abort()));
    };
    Task(spawner.spawn(Box::pin(work)))
}

/// Does something that keeps its thread waiting, away from the tasks. A simulation does it at once: nothing in it waits
/// for a disk.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, JoinError> {
    if simulated().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
