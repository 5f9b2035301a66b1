//! Whose a VTEP address is that two nodes name.

use super::cluster::{Step, endpoint, id, ip, network, node, snapshot, step, vni};
use crate::{Key, displaced, nodes::Nodes, plan};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;
use weft_model::{Node, Snapshot, Touched};

proptest! {
    #[test]
    fn what_nodes_have_in_common_is_followed_change_by_change(steps in vec(step(), 1..60)) {
        let (mut snapshot, mut nodes) = (Snapshot::default(), Nodes::default());
        for step in &steps {
            let before = nodes.clone();
            let Touched::Node(id) = step.apply(&mut snapshot) else { continue };
            let concerned = nodes.put(&id, snapshot.nodes.get(&id));
            prop_assert_eq!(&nodes, &Nodes::of(snapshot.nodes.values()));
            // Whoever has an address that another had, or has lost one, is named.
            let held = |nodes: &Nodes, node: &Node| -> Vec<_> {
                node.vteps.iter().map(|vtep| nodes.holder(*vtep) == Some(&node.id)).collect()
            };
            for other in snapshot.nodes.values().filter(|node| !concerned.contains(&node.id)) {
                prop_assert_eq!(held(&before, other), held(&nodes, other));
            }
        }
    }
}

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
