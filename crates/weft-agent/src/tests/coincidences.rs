//! Two things go wrong at once, or in an order that nobody expects. Simulated clusters found these (`docs/simulation.md`).

use super::cluster::{Cluster, Host, ModelKernel, endpoint};
use crate::{
    EndpointSpec,
    followed::Followed,
    reconcile::{Reconciled, Reconciler},
    view::View,
};
use futures::StreamExt;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weft_kernel::Kernel;
use weft_model::{
    AddressClaim, ClaimKind, Endpoint, Network, Node, Removing, Revision, Snapshot, encode,
    schema::{self, Scope},
};
use weft_plan::{HostState, Key, diff, plan};
use weft_store::{Batch, Listing, Outcome, Record, Store, Txn};

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let looked = tokio::time::timeout(Duration::from_secs(20), look).await;
    assert!(looked.is_ok(), "never came true: {what}");
}

async fn claim(cluster: &Cluster, key: &str) -> Option<AddressClaim> {
    let record = cluster.store.get(key).await.unwrap()?;
    Some(serde_json::from_slice(&record.value).unwrap())
}

#[tokio::test]
async fn a_dead_hosts_endpoint_and_its_address_go_in_one_transaction() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    let network = a.network("blue", "10.9.0.0/24").await;
    b.knows(&network.id).await;
    let theirs = b.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let before = cluster.store.list(schema::ALL).await.unwrap().revision;
    a.agent.collect_garbage(&["h2".to_owned()]).await.unwrap();
    let changes = cluster.store.watch(schema::ALL, before).await.unwrap();
    let (key, address) = (
        schema::key_of_endpoint(&theirs),
        schema::address_key(&network.id, theirs.addresses().next().unwrap()),
    );
    let removes = |batch: &Batch, key: &str| batch.changes.iter().any(|c| c.key == key && c.value.is_none());
    let batch = changes.map(Result::unwrap).filter(|batch| std::future::ready(removes(batch, &key)));
    assert!(removes(&batch.boxed().next().await.unwrap(), &address));
}

#[tokio::test]
async fn a_host_that_is_alive_again_keeps_what_a_collection_under_way_would_have_removed() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    let network = a.network("blue", "10.9.0.0/24").await;
    b.knows(&network.id).await;
    let theirs = b.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    // While the store is away a host knows of the networks that it follows.
    a.agent.follow_network(&network.id).await.unwrap();
    until("a knows it", async || a.agent.endpoint(&network.id, &theirs.id).is_some()).await;
    a.cable.cut();
    until("a knows that the store is away", async || a.agent.0.outbox.is_away()).await;
    // Its lease is back, and a does not know.
    cluster.store.commit(Txn::new().put(schema::alive_key(b.agent.node()), encode(&1u64))).await.unwrap();
    let key = schema::key_of_endpoint(&theirs);
    let leak = a.agent.leaks().await.into_iter().find(|leak| leak.key == key).unwrap();
    assert_eq!(leak.unless, Some(schema::alive_key(b.agent.node())));
    a.cable.mend();
    let removed = a.agent.collect_garbage(&["h2".to_owned()]).await;
    assert!(removed.is_err() || removed.unwrap().is_empty());
    assert!(cluster.store.get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn an_address_that_an_engine_gives_back_too_early_is_free_when_its_endpoint_has_gone() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    let ip = host.agent.claim_address(&network.id, network.subnets[0].net, None).await.unwrap().addr();
    let spec = EndpointSpec { addresses: vec![ip], allocate: false, ..endpoint(&network.id) };
    let made = host.agent.create_endpoint(spec).await.unwrap();
    host.agent.release_address(&network.id, ip).await.unwrap();
    let key = schema::address_key(&network.id, ip);
    let kept = claim(&cluster, &key).await.unwrap();
    assert_eq!((kept.kind, kept.endpoint), (ClaimKind::Endpoint, Some(made.id.clone())));
    host.agent.remove_endpoint(&network.id, &made.id).await.unwrap();
    assert_eq!(claim(&cluster, &key).await, None);
}

