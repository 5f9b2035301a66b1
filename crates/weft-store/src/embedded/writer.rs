//! The one thread that writes to the embedded store's file.
//!
//! Orders that wait when a disk transaction begins are carried out in it together, so that many writers share
//! the cost of one fsync. The thread also ends the leases whose time is over.

use super::{
    Core,
    file::{Answer, Order},
    leases::LOOK,
    storage,
};
use crate::StoreError;
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Instant,
};
use tokio::sync::oneshot;
use weft_model::Revision;

/// Orders carried out in one disk transaction, at most.
const GROUP: usize = 128;

struct Pending {
    order: Order,
    reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// The way to the thread. Dropping it carries out what was submitted and ends the thread.
pub struct Writer {
    orders: Option<mpsc::Sender<Pending>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Writer {
    pub fn start(core: Arc<Core>) -> io::Result<Self> {
        let path = core.file.path().to_owned();
        let (orders, queue) = mpsc::channel();
        let thread =
            thread::Builder::new().name("weft-store".to_owned()).spawn(move || run(&core, &queue))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), path })
    }

    /// Hands an order in and waits until it is on disk.
    pub async fn submit(&self, order: Order) -> Result<Answer, StoreError> {
        let gone = || storage(&self.path, &"its writer has stopped");
        let (reply, answer) = oneshot::channel();
        let orders = self.orders.as_ref().ok_or_else(gone)?;
        orders.send(Pending { order, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        // Waits for one disk transaction at most. Only then is the file free to be opened again.
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(path = %self.path.display(), "the store's writer had panicked");
        }
    }
}

fn run(core: &Core, queue: &mpsc::Receiver<Pending>) {
    let mut failures = 0;
    loop {
        let mut group: Vec<Pending> = match queue.recv_timeout(LOOK) {
            Ok(first) => vec![first],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while group.len() < GROUP
            && let Ok(more) = queue.try_recv()
        {
            group.push(more);
        }
        carry_out(core, group, &mut failures);
    }
}

/// Carries the orders out, in one disk transaction. `failures` counts those that failed since the last that did not.
fn carry_out(core: &Core, group: Vec<Pending>, failures: &mut u64) {
    let ended = core.leases.take_ended(Instant::now());
    let ends: Vec<_> = ended.iter().map(|(lease, _)| Order::End(*lease)).collect();
    if ends.is_empty() && group.is_empty() {
        return;
    }
    let before = core.file.revision().unwrap_or(Revision::ZERO);
    match core.file.apply(ends.iter().chain(group.iter().map(|pending| &pending.order))) {
        Ok((answers, revision)) => {
            if *failures > 0 {
                tracing::info!(failures, "the store can be written to again");
                *failures = 0;
            }
            for (lease, ttl) in &ended {
                tracing::info!(lease = lease.0, ?ttl, "lease ended without a sign of life");
            }
            tell(core, before, revision);
            for (pending, answer) in group.into_iter().zip(answers.into_iter().skip(ends.len())) {
                match pending.order {
                    Order::Grant(lease, ttl) => core.leases.add(lease, ttl),
                    Order::End(lease) => core.leases.remove(lease),
                    Order::Commit(_) => {}
                }
                // The caller may have gone away; what it asked for is done all the same.
                let _gone = pending.reply.send(answer);
            }
        }
        Err(error) => {
            if *failures == 0 {
                tracing::error!(%error, orders = group.len(), "could not write to the store");
            }
            *failures += 1;
            // A disk that fails while it is told to keep something may have kept it: then watches have to tell.
            if let Ok(revision) = core.file.revision() {
                tell(core, before, revision);
            }
            // They are still on disk: try again with the next look.
            for (lease, _) in ended {
                core.leases.add(lease, LOOK);
            }
            for pending in group {
                let _gone = pending.reply.send(Err(error.clone()));
            }
        }
    }
}

/// Tells the watches what was committed after `before`.
fn tell(core: &Core, mut before: Revision, revision: Revision) {
    while before < revision && !core.watched.is_empty() {
        match core.file.changes("", before) {
            Ok(chunk) => {
                core.watched.tell(&chunk.batches);
                before = chunk.up_to;
            }
            Err(error) => {
                // They would wait for ever for what they are not told.
                tracing::error!(%error, "what was committed cannot be read: all watches end");
                core.watched.end();
                return;
            }
        }
    }
}
