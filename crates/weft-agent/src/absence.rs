//! Looks at the hosts that have no lease: see [`weft_plan::Absences`].

use crate::{
    Machine,
    agent::Inner,
    view::{Link, View},
};
use futures::{StreamExt, stream};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use weft_model::{Node, NodeId, Snapshot};
use weft_plan::{Absences, Sight};

/// How long after a round of looks the next one begins, while there is somebody to look at.
const ROUND: Duration = Duration::from_secs(1);
/// The same while there is nobody.
const IDLE: Duration = Duration::from_secs(5);
/// So many hosts with a lease are looked at in a round: all of a large cluster start at once.
const CROWD: usize = 20;
/// So many at a time: of a row of racks without power each look takes seconds.
const AT_ONCE: usize = 64;

/// Looks until `shutdown`. The daemon's end changes nothing: what is withdrawn stays so until the next one has looked.
pub(crate) async fn keep(inner: Arc<Inner>, shutdown: CancellationToken) {
    let mut absences = Absences::default();
    let mut wait = IDLE;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let view = &inner.view;
        let due = view.read(|s| due(&mut absences, s, &inner.node));
        wait = if due.is_empty() { IDLE } else { ROUND };
        let seen = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            seen = look(inner.machine.as_ref(), due) => seen,
        };
        judge(view, &mut absences, &seen);
    }
}

/// At whom, where, and what was seen.
type Look = (NodeId, SocketAddr, Sight);

/// Whom to look at, and where.
fn due(absences: &mut Absences, snapshot: &Snapshot, this: &NodeId) -> Vec<(NodeId, SocketAddr)> {
    let ours = snapshot.nodes.get(this).and_then(|node| node.vteps.first().copied());
    let address = |node: &Node| {
        let vtep = node.vtep_like(ours?)?;
        Some((node.id.clone(), SocketAddr::new(vtep, node.vxlan_port)))
    };
    absences.due(snapshot, this, CROWD).into_iter().filter_map(address).collect()
}

async fn look(machine: &dyn Machine, due: Vec<(NodeId, SocketAddr)>) -> Vec<Look> {
    let looks = due.into_iter().map(|(node, at)| async move {
        let sight = machine.look(at).await;
        (node, at, sight)
    });
    stream::iter(looks).buffer_unordered(AT_ONCE).collect().await
}

/// Withdraws who is absent and brings back who is not. Without the store nobody is withdrawn: who has a lease is not known then.
fn judge(view: &View, absences: &mut Absences, seen: &[Look]) {
    let (before, mut now) = view.read(|s| {
        for (node, at, sight) in seen {
            absences.saw(s, node, at.ip(), *sight);
        }
        (s.absent.clone(), absences.absent(s))
    });
    if *view.link().borrow() != Link::Up || !view.is_listed() {
        now.retain(|node| before.contains(node));
    }
    if now == before {
        return;
    }
    for node in now.difference(&before) {
        let name = view.read(|s| s.node_name(node).to_owned());
        tracing::warn!(
            node = name,
            "it has no lease and is not seen: its endpoints are withdrawn on this host"
        );
    }
    for node in before.difference(&now) {
        let name = view.read(|s| s.node_name(node).to_owned());
        tracing::info!(node = name, "it is seen again: its endpoints are back");
    }
    view.set_absent(now);
}
