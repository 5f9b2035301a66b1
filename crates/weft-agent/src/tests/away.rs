//! The store is away, and containers go on starting and stopping.

use super::cluster::{Cluster, Host, endpoint, spec};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use weft_model::{AddressClaim, ClaimKind, Endpoint, Network, NetworkId, schema};
use weft_plan::{Key, RESERVE, port_name};
use weft_store::Store;

/// Waits until `done`, which looks at what the host knows.
async fn until(what: &str, host: &Host, mut done: impl FnMut() -> bool) {
    let mut seen = host.agent.0.view.seen();
    let waiting = async {
        while !done() {
            // Not every condition is about the view.
            let _ = tokio::time::timeout(Duration::from_millis(20), seen.changed()).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "never happened: {what}");
}

fn reserve(host: &Host, network: &NetworkId) -> usize {
    let ours = |c: &&AddressClaim| c.kind == ClaimKind::Reserved && c.node == *host.agent.node();
    host.agent.read(|s| s.addresses.get(network).map_or(0, |claims| claims.values().filter(ours).count()))
}

async fn cut_off(host: &Host) {
    host.cable.cut();
    until("the store is known to be away", host, || host.agent.0.outbox.is_away()).await;
}

async fn mended(host: &Host) {
    host.cable.mend();
    until("the store has been told", host, || !host.agent.0.outbox.is_away()).await;
}

/// What the store itself holds.
async fn stored(store: &dyn Store, network: &NetworkId) -> (Vec<Endpoint>, BTreeMap<IpAddr, AddressClaim>) {
    let endpoints = store.list(&schema::endpoints_of(network)).await.unwrap().records;
    let prefix = schema::addresses_of(network);
    let claims = store.list(&prefix).await.unwrap().records;
    let claims = claims.iter().map(|r| {
        (r.key.strip_prefix(&prefix).unwrap().parse().unwrap(), serde_json::from_slice(&r.value).unwrap())
    });
    (endpoints.iter().map(|r| serde_json::from_slice(&r.value).unwrap()).collect(), claims.collect())
}

/// Every endpoint holds its address, and no claim is of an endpoint that is not there or has another.
fn assert_sound(endpoints: &[Endpoint], claims: &BTreeMap<IpAddr, AddressClaim>) {
    for endpoint in endpoints {
        for ip in endpoint.addresses() {
            assert_eq!(claims[&ip].endpoint.as_ref(), Some(&endpoint.id), "{ip}");
        }
    }
    for (ip, claim) in claims.iter().filter(|(_, c)| c.kind != ClaimKind::Ipam) {
        let holder = endpoints.iter().find(|e| Some(&e.id) == claim.endpoint.as_ref());
        let has = holder.is_some_and(|e| e.addresses().any(|a| a == *ip));
        assert_eq!(has, claim.kind == ClaimKind::Endpoint, "{ip}: {claim:?}");
    }
}

/// Two hosts, and a network that the first has an endpoint and a reserve on.
async fn network_in_use(cluster: &Cluster) -> (Host, Host, Network, Endpoint) {
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    let network = a.network("blue", "10.9.0.0/24").await;
    b.knows(&network.id).await;
    let first = a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    until("the reserve is full", &a, || reserve(&a, &network.id) == RESERVE).await;
    (a, b, network, first)
}

fn has_port(host: &Host, network: &Network, endpoint: &Endpoint) -> bool {
    host.kernel.state().contains_key(&Key::Port(network.vni, port_name(&endpoint.id)))
}

#[tokio::test]
async fn containers_start_and_stop_while_the_store_is_away_and_it_hears_of_them_later() {
    let cluster = Cluster::new().await;
    let (a, b, network, first) = network_in_use(&cluster).await;
    cut_off(&a).await;

    let mut made = Vec::new();
    for _ in 0..RESERVE {
        let endpoint = a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
        assert!(has_port(&a, &network, &endpoint), "the answer comes when the port is there");
        made.push(endpoint);
    }
    let full = a.agent.create_endpoint(endpoint(&network.id)).await.unwrap_err().to_string();
    assert!(full.contains("reserved for this host"), "{full}");
    // One that stops makes room for another; one from before the outage, too.
    for gone in [made.remove(3), first] {
        a.agent.remove_endpoint(&network.id, &gone.id).await.unwrap();
        assert!(!has_port(&a, &network, &gone));
        made.push(a.agent.create_endpoint(endpoint(&network.id)).await.unwrap());
    }
    let renamed = weft_model::Container::new("c", "renamed");
    a.agent.set_container(&network.id, &made[0].id, renamed.clone()).await.unwrap();
    // Elsewhere nobody is given one of these addresses.
    let theirs = b.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    assert!(made.iter().all(|e| e.ipv4 != theirs.ipv4));
    assert_eq!(
        stored(cluster.store.as_ref(), &network.id).await.0.len(),
        2,
        "the store knows of nothing yet"
    );

    mended(&a).await;
    let (endpoints, claims) = stored(cluster.store.as_ref(), &network.id).await;
    assert_eq!(endpoints.len(), made.len() + 1);
    assert_sound(&endpoints, &claims);
    let found = endpoints.iter().find(|e| e.id == made[0].id).unwrap();
    assert_eq!(found.container.as_ref(), Some(&renamed));
    until("the other host knows", &b, || {
        b.agent.read(|s| made.iter().all(|e| s.endpoints[&network.id].contains_key(&e.id)))
    })
    .await;
    for endpoint in &made {
        assert!(has_port(&a, &network, endpoint), "nothing was taken down on the way");
    }
    assert_eq!(a.agent.0.outbox.refused(), 0);
}

#[tokio::test]
async fn what_was_done_on_a_network_that_has_gone_meanwhile_is_taken_back() {
    let cluster = Cluster::new().await;
    let (a, b, network, first) = network_in_use(&cluster).await;
    a.agent.remove_endpoint(&network.id, &first.id).await.unwrap();
    cut_off(&a).await;
    let lost = a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    b.agent.remove_network(&network.id).await.unwrap();
    mended(&a).await;
    until("the port is gone", &a, || !has_port(&a, &network, &lost)).await;
    assert!(a.agent.0.outbox.refused() > 0);
    let problems = a.agent.status().problems.join("\n");
    assert!(problems.contains("refused"), "{problems}");
    let (endpoints, claims) = stored(cluster.store.as_ref(), &network.id).await;
    assert!(endpoints.is_empty() && claims.is_empty(), "{endpoints:?} {claims:?}");
}

#[tokio::test]
async fn a_transaction_whose_answer_was_lost_leaves_nothing_twice() {
    let cluster = Cluster::new().await;
    let (a, _b, network, first) = network_in_use(&cluster).await;
    // Takes effect, and is taken for one that did not: the endpoint is made again, with an address of the reserve.
    a.cable.lose_answers();
    let made = a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    a.agent.remove_endpoint(&network.id, &first.id).await.unwrap();
    mended(&a).await;
    let (endpoints, claims) = stored(cluster.store.as_ref(), &network.id).await;
    assert_eq!(endpoints.iter().map(|e| &e.id).collect::<Vec<_>>(), [&made.id]);
    assert_eq!(endpoints[0].ipv4, made.ipv4, "what was answered is what is kept");
    assert_sound(&endpoints, &claims);
}

#[tokio::test]
async fn an_engines_own_ipam_is_served_from_the_reserve_as_well() {
    let cluster = Cluster::new().await;
    let (a, _b, network, _) = network_in_use(&cluster).await;
    cut_off(&a).await;
    let subnet = network.subnets[0].net;
    let claimed = a.agent.claim_address(&network.id, subnet, None).await.unwrap();
    let wanted = weft_plan_reserved(&a, &network.id);
    assert_eq!(a.agent.claim_address(&network.id, subnet, Some(wanted)).await.unwrap().addr(), wanted);
    let theirs = "10.9.0.200".parse().unwrap();
    let error = a.agent.claim_address(&network.id, subnet, Some(theirs)).await.unwrap_err().to_string();
    assert!(error.contains("10.9.0.200 is not reserved for this host"), "{error}");
    let spec =
        crate::EndpointSpec { addresses: vec![claimed.addr()], allocate: false, ..endpoint(&network.id) };
    let made = a.agent.create_endpoint(spec).await.unwrap();
    a.agent.release_address(&network.id, wanted).await.unwrap();
    mended(&a).await;
    let (endpoints, claims) = stored(cluster.store.as_ref(), &network.id).await;
    assert_eq!((endpoints.len(), claims[&claimed.addr()].kind), (2, ClaimKind::Ipam));
    assert_eq!(claims[&claimed.addr()].endpoint, Some(made.id));
    assert_sound(&endpoints, &claims);
}

fn weft_plan_reserved(host: &Host, network: &NetworkId) -> IpAddr {
    host.agent.read(|s| {
        let claims = &s.addresses[network];
        *claims.iter().find(|(_, c)| c.kind == ClaimKind::Reserved).unwrap().0
    })
}

#[tokio::test]
async fn networks_need_the_store_and_say_so() {
    let cluster = Cluster::new().await;
    let (a, _b, network, _) = network_in_use(&cluster).await;
    cut_off(&a).await;
    let error = a.agent.create_network(spec("green", "10.8.0.0/24"), None).await.unwrap_err().to_string();
    assert!(error.contains("does not answer: the cable is cut"), "{error}");
    assert!(a.agent.remove_network(&network.id).await.is_err());
    assert!(a.agent.status().problems[0].contains("reserved for this host"));
}

#[tokio::test]
async fn an_address_that_is_held_ahead_is_given_up_for_whoever_asks_for_it() {
    let cluster = Cluster::new().await;
    let (a, b, network, _) = network_in_use(&cluster).await;
    b.agent.follow_network(&network.id).await.unwrap();
    until("the other host knows of the reserve", &b, || {
        b.agent.read(|s| s.addresses[&network.id].contains_key(&"10.9.0.254".parse().unwrap()))
    })
    .await;
    let with = |last: u8| crate::EndpointSpec {
        addresses: vec![[10, 9, 0, last].into()],
        allocate: false,
        ..endpoint(&network.id)
    };
    let made = b.agent.create_endpoint(with(254)).await.unwrap();
    assert_eq!(made.ipv4.unwrap().addr().to_string(), "10.9.0.254");
    let claimed =
        b.agent.claim_address(&network.id, network.subnets[0].net, Some([10, 9, 0, 253].into())).await;
    assert_eq!(claimed.unwrap().addr().to_string(), "10.9.0.253");
    until("a full reserve again", &a, || reserve(&a, &network.id) == RESERVE).await;
    assert!(cluster.store.list(&schema::wanted_of(&network.id)).await.unwrap().records.is_empty());
    // Who is cut off keeps what it holds.
    cut_off(&a).await;
    let error = b.agent.create_endpoint(with(252)).await.unwrap_err().to_string();
    assert!(error.contains("reservation") && error.contains("on node h1"), "{error}");
}

#[tokio::test]
async fn the_reserve_of_a_small_network_is_small() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.host(1).await, cluster.host(2).await);
    let network = a.network("tiny", "10.9.0.0/28").await;
    b.knows(&network.id).await;
    a.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    // 14 addresses: a quarter of them, shared by two hosts.
    until("a small reserve", &a, || reserve(&a, &network.id) == 1).await;
    for _ in 0..12 {
        b.agent.create_endpoint(endpoint(&network.id)).await.unwrap();
    }
}
