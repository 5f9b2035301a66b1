//! Whose a VTEP address is that two nodes name.

use super::cluster::{Step, endpoint, id, ip, network, node, snapshot, vni};
use crate::{Key, displaced, plan};
use std::collections::BTreeMap;
use weft_model::Node;

#[test]
fn the_one_that_took_the_address_last_has_it_whoever_has_a_lease() {
    let old = node(1, &["192.0.2.1", "2001:db8::1"], 1500);
    let new = Node { started: 7, ..node(2, &["192.0.2.1"], 1500) };
    let mut snapshot = snapshot(&[old, new, node(3, &["192.0.2.3"], 1500)], &[], &[]);
    let lost = |loser: usize, owner: usize| BTreeMap::from([((ip("192.0.2.1"), id(loser)), id(owner))]);
    assert_eq!(displaced(&snapshot), lost(1, 2));
    Step::Alive(1, true).apply(&mut snapshot);
    assert_eq!(displaced(&snapshot), lost(1, 2), "the lease of a host that was installed anew lives on");
    Step::Node(1, Some(Node { started: 8, ..node(1, &["192.0.2.1"], 1500) })).apply(&mut snapshot);
    assert_eq!(displaced(&snapshot), lost(2, 1));
    Step::Node(2, None).apply(&mut snapshot);
    assert!(displaced(&snapshot).is_empty());
}

#[test]
fn frames_for_the_one_that_has_lost_its_address_are_sent_to_nobody() {
    let nodes = [
        node(0, &["192.0.2.9"], 1500),
        node(1, &["192.0.2.1"], 1500),
        Node { started: 7, ..node(2, &["192.0.2.1"], 1500) },
    ];
    let endpoints = [endpoint(2, 1, 0), endpoint(3, 1, 1), endpoint(5, 1, 2)];
    let state = plan(&snapshot(&nodes, &[network(1, 4096)], &endpoints), &id(0));
    let is_planned = |n: usize| state.contains_key(&Key::Fdb(vni(4096), endpoints[n].mac));
    assert_eq!([is_planned(0), is_planned(1), is_planned(2)], [true, false, true]);
    assert!(state.contains_key(&Key::Flood(vni(4096), ip("192.0.2.1"))));
}
