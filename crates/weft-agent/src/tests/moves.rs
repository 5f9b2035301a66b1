//! The cluster moves to another store while containers come and go.

use super::cluster::{Cluster, Host, endpoint};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use weft_lab::figures;
use weft_model::{Endpoint, EndpointId, NetworkId, Snapshot, schema};
use weft_store::Store;

const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `done`, which looks at what the host knows.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never happened: {what}");
}

/// Makes and removes endpoints until told to stop. Those that stand at the end, how many were made, and how often a verb was
/// refused.
async fn come_and_go(host: &Host, network: &NetworkId, stop: &AtomicBool) -> (Vec<Endpoint>, usize, usize) {
    let (mut standing, mut made, mut refused) = (Vec::<Endpoint>::new(), 0, 0);
    while !stop.load(Ordering::SeqCst) {
        if let Ok(endpoint) = host.agent.create_endpoint(endpoint(network)).await {
            standing.push(endpoint);
            made += 1;
        } else {
            // More at once than addresses are held ahead.
            refused += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if standing.len() > 4 {
            let gone = standing.remove(0);
            host.agent.remove_endpoint(network, &gone.id).await.unwrap();
        }
    }
    (standing, made, refused)
}

async fn endpoints(store: &dyn Store) -> Vec<Endpoint> {
    let listing = store.list(schema::ALL).await.unwrap();
    let records = listing.records.into_iter().map(|record| (record.key, record.value));
    Snapshot::from_records(listing.revision, records).0.all_endpoints().cloned().collect()
}

fn ids<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> BTreeSet<EndpointId> {
    endpoints.into_iter().map(|endpoint| endpoint.id.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_moves_to_another_store_while_containers_come_and_go() {
    let cluster = Cluster::new().await;
    let meta = weft_model::encode(&schema::Meta { schema: schema::VERSION });
    cluster.store.commit(weft_store::Txn::new().put(schema::META, meta)).await.unwrap();
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    let network = a.network("blue", "10.9.0.0/24").await;
    b.knows(&network.id).await;
    let url = "etcd://new:1/weft";
    let new = cluster.other_store(url).await;

    let stop = Arc::new(AtomicBool::new(false));
    let (busy_a, busy_b) = (come_and_go(&a, &network.id, &stop), come_and_go(&b, &network.id, &stop));
    let moving = async {
        until("the hosts are at work", || a.agent.read(|s| s.all_endpoints().count()) > 5).await;
        let filled = weft_store::copy(&*cluster.store, &*new, url, "").await.unwrap();
        let is_there = |host: &Host| host.agent.0.store.address() == new.address();
        until("both hosts have followed", || is_there(&a) && is_there(&b)).await;
        // Some more on the new store.
        let before = endpoints(&*new).await;
        until("they go on", || {
            let known = a.agent.read(|s| ids(s.all_endpoints()));
            before.iter().filter(|endpoint| !known.contains(&endpoint.id)).count() > 4
        })
        .await;
        stop.store(true, Ordering::SeqCst);
        filled
    };
    let ((of_a, made_a, refused_a), (of_b, made_b, refused_b), filled) = tokio::join!(busy_a, busy_b, moving);

    for host in [&a, &b] {
        until("the new store has been told everything", || host.agent.0.outbox.untold() == 0).await;
        assert_eq!(host.agent.0.outbox.refused(), 0);
    }
    let stored = endpoints(&*new).await;
    assert_eq!(ids(&stored), ids(of_a.iter().chain(&of_b)), "nothing lost, nothing left over");
    let addresses: BTreeSet<_> = stored.iter().flat_map(Endpoint::addresses).collect();
    assert_eq!(addresses.len(), stored.len(), "no address twice");
    let findings = weft_store::check(&new.list(schema::ALL).await.unwrap());
    assert_eq!(findings, []);
    // The old store has not changed since it was closed.
    let old = cluster.store.list(schema::ALL).await.unwrap();
    let closed = old.records.iter().find(|record| record.key == schema::MOVED).unwrap().modified;
    assert_eq!(old.records.iter().map(|record| record.modified).max(), Some(closed));
    // What needs the store works again, and the other host hears of it.
    let after = a.network("green", "10.10.0.0/24").await;
    b.knows(&after.id).await;
    figures(
        "cluster moved to another store",
        &format!(
            "{} records moved while {} endpoints were made on two hosts, 0 lost, 0 addresses twice; {} refused while \
             addresses held ahead had run out",
            filled.records,
            made_a + made_b,
            refused_a + refused_b
        ),
    );
}

#[tokio::test]
async fn a_daemon_that_was_down_finds_the_new_store_and_keeps_where_it_is() {
    let cluster = Cluster::new().await;
    let meta = weft_model::encode(&schema::Meta { schema: schema::VERSION });
    cluster.store.commit(weft_store::Txn::new().put(schema::META, meta)).await.unwrap();
    let (first, second) = ("etcd://new:1/weft", "consul://newer:1/weft");
    let new = cluster.other_store(first).await;
    weft_store::copy(&*cluster.store, &*new, first, "").await.unwrap();
    let newer = cluster.other_store(second).await;
    weft_store::copy(&*new, &*newer, second, "").await.unwrap();
    // Two moves on, one after the other.
    let host = cluster.host(1).await;
    assert_eq!(host.agent.0.store.address(), newer.address());
    let network = host.network("blue", "10.9.0.0/24").await;
    assert!(newer.get(&schema::network_key(&network.id)).await.unwrap().is_some());
    // The next start needs none of the old ones.
    drop(host);
    cluster.others.lock().unwrap().remove(first);
    assert_eq!(cluster.host(1).await.agent.0.store.address(), newer.address());
}
