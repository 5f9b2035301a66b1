//! Containers come and go by the thousand on one host, and neither weft nor its kernel nor the store has more afterwards.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    env, fs,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use weft_e2e::{Pair, address, eventually, has_no_network, only_on, seen};
use weft_lab::{Daemon, EngineVersion, figures, short_or_long};

/// Containers that start before anything is compared: tables and pools are as large then as they get.
const WARM: usize = 10;

/// Containers that start at the same time.
const AT_ONCE: usize = 4;

/// What a leak would show in.
#[derive(Clone, Debug)]
struct Holds {
    /// Resident memory in KiB.
    memory: usize,
    files: usize,
    devices: usize,
    /// The keys of the store's records, without the addresses held ahead: others are by and by.
    records: BTreeSet<String>,
}

fn holds(pair: &Pair, daemon: &Daemon) -> Holds {
    let process = daemon.process().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    Holds {
        memory: line.split_whitespace().nth(1).unwrap().parse().unwrap(),
        files: process.open_files().unwrap(),
        devices: weft_e2e::devices(&daemon.overlay()).len(),
        records: {
            let records = pair.records().unwrap().into_iter();
            records
                .filter(|(_, value)| !value.contains("\"kind\":\"reserved\""))
                .map(|(key, _)| key)
                .collect()
        },
    }
}

#[test]
fn containers_that_start_and_end_leave_nothing_in_weft_the_kernel_or_the_store() {
    if !only_on("ebpf") {
        return;
    }
    let Some(pair) = Pair::up("dostarts", EngineVersion::V26_1) else { return };
    pair.network("net", &["--subnet=10.75.0.0/24"]);
    pair.b().docker(&["run", "-d", "--net=net", "--name=peer", "nginx"]).unwrap();
    let url = format!("http://{}", address(pair.b(), "peer", "net"));
    // Every container fetches a page from the other host. They are made once and started over and over: each start is a new
    // endpoint with an address and a sandbox of its own, and costs half of what `docker run` does.
    let name = |n: usize| format!("starts-{n}");
    for n in 0..AT_ONCE {
        let command = ["box", "timeout", "5", "wget", "-qO", "/dev/null", &url];
        pair.a().docker(&[&["create", "--net=net", "--name", &name(n)], &command[..]].concat()).unwrap();
    }
    // Fails when the container's command does.
    let start = |n: usize| pair.a().docker(&["start", "--attach", &name(n)]).map(drop).unwrap();
    (0..WARM).for_each(|_| start(0));
    let settled = || {
        eventually("no endpoint on A", Duration::from_secs(10), || {
            seen(pair.endpoints_of("h1").is_empty(), pair.endpoints_of("h1"))
        });
        // B tells its groups when its bridge has heard everybody; A has nobody left to tell of.
        eventually("the multicast groups of one host", Duration::from_secs(40), || {
            let records = pair.records().unwrap();
            let groups: Vec<_> =
                records.into_iter().map(|(key, _)| key).filter(|k| k.contains("/groups/")).collect();
            seen(groups.len() == 1, groups)
        });
        [pair.weft_a(), pair.weft_b()].map(|daemon| holds(&pair, daemon))
    };
    let before = settled();
    let limit = env::var("WEFT_SOAK_SECONDS").map_or(u64::MAX, |text| text.parse().unwrap());
    let (begun, wanted) = (Instant::now(), short_or_long(15, 10_000));
    let starts = AtomicU32::new(0);
    thread::scope(|scope| {
        for n in 0..AT_ONCE {
            let (starts, start) = (&starts, &start);
            scope.spawn(move || {
                while starts.load(Ordering::SeqCst) < wanted && begun.elapsed().as_secs() < limit {
                    start(n);
                    starts.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let starts = starts.into_inner();
    let took = begun.elapsed();
    let after = settled();
    for ((before, after), host) in before.iter().zip(&after).zip(["A", "B"]) {
        assert_eq!(after.devices, before.devices, "{host}: {before:?} {after:?}");
        assert_eq!(after.records, before.records, "{host}: {before:?} {after:?}");
        assert!(after.files <= before.files + 8, "{host}: {before:?} {after:?}");
        // The allocator keeps what it has had; a leak of a hundred bytes a start would show.
        let grown = after.memory.saturating_sub(before.memory);
        assert!(grown <= 16 * 1024 + usize::try_from(starts / 10).unwrap(), "{host}: {before:?} {after:?}");
    }
    let [a, b] = before.iter().zip(&after).map(|(b, a)| [b.memory, a.memory]).collect::<Vec<_>>()[..] else {
        panic!("two hosts")
    };
    figures(
        "10,000 container starts",
        &format!(
            "{starts} starts, {:.1} a second, each with a page from the other host; memory {} to {} KiB where they start, {} \
             to {} KiB on the other host; files {} to {}, devices {} to {}, records {} to {}",
            f64::from(starts) / took.as_secs_f64(),
            a[0],
            a[1],
            b[0],
            b[1],
            before[0].files,
            after[0].files,
            before[0].devices,
            after[0].devices,
            before[0].records.len(),
            after[0].records.len(),
        ),
    );
    (0..AT_ONCE).for_each(|n| drop(pair.a().docker(&["rm", &name(n)]).unwrap()));
    pair.b().docker(&["rm", "-f", "peer"]).unwrap();
    pair.b().docker(&["network", "rm", "net"]).unwrap();
    eventually("the network's end on A", Duration::from_secs(5), || has_no_network(pair.a(), "net"));
    pair.assert_nothing_left();
}
