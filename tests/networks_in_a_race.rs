//! Networks that two hosts make, use and remove in one instant: one of the two wins, and nothing is left of the other.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};
use weft_e2e::{eventually, lab, one_more, only_on, options_with_etcd, records, request, seen, weft_devices};
use weft_lab::{Daemon, Fixture, LabOptions, NetNs, figures, short_or_long};

const WITHIN: Duration = Duration::from_secs(10);

/// Two hosts without containers.
fn two_hosts(name: &str) -> Option<Fixture> {
    if !only_on("ebpf") {
        return None;
    }
    let options = options_with_etcd(name)?;
    lab(LabOptions { containers: 0, ..options })
}

type Answer = (u16, String);

/// Two requests in one instant, the second one `later`.
fn at_once(
    one: impl FnOnce() -> Answer + Send,
    other: impl FnOnce() -> Answer + Send,
    later: Duration,
) -> (Answer, Answer) {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            barrier.wait();
            one()
        });
        barrier.wait();
        let start = Instant::now();
        while start.elapsed() < later {
            std::hint::spin_loop();
        }
        let second = other();
        (first.join().unwrap(), second)
    })
}

fn ask(daemon: &Daemon, method: &str, path: &str, body: &Value) -> Answer {
    request(&daemon.socket(), method, path, body).unwrap()
}

fn spec(name: &str) -> Value {
    json!({ "name": name, "subnets": [] })
}

fn id_on(daemon: &Daemon, name: &str) -> Option<String> {
    let networks = daemon.json(&["network", "ls"]).unwrap();
    let found = networks.as_array().unwrap().iter().find(|n| n["name"] == name).cloned();
    found.map(|n| n["id"].as_str().unwrap().to_owned())
}

#[test]
fn one_name_made_on_two_hosts_in_one_instant_is_one_network() {
    let Some(lab) = two_hosts("nename") else { return };
    let (h1, h2) = (lab.daemon("h1").unwrap(), lab.daemon("h2").unwrap());
    let before = records(lab.etcd.as_ref().unwrap());
    let rounds = short_or_long(20, 500);
    let (mut first, mut subnets) = (0, 0);
    for round in 0..rounds {
        let name = format!("race{round}");
        let make = |daemon| move |name: &str| ask(daemon, "POST", "/v1/networks", &spec(name));
        let later = Duration::from_micros(u64::try_from(round % 10).unwrap() * 200);
        let (one, two) = at_once(|| make(h1)(&name), || make(h2)(&name), later);
        let won = [&one, &two].map(|answer| answer.0 < 300);
        assert!(won[0] != won[1], "round {round}: {one:?} {two:?}");
        let refused = if won[0] { &two } else { &one };
        assert!(refused.0 == 409 && refused.1.contains(&name), "round {round}: {refused:?}");
        first += usize::from(won[0]);
        let mut ids = BTreeSet::new();
        eventually("the network on both hosts", WITHIN, || {
            let found = [h1, h2].map(|daemon| id_on(daemon, &name));
            ids = found.iter().flatten().cloned().collect();
            seen(found.iter().all(Option::is_some), found)
        });
        assert_eq!(ids.len(), 1, "round {round}");

        // Two names at once: two networks, which share neither VNI nor subnet.
        let other = format!("{name}b");
        let (one, two) = at_once(|| make(h1)(&format!("{name}a")), || make(h2)(&other), later);
        let networks = [one, two].map(|(status, body)| {
            assert!(status < 300, "round {round}: {status} {body}");
            serde_json::from_str::<Value>(&body).unwrap()
        });
        assert_ne!(networks[0]["vni"], networks[1]["vni"], "round {round}");
        subnets += usize::from(networks[0]["subnets"][0]["net"] == networks[1]["subnets"][0]["net"]);

        for name in [&name, &format!("{name}a"), &other] {
            eventually("the removal", WITHIN, || {
                let (status, body) = ask(h2, "DELETE", &format!("/v1/networks/{name}"), &Value::Null);
                seen(status < 300, body)
            });
        }
    }
    let after = records(lab.etcd.as_ref().unwrap());
    let wrong = before.symmetric_difference(&after).count();
    figures(
        "one network name on two hosts in one instant",
        &format!(
            "{rounds} rounds: {first} times the first host won, {} times the second, never both or none; of {rounds} pairs of \
             other names {subnets} shared a subnet; {wrong} records left",
            rounds - first
        ),
    );
    assert_eq!((subnets, wrong), (0, 0));
}

