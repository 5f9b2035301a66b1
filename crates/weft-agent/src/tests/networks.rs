//! Networks have one name, one VNI, and go only when nobody uses them.

use super::cluster::{Cluster, endpoint, spec};
use crate::{AgentError, EndpointSpec, NetworkDetails, api::NetworkSpec};
use weft_model::{HostRoute, Node, Vni, schema};

#[tokio::test]
async fn a_name_belongs_to_one_network() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let blue = h1.network("blue", "10.9.0.0/24").await;
    h2.knows(&blue.id).await;
    let error = h2.agent.create_network(spec("blue", "10.8.0.0/24"), None).await.unwrap_err().to_string();
    assert!(error.contains("\"blue\"") && error.contains("made on node h1"), "{error}");

    let nameless = NetworkSpec { name: None, ..spec("x", "10.8.0.0/24") };
    let other = h2.agent.create_network(nameless, Some("docker-id")).await.unwrap();
    assert_eq!(h2.agent.bound("docker-id").unwrap().id, other.id);
    let error = h2
        .agent
        .name_network(&other.id, "blue".parse().unwrap(), NetworkDetails::default())
        .await
        .unwrap_err();
    assert!(matches!(error, AgentError::NameTaken { .. }), "{error}");
    h2.agent.name_network(&other.id, "green".parse().unwrap(), NetworkDetails::default()).await.unwrap();
    h2.agent.name_network(&other.id, "green".parse().unwrap(), NetworkDetails::default()).await.unwrap();
    assert_eq!(h2.agent.find_network("green").await.unwrap().id, other.id);
}

#[tokio::test]
async fn two_hosts_that_make_one_name_at_once_make_one_network() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let (a, b) = tokio::join!(
        h1.agent.create_network(spec("blue", "10.9.0.0/24"), None),
        h2.agent.create_network(spec("blue", "10.8.0.0/24"), None)
    );
    assert_eq!(u8::from(a.is_ok()) + u8::from(b.is_ok()), 1, "{a:?} {b:?}");
    let records = cluster.store.list("v1/networks/").await.unwrap().records;
    assert_eq!(records.len(), 1);
}

#[tokio::test]
async fn vnis_are_unique_and_stay_within_the_range() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let asked = NetworkSpec { vni: Some(Vni::new(4097).unwrap()), ..spec("a", "10.1.0.0/24") };
    assert_eq!(host.agent.create_network(asked, None).await.unwrap().vni.get(), 4097);
    for (name, vni) in [("b", 4096), ("c", 4098), ("d", 4099)] {
        assert_eq!(host.network(name, "10.2.0.0/24").await.vni.get(), vni);
    }
    let error = host.agent.create_network(spec("e", "10.2.0.0/24"), None).await.unwrap_err();
    assert!(matches!(error, AgentError::NoVni(_)), "{error}");
    let taken = NetworkSpec { vni: Some(Vni::new(4097).unwrap()), ..spec("f", "10.1.0.0/24") };
    let error = host.agent.create_network(taken, None).await.unwrap_err().to_string();
    assert!(error.contains("4097 belongs to network") && error.contains('a'), "{error}");
    let outside = NetworkSpec { vni: Some(Vni::new(5000).unwrap()), ..spec("g", "10.1.0.0/24") };
    let error = host.agent.create_network(outside, None).await.unwrap_err().to_string();
    assert!(error.contains("range 4096-4099"), "{error}");
}

#[tokio::test]
async fn a_subnet_that_any_host_routes_elsewhere_is_refused_with_the_route() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let node = h2.agent.read(|s| s.nodes[h2.agent.node()].clone());
    let route = HostRoute { destination: "10.9.0.0/16".parse().unwrap(), device: "eth7".to_owned() };
    crate::membership::write(cluster.store.as_ref(), &Node { routes: vec![route], ..node }).await.unwrap();
    let routed =
        |s: &weft_model::Snapshot| s.nodes.get(h2.agent.node()).is_some_and(|n| !n.routes.is_empty());
    let mut seen = h1.agent.0.view.seen();
    while !h1.agent.read(routed) {
        seen.changed().await.unwrap();
    }
    let error = h1.agent.create_network(spec("blue", "10.9.7.0/24"), None).await.unwrap_err().to_string();
    assert!(error.contains("10.9.0.0/16 dev eth7 of node h2"), "{error}");
    let chosen = NetworkSpec { subnets: vec![], ..spec("blue", "10.9.7.0/24") };
    let network = h1.agent.create_network(chosen, None).await.unwrap();
    assert_eq!(network.subnets[0].net.to_string(), "10.0.0.0/24");
}

