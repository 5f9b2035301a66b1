//! A watch on the embedded store: it reads the change log from where it is, then waits for the next commit.

use super::Core;
use crate::{Batch, StoreError, Watch};
use futures::{StreamExt, stream};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};
use weft_model::Revision;

/// Starts one. [`StoreError::Compacted`] when the store has forgotten what came after `after`, or never had that
/// revision: then it is not the store that the caller knew.
pub async fn start(core: &Arc<Core>, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
    let committed = core.committed.subscribe();
    let latest = *committed.borrow();
    if after > latest {
        return Err(StoreError::Compacted(latest));
    }
    let asked = prefix.to_owned();
    let chunk = core.read(move |file| file.changes(&asked, after)).await?;
    let watching = Watching {
        core: Arc::downgrade(core),
        path: core.file.path().display().to_string(),
        committed,
        prefix: prefix.to_owned(),
        position: chunk.up_to,
        ready: chunk.batches.into(),
    };
    Ok(stream::try_unfold(watching, Watching::next).boxed())
}

struct Watching {
    /// Weak, so that a watch does not keep the file open after its store is dropped.
    core: Weak<Core>,
    path: String,
    committed: tokio::sync::watch::Receiver<Revision>,
    prefix: String,
    /// The log has been read up to here.
    position: Revision,
    ready: VecDeque<Batch>,
}

impl Watching {
    async fn next(mut self) -> Result<Option<(Batch, Self)>, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            let latest = *self.committed.borrow_and_update();
            if self.position < latest {
                let core = self.core.upgrade().ok_or_else(|| self.closed())?;
                let (prefix, position) = (self.prefix.clone(), self.position);
                let chunk = core.read(move |file| file.changes(&prefix, position)).await?;
                self.position = chunk.up_to;
                self.ready = chunk.batches.into();
            } else {
                self.committed.changed().await.map_err(|_| self.closed())?;
            }
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::Unreachable {
            store: format!("local ({})", self.path),
            reason: "it was closed".to_owned(),
        }
    }
}
