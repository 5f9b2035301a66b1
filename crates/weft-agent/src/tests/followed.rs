//! A host knows the members of the networks that it takes part in, and takes up the same ones again.

use super::cluster::{Cluster, ModelKernel, endpoint, node, options};
use crate::{Carrier, Running, Unchanging, World, start_in};
use std::{collections::BTreeSet, sync::Arc};
use weft_kernel::Kernel;
use weft_model::schema;
use weft_store::Txn;

#[tokio::test]
async fn a_host_hears_of_the_members_of_its_own_networks_alone_and_can_tell_of_all() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    let (blue, green) = (a.network("blue", "10.9.0.0/24").await, a.network("green", "10.8.0.0/24").await);
    for network in [&blue, &green] {
        b.knows(&network.id).await;
        a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    }
    let own = b.agent.create_endpoint(endpoint(&blue.id)).await.unwrap();
    assert_eq!(b.agent.read(|s| s.endpoints[&blue.id].len()), 2, "all members of its network");
    assert!(b.agent.read(|s| !s.endpoints.contains_key(&green.id) && !s.addresses.contains_key(&green.id)));
    assert_eq!(b.agent.endpoints().await.len(), 3, "who asks for all is told of all");

    b.agent.remove_endpoint(&blue.id, &own.id).await.unwrap();
    b.agent.give_up_reserve().await.unwrap();
    assert!(b.agent.read(|s| s.endpoints.contains_key(&blue.id)), "it may come back soon");
    let followed = &b.agent.0.view.followed;
    followed.give_up(&BTreeSet::new(), &BTreeSet::new(), std::time::Duration::ZERO).unwrap();
    let mut seen = b.agent.0.view.seen();
    while b.agent.read(|s| s.endpoints.contains_key(&blue.id)) {
        seen.changed().await.unwrap();
    }
    b.agent.create_endpoint(endpoint(&blue.id)).await.unwrap();
    assert_eq!(b.agent.read(|s| s.endpoints[&blue.id].len()), 2);
}

#[tokio::test]
async fn a_daemon_that_starts_again_takes_nothing_down_whether_its_networks_were_noted_or_not() {
    let cluster = Cluster::new().await;
    let a = cluster.host(1).await;
    let network = a.network("blue", "10.9.0.0/24").await;
    a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let (kernel, this) = (Arc::new(ModelKernel::default()), node(7));
    let dir = tempfile::tempdir().unwrap();
    let start = async || -> Running {
        let (store, kernel) = (Arc::clone(&cluster.store), Arc::clone(&kernel) as Arc<dyn Kernel>);
        let kernel = |_: &_| Ok(Carrier { kernel, datapath: "model".to_owned() });
        let world =
            World { store, kernel, machine: Arc::new(Unchanging(this.clone())), goes_on_taking: true };
        start_in(options(dir.path(), "h7"), world).await.unwrap()
    };
    let running = start().await;
    let made = running.agent().create_endpoint(endpoint(&network.id)).await.unwrap();
    running.stop().await.unwrap();
    let before = kernel.state();
    assert!(before.len() > 5, "{before:?}");
    for lost in [None, Some("networks.json"), Some("snapshot.json")] {
        if let Some(file) = lost {
            std::fs::remove_file(dir.path().join("h7").join(file)).unwrap();
        }
        let running = start().await;
        assert_eq!(kernel.state(), before, "without {lost:?}");
        assert_eq!(running.agent().status().drift_repaired.len(), 0);
        assert!(running.agent().endpoint(&network.id, &made.id).is_some());
        running.stop().await.unwrap();
    }
    // What it had is gone by its next start.
    let keys = [schema::key_of_endpoint(&made)];
    cluster.store.commit(keys.iter().fold(Txn::new(), Txn::delete)).await.unwrap();
    let running = start().await;
    assert!(kernel.state().is_empty());
    running.stop().await.unwrap();
}
