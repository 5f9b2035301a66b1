//! etcd's watch as a stream of batches.

use super::{closed, failure::speaks_of_users, revision, strip};
use crate::{Batch, StoreError};
use etcd_client::{EventType, WatchResponse, WatchStream};
use std::collections::VecDeque;
use tokio::sync::watch::Receiver;
use weft_model::Change;

/// A watch that etcd has confirmed.
pub struct Watching {
    pub stream: WatchStream,
    /// Changes when the member that serves the watch is left for another one.
    pub given_up: Receiver<()>,
    pub ready: VecDeque<Batch>,
    pub base: String,
    pub address: String,
}

impl Watching {
    pub async fn next(mut self) -> Result<Option<(Batch, Self)>, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            let message = tokio::select! {
                message = self.stream.message() => message,
                Ok(()) = self.given_up.changed() => {
                    let reason = "the member that served the watch does not answer as it should".to_owned();
                    return Err(StoreError::Unreachable { store: self.address, reason });
                }
            };
            match message {
                Ok(Some(response)) => match cancelled(&self.address, &response) {
                    Some(error) => return Err(error),
                    None => self.ready = batches(&self.base, &response),
                },
                Ok(None) => return Err(closed(&self.address)),
                // Whatever it was, a new watch goes on where this one ends.
                Err(error) => {
                    let reason = format!("the watch ended: {error}");
                    return Err(StoreError::Unreachable { store: self.address, reason });
                }
            }
        }
    }
}

/// The response's events, grouped by revision. Events of one revision stand beside each other.
pub fn batches(base: &str, response: &WatchResponse) -> VecDeque<Batch> {
    let mut batches: VecDeque<Batch> = VecDeque::new();
    for event in response.events() {
        let Some((kv, key)) = event.kv().and_then(|kv| Some((kv, strip(base, kv)?))) else { continue };
        let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
        let (at, change) = (revision(kv.mod_revision()), Change { key, value });
        match batches.back_mut() {
            Some(batch) if batch.revision == at => batch.changes.push(change),
            _ => batches.push_back(Batch { revision: at, changes: vec![change] }),
        }
    }
    batches
}

/// Why etcd ended a watch, if this response does.
pub fn cancelled(address: &str, response: &WatchResponse) -> Option<StoreError> {
    if response.compact_revision() > 0 {
        return Some(StoreError::Compacted(revision(response.compact_revision())));
    }
    let reason = response.cancel_reason().to_owned();
    response.canceled().then(|| {
        let store = address.to_owned();
        if speaks_of_users(&reason) {
            StoreError::Denied { store, reason }
        } else {
            StoreError::Unreachable { store, reason: format!("it ended the watch: {reason}") }
        }
    })
}
