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

/// How long after a round of looks the next one begins, at the earliest, and while somebody has no lease.
const ROUND: Duration = Duration::from_secs(1);
/// How much longer while everybody has one.
const CALM: Duration = Duration::from_secs(10);
/// So many hosts with a lease are looked at in a round: all of a large cluster start at once.
const CROWD: usize = 100;
/// So many at a time: of a row of racks without power each look takes seconds.
const AT_ONCE: usize = 64;

/// Looks until `shutdown`. The daemon's end changes nothing: what is withdrawn stays so until the next one has looked.
pub(crate) async fn keep(inner: Arc<Inner>, shutdown: CancellationToken) {
    let (view, mut absences) = (&inner.view, Absences::default());
    let mut leases_lost = view.leases_lost();
    let mut soon = true;
    loop {
        let round = async {
            tokio::time::sleep(ROUND).await;
            if !soon {
                tokio::select! {
                    biased;
                    // The view, which tells of it, lives as long as this.
                    _lost = leases_lost.changed() => {}
                    () = tokio::time::sleep(CALM) => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = round => {}
        }
        let due;
        (due, soon) = view.read(|s| self::due(&mut absences, s, &inner.node));
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

/// Whom to look at, and where; and whether to look again soon.
fn due(absences: &mut Absences, snapshot: &Snapshot, this: &NodeId) -> (Vec<(NodeId, SocketAddr)>, bool) {
    let ours = snapshot.nodes.get(this).and_then(|node| node.vteps.first().copied());
    let address = |node: &Node| {
        let vtep = node.vtep_like(ours?)?;
        Some((node.id.clone(), SocketAddr::new(vtep, node.vxlan_port)))
    };
    let (due, soon) = absences.due(snapshot, this, CROWD);
    (due.into_iter().filter_map(address).collect(), soon)
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
    let name = |node: &NodeId| view.read(|s| s.node_name(node).into_owned());
    for node in now.difference(&before) {
        tracing::warn!(
            node = name(node),
            "it has no lease and is not seen: its endpoints are withdrawn on this host"
        );
    }
    for node in before.difference(&now) {
        tracing::info!(node = name(node), "it is seen again: its endpoints are back");
    }
    view.set_absent(now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cluster::{Cluster, endpoint};
    use weft_model::schema::Scope;
    use weft_plan::{Key, LOOKS};

    #[tokio::test]
    async fn who_is_absent_is_withdrawn_until_it_is_seen_and_nobody_is_without_the_store() {
        let cluster = Cluster::new().await;
        let (a, b) = (cluster.host(1).await, cluster.host(2).await);
        let network = a.network("blue", "10.9.0.0/24").await;
        b.knows(&network.id).await;
        a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
        let theirs = b.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
        let way = Key::Fdb(network.vni, theirs.mac);
        let until = async |there: bool| {
            let looks = async {
                while a.kernel.state().contains_key(&way) != there {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), looks).await.unwrap();
        };
        until(true).await;

        let view = &a.agent.0.view;
        let mut absences = Absences::default();
        let [(node, at)] = view.read(|s| due(&mut absences, s, a.agent.node())).0.try_into().unwrap();
        assert_eq!((&node, at.to_string().as_str()), (b.agent.node(), "192.0.2.2:4789"));
        let mut looks = |sight| {
            (0..LOOKS).for_each(|_| judge(view, &mut absences, &[(node.clone(), at, sight)]));
        };
        looks(Sight::Nobody);
        until(false).await;
        let whole = a.agent.everything().await;
        assert!(whole.absent.contains(&node) && whole.endpoint(&network.id, &theirs.id).is_some());
        let listing = cluster.store.list(&Scope::Cluster.prefix()).await.unwrap();
        view.reset(&Scope::Cluster, listing);
        assert!(view.read(|s| s.absent.contains(&node)), "a listing is no sign of life");
        looks(Sight::Present);
        until(true).await;

        a.cable.cut();
        let mut link = view.link();
        tokio::time::timeout(Duration::from_secs(10), link.wait_for(|link| *link != Link::Up))
            .await
            .unwrap()
            .unwrap();
        looks(Sight::Nobody);
        assert!(view.read(|s| s.absent.is_empty()), "who has a lease is not known");
    }
}
