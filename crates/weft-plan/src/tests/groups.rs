//! Multicast goes to the members' hosts, and to those that do not tell.

use super::cluster::{endpoint, id, memberships, network, node, put_groups, snapshot};
use crate::{Key, plan};
use weft_model::Snapshot;

/// This host and three others with an endpoint each.
fn four() -> Snapshot {
    let nodes: Vec<_> = (0..4).map(|n| node(n, &[&format!("192.0.2.{n}")], 1500)).collect();
    let endpoints: Vec<_> = (0..4).map(|n| endpoint(10 + n, 1, n)).collect();
    snapshot(&nodes, &[network(1, 4096)], &endpoints)
}

/// Who gets what: `GROUP VTEP`.
fn entries(snapshot: &Snapshot) -> Vec<String> {
    let state = plan(snapshot, &id(0));
    let entries = state.keys().filter_map(|key| match key {
        Key::Group(_, group, vtep) => Some(format!("{group} {vtep}")),
        _ => None,
    });
    entries.collect()
}

#[test]
fn members_get_their_groups_and_who_does_not_tell_gets_all() {
    let mut s = four();
    put_groups(&mut s, 1, 1, Some(&memberships(&["239.1.1.1", "ff05::1"])));
    put_groups(&mut s, 1, 2, Some(&memberships(&["239.1.1.1"])));
    put_groups(&mut s, 1, 0, Some(&memberships(&["239.9.9.9"])));
    let expected = [
        "0.0.0.0 0.0.0.0",
        "0.0.0.0 192.0.2.3",
        "239.1.1.1 192.0.2.1",
        "239.1.1.1 192.0.2.2",
        "239.1.1.1 192.0.2.3",
        ":: 0.0.0.0",
        ":: 192.0.2.3",
        "ff05::1 192.0.2.1",
        "ff05::1 192.0.2.3",
    ];
    assert_eq!(entries(&s), expected);
    put_groups(&mut s, 1, 3, Some(&memberships(&[])));
    let without: Vec<_> = expected.into_iter().filter(|entry| !entry.ends_with(".3")).collect();
    assert_eq!(entries(&s), without);
}

#[test]
fn groups_that_are_never_told_of_count_for_nothing() {
    let mut s = four();
    for n in 1..4 {
        put_groups(&mut s, 1, n, Some(&memberships(&["224.0.0.251", "ff02::fb", "0.0.0.0", "10.9.0.1"])));
    }
    assert_eq!(entries(&s), ["0.0.0.0 0.0.0.0", ":: 0.0.0.0"]);
}

#[test]
fn a_node_without_an_endpoint_on_the_network_gets_nothing() {
    let mut s = four();
    s.endpoints.get_mut(&id(1)).unwrap().remove(&id(13));
    for n in 1..4 {
        put_groups(&mut s, 1, n, Some(&memberships(&["239.1.1.1"])));
    }
    let to_all = ["0.0.0.0 0.0.0.0", "239.1.1.1 192.0.2.1", "239.1.1.1 192.0.2.2", ":: 0.0.0.0"];
    assert_eq!(entries(&s), to_all);
}
