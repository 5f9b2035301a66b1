//! Names: who answers to what, and who may ask.

use super::cluster::{endpoint, id, ip, network, node, snapshot};
use crate::names::{Asker, Meaning, Names};
use proptest::prelude::*;
use weft_model::{Container, Endpoint, NetworkId, Snapshot, Subnet};

fn named(endpoint: Endpoint, container: &str, name: &str, aliases: &[&str]) -> Endpoint {
    let aliases = aliases.iter().map(ToString::to_string).collect();
    Endpoint { container: Some(Container { aliases, ..Container::new(container, name) }), ..endpoint }
}

/// Two hosts; on network 1 web and db, with a cousin of web's on the other host; on network 2 another web.
fn cluster() -> Snapshot {
    let endpoints = [
        named(endpoint(2, 1, 1), "0123456789abcdef", "web", &["www"]),
        named(endpoint(3, 1, 2), "c0ffee0123456789", "web2", &["www"]),
        named(endpoint(5, 1, 2), "/run/netns/db", "db.main", &[]),
        named(endpoint(6, 2, 2), "beef", "Web", &[]),
    ];
    let mut snapshot = snapshot(
        &[node(1, &["192.0.2.1"], 1500), node(2, &["192.0.2.2"], 1500)],
        &[network(1, 4097), network(2, 4098)],
        &endpoints,
    );
    snapshot.networks.get_mut(&id::<NetworkId>(2)).unwrap().subnets =
        vec![Subnet::new("10.9.0.0/24".parse().unwrap()), Subnet::new("fd00::/64".parse().unwrap())];
    snapshot.alive = snapshot.nodes.keys().map(|node| (node.clone(), 1)).collect();
    snapshot
}

