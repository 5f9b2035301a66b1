//! The planner follows the plan, at the cost of the change.

use super::cluster::{
    Step, endpoint, id, memberships, network, node, put_endpoint, put_groups, put_network, put_node, seen,
    snapshot, step,
};
use crate::{Features, HostState, Key, Op, Planner, diff, diff_keys, model_kernel::apply_ops, plan};
use proptest::prelude::*;
use std::collections::BTreeSet;
use weft_model::{Endpoint, Node, NodeId, Revision, Snapshot};

fn this() -> NodeId {
    id(0)
}

fn differing(before: &HostState, after: &HostState) -> BTreeSet<Key> {
    let keys = before.keys().chain(after.keys());
    keys.filter(|key| before.get(key) != after.get(key)).cloned().collect()
}

/// A cluster with something in it, so that the steps do not begin with nothing.
fn beginning() -> Snapshot {
    let nodes = [node(0, &["192.0.2.1"], 1500), node(1, &["192.0.2.2"], 1500)];
    snapshot(&nodes, &[network(0, 1)], &[endpoint(0, 0, 0), endpoint(1, 0, 1)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn follows_the_plan_and_names_exactly_what_changed(steps in prop::collection::vec(step(), 1..40)) {
        let mut snapshot = beginning();
        let mut planner = Planner::new(this());
        let keys = planner.reset(&snapshot);
        prop_assert_eq!(&keys, &planner.desired().keys().cloned().collect());
        let mut kernel = seen(planner.desired());
        for step in steps {
            let before = planner.desired().clone();
            let touched = step.apply(&mut snapshot);
            let keys = planner.update(&snapshot, &touched);
            let after = planner.desired();
            prop_assert_eq!(after, &plan(&snapshot, &this()), "after {:?}", step);
            prop_assert_eq!(&keys, &differing(&before, after));
            // The change pass does what the audit would do, and the kernel takes it.
            let ops = diff_keys(after, &kernel, &keys);
            prop_assert_eq!(&ops, &diff(after, &kernel));
            apply_ops(&mut kernel, &ops).unwrap();
            prop_assert_eq!(&kernel, &seen(after));
        }
    }

    #[test]
    fn takes_changes_late_and_in_any_order(
        steps in prop::collection::vec(step(), 1..30).prop_flat_map(|steps| {
            let order = Just((0..steps.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(steps), order)
        })
    ) {
        let (steps, order) = steps;
        let mut snapshot = beginning();
        let mut planner = Planner::new(this());
        planner.reset(&snapshot);
        let touched: Vec<_> = steps.iter().map(|step| step.apply(&mut snapshot)).collect();
        for i in order {
            planner.update(&snapshot, &touched[i]);
        }
        prop_assert_eq!(planner.desired(), &plan(&snapshot, &this()));
    }

    #[test]
    fn the_history_of_the_records_is_irrelevant(
        steps in prop::collection::vec(step(), 1..30), seed in prop::collection::vec(any::<u32>(), 200)
    ) {
        let mut snapshot = beginning();
        for step in &steps {
            step.apply(&mut snapshot);
        }
        let mut records: Vec<_> = snapshot.to_records().into_iter().zip(seed).collect();
        records.sort_by_key(|(_, seed)| *seed);
        let (mut again, bad) = Snapshot::from_records(Revision::ZERO, records.into_iter().map(|(record, _)| record));
        prop_assert!(bad.is_empty());
        again.absent.clone_from(&snapshot.absent);
        prop_assert_eq!(plan(&again, &this()), plan(&snapshot, &this()));
        let mut planner = Planner::new(this());
        planner.reset(&beginning());
        let before = planner.desired().clone();
        let keys = planner.reset(&again);
        prop_assert_eq!(keys, differing(&before, planner.desired()));
        prop_assert_eq!(planner.desired(), &plan(&snapshot, &this()));
    }
}

/// One network with `size` endpoints elsewhere and one here.
fn large(size: usize) -> (Snapshot, Planner) {
    let nodes = [node(0, &["192.0.2.1"], 1500), node(1, &["192.0.2.2"], 1500), node(2, &["192.0.2.3"], 1500)];
    let mut endpoints: Vec<Endpoint> = (10..10 + size).map(|n| endpoint(n, 1, 1 + n % 2)).collect();
    endpoints.push(endpoint(0, 1, 0));
    let snapshot = snapshot(&nodes, &[network(1, 4096)], &endpoints);
    let mut planner = Planner::new(this());
    planner.reset(&snapshot);
    (snapshot, planner)
}

/// How many keys and operations one endpoint's coming, moving and going make, here and elsewhere.
fn cost_of_endpoint_changes(size: usize) -> Vec<(usize, usize)> {
    let (mut snapshot, mut planner) = large(size);
    let mut kernel = seen(planner.desired());
    let there = endpoint(50_000, 1, 1);
    let moved = Endpoint { node: id(2), epoch: 2, ..there.clone() };
    let here = endpoint(50_001, 1, 0);
    let steps = [
        Step::Endpoint(1, 50_000, Some(there)),
        Step::Endpoint(1, 50_000, Some(moved)),
        Step::Endpoint(1, 50_000, None),
        Step::Endpoint(1, 50_001, Some(here)),
        Step::Endpoint(1, 50_001, None),
    ];
    let mut costs = Vec::new();
    for step in steps {
        let touched = step.apply(&mut snapshot);
        let keys = planner.update(&snapshot, &touched);
        let ops = diff_keys(planner.desired(), &kernel, &keys);
        apply_ops(&mut kernel, &ops).unwrap();
        costs.push((keys.len(), ops.len()));
    }
    assert_eq!(planner.desired(), &plan(&snapshot, &this()));
    costs
}

#[test]
fn one_endpoint_costs_the_same_among_ten_and_among_ten_thousand() {
    let costs = cost_of_endpoint_changes(10_000);
    assert_eq!(costs, cost_of_endpoint_changes(10));
    // Elsewhere: FDB and neighbour; moved: the FDB entry; gone: both. Here: port and FDB; a port takes its FDB
    // entry with it.
    assert_eq!(costs, [(2, 2), (1, 1), (2, 2), (2, 2), (2, 1)]);
}

#[test]
fn a_nodes_lease_or_name_costs_nothing_and_its_address_what_it_has_here() {
    let (mut snapshot, mut planner) = large(100);
    let step = Step::Alive(1, true);
    let touched = step.apply(&mut snapshot);
    assert!(planner.update(&snapshot, &touched).is_empty());
    let renamed = Node { name: "other".to_owned(), ..node(1, &["192.0.2.2"], 1500) };
    let touched = put_node(&mut snapshot, &id(1), Some(&renamed));
    assert!(planner.update(&snapshot, &touched).is_empty());
    let touched = put_node(&mut snapshot, &id(1), Some(&node(1, &["192.0.2.9"], 1500)));
    // 50 FDB entries; the old flood entry goes, the new one comes, and so with the groups that nobody is known to be in.
    assert_eq!(planner.update(&snapshot, &touched).len(), 56);
}

#[test]
fn the_last_endpoint_here_takes_the_network_with_it_and_only_devices_need_removing() {
    let (mut snapshot, mut planner) = large(1000);
    let kernel = seen(planner.desired());
    let touched = put_endpoint(&mut snapshot, &id(1), &id(0), None);
    let keys = planner.update(&snapshot, &touched);
    assert!(planner.desired().is_empty());
    let removed: Vec<String> =
        diff_keys(planner.desired(), &kernel, &keys).iter().map(|op| op.key().to_string()).collect();
    assert_eq!(
        removed,
        ["port weft-0000000000 (VNI 4096)", "vxlan weft-vx4096", "bridge weft-br4096", "filter"]
    );
}

#[test]
fn labels_of_a_network_change_nothing_and_its_mtu_changes_its_devices() {
    let (mut snapshot, mut planner) = large(100);
    let kernel = seen(planner.desired());
    let mut changed = network(1, 4096);
    changed.labels.insert("a".to_owned(), "b".to_owned());
    let touched = put_network(&mut snapshot, &id(1), Some(&changed));
    assert!(planner.update(&snapshot, &touched).is_empty());
    changed.mtu = Some(weft_model::Mtu::new(1300).unwrap());
    let touched = put_network(&mut snapshot, &id(1), Some(&changed));
    let keys = planner.update(&snapshot, &touched);
    let ops = diff_keys(planner.desired(), &kernel, &keys);
    assert_eq!(ops.len(), 3);
    assert!(ops.iter().all(|op| matches!(op, Op::Change { .. })), "{ops:?}");
}

#[test]
fn a_membership_costs_one_entry_however_many_others_there_are() {
    let (mut snapshot, mut planner) = large(100);
    for node in [1, 2] {
        let touched = put_groups(&mut snapshot, 1, node, Some(&memberships(&["239.1.1.1", "ff05::1"])));
        planner.update(&snapshot, &touched);
    }
    let touched = put_groups(&mut snapshot, 1, 2, Some(&memberships(&["239.1.1.1", "239.1.1.2", "ff05::1"])));
    let keys = planner.update(&snapshot, &touched);
    assert_eq!(
        keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["group 239.1.1.2 to 192.0.2.3 (VNI 4096)"]
    );
    // A node that does not tell gets everything: each group, and what is in none.
    let touched = put_groups(&mut snapshot, 1, 1, None);
    assert_eq!(planner.update(&snapshot, &touched).len(), 3);
    assert_eq!(planner.desired(), &plan(&snapshot, &this()));
}

#[test]
fn what_the_kernel_cannot_have_is_not_planned() {
    let (mut snapshot, _) = large(10);
    put_groups(&mut snapshot, 1, 1, Some(&memberships(&["239.1.1.1"])));
    let mut planner = Planner::new(this()).for_kernel(Features { groups: false, filter: false });
    planner.reset(&snapshot);
    let (mut expected, is_group) =
        (plan(&snapshot, &this()), |key: &Key| matches!(key, Key::Group(..) | Key::Filter));
    assert!(expected.keys().any(is_group));
    expected.retain(|key, _| !is_group(key));
    assert_eq!(planner.desired(), &expected);
}
