//! From the store to the view: what the watches bring, in order.
//!
//! One watch is on what every host has to know, and one on each network that this host takes part in. So what a host hears
//! and holds grows with its own networks, not with the cluster.

use crate::{
    outbox::Outbox,
    restored,
    view::{Link, View},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use weft_model::{
    BadRecord, NetworkId, Revision,
    schema::{self, Scope},
};
use weft_store::{
    Event, Store, follow,
    task::{self, EndOnDrop},
};

/// How long to wait before a store is listed again that could be read and not written.
const AGAIN: Duration = Duration::from_secs(1);

/// Feeds the view until `shutdown`.
pub(crate) async fn run(outbox: Arc<Outbox>, view: Arc<View>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // All of them list again.
            () = outbox.wants_listing() => {}
            () = follow_all(&outbox, &view) => {}
        }
    }
}

/// Follows what every host knows, and the networks that are followed at any time. Does not end.
async fn follow_all(outbox: &Arc<Outbox>, view: &Arc<View>) {
    let start = |scope| task::spawn(follow_one(Arc::clone(outbox), Arc::clone(view), scope)).end_on_drop();
    let _cluster = start(Scope::Cluster);
    let mut changed = view.followed.changed();
    let mut networks: BTreeMap<NetworkId, EndOnDrop> = BTreeMap::new();
    loop {
        changed.mark_unchanged();
        let followed = view.followed.all();
        let given_up: Vec<_> = networks.extract_if(.., |id, _| !followed.contains(id)).collect();
        for (network, task) in given_up {
            drop(task);
            view.forget(&network);
            // Nobody brings back what was told of it.
            outbox.follows(&Scope::Network(network), Revision(u64::MAX)).await;
        }
        for network in followed {
            networks.entry(network).or_insert_with_key(|id| start(Scope::Network(id.clone())));
        }
        // The view, which has the other end, is there.
        let _ = changed.changed().await;
    }
}

/// Follows one scope. Whether the store is there is told by the watch on what every host knows.
async fn follow_one(outbox: Arc<Outbox>, view: Arc<View>, scope: Scope) {
    let store = Arc::clone(&outbox) as Arc<dyn Store>;
    let mut follower = follow(Arc::clone(&store), &scope.prefix());
    let tells = scope == Scope::Cluster;
    while let Some(event) = follower.next().await {
        match event {
            Event::Resync(listing) => {
                let listing = match restored::record_lost(&outbox, &view, &scope, listing).await {
                    Ok(listing) => listing,
                    Err(error) => {
                        tracing::warn!(%error, "what the store has lost is not recorded again yet");
                        tokio::time::sleep(AGAIN).await;
                        follower = follow(Arc::clone(&store), &scope.prefix());
                        continue;
                    }
                };
                outbox.follows(&scope, listing.revision).await;
                let mark = listing.records.iter().find(|record| record.key == schema::MOVED);
                let mark = mark.map(|record| record.value.clone());
                let revision = listing.revision;
                outbox
                    .hears(listing.records.iter().map(|r| (r.key.as_str(), r.modified, Some(&r.value[..]))));
                report(&view.reset(&scope, listing));
                outbox.listed(&scope, revision).await;
                if tells {
                    outbox.mark(mark.as_deref());
                }
            }
            Event::Changed(batch) => {
                outbox.follows(&scope, batch.revision).await;
                let news = batch.changes.iter().map(|c| (c.key.as_str(), batch.revision, c.value.as_deref()));
                outbox.hears(news);
                report(&view.apply(&scope, &batch));
                if let Some(change) = batch.changes.iter().find(|change| change.key == schema::MOVED) {
                    outbox.mark(change.value.as_deref());
                }
            }
            Event::Returned => {}
            Event::Away(error) => {
                if tells {
                    tracing::warn!(%error, "the store is away; what is known stays in place");
                    view.store_is(Link::Down(error.to_string()));
                }
                continue;
            }
        }
        if tells {
            up(&view);
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