#[tokio::test]
async fn a_network_goes_when_its_last_endpoint_has_gone_and_takes_everything_along() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let network = h1.network("blue", "10.9.0.0/24").await;
    let made = h1.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    h2.knows(&network.id).await;
    let error = h2.agent.remove_network(&network.id).await.unwrap_err().to_string();
    assert!(error.contains("1 endpoint: web (10.9.0.2) on node h1"), "{error}");
    let again = h1.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    for id in [made.id, again.id] {
        h1.agent.remove_endpoint(&network.id, &id).await.unwrap();
    }
    h1.agent.claim_address(&network.id, network.subnets[0].net, None).await.unwrap();
    h2.agent.remove_network(&network.id).await.unwrap();
    h2.agent.remove_network(&network.id).await.unwrap();
    let left = cluster.store.list(schema::ALL).await.unwrap().records;
    let left: Vec<_> = left.iter().filter(|r| !r.key.starts_with("v1/nodes/")).map(|r| &r.key).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_endpoint_and_a_removal_at_once_never_leave_an_endpoint_without_its_network() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    for _ in 0..20 {
        let network = h1.network("blue", "10.9.0.0/24").await;
        h2.knows(&network.id).await;
        let spec = EndpointSpec { container: None, ..endpoint(&network.id) };
        let (made, removed) =
            tokio::join!(h1.agent.create_endpoint(spec), h2.agent.remove_network(&network.id));
        let endpoints = cluster.store.list(&schema::endpoints_of(&network.id)).await.unwrap().records.len();
        let networks = cluster.store.list("v1/networks/").await.unwrap().records.len();
        assert_eq!(endpoints, networks, "{made:?} {removed:?}");
        assert!(cluster.store.list("v1/removing/").await.unwrap().records.is_empty());
        if let Ok(endpoint) = made {
            h1.agent.remove_endpoint(&network.id, &endpoint.id).await.unwrap();
            h1.agent.remove_network(&network.id).await.unwrap();
        }
        // Its name is free here as well once this host has heard.
        h1.forgets(&network.id).await;
    }
}

#[tokio::test]
async fn a_family_without_a_subnet_gets_one_chosen() {
    let cluster = Cluster::new().await;
    let host = cluster.host(1).await;
    let asked = NetworkSpec { ipv6: true, subnets: vec![], ..spec("dual", "10.1.0.0/24") };
    let network = host.agent.create_network(asked, None).await.unwrap();
    let [v4, v6] = &network.subnets[..] else { panic!("{:?}", network.subnets) };
    assert_eq!(v4.net.to_string(), "10.0.0.0/24");
    assert_eq!((v6.net.prefix_len(), v6.net.to_string().starts_with("fd")), (64, true), "{}", v6.net);
    let endpoint = host.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    assert!(endpoint.ipv4.is_some() && endpoint.ipv6.is_some());

    let (v4_pool, pool) = host.agent.create_pool(None, None, false).await.unwrap();
    assert_eq!(pool.subnet.net.to_string(), "10.0.1.0/24", "what networks have is not given to pools");
    let (v6_pool, pool) = host.agent.create_pool(None, None, true).await.unwrap();
    assert!(pool.subnet.net.to_string().starts_with("fd"));
    for pool in [v4_pool, v6_pool] {
        host.agent.release_pool(&pool).await.unwrap();
        host.agent.release_pool(&pool).await.unwrap();
    }
    assert!(cluster.store.list("v1/pools/").await.unwrap().records.is_empty());
}

#[tokio::test]
async fn a_network_made_on_another_host_a_moment_ago_is_found_by_its_name() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    for n in 0..4 {
        let name = format!("net{n}");
        let network = h1.network(&name, "10.1.0.0/24").await;
        assert_eq!(h2.agent.find_network(&name).await.unwrap().id, network.id);
    }
    let error = h2.agent.find_network("nothing").await.unwrap_err();
    assert!(matches!(error, AgentError::NoSuchNetwork(_)), "{error}");
}

#[tokio::test]
async fn no_two_direct_networks_have_an_address_in_common() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    let direct = |name: &str, subnet: &str| NetworkSpec { direct: true, ..spec(name, subnet) };
    let first = h1.agent.create_network(direct("first", "10.9.0.0/16"), None).await.unwrap();
    for subnet in ["10.9.0.0/16", "10.9.7.0/24", "10.8.0.0/15"] {
        let error = h2.agent.create_network(direct("second", subnet), None).await.unwrap_err().to_string();
        assert!(error.contains(subnet) && error.contains("first"), "{error}");
    }
    // One that is told apart by its VNI may have them, and what weft chooses is free.
    h2.agent.create_network(spec("other", "10.9.0.0/16"), None).await.unwrap();
    let chosen = NetworkSpec { subnets: vec![], ..direct("chosen", "10.9.0.0/16") };
    h2.agent.create_network(chosen, None).await.unwrap();
    h1.agent.remove_network(&first.id).await.unwrap();
    h2.forgets(&first.id).await;
    h2.agent.create_network(direct("second", "10.9.7.0/24"), None).await.unwrap();
}

#[tokio::test]
async fn of_two_direct_networks_with_one_subnet_made_at_once_one_is_made() {
    let cluster = Cluster::new().await;
    let (h1, h2) = (cluster.host(1).await, cluster.host(2).await);
    for n in 0..20 {
        let direct = |name: &str, net: String| NetworkSpec { direct: true, ..spec(name, &net) };
        let (a, b) = tokio::join!(
            h1.agent.create_network(direct("a", format!("10.{n}.0.0/24")), None),
            h2.agent.create_network(direct("b", format!("10.{n}.0.0/16")), None)
        );
        let (made, refused) = match (a, b) {
            (Ok(made), Err(refused)) | (Err(refused), Ok(made)) => (made, refused),
            both => panic!("{both:?}"),
        };
        assert!(matches!(refused, AgentError::DirectOverlap { .. }), "{refused}");
        // Both left to weft: it finds one for each.
        let free = |name: &str| NetworkSpec { subnets: vec![], ..direct(name, "10.0.0.0/24".to_owned()) };
        let (c, d) =
            tokio::join!(h1.agent.create_network(free("c"), None), h2.agent.create_network(free("d"), None));
        let (c, d) = (c.unwrap(), d.unwrap());
        assert_ne!(c.subnets, d.subnets);
        for network in [made, c, d] {
            h1.agent.remove_network(&network.id).await.unwrap();
            h1.forgets(&network.id).await;
            h2.forgets(&network.id).await;
        }
    }
}