fn ask<R>(snapshot: &Snapshot, networks: &[usize], question: impl FnOnce(Asker<'_>) -> R) -> R {
    let names = Names::of(snapshot.all_endpoints());
    let networks: Vec<NetworkId> = networks.iter().map(|n| id(*n)).collect();
    question(Asker { snapshot, names: &names, networks: &networks, domain: "weft" })
}

fn who(snapshot: &Snapshot, networks: &[usize], name: &str) -> Meaning {
    ask(snapshot, networks, |asker| asker.name(name))
}

fn at(addresses: &[&str]) -> Meaning {
    Meaning::Addresses(addresses.iter().map(|text| ip(text)).collect())
}

#[test]
fn a_container_answers_to_its_name_its_aliases_and_its_short_id_on_its_networks() {
    let cluster = cluster();
    for name in ["web", "WEB", "web.net1", "web.net1.weft", "Web.Weft", "0123456789ab", "0123456789ab.net1"] {
        assert_eq!(who(&cluster, &[1], name), at(&["10.9.0.2"]), "{name}");
    }
    for name in ["www", "www.net1", "www.net1.weft"] {
        assert_eq!(who(&cluster, &[1], name), at(&["10.9.0.2", "10.9.0.3"]), "{name}");
    }
    for name in ["db.main", "db.main.net1", "db.main.net1.weft"] {
        assert_eq!(who(&cluster, &[1], name), at(&["10.9.0.5"]), "{name}");
    }
}

#[test]
fn nobody_is_known_from_outside_the_network() {
    let cluster = cluster();
    assert_eq!(who(&cluster, &[2], "db.main"), Meaning::Unknown);
    assert_eq!(who(&cluster, &[2], "web"), at(&["10.9.0.6"]));
    assert_eq!(who(&cluster, &[2], "web.net1"), Meaning::Unknown);
    assert_eq!(who(&cluster, &[2], "web.net1.weft"), Meaning::Nobody);
    assert_eq!(who(&cluster, &[2, 1], "web"), at(&["10.9.0.6"]), "the first network that knows the name");
    assert_eq!(who(&cluster, &[2, 1], "web.net1"), at(&["10.9.0.2"]));
    assert_eq!(who(&cluster, &[2, 1], "db.main"), at(&["10.9.0.5"]));
    assert_eq!(who(&cluster, &[], "web"), Meaning::Unknown);
}

#[test]
fn other_names_are_not_wefts_business_but_those_below_its_domain_are() {
    let cluster = cluster();
    for name in
        ["example.com", "web.example.com", "weft", "", ".", "net1", "/run/netns", "eb", "webx", "web."]
    {
        assert_eq!(who(&cluster, &[1], name), Meaning::Unknown, "{name:?}");
    }
    for name in ["gone.weft", "gone.net1.weft", "net1.weft"] {
        assert_eq!(who(&cluster, &[1], name), Meaning::Nobody, "{name:?}");
    }
}

#[test]
fn what_a_dead_host_has_left_answers_only_where_nobody_else_does() {
    let mut cluster = cluster();
    cluster.alive.remove(&id(2));
    assert_eq!(who(&cluster, &[1], "www"), at(&["10.9.0.2"]));
    assert_eq!(who(&cluster, &[1], "web2"), at(&["10.9.0.3"]), "its host may only have lost the store");
    cluster.absent.insert(id(2));
    assert_eq!(who(&cluster, &[1], "web2"), Meaning::Unknown);
    assert_eq!(who(&cluster, &[1], "web2.weft"), Meaning::Nobody);
    assert_eq!(who(&cluster, &[1], "www"), at(&["10.9.0.2"]));
}

#[test]
fn an_address_is_that_of_its_holder_on_the_askers_networks() {
    let mut cluster = cluster();
    let claim = |endpoint| weft_model::AddressClaim {
        kind: weft_model::ClaimKind::Endpoint,
        node: id(1),
        endpoint: Some(endpoint),
        since: 0,
    };
    cluster.addresses.entry(id(1)).or_default().insert(ip("10.9.0.2"), claim(id(2)));
    let whose = |networks: &[usize], text| ask(&cluster, networks, |asker| asker.address(ip(text)));
    assert_eq!(whose(&[1], "10.9.0.2"), Meaning::Name("web.net1.weft".to_owned()));
    assert_eq!(whose(&[2, 1], "10.9.0.2"), Meaning::Name("web.net1.weft".to_owned()));
    assert_eq!(whose(&[2], "10.9.0.2"), Meaning::Nobody);
    assert_eq!(whose(&[2], "fd00::7"), Meaning::Nobody);
    assert_eq!(whose(&[1], "fd00::7"), Meaning::Unknown);
    assert_eq!(whose(&[1], "192.0.2.1"), Meaning::Unknown);
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let word = || prop::sample::select(vec!["web", "WEB", "www", "db", "0123456789ab", ""]);
    let container = (word(), prop::collection::vec(word(), 0..3));
    let one = (2..9usize, 1..3usize, prop::option::of(container));
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let made = all.into_iter().map(|(n, network, container)| {
            let plain = endpoint(n, network, 1);
            container
                .map_or(plain.clone(), |(name, aliases)| named(plain, "0123456789abcdef", name, &aliases))
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn names_kept_up_to_date_are_those_made_anew(changes in endpoints()) {
        let (mut names, mut present) = (Names::default(), std::collections::BTreeMap::new());
        for endpoint in changes {
            let key = (endpoint.network.clone(), endpoint.id.clone());
            match present.remove(&key) {
                // Every other time it goes, else it changes.
                Some(old) if endpoint.container.is_none() => names.remove(&old),
                old => {
                    if let Some(old) = &old {
                        names.remove(old);
                    }
                    names.insert(&endpoint);
                    present.insert(key, endpoint);
                }
            }
            prop_assert_eq!(&names, &Names::of(present.values()));
        }
        for endpoint in present.values() {
            names.remove(endpoint);
        }
        prop_assert_eq!(names, Names::default());
    }
}
