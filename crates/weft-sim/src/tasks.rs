//! The simulation's tasks: which of those that could go on does so next is drawn from the seed.
//!
//! tokio keeps the time (its clock stands still until nobody can go on, then it jumps to the next timer), but it does not
//! run the tasks: in what order it wakes those that wait for one value depends on its own random numbers. So all tasks
//! are polled here, by one future, in an order that is random and repeatable. Each task belongs to an owner, a host or
//! the world; a host that is killed loses its tasks wherever they are at that moment.

use crate::Chance;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};
use weft_store::task::{Abort, Spawner, Work};

/// Whose task it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The network, the store, people and engines: what no host's crash ends.
    #[default]
    World,
    /// The daemon of the host of that number.
    Host(usize),
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Tasks {
    state: Arc<Mutex<State>>,
    chance: Chance,
}

#[derive(Default)]
struct State {
    next: u64,
    all: BTreeMap<u64, Task>,
    ready: BTreeSet<u64>,
    /// Whose task is being polled.
    current: Owner,
    outer: Option<Waker>,
    polls: u64,
}

struct Task {
    owner: Owner,
    /// Taken out while it is polled.
    work: Option<Work>,
    waker: Waker,
}

/// Puts a task among those that can go on.
struct Ready {
    id: u64,
    state: Arc<Mutex<State>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.state);
        if state.all.contains_key(&self.id) {
            state.ready.insert(self.id);
        }
        if let Some(outer) = &state.outer {
            outer.wake_by_ref();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    /// None yet.
    pub fn new(chance: Chance) -> Self {
        Self { state: Arc::default(), chance }
    }

    /// Starts a task of `owner`'s, and tells how to end it.
    pub fn spawn_as(&self, owner: Owner, work: impl Future<Output = ()> + Send + 'static) -> Abort {
        let mut state = lock(&self.state);
        let id = state.next;
        state.next += 1;
        let waker = Waker::from(Arc::new(Ready { id, state: Arc::clone(&self.state) }));
        state.all.insert(id, Task { owner, work: Some(Box::pin(work)), waker });
        state.ready.insert(id);
        if let Some(outer) = &state.outer {
            outer.wake_by_ref();
        }
        let state = Arc::clone(&self.state);
        Box::new(move || {
            // What a task drops may end other tasks: that is not done under the lock.
            let ended = lock(&state).all.remove(&id);
            drop(ended);
        })
    }

    /// Whose task is being polled.
    pub fn current(&self) -> Owner {
        lock(&self.state).current
    }

    /// How often a task was polled.
    pub fn polls(&self) -> u64 {
        lock(&self.state).polls
    }

    /// Ends all tasks of an owner at once, wherever they are.
    pub fn kill(&self, owner: Owner) {
        let ended: Vec<Task> = lock(&self.state)
            .all
            .extract_if(.., |_, task| task.owner == owner)
            .map(|(_, task)| task)
            .collect();
        drop(ended);
    }

    /// Runs the tasks until `director`, one of the world's, has ended.
    pub async fn run<R: Send + 'static>(&self, director: impl Future<Output = R> + Send + 'static) -> R {
        let outcome = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&outcome);
        let _runs = self.spawn_as(Owner::World, async move {
            let result = director.await;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        // tokio would have a task that does much in one go yield to others, of which there are none.
        let result = tokio::task::unconstrained(poll_fn(|context| {
            lock(&self.state).outer = Some(context.waker().clone());
            loop {
                if let Some(result) = outcome.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    return Poll::Ready(result);
                }
                if !self.poll_one() {
                    return Poll::Pending;
                }
            }
        }))
        .await;
        let rest = std::mem::take(&mut lock(&self.state).all);
        drop(rest);
        result
    }

    /// Polls one of the tasks that can go on. `false`: none can.
    fn poll_one(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(id) = state.ready.iter().nth(self.chance.below(state.ready.len())).copied() else {
            return false;
        };
        state.ready.remove(&id);
        let Some(task) = state.all.get_mut(&id) else { return true };
        let Some(mut work) = task.work.take() else { return true };
        let (waker, owner) = (task.waker.clone(), task.owner);
        state.current = owner;
        state.polls += 1;
        drop(state);
        let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = lock(&self.state);
        state.current = Owner::World;
        let over = if polled.is_ready() {
            state.all.remove(&id);
            Some(work)
        } else if let Some(task) = state.all.get_mut(&id) {
            task.work = Some(work);
            None
        } else {
            Some(work)
        };
        drop(state);
        drop(over);
        true
    }
}

/// What the daemon's code starts belongs to whoever started it.
impl Spawner for Tasks {
    fn spawn(&self, work: Work) -> Abort {
        self.spawn_as(self.current(), work)
    }
}
