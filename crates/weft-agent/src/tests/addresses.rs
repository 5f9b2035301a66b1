//! Addresses have one holder.

use super::cluster::{Cluster, endpoint};
use crate::{AgentError, EndpointSpec, api::ErrorKind};
use std::collections::BTreeSet;
use weft_model::{ClaimKind, EndpointId};
use weft_plan::IpamError;

#[tokio::test]
async fn endpoints_get_the_lowest_free_addresses_and_give_them_back() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/29").await;
    let first = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let second = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    assert_eq!(first.ipv4.unwrap().to_string(), "10.9.0.2/29");
    assert_eq!(first.mac.to_string(), "02:42:0a:09:00:02");
    assert_eq!(second.ipv4.unwrap().to_string(), "10.9.0.3/29");

    host.agent.remove_endpoint(&network.id, &first.id).await.unwrap();
    host.agent.remove_endpoint(&network.id, &first.id).await.unwrap();
    let third = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    assert_eq!(third.ipv4, first.ipv4);
}

#[tokio::test]
async fn a_full_pool_says_so_and_leaves_nothing() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("tiny", "10.9.0.0/30").await;
    host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    let error = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap_err();
    assert!(matches!(error, AgentError::Ipam(IpamError::Full { .. })), "{error}");
    assert_eq!(host.agent.endpoints().await.len(), 1);
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused_with_its_holder() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let network = h1.network("blue", "10.9.0.0/24").await;
    let wanted = || EndpointSpec { addresses: vec!["10.9.0.7".parse().unwrap()], ..endpoint(&network.id) };
    h1.agent.create_endpoint(wanted()).await.unwrap();
    h2.knows(&network.id).await;
    let error = h2.agent.create_endpoint(wanted()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let message = error.to_string();
    assert!(message.contains("10.9.0.7") && message.contains("\"web\" on node h1"), "{message}");
    for (ip, expected) in [("10.8.0.1", "outside"), ("10.9.0.1", "the gateway"), ("10.9.0.255", "broadcast")]
    {
        let spec = EndpointSpec { addresses: vec![ip.parse().unwrap()], ..endpoint(&network.id) };
        let message = h2.agent.create_endpoint(spec).await.unwrap_err().to_string();
        assert!(message.contains(expected), "{ip}: {message}");
    }
}

#[tokio::test]
async fn hosts_that_allocate_at_once_never_get_the_same_address() {
    const EACH: usize = 120;
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let network = h1.network("blue", "10.9.0.0/24").await;
    h2.knows(&network.id).await;
    let subnet = network.subnets[0].net;
    let claim = |agent: crate::Agent| {
        let id = network.id.clone();
        async move {
            let claims = (0..EACH).map(|_| agent.claim_address(&id, subnet, None));
            futures::future::try_join_all(claims).await.unwrap()
        }
    };
    let (a, b) = tokio::join!(claim(h1.agent.clone()), claim(h2.agent.clone()));
    let all: BTreeSet<_> = a.iter().chain(&b).collect();
    assert_eq!(all.len(), 2 * EACH);
}

#[tokio::test]
async fn an_address_that_an_engine_claimed_stays_claimed_until_the_engine_gives_it_back() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let network = host.network("blue", "10.9.0.0/24").await;
    let claimed = host.agent.claim_address(&network.id, network.subnets[0].net, None).await.unwrap();
    let spec = EndpointSpec {
        id: EndpointId::random(),
        addresses: vec![claimed.addr()],
        allocate: false,
        ..endpoint(&network.id)
    };
    let made = host.agent.create_endpoint(spec.clone()).await.unwrap();
    assert_eq!(host.agent.create_endpoint(spec).await.unwrap(), made, "asked again, it answers the same");
    let claim =
        || host.agent.read(|s| s.addresses.get(&network.id).and_then(|a| a.get(&claimed.addr()).cloned()));
    assert_eq!(claim().unwrap().endpoint, Some(made.id.clone()));
    host.agent.remove_endpoint(&network.id, &made.id).await.unwrap();
    let left = claim().unwrap();
    assert_eq!((left.kind, left.endpoint), (ClaimKind::Ipam, None));
    host.agent.release_address(&network.id, claimed.addr()).await.unwrap();
    host.agent.release_address(&network.id, claimed.addr()).await.unwrap();
    assert_eq!(claim(), None);
}