#[tokio::test]
async fn an_engine_cannot_give_back_what_it_has_not_been_told_of() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    let ip = host.agent.claim_address(&network.id, network.subnets[0].net, None).await.unwrap().addr();
    let key = schema::address_key(&network.id, ip);
    // As if the store had done it, and its answer were under way; what is given back is an earlier claim of that address.
    let unanswered = host.agent.0.claiming.begin(&key);
    host.agent.release_address(&network.id, ip).await.unwrap();
    assert_eq!(claim(&cluster, &key).await.unwrap().kind, ClaimKind::Ipam);
    drop(unanswered);
    host.agent.release_address(&network.id, ip).await.unwrap();
    assert_eq!(claim(&cluster, &key).await, None);
}

/// A host whose reserve is filled, on a network.
async fn with_reserve(cluster: &Cluster) -> (Host, Network, Endpoint) {
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    let first = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let held = |s: &Snapshot| {
        let claims = s.addresses[&network.id].iter().filter(|(_, claim)| claim.kind == ClaimKind::Reserved);
        // The store's answer may come after the follower's news.
        claims
            .filter(|(ip, _)| !host.agent.0.outbox.is_asking(&schema::address_key(&network.id, **ip)))
            .count()
    };
    until("the reserve is full", async || host.agent.read(held) == weft_plan::RESERVE).await;
    (host, network, first)
}

#[tokio::test]
async fn a_container_that_started_without_the_store_ends_a_removal_of_its_network_that_had_begun() {
    let cluster = Cluster::new().await;
    let (host, network, _) = with_reserve(&cluster).await;
    host.cable.cut();
    until("it is away", async || host.agent.0.outbox.is_away()).await;
    let made = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let mark = schema::removing_key(&network.id);
    let removing = Removing { node: host.agent.node().clone(), since: 7 };
    cluster.store.commit(Txn::new().put(&mark, encode(&removing))).await.unwrap();
    host.cable.mend();
    until("the store has been told", async || !host.agent.0.outbox.is_away()).await;
    assert_eq!(host.agent.0.outbox.refused(), 0);
    assert!(cluster.store.get(&schema::key_of_endpoint(&made)).await.unwrap().is_some());
    assert!(cluster.store.get(&mark).await.unwrap().is_none());
}

#[tokio::test]
async fn a_request_for_an_address_that_nobody_waits_for_any_more_is_withdrawn() {
    let cluster = Cluster::new().await;
    let (host, network, _) = with_reserve(&cluster).await;
    // As a daemon that was killed has left it.
    let key = schema::wanted_key(&network.id, "10.9.0.77".parse().unwrap());
    cluster.store.commit(Txn::new().put(&key, encode(host.agent.node()))).await.unwrap();
    until("it is withdrawn", async || cluster.store.get(&key).await.unwrap().is_none()).await;
}

/// The loop of a daemon that has started again while the store is away.
struct StartedAway {
    view: Arc<View>,
    kernel: Arc<ModelKernel>,
    done: watch::Receiver<Reconciled>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    _notes: TempDir,
}

impl StartedAway {
    /// With the snapshot that was kept, and what the kernel has.
    fn with(this: &Node, kept: Snapshot, network: &Network, has: &HostState) -> Self {
        let notes = tempfile::tempdir().unwrap();
        let followed =
            Followed::new(&notes.path().join("networks.json"), BTreeSet::from([network.id.clone()]));
        let view = Arc::new(View::new(this.clone(), kept, followed.unwrap()));
        let kernel = Arc::new(ModelKernel::default());
        kernel.meddle(|state| state.clone_from(has));
        let interval = Duration::from_millis(20);
        let its_kernel = Arc::clone(&kernel) as Arc<dyn Kernel>;
        let (the_loop, done) = Reconciler::new(this.id.clone(), Arc::clone(&view), its_kernel, interval);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(the_loop.run(shutdown.clone()));
        Self { view, kernel, done, shutdown, task, _notes: notes }
    }
}

