//! Who is absent, and who only has no lease.

use super::cluster::{id, ip, node, snapshot};
use crate::{Absences, LOOKS, Sight};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::IpAddr};
use weft_model::{Change, Node, NodeId, Snapshot, encode, schema};

fn n(number: usize) -> NodeId {
    id(number)
}

fn vtep() -> IpAddr {
    ip("192.0.2.1")
}

/// Three hosts with leases; 0 is this one.
fn cluster() -> Snapshot {
    let nodes = [0, 1, 2].map(|n| node(n, &["192.0.2.1"], 1500));
    let mut cluster = snapshot(&nodes, &[], &[]);
    cluster.alive = cluster.nodes.keys().map(|node| (node.clone(), 1)).collect();
    cluster
}

fn due(absences: &mut Absences, cluster: &Snapshot) -> Vec<NodeId> {
    absences.due(cluster, &n(0), 10).0.into_iter().map(|node| node.id.clone()).collect()
}

/// Looks at node 1 often enough.
fn looks(absences: &mut Absences, cluster: &Snapshot, sight: Sight) -> bool {
    (0..LOOKS).for_each(|_| absences.saw(cluster, &n(1), vtep(), sight));
    absences.absent(cluster).contains(&n(1))
}

#[test]
fn a_host_with_a_lease_is_looked_at_until_it_was_seen_and_is_never_absent() {
    let (cluster, mut absences) = (cluster(), Absences::default());
    assert_eq!(due(&mut absences, &cluster), [n(1), n(2)], "not this one");
    assert_eq!(absences.due(&cluster, &n(0), 1).0.len(), 1, "not all at once");
    absences.saw(&cluster, &n(1), vtep(), Sight::Present);
    assert_eq!(due(&mut absences, &cluster), [n(2)]);
    for _ in 0..20 {
        absences.saw(&cluster, &n(2), vtep(), Sight::Nobody);
    }
    assert_eq!(absences.due(&cluster, &n(0), 10), (vec![], false), "nor for ever");
    assert!(absences.absent(&cluster).is_empty());
}

#[test]
fn a_host_without_a_lease_is_absent_when_nobody_answers_on_the_link_or_when_it_answered_before() {
    let (mut cluster, mut absences) = (cluster(), Absences::default());
    cluster.alive.remove(&n(1));
    assert!(due(&mut absences, &cluster).contains(&n(1)));
    assert!(!looks(&mut absences, &cluster, Sight::Silent), "a firewall may be why");
    assert!(!looks(&mut absences, &cluster, Sight::Blind));
    assert!(looks(&mut absences, &cluster, Sight::Nobody));
    assert!(!looks(&mut absences, &cluster, Sight::Present));
    absences.saw(&cluster, &n(1), vtep(), Sight::Silent);
    assert!(absences.absent(&cluster).is_empty(), "once is no absence");
    assert!(looks(&mut absences, &cluster, Sight::Silent), "it answered before");
}

#[test]
fn looks_are_rare_at_those_that_are_there_and_ever_rarer_at_the_absent_and_come_at_once_where_it_matters() {
    let (mut cluster, mut absences) = (cluster(), Absences::default());
    cluster.alive.remove(&n(1));
    absences.saw(&cluster, &n(2), vtep(), Sight::Present);
    // Rounds until the next look.
    let mut rounds = |cluster: &Snapshot, sight| {
        absences.saw(cluster, &n(1), vtep(), sight);
        (0..100).find(|_| due(&mut absences, cluster).contains(&n(1)))
    };
    assert_eq!(rounds(&cluster, Sight::Present), Some(2));
    let missed: Vec<_> = (0..10).map_while(|_| rounds(&cluster, Sight::Nobody)).collect();
    assert_eq!(missed, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(rounds(&cluster, Sight::Present), Some(2));
    cluster.alive.insert(n(1), 2);
    assert!(due(&mut absences, &cluster).is_empty());
    cluster.alive.remove(&n(1));
    assert_eq!(due(&mut absences, &cluster), [n(1)], "when the lease has ended again");
}

#[test]
fn a_lease_a_new_start_and_the_end_of_the_record_begin_anew() {
    let (mut cluster, mut absences) = (cluster(), Absences::default());
    cluster.alive.remove(&n(1));
    assert!(looks(&mut absences, &cluster, Sight::Nobody));
    cluster.alive.insert(n(1), 2);
    assert!(absences.absent(&cluster).is_empty());
    due(&mut absences, &cluster);
    cluster.alive.remove(&n(1));
    assert!(absences.absent(&cluster).is_empty(), "what was missed before the lease does not count");

    absences.saw(&cluster, &n(1), vtep(), Sight::Present);
    assert!(looks(&mut absences, &cluster, Sight::Silent));
    let again = Node { epoch: 9, ..node(1, &["192.0.2.1"], 1500) };
    cluster.nodes.insert(n(1), again);
    due(&mut absences, &cluster);
    assert!(absences.absent(&cluster).is_empty());
    assert!(!looks(&mut absences, &cluster, Sight::Silent), "this one never answered");

    assert!(looks(&mut absences, &cluster, Sight::Nobody));
    cluster.nodes.insert(n(1), node(1, &["192.0.2.9"], 1500));
    assert!(absences.absent(&cluster).is_empty());
    assert!(!looks(&mut absences, &cluster, Sight::Nobody), "that is where it was before");
    cluster.nodes.remove(&n(1));
    assert!(absences.absent(&cluster).is_empty());
}

#[test]
fn a_sign_of_life_in_the_records_brings_an_absent_host_back() {
    let mut cluster = cluster();
    cluster.alive.remove(&n(1));
    let put = |cluster: &mut Snapshot, key: String, value: Vec<u8>| {
        cluster.absent.insert(n(1));
        cluster.apply(&Change { key, value: Some(value) }).unwrap()
    };
    let touched = put(&mut cluster, schema::alive_key(&n(1)), encode(&7u64));
    assert_eq!((touched, cluster.absent.len()), (weft_model::Touched::Node(n(1)), 0));
    put(&mut cluster, schema::node_key(&n(1)), encode(&node(1, &["192.0.2.1"], 1500)));
    assert!(cluster.absent.is_empty());
}

proptest! {
    #[test]
    fn whoever_is_absent_has_no_lease_and_was_missed_at_the_last_look_that_told(
        looks in prop::collection::vec((1..3usize, prop::sample::select(vec![
            Sight::Present, Sight::Nobody, Sight::Silent, Sight::Blind,
        ]), any::<bool>()), 0..40)
    ) {
        let (mut cluster, mut absences) = (cluster(), Absences::default());
        let mut last = [None; 3];
        for (number, sight, lease) in looks {
            if lease {
                cluster.alive.insert(n(number), 1);
            } else {
                cluster.alive.remove(&n(number));
            }
            due(&mut absences, &cluster);
            absences.saw(&cluster, &n(number), vtep(), sight);
            if sight != Sight::Blind {
                last[number] = Some(sight);
            }
            let absent = absences.absent(&cluster);
            let may: BTreeSet<NodeId> = (1..3)
                .filter(|i| !cluster.alive.contains_key(&n(*i)))
                .filter(|i| matches!(last[*i], Some(Sight::Nobody | Sight::Silent)))
                .map(n)
                .collect();
            prop_assert!(absent.is_subset(&may), "{:?} of {:?}", absent, may);
        }
    }
}
