//! What nobody needs is found, and what somebody needs is not.

use super::cluster::{endpoint, id, ip, network, node, snapshot};
use crate::leaks;
use weft_model::{AddressClaim, Change, ClaimKind, NodeId, Snapshot, encode, schema};

fn put(snapshot: &mut Snapshot, key: String, value: Vec<u8>) {
    snapshot.apply(&Change { key, value: Some(value) }).unwrap();
}

fn claim(kind: ClaimKind, node: usize, endpoint: Option<usize>) -> Vec<u8> {
    encode(&AddressClaim { kind, node: id(node), endpoint: endpoint.map(id), since: 7 })
}

/// Two hosts that live, a network, and an endpoint with its claim on each.
fn well() -> Snapshot {
    let nodes = [node(1, &["192.0.2.1"], 1500), node(2, &["192.0.2.2"], 1500)];
    let mut s = snapshot(&nodes, &[network(1, 4096)], &[endpoint(5, 1, 1), endpoint(6, 1, 2)]);
    for n in [1, 2] {
        put(&mut s, schema::alive_key(&id::<NodeId>(n)), encode(&1u64));
    }
    put(&mut s, schema::address_key(&id(1), ip("10.9.0.5")), claim(ClaimKind::Endpoint, 1, Some(5)));
    put(&mut s, schema::address_key(&id(1), ip("10.9.0.6")), claim(ClaimKind::Endpoint, 2, Some(6)));
    put(&mut s, schema::address_key(&id(1), ip("10.9.0.254")), claim(ClaimKind::Reserved, 2, None));
    put(&mut s, schema::address_key(&id(1), ip("10.9.0.7")), claim(ClaimKind::Ipam, 2, None));
    s
}

#[test]
fn a_cluster_that_is_well_has_none() {
    assert_eq!(leaks(&well()), []);
}

#[test]
fn a_claim_without_its_endpoint_is_safe_to_remove_while_that_stays_away() {
    let mut s = well();
    let key = schema::address_key(&id(1), ip("10.9.0.9"));
    put(&mut s, key.clone(), claim(ClaimKind::Endpoint, 1, Some(9)));
    let found = leaks(&s);
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].key, found[0].safe, found[0].since), (&key, true, Some(7)));
    assert_eq!(found[0].unless, Some(schema::endpoint_key(&id(1), &id(9))));
    assert!(found[0].what.contains("10.9.0.9") && found[0].reason.contains("endpoint has gone"), "{found:?}");
}

#[test]
fn a_claim_whose_endpoint_has_another_address_is_one() {
    let mut s = well();
    put(&mut s, schema::address_key(&id(1), ip("10.9.0.9")), claim(ClaimKind::Endpoint, 1, Some(5)));
    let found = leaks(&s);
    assert_eq!(found.iter().map(|l| (l.safe, l.unless.is_none())).collect::<Vec<_>>(), [(true, true)]);
}

#[test]
fn what_a_host_that_has_left_forgot_is_safe_to_remove_and_what_a_dead_one_has_is_not() {
    let mut s = well();
    s.alive.remove(&id::<NodeId>(2));
    let dead = leaks(&s);
    // The node, its endpoint, and three claims.
    assert_eq!((dead.len(), dead.iter().filter(|l| l.safe).count()), (5, 0), "{dead:?}");
    assert!(dead.iter().all(|l| l.node_name == "h2" && l.reason.contains("may live on")));
    let mut absent = s.clone();
    absent.absent.insert(id(2));
    let absent = leaks(&absent);
    assert!(
        absent.iter().all(|l| !l.safe && l.reason.contains("not seen")),
        "it may live elsewhere: {absent:?}"
    );
    s.nodes.remove(&id::<NodeId>(2));
    let gone = leaks(&s);
    assert_eq!((gone.len(), gone.iter().filter(|l| l.safe).count()), (4, 4), "{gone:?}");
}

#[test]
fn an_endpoint_and_its_claims_go_together_and_only_while_their_node_stays_away() {
    let mut s = well();
    s.alive.remove(&id::<NodeId>(2));
    let found = leaks(&s);
    let (claim, endpoint) =
        (schema::address_key(&id(1), ip("10.9.0.6")), schema::endpoint_key(&id(1), &id(6)));
    let with = |key: &str| found.iter().find(|leak| leak.key == key).unwrap().with.clone();
    assert_eq!((with(&claim), with(&endpoint)), (vec![endpoint.clone()], vec![claim.clone()]));
    assert_eq!(with(&schema::address_key(&id(1), ip("10.9.0.7"))), Vec::<String>::new());
    let alive = schema::alive_key(&id::<NodeId>(2));
    assert!(found.iter().all(|leak| leak.unless.as_ref() == Some(&alive)), "{found:?}");
}

#[test]
fn multicast_groups_go_with_their_node_or_their_network() {
    let mut s = well();
    let key = schema::groups_key(&id(1), &id(2));
    put(&mut s, key.clone(), encode(&schema::Memberships::default()));
    assert_eq!(leaks(&s), []);
    let mut dead = s.clone();
    dead.alive.remove(&id::<NodeId>(2));
    assert!(leaks(&dead).iter().any(|leak| leak.key == key && !leak.safe));
    s.networks.clear();
    let leak = leaks(&s).into_iter().find(|leak| leak.key == key).unwrap();
    assert_eq!((leak.safe, leak.unless), (true, Some(schema::network_key(&id(1)))));
}

#[test]
fn a_host_that_lives_leaks_nothing_although_its_record_is_missing() {
    let mut s = well();
    s.nodes.remove(&id::<NodeId>(2));
    assert_eq!(leaks(&s), []);
}