#[test]
fn a_network_removed_while_a_container_starts_on_it_elsewhere_stays_or_goes_whole() {
    let Some(mut lab) = two_hosts("nerace") else { return };
    let container = one_more(&mut lab, "h2", 1);
    NetNs::create(container.namespace.name()).unwrap();
    let netns = container.namespace.path().display().to_string();
    let (h1, h2) = (lab.daemon("h1").unwrap(), lab.daemon("h2").unwrap());
    let before = records(lab.etcd.as_ref().unwrap());
    let on = |name: &str| json!({ "network": name, "netns": netns });
    let made = |name: &str| {
        assert!(ask(h1, "POST", "/v1/networks", &spec(name)).0 < 300);
        eventually("the network on the other host", WITHIN, || {
            seen(id_on(h2, name).is_some(), "it does not know it")
        });
    };
    made("alone");
    let begun = Instant::now();
    assert!(ask(h2, "POST", "/v1/attach", &on("alone")).0 < 300);
    let takes = begun.elapsed();
    assert!(ask(h2, "POST", "/v1/detach", &on("alone")).0 < 300);
    assert!(ask(h1, "DELETE", "/v1/networks/alone", &Value::Null).0 < 300);
    let rounds = short_or_long(30, 1000);
    let mut attached = 0;
    for round in 0..rounds {
        let name = format!("race{round}");
        let body = on(&name);
        made(&name);
        // From one that is surely first to the other that is.
        let later = takes * u32::try_from(round % 15).unwrap() / 10;
        let remove = || ask(h1, "DELETE", &format!("/v1/networks/{name}"), &Value::Null);
        let attach = || ask(h2, "POST", "/v1/attach", &body);
        let (attach, remove) = if round % 2 == 0 {
            at_once(attach, remove, later)
        } else {
            let (remove, attach) = at_once(remove, attach, later);
            (attach, remove)
        };
        let won = [&attach, &remove].map(|answer| answer.0 < 300);
        assert!(won[0] != won[1], "round {round}: attach {attach:?}, removal {remove:?}");
        if won[0] {
            attached += 1;
            assert!(remove.0 == 409 && remove.1.contains(&name), "round {round}: {remove:?}");
            assert_eq!(weft_e2e::devices(&container.namespace), ["eth0", "lo"]);
            assert!(ask(h2, "POST", "/v1/detach", &body).0 < 300);
            assert!(ask(h1, "DELETE", &format!("/v1/networks/{name}"), &Value::Null).0 < 300);
        } else {
            assert!(matches!(attach.0, 404 | 409), "round {round}: {attach:?}");
        }
        assert_eq!(weft_e2e::devices(&container.namespace), ["lo"], "round {round}");
        eventually("no device of the network", WITHIN, || {
            let left: Vec<_> = [h1, h2].iter().flat_map(|d| weft_devices(&d.overlay())).collect();
            seen(left.is_empty(), left)
        });
    }
    let after = records(lab.etcd.as_ref().unwrap());
    let wrong = before.symmetric_difference(&after).count();
    figures(
        "network removed while a container starts elsewhere",
        &format!(
            "{rounds} rounds: {attached} times the container had it, {} times it was gone; {wrong} records left",
            rounds - attached
        ),
    );
    assert_eq!(wrong, 0);
    assert!(attached > 0 && attached < rounds, "both happen: {attached} of {rounds}");
}
