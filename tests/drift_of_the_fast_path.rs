//! What someone changes by hand of the fast path's programs, maps, pins and trunk is repaired in under 5 s, and counted in
//! `weft status`.
#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};
use weft_e2e::{
    datapath, drift_repaired, eventually,
    fast_path::{hosts, picture, pin, table},
    lab, options, ping, seen,
};
use weft_lab::{Daemon, Fixture, figures, short_or_long};

/// In this time anything is as it should be again.
const REPAIRED: Duration = Duration::from_secs(5);

/// The ports of containers on h1.
fn ports(lab: &Fixture) -> Vec<String> {
    let devices = weft_e2e::weft_devices(&lab.daemon("h1").unwrap().overlay());
    devices.into_iter().filter(|d| !d.starts_with("weft-vx") && !d.starts_with("weft-br")).collect()
}

/// Spoils something on h1 and waits until it is as before; how long that took.
fn repaired(lab: &Fixture, what: &str, spoil: impl FnOnce(&Daemon)) -> Duration {
    let (daemon, host, ports) = (lab.daemon("h1").unwrap(), lab.host("h1").unwrap(), ports(lab));
    let (before, counted) = (picture(daemon, host, &ports), drift_repaired(daemon));
    spoil(daemon);
    let took = eventually(&format!("the repair of {what}"), REPAIRED, || {
        let now = picture(daemon, host, &ports);
        let differs: Vec<_> = before.iter().filter(|(part, was)| now.get(*part) != Some(was)).collect();
        seen(differs.is_empty() && drift_repaired(daemon) > counted, (differs, now))
    });
    eprintln!("{what}: repaired in {} ms", took.as_millis());
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    for (from, to) in [(near, far), (far, near)] {
        eventually("an answer after the repair", REPAIRED, || ping(from, &to.ip().unwrap()));
    }
    took
}

type Spoil = Box<dyn Fn(&Daemon)>;

/// Takes the first entry out of a table of the daemon's, or gives it another value.
fn entry<const K: usize, const V: usize>(name: &'static str, value: Option<u8>) -> Spoil {
    Box::new(move |daemon| {
        let mut table = table::<K, V>(daemon, name);
        let key = table.keys().next().unwrap().unwrap();
        match value {
            Some(byte) => table.insert(key, [byte; V], 0).unwrap(),
            None => table.remove(&key).unwrap(),
        }
    })
}

fn detached(program: &'static str, device: &str) -> (String, Spoil) {
    let link = format!("links/{program}/{device}");
    (
        format!("program {program} detached"),
        Box::new(move |daemon| fs::remove_file(pin(daemon, &link)).unwrap()),
    )
}

fn foreign_station(daemon: &Daemon) {
    let mut stations = table::<12, 24>(daemon, "stations");
    let mut key = stations.keys().next().unwrap().unwrap();
    let value = stations.get(&key, 0).unwrap();
    key[4..10].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    stations.insert(key, value, 0).unwrap();
}

/// What can be spoiled, in groups whose members do not stand in each other's way.
fn kinds(lab: &Fixture) -> Vec<Vec<(String, Spoil)>> {
    let named = |name: &str, spoil: Spoil| (name.to_owned(), spoil);
    let (host, port) = (lab.host("h1").unwrap().namespace.clone(), ports(lab).remove(0));
    vec![
        vec![
            detached("from_container", &port),
            detached("from_wire", "eth0"),
            detached("to_wire", "weft-trunk"),
            detached("to_container", "weft-trunk"),
            named(
                "trunk down",
                Box::new(move |_| drop(host.ip(&["link", "set", "weft-trunk", "down"]).unwrap())),
            ),
        ],
        vec![
            named("station deleted", entry::<12, 24>("stations", None)),
            named("station altered", entry::<12, 24>("stations", Some(9))),
            named("station nobody asked for", Box::new(foreign_station)),
            named("neighbour deleted", entry::<20, 8>("neighbours", None)),
            named("port deleted", entry::<4, 8>("ports", None)),
        ],
        vec![
            named("neighbour altered", entry::<20, 8>("neighbours", Some(2))),
            named("port altered", entry::<4, 8>("ports", Some(1))),
            named("peer deleted", entry::<16, 4>("peers", None)),
            named(
                "host entry altered",
                Box::new(|daemon| {
                    let (mut hosts, current) = hosts(daemon);
                    hosts.set(current, [0; 36], 0).unwrap();
                }),
            ),
            named(
                "pins of maps removed",
                Box::new(|daemon| fs::remove_dir_all(pin(daemon, "maps")).unwrap()),
            ),
        ],
        vec![named(
            "all pins removed",
            Box::new(|daemon| fs::remove_dir_all(pin(daemon, "").parent().unwrap()).unwrap()),
        )],
    ]
}

#[test]
fn programs_maps_and_pins_that_were_spoiled_by_hand_are_put_right() {
    let Some(lab) = lab(options("nefast")) else { return };
    if datapath(lab.daemon("h1").unwrap()) != "ebpf" {
        return;
    }
    let mut groups = kinds(&lab);
    if short_or_long(false, true) {
        groups = groups.into_iter().flatten().map(|one| vec![one]).collect();
    }
    let (mut times, mut count) = (Vec::new(), 0);
    for group in &groups {
        let names = group.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let took = repaired(&lab, &names, |daemon| group.iter().for_each(|(_, spoil)| spoil(daemon)));
        times.push(format!("{names}: {} ms", took.as_millis()));
        count += group.len();
    }
    figures("altered by hand, fast path", &format!("{count} kinds repaired; {}", times.join("; ")));

    // Deleted, its ends have other numbers afterwards.
    let (daemon, host) = (lab.daemon("h1").unwrap(), lab.host("h1").unwrap());
    let counted = drift_repaired(daemon);
    host.namespace.ip(&["link", "del", "weft-trunk"]).unwrap();
    eventually("another trunk", REPAIRED, || {
        let there = weft_e2e::devices(&host.namespace).contains(&"weft-trunk".to_owned());
        seen(there && drift_repaired(daemon) > counted, there)
    });
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    eventually("an answer over it", REPAIRED, || ping(near, &far.ip().unwrap()));
}
