//! Who is a member of which multicast group is told to the other hosts, and to nobody longer than it is so.

use super::cluster::{Cluster, Host, endpoint};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};
use weft_model::{Endpoint, Network, schema};
use weft_plan::Key;

const PATIENCE: Duration = Duration::from_secs(20);

fn ips(groups: &[&str]) -> BTreeSet<IpAddr> {
    groups.iter().map(|text| text.parse().unwrap()).collect()
}

/// Waits until the kernel of `host` sends the frames of exactly these groups to the other host (of VTEP 192.0.2.1).
async fn until_sent(host: &Host, groups: &[&str]) {
    let (wanted, vtep): (BTreeSet<IpAddr>, IpAddr) = (ips(groups), "192.0.2.1".parse().unwrap());
    let sent = || -> BTreeSet<IpAddr> {
        let state = host.kernel.state();
        let to_it = state.keys().filter_map(|key| match key {
            Key::Group(_, group, to) if *to == vtep => Some(*group),
            _ => None,
        });
        to_it.collect()
    };
    let mut seen = host.agent.0.view.seen();
    let waiting = async {
        while sent() != wanted {
            // The kernel follows a moment after the view.
            let _ = tokio::time::timeout(Duration::from_millis(20), seen.changed()).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{:?}, not {groups:?}", sent());
}

async fn eventually(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never happened");
}

/// Two hosts on a network, with an endpoint each.
async fn two(cluster: &Cluster) -> (Host, Host, Network, Endpoint) {
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    let network = a.network("blue", "10.9.0.0/24").await;
    b.knows(&network.id).await;
    let first = a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    b.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    (a, b, network, first)
}

#[tokio::test]
async fn who_does_not_tell_gets_all_and_who_does_its_groups() {
    let cluster = Cluster::new().await;
    let (a, b, network, first) = two(&cluster).await;
    until_sent(&b, &["0.0.0.0", "::"]).await;
    a.kernel.joined(network.vni, ips(&["239.1.1.1", "ff05::1", "224.0.0.251", "ff02::1:ff00:2"]));
    until_sent(&b, &["239.1.1.1", "ff05::1"]).await;
    a.kernel.joined(network.vni, ips(&[]));
    until_sent(&b, &[]).await;
    // The record of a backup, or of nobody knows whom.
    let key = schema::groups_key(&network.id, a.agent.node());
    cluster.store.commit(weft_store::Txn::new().delete(&key)).await.unwrap();
    until_sent(&b, &["0.0.0.0", "::"]).await;
    a.kernel.joined(network.vni, ips(&["239.1.1.1"]));
    until_sent(&b, &["239.1.1.1"]).await;
    // The last endpoint takes the record along.
    a.agent.remove_endpoint(&network.id, &first.id).await.unwrap();
    until_sent(&b, &[]).await;
    let gone = async {
        while cluster.store.get(&key).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok(), "the record stays");
}

#[tokio::test]
async fn more_groups_than_are_told_mean_everything_and_stand_in_the_status() {
    let cluster = Cluster::new().await;
    let (a, b, network, _) = two(&cluster).await;
    let many = (0..=255).chain(0..=1).zip((0..).flat_map(|n| [n; 256]));
    a.kernel.joined(network.vni, many.map(|(low, high)| IpAddr::from([239, 7, high, low])).collect());
    until_sent(&b, &["0.0.0.0", "::"]).await;
    let told =
        || a.agent.status().problems.iter().any(|p| p.contains("258 multicast groups of network blue"));
    eventually(told).await;
    a.kernel.joined(network.vni, ips(&["239.1.1.1"]));
    until_sent(&b, &["239.1.1.1"]).await;
    eventually(|| !told()).await;
}

#[tokio::test]
async fn what_was_joined_without_the_store_is_told_when_it_is_back() {
    let cluster = Cluster::new().await;
    let (a, b, network, _) = two(&cluster).await;
    a.kernel.joined(network.vni, ips(&["239.1.1.1"]));
    until_sent(&b, &["239.1.1.1"]).await;
    a.cable.cut();
    a.kernel.joined(network.vni, ips(&["239.1.1.2"]));
    let mut link = a.agent.0.view.link();
    while !a.agent.0.outbox.is_away() {
        let _ = tokio::time::timeout(Duration::from_millis(20), link.changed()).await;
    }
    a.cable.mend();
    until_sent(&b, &["239.1.1.2"]).await;
}

#[tokio::test]
async fn nothing_of_it_is_left_by_a_network_that_goes_or_a_host_that_leaves() {
    let cluster = Cluster::new().await;
    let (a, b, network, first) = two(&cluster).await;
    for host in [&a, &b] {
        host.kernel.joined(network.vni, ips(&["239.1.1.1"]));
    }
    until_sent(&b, &["239.1.1.1"]).await;
    b.agent.leave().await.unwrap();
    let groups =
        || async { cluster.store.list(&schema::groups_of(&network.id)).await.unwrap().records.len() };
    assert_eq!(groups().await, 1);
    a.agent.remove_endpoint(&network.id, &first.id).await.unwrap();
    a.agent.remove_network(&network.id).await.unwrap();
    assert_eq!(groups().await, 0);
}
