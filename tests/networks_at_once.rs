//! One network is made, or removed and used, on two Docker engines in one moment: what comes of it is one network or none,
//! and nothing half.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    time::Duration,
};
use weft_e2e::{Pair, address, eventually, has_network, has_no_network, only_on, seen, with_both_engines};
use weft_lab::{Engine, EngineVersion, figures, short_or_long};

with_both_engines!(
    a_network_made_on_two_engines_at_once_is_one_network,
    a_network_removed_on_one_host_while_a_container_starts_on_another_is_there_or_gone,
);

/// Longer than weft takes to see what Docker has forgotten.
const SETTLES: Duration = Duration::from_secs(30);

/// Runs `docker ARGUMENTS` without waiting for it.
fn begin(engine: &Engine, arguments: &[&str]) -> Child {
    let mut command: Command = engine.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The names and the count of weft's networks.
fn networks(pair: &Pair) -> Vec<String> {
    let all = pair.weft_a().json(&["network", "ls"]).unwrap();
    all.as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn a_network_made_on_two_engines_at_once_is_one_network(version: EngineVersion) {
    if !only_on("ebpf") || !short_or_long(version == EngineVersion::V26_1, true) {
        return;
    }
    let Some(pair) = Pair::up("doatonce", version) else { return };
    let times = short_or_long(3, 30);
    let mut both = 0;
    for time in 0..times {
        let name = format!("once{time}");
        let create = ["network", "create", "--driver=weft", &name];
        let makers = [pair.a(), pair.b()].map(|engine| begin(engine, &create));
        // One of them is told that the name is taken when the other was fast enough.
        let made = makers.map(|mut maker| usize::from(maker.wait().unwrap().success()));
        both += usize::from(made == [1, 1]);
        assert_ne!(made, [0, 0], "one of them makes it");
        for engine in [pair.a(), pair.b()] {
            eventually("the network on each engine", SETTLES, || has_network(engine, &name));
        }
        eventually("one network", SETTLES, || {
            let networks = networks(&pair);
            seen(networks == [name.as_str()], networks)
        });
        // It is one network also for containers.
        for engine in [pair.a(), pair.b()] {
            eventually("a copy that is the network's", SETTLES, || {
                has_network(engine, &name)?;
                let run =
                    ["run", "-d", "--name=box", "--net", &name, "--stop-signal=KILL", "box", "sleep", "600"];
                engine.docker(&run).map(drop).map_err(|e| {
                    let removed = engine.docker(&["rm", "-f", "box"]).err();
                    format!("{e}; {removed:?}")
                })
            });
        }
        let ips = [pair.a(), pair.b()].map(|engine| address(engine, "box", &name));
        assert_eq!(BTreeSet::from(ips.clone()).len(), 2, "{ips:?}");
        pair.a().exec("box", &["ping", "-c", "1", "-W", "2", &ips[1]]).unwrap();
        for engine in [pair.a(), pair.b()] {
            engine.docker(&["rm", "-f", "box"]).unwrap();
        }
        pair.a().docker(&["network", "rm", &name]).unwrap();
        eventually("its end on B", SETTLES, || has_no_network(pair.b(), &name));
    }
    pair.assert_nothing_left();
    figures(
        &format!("same network name created on two hosts at once, Docker {version}"),
        &format!("{times} times, {both} of them by both: 1 network each time, 0 records left"),
    );
}

fn a_network_removed_on_one_host_while_a_container_starts_on_another_is_there_or_gone(
    version: EngineVersion,
) {
    if !only_on("ebpf") || !short_or_long(version == EngineVersion::V20_10, true) {
        return;
    }
    let Some(pair) = Pair::up("dorm", version) else { return };
    let times = short_or_long(3, 30);
    let mut kept = 0;
    for time in 0..times {
        let name = format!("net{time}");
        pair.network(&name, &["--subnet=10.73.0.0/24"]);
        let run = ["run", "-d", "--name=box", "--net", &name, "--stop-signal=KILL", "box", "sleep", "600"];
        let mut starts = begin(pair.b(), &run);
        // The removal falls on another moment of the start each time.
        let (steps, all) = (u32::try_from(time * 4 % 10).unwrap(), Duration::from_secs(1));
        std::thread::sleep(all * steps / 10);
        let mut ends = begin(pair.a(), &["network", "rm", &name]);
        let runs = starts.wait().unwrap().success();
        ends.wait().unwrap();
        if runs {
            // The network is there, on both: A's Docker may have said otherwise, and has it again.
            kept += 1;
            for engine in [pair.a(), pair.b()] {
                eventually("the network that is in use", SETTLES, || has_network(engine, &name));
            }
            eventually("its endpoint", SETTLES, || {
                let endpoints = pair.endpoints_of("h2");
                seen(endpoints.len() == 1, endpoints)
            });
            let ip = address(pair.b(), "box", &name);
            let ping = ["run", "--rm", "--net", &name, "box", "ping", "-c", "1", "-W", "2", &ip];
            pair.a().docker(&ping).unwrap();
            pair.b().docker(&["rm", "-f", "box"]).unwrap();
            eventually("the end of its endpoints", SETTLES, || {
                let endpoints = pair.weft_a().json(&["endpoint", "ls"]).unwrap();
                seen(endpoints.as_array().unwrap().is_empty(), endpoints)
            });
            pair.b().docker(&["network", "rm", &name]).unwrap();
        } else {
            pair.b().docker(&["rm", "-f", "box"]).unwrap();
        }
        for engine in [pair.a(), pair.b()] {
            eventually("the network's end", SETTLES, || has_no_network(engine, &name));
        }
    }
    pair.assert_nothing_left();
    figures(
        &format!("network removed on one host while a container starts on another, Docker {version}"),
        &format!(
            "{times} times: the container ran on its network {kept} times, there was no network {} times; 0 \
             endpoints without one, 0 records left",
            times - kept
        ),
    );
}
