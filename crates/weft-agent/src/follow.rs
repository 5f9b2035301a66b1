//! From the store to the view: what the watch brings, in order.

use crate::{
    outbox::Outbox,
    view::{Link, View},
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use weft_model::{BadRecord, schema};
use weft_store::{Event, Store, follow};

/// Feeds the view until `shutdown`.
pub(crate) async fn run(outbox: Arc<Outbox>, view: Arc<View>, shutdown: CancellationToken) {
    let store = Arc::clone(&outbox) as Arc<dyn Store>;
    let mut follower = follow(Arc::clone(&store), schema::ROOT);
    loop {
        let event = tokio::select! {
            event = follower.next() => event,
            () = outbox.wants_listing() => {
                follower = follow(Arc::clone(&store), schema::ROOT);
                continue;
            }
            () = shutdown.cancelled() => return,
        };
        match event {
            Some(Event::Resync(listing)) => {
                outbox.follows(listing.revision).await;
                report(&view.reset(listing));
                up(&view);
            }
            Some(Event::Changed(batch)) => {
                outbox.follows(batch.revision).await;
                report(&view.apply(&batch));
                up(&view);
            }
            Some(Event::Returned) => up(&view),
            Some(Event::Away(error)) => {
                tracing::warn!(%error, "the store is away; what is known stays in place");
                view.store_is(Link::Down(error.to_string()));
            }
            None => return,
        }
    }
}

fn up(view: &View) {
    if let Link::Down(_) = *view.link().borrow() {
        tracing::info!("the store is back");
    }
    view.store_is(Link::Up);
}

fn report(bad: &[BadRecord]) {
    for record in bad {
        tracing::error!(%record, "bad record");
    }
}
