//! Garbage is found, explained, and removed only where that is safe or asked for.

use super::cluster::{Cluster, endpoint};
use weft_model::{AddressClaim, ClaimKind, EndpointId, encode, schema};
use weft_store::Txn;

#[tokio::test]
async fn gc_removes_what_is_safe_and_what_a_dead_node_had_only_when_it_is_named() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    // Both have a record; only a has a lease.
    let alive = Txn::new().put(schema::alive_key(a.agent.node()), encode(&1u64));
    a.agent.commit(alive).await.unwrap();
    let network = a.network("blue", "10.9.0.0/24").await;
    b.knows(&network.id).await;
    let kept = a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let of_the_dead = b.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let orphan = AddressClaim {
        kind: ClaimKind::Endpoint,
        node: a.agent.node().clone(),
        endpoint: Some(EndpointId::random()),
        since: 7,
    };
    let key = schema::address_key(&network.id, "10.9.0.99".parse().unwrap());
    b.agent.0.reserving.lock().await.clone_from(&false);
    a.agent.commit(Txn::new().put(&key, encode(&orphan))).await.unwrap();

    let safe: Vec<_> = a.agent.leaks().await.into_iter().filter(|leak| leak.safe).collect();
    assert_eq!(safe.iter().map(|leak| &leak.key).collect::<Vec<_>>(), [&key]);
    assert_eq!(a.agent.collect_garbage(&[]).await.unwrap(), safe);
    assert!(cluster.store.get(&key).await.unwrap().is_none());
    assert!(a.agent.endpoint(&network.id, &of_the_dead.id).is_some(), "a dead host may live on");

    let error = a.agent.collect_garbage(&["h1".to_owned()]).await.unwrap_err().to_string();
    assert!(error.contains("h1 lives"), "{error}");
    let removed = a.agent.collect_garbage(&["h2".to_owned()]).await.unwrap();
    assert!(removed.iter().any(|leak| leak.key == schema::node_key(b.agent.node())), "{removed:?}");
    assert!(a.agent.endpoint(&network.id, &of_the_dead.id).is_none());
    assert!(a.agent.endpoint(&network.id, &kept.id).is_some());
    assert_eq!(a.agent.leaks().await, []);
}
