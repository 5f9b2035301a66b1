//! Which packets of direct networks have no outer headers.

use super::cluster::{direct_link, endpoint, id, ip, network, node, snapshot, vni};
use crate::{Direct, HostState, Key, NotDirect, Object, direct_between, plan};
use weft_model::{Endpoint, Network, Node};

const LINK: &str = "192.0.2.0/24";

/// A node that takes packets directly, at 192.0.2.(n + 1).
fn able(n: usize) -> Node {
    let mac = u8::try_from(n).unwrap();
    let vtep = format!("192.0.2.{}", n + 1);
    Node { direct: Some(direct_link(mac, LINK, [])), ..node(n, &[&vtep], 1500) }
}

fn marked() -> Network {
    Network { direct: true, ..network(0, 4096) }
}

/// The plan of node 0, which has one endpoint as each of `nodes` has.
fn planned(nodes: &[Node], network: Network) -> HostState {
    let endpoints: Vec<Endpoint> = (0..nodes.len()).map(|n| endpoint(n + 2, 0, n)).collect();
    plan(&snapshot(nodes, &[network], &endpoints), &id(0))
}

/// The part of it that is for direct networks.
fn direct_part(state: HostState) -> Vec<(Key, Object)> {
    state.into_iter().filter(|(key, _)| matches!(key, Key::Direct(..) | Key::LinkPeer(_))).collect()
}

fn entry(n: usize, sends: bool) -> (Key, Object) {
    let endpoint = endpoint(n, 0, 0);
    let address = endpoint.addresses().next().unwrap();
    let direct = Direct { mac: endpoint.mac, prefix: 24, sends };
    (Key::Direct(vni(4096), address), Object::Direct(direct))
}

fn link_peer(n: u8) -> (Key, Object) {
    let vtep = ip(&format!("192.0.2.{}", n + 1));
    (Key::LinkPeer(direct_link(n, LINK, []).mac), Object::LinkPeer(vtep))
}

#[test]
fn addresses_on_hosts_of_the_link_are_sent_to_and_taken_from() {
    let nodes = [able(0), able(1)];
    assert_eq!(
        direct_part(planned(&nodes, marked())),
        [entry(2, false), entry(3, true), link_peer(1)],
        "one's own is only received for"
    );
    assert_eq!(direct_part(planned(&nodes, network(0, 4096))), [], "not of a network that is not marked");
}

#[test]
fn a_host_that_cannot_take_packets_is_sent_none_but_may_send_them_at_once_when_it_can() {
    let unable = |n| Node { direct: None, ..able(n) };
    assert_eq!(direct_part(planned(&[able(0), unable(1)], marked())), [entry(2, false), entry(3, false)]);
    assert_eq!(direct_part(planned(&[unable(0), able(1)], marked())), [], "nor does it send");
}

#[test]
fn a_host_on_another_link_or_behind_a_gateway_is_not_sent_to() {
    let elsewhere =
        Node { direct: Some(direct_link(1, "198.51.100.2/24", [])), ..node(1, &["198.51.100.2"], 1500) };
    assert_eq!(direct_part(planned(&[able(0), elsewhere], marked())), [entry(2, false)]);
    // The prefixes differ: what one takes for a neighbour the other does not.
    let narrow = Node { direct: Some(direct_link(1, "192.0.2.2/31", [])), ..able(1) };
    let expected = [entry(2, false), entry(3, false), link_peer(1)];
    assert_eq!(direct_part(planned(&[able(0), narrow], marked())), expected);
    let routed = Node { direct: Some(direct_link(1, LINK, [ip("192.0.2.1")])), ..able(1) };
    assert_eq!(direct_part(planned(&[able(0), routed], marked())), expected);
}

#[test]
fn who_has_no_endpoint_on_a_direct_network_takes_nothing() {
    let endpoints = [endpoint(3, 0, 1)];
    let state = plan(&snapshot(&[able(0), able(1)], &[marked()], &endpoints), &id(0));
    assert_eq!(direct_part(state), []);
}

#[test]
fn the_reason_is_told_and_both_hosts_agree() {
    let routed = Node { direct: Some(direct_link(2, LINK, [ip("192.0.2.1")])), ..able(2) };
    let elsewhere =
        Node { direct: Some(direct_link(3, "198.51.100.2/24", [])), ..node(3, &["198.51.100.2"], 1500) };
    let none = Node { direct: None, ..able(4) };
    let v6 = Node { vteps: vec![ip("2001:db8::1"), ip("192.0.2.6")], ..able(5) };
    for (peer, reason) in [
        (able(1), Ok(())),
        (routed, Err(NotDirect::Routed)),
        (elsewhere, Err(NotDirect::OtherLink)),
        (v6, Err(NotDirect::Family)),
    ] {
        assert_eq!(direct_between(&able(0), &peer), reason);
        assert_eq!(direct_between(&peer, &able(0)), reason);
    }
    assert_eq!(direct_between(&able(0), &none), Err(NotDirect::NotThere));
    assert_eq!(direct_between(&none, &able(0)), Err(NotDirect::NotHere));
}
