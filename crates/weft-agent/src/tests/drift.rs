//! The loop holds the kernel to the plan.

use super::cluster::{Cluster, Host, endpoint};
use std::time::Duration;
use weft_plan::{Key, plan};

async fn until(what: &str, holds: impl Fn() -> bool) {
    let look = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), look)
        .await
        .unwrap_or_else(|_| panic!("never came true: {what}"));
}

async fn settled(host: &Host) {
    let wanted = || host.agent.read(|s| plan(s, host.agent.node()));
    until("the kernel is as planned", || weft_plan::diff(&wanted(), &host.kernel.state()).is_empty()).await;
}

#[tokio::test]
async fn what_others_remove_is_made_again_and_counted_by_kind() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let network = h1.network("blue", "10.9.0.0/24").await;
    h2.knows(&network.id).await;
    h1.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let remote = h2.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    until("h1 knows the endpoint on h2", || h1.agent.endpoint(&network.id, &remote.id).is_some()).await;
    settled(&h1).await;
    assert!(h1.agent.status().drift_repaired.is_empty());

    let lost = Key::Fdb(network.vni, remote.mac);
    h1.kernel.meddle(|state| assert!(state.remove(&lost).is_some()));
    let neighbour = Key::Neighbour(network.vni, "10.9.0.3".parse().unwrap());
    h1.kernel.meddle(|state| assert!(state.remove(&neighbour).is_some()));
    settled(&h1).await;
    let status = h1.agent.status();
    assert_eq!(
        status.drift_repaired.into_iter().collect::<Vec<_>>(),
        [("fdb".to_owned(), 1), ("neighbour".to_owned(), 1)]
    );
}

#[tokio::test]
async fn an_endpoint_that_the_kernel_refuses_is_withdrawn() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    host.kernel.refuse(Some("port"));
    let error = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap_err().to_string();
    assert!(error.contains("device or resource busy"), "{error}");
    assert!(host.agent.endpoints().await.is_empty());
    assert!(cluster.store.list(weft_model::schema::ON).await.unwrap().records.is_empty());
    host.kernel.refuse(None);
    host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    settled(&host).await;
    assert_eq!(host.agent.status().problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_host_without_endpoints_holds_nothing() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let network = h1.network("blue", "10.9.0.0/24").await;
    let made = h1.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let kinds: Vec<_> = h1.kernel.state().keys().map(weft_plan::Key::kind).collect();
    assert_eq!(kinds, ["filter", "bridge", "vxlan", "port", "fdb", "group", "group"]);
    assert!(h2.kernel.state().is_empty());
    h1.agent.remove_endpoint(&network.id, &made.id).await.unwrap();
    assert!(h1.kernel.state().is_empty());
}