#[tokio::test]
async fn what_the_kernel_has_beyond_an_old_snapshot_stays_until_the_store_has_listed_its_records() {
    let cluster = Cluster::new().await;
    let host = cluster.host(2).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    let old = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let this = host.agent.read(|s| s.nodes[host.agent.node()].clone());
    let kept = host.agent.read(Snapshot::clone);
    let new = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let whole = host.kernel.state();
    let listing = cluster.store.list(schema::ALL).await.unwrap();

    // The snapshot is from before the second endpoint.
    let StartedAway { view, kernel, mut done, shutdown, task, _notes } =
        StartedAway::with(&this, kept, &network, &whole);
    let port = |e: &Endpoint| Key::Port(network.vni, weft_plan::port_name(&e.id));
    kernel.meddle(|state| assert!(state.remove(&port(&old)).is_some()));
    until("what is known is repaired", async || kernel.state().contains_key(&port(&old))).await;
    assert!(kernel.state().contains_key(&port(&new)), "what is not known may carry frames");

    // The only endpoint that is known is removed: the network's devices are not, for the other one needs them.
    let key = schema::key_of_endpoint(&old);
    view.set_untold([(key.clone(), None)].into());
    until("its port is gone", async || !kernel.state().contains_key(&port(&old))).await;
    for needed in [Key::Bridge(network.vni), Key::Vxlan(network.vni), port(&new)] {
        assert!(kernel.state().contains_key(&needed), "{needed:?}");
    }
    view.set_untold([(key, Some(encode(&old)))].into());
    until("it is back", async || kernel.state().contains_key(&port(&old))).await;
    view.set_untold([].into());

    // It says that the first has gone meanwhile.
    let gone = [schema::key_of_endpoint(&old)];
    for scope in [Scope::Cluster, Scope::Network(network.id.clone())] {
        let told = |r: &&Record| Scope::of(&r.key) == scope && !gone.contains(&r.key);
        let records = listing.records.iter().filter(told).cloned().collect();
        view.reset(&scope, Listing { revision: Revision(listing.revision.0 + 1), records });
    }
    let wanted = view.read(|s| plan(s, &this.id));
    until("the store's word counts", async || diff(&wanted, &kernel.state()).is_empty()).await;
    assert!(!kernel.state().contains_key(&port(&old)) && kernel.state().contains_key(&port(&new)));
    assert_eq!(done.borrow_and_update().drift.get("fdb"), None, "what was left from before is not drift");
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn what_the_store_lists_while_the_kernel_is_read_is_planned_before_anything_is_taken_away() {
    let cluster = Cluster::new().await;
    let host = cluster.host(2).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let this = host.agent.read(|s| s.nodes[host.agent.node()].clone());
    let kept = host.agent.read(Snapshot::clone);
    host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let whole = host.kernel.state();
    let listing = cluster.store.list(schema::ALL).await.unwrap();

    let StartedAway { view, kernel, mut done, shutdown, task, _notes } =
        StartedAway::with(&this, kept, &network, &whole);
    let (tell, told) = tokio::sync::oneshot::channel();
    kernel.meanwhile(move || {
        for scope in [Scope::Cluster, Scope::Network(network.id.clone())] {
            let records = listing.records.iter().filter(|r| Scope::of(&r.key) == scope).cloned().collect();
            view.reset(&scope, Listing { revision: listing.revision, records });
        }
        tell.send(view.writes()).unwrap();
    });
    let listed = told.await.unwrap();
    done.wait_for(|done| done.writes >= listed).await.unwrap();
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(kernel.removed(), BTreeSet::new());
}

#[tokio::test]
async fn an_endpoint_that_an_old_snapshot_does_not_know_keeps_its_frames_from_the_one_that_had_its_address_before()
 {
    let cluster = Cluster::new().await;
    let host = cluster.host(2).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    let old = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let this = host.agent.read(|s| s.nodes[host.agent.node()].clone());
    let kept = host.agent.read(Snapshot::clone);
    host.agent.remove_endpoint(&network.id, &old.id).await.unwrap();
    let new = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    assert_eq!(new.mac, old.mac);
    let fdb = Key::Fdb(network.vni, new.mac);
    let whole = host.kernel.state();

    // The snapshot is from before the first one's end.
    let StartedAway { kernel, shutdown, task, _notes, .. } = StartedAway::with(&this, kept, &network, &whole);
    let known = Key::Port(network.vni, weft_plan::port_name(&old.id));
    until("what is known is made", async || kernel.state().contains_key(&known)).await;
    assert_eq!(kernel.state().get(&fdb), whole.get(&fdb));
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn an_address_that_an_earlier_daemon_may_have_given_back_is_not_given_out_and_another_is_held_ahead() {
    let cluster = Cluster::new().await;
    let (host, network, _) = with_reserve(&cluster).await;
    let held = |s: &Snapshot| {
        let claims = s.addresses[&network.id].iter();
        claims.filter(|(_, c)| c.kind == ClaimKind::Reserved).map(|(ip, _)| *ip).collect::<BTreeSet<_>>()
    };
    host.cable.cut();
    until("it is away", async || host.agent.0.outbox.is_away()).await;
    // As a daemon has left it that was killed when it had asked the store.
    let ip = *host.agent.read(held).first().unwrap();
    let key = schema::address_key(&network.id, ip);
    host.agent.0.outbox.spent.note(vec![key.clone()]).unwrap();
    let subnet = network.subnets[0].net;
    let error = host.agent.reserved(&network, subnet, Some(ip)).unwrap_err().to_string();
    assert!(error.contains("is not reserved for this host"), "{error}");
    assert_ne!(host.agent.reserved(&network, subnet, None).unwrap(), ip);

    host.cable.mend();
    until("it is given back", async || host.agent.0.outbox.spent.unsettled().is_empty()).await;
    until("the reserve is full again", async || host.agent.read(held).len() == weft_plan::RESERVE).await;
}

#[tokio::test]
async fn what_is_given_back_is_noted_on_disk_before_the_store_is_asked() {
    let cluster = Cluster::new().await;
    let (host, network, _) = with_reserve(&cluster).await;
    let file = host.agent.0.options.state_dir.join("spent.json");
    assert!(!file.exists());
    let reserved = |s: &Snapshot| {
        let mut claims = s.addresses[&network.id].iter();
        claims.find(|(_, c)| c.kind == ClaimKind::Reserved).map(|(ip, _)| *ip).unwrap()
    };
    let ip = host.agent.read(reserved);
    let key = schema::address_key(&network.id, ip);
    host.cable.lose_answers();
    // It goes on without an answer, as what was done without the store.
    host.agent.0.outbox.commit(Txn::new().present(&key).delete(&key)).await.unwrap();
    assert_eq!(claim(&cluster, &key).await, None);
    let noted: Vec<String> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(noted, [key]);
}

#[tokio::test]
async fn a_host_that_leaves_waits_for_what_has_begun_and_begins_nothing_any_more() {
    let cluster = Cluster::new().await;
    let (host, network, _) = with_reserve(&cluster).await;
    let begun = host.agent.takes().unwrap();
    let leaving = tokio::spawn({
        let agent = host.agent.clone();
        async move { agent.leave().await }
    });
    until("it leaves", async || host.agent.takes().is_err()).await;
    let refused = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap_err().to_string();
    assert!(refused.contains("this host is leaving the cluster"), "{refused}");
    host.agent.claim_address(&network.id, network.subnets[0].net, None).await.unwrap_err();
    let key = schema::node_key(host.agent.node());
    assert!(cluster.store.get(&key).await.unwrap().is_some());
    drop(begun);
    leaving.await.unwrap().unwrap();
    let left = cluster.store.list(schema::ALL).await.unwrap().records;
    let keys: Vec<_> = left.iter().map(|record| record.key.as_str()).filter(|k| k.contains("-on/")).collect();
    assert_eq!(keys, Vec::<&str>::new());
    assert!(cluster.store.get(&key).await.unwrap().is_none());
}

#[tokio::test]
async fn an_address_that_may_have_been_given_back_is_given_to_nobody_without_the_store() {
    let cluster = Cluster::new().await;
    let (host, network, _) = with_reserve(&cluster).await;
    let ip = host.agent.claim_address(&network.id, network.subnets[0].net, None).await.unwrap().addr();
    host.cable.cut();
    until("it is away", async || host.agent.0.outbox.is_away()).await;
    // The engine has given it back, and the answer is under way.
    let key = schema::address_key(&network.id, ip);
    host.agent.0.outbox.spent.note(vec![key.clone()]).unwrap();
    let spec = || EndpointSpec { addresses: vec![ip], ..endpoint(&network.id) };
    let error = host.agent.create_endpoint(spec()).await.unwrap_err().to_string();
    assert!(error.contains(&key) && error.contains("is not known"), "{error}");
    // It was not given back after all.
    host.agent.0.outbox.spent.settle(&[key]);
    host.agent.create_endpoint(spec()).await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_node_without_a_record_gets_into_the_store_before_that() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    // As after `weft down`, or when it was declared dead.
    let key = schema::node_key(host.agent.node());
    cluster.store.commit(Txn::new().delete(&key)).await.unwrap();
    let made = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let node = cluster.store.get(&key).await.unwrap().unwrap();
    let record = cluster.store.get(&schema::key_of_endpoint(&made)).await.unwrap().unwrap();
    assert!(node.modified < record.modified);

    // What is refused for a reason of its own does not bring the node's record back, nor what takes something away.
    cluster.store.commit(Txn::new().delete(&key)).await.unwrap();
    let put = |txn: Txn| txn.put("v1/x", b"1".to_vec());
    for txn in [put(Txn::new().absent(&record.key)), Txn::new().present(&record.key).delete("v1/x")] {
        host.agent.0.outbox.commit(txn).await.unwrap();
        assert_eq!(cluster.store.get(&key).await.unwrap(), None);
    }
    // Nor what a host writes that has left.
    host.agent.0.outbox.member.leave();
    let error = host.agent.0.outbox.commit(put(Txn::new())).await.unwrap_err().to_string();
    assert!(error.contains("this host has left the cluster"), "{error}");
    assert_eq!(cluster.store.get("v1/x").await.unwrap(), None);
}

#[tokio::test]
async fn a_request_to_make_a_network_that_comes_after_the_next_attempt_makes_nothing() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    for _ in 0..2 {
        let node = cluster.store.get(&schema::node_key(host.agent.node())).await.unwrap();
        let late =
            host.agent.with_attempt_counted(Txn::new().absent("v1/x").put("v1/x", b"1".to_vec()), node);
        let network = host.network("blue", "10.9.0.0/24").await;
        host.agent.remove_network(&network.id).await.unwrap();
        assert!(matches!(cluster.store.commit(late).await.unwrap(), Outcome::Refused(_)));
        assert_eq!(cluster.store.get("v1/x").await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_the_store_was_not_told_of_an_address_comes_before_whoever_gets_it_next() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    let subnet = network.subnets[0].net;
    let ip = host.agent.claim_address(&network.id, subnet, None).await.unwrap().addr();
    let key = schema::address_key(&network.id, ip);
    let record = host.agent.0.store.get(&key).await.unwrap().unwrap();
    host.cable.cut();
    until("it knows that the store is away", async || host.agent.0.outbox.is_away()).await;
    // As a verb that began when the store was there.
    let release = Txn::new().unchanged(&key, record.modified).delete(&key);
    assert!(matches!(host.agent.0.outbox.commit(release).await.unwrap(), Outcome::Committed(_)));

    let next = Txn::new().absent(&key).put(&key, record.value);
    let error = host.agent.0.outbox.commit(next).await.unwrap_err();
    assert!(error.to_string().contains("what has become of"), "{error}");
}
