//! One real host on a network of very many endpoints.
//!
//! The records are written into the store, as if a thousand hosts had these endpoints. `h2` is real and has the first and the
//! last address; `h1` is the host that is looked at. It is on the network before the others come, and again after.

use super::{Programs, Size, simulated::daemon_pid};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};
use weft_lab::{Daemon, Etcd, Fixture, LabOptions, LabStore, NetNs, Tools, Wire, until};

/// Hosts that the endpoints are said to be on.
const HOSTS: usize = 1000;
/// How long to look at rest.
const REST: Duration = Duration::from_secs(30);
/// Real endpoints of `h2`: before and behind all others.
const FIRST: &str = "10.0.0.2";
const LAST: &str = "10.250.0.1";

/// Fills it and looks.
pub fn measure(programs: &Programs, endpoints: usize, datapath: &str) -> Result<Value> {
    let lab = Fixture::up(LabOptions {
        store: LabStore::Etcd(Tools::from_env()),
        containers: 2,
        // Not within the large network's own subnet: the containers are on both.
        subnets: vec!["172.31.0.0/24".to_owned()],
        daemon_arguments: vec![format!("--datapath={datapath}")],
        ..LabOptions::new("scalereal", &programs.weft)
    })?;
    let (h1, h2) = (lab.daemon("h1")?, lab.daemon("h2")?);
    let near = &lab.container("h1/c1")?.namespace;
    populate(&lab, programs, 0)?;
    for (container, ip) in [("h2/c1", FIRST), ("h2/c2", LAST)] {
        attach(h2, &lab.container(container)?.namespace, &["--ip", ip, "--interface", "big"])?;
    }
    attach(h1, near, &["--interface", "big"])?;
    let pid = daemon_pid(h1)?;
    let before = Memory::now(pid)?;
    let begun = Instant::now();
    populate(&lab, programs, endpoints)?;
    let written = begun.elapsed();
    whole(h1, endpoints)?;
    let filled = begun.elapsed();
    whole(h2, endpoints)?;
    println!("written in {:.1} s, filled after {:.1} s", written.as_secs_f64(), filled.as_secs_f64());
    let entries = lines(&["bridge", "-n", h1.overlay().name(), "fdb"])?;
    let neighbours = lines(&["ip", "-n", h1.overlay().name(), "neigh", "show", "nud", "permanent"])?;
    let pings = [ping(near, FIRST)?, ping(near, LAST)?];
    // The page cache and what the fill has left over are not its memory at rest.
    let at_rest = cpu(pid, REST)?;
    let after = Memory::now(pid)?;

    let mut told = json!({
        "datapath": datapath,
        "endpoints": endpoints,
        "written_s": written.as_secs_f64(),
        "filled_s": filled.as_secs_f64(),
        "fdb_entries": entries,
        "neighbours": neighbours,
        "daemon_rss_mib": after.rss,
        "kernel_slab_mib": after.slab - before.slab,
        "maps_mib": after.maps - before.maps,
        "first_ping_ms": pings[0],
        "last_ping_ms": pings[1],
        "cpu_at_rest_percent": at_rest,
    });
    // Told at once: what follows takes a while.
    println!("{told}");
    let begun = Instant::now();
    h1.weft(&["detach", "net0", "--netns", &near.path().display().to_string()])?;
    told["detach_last_s"] = json!(begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    attach(h1, near, &["--interface", "big"])?;
    told["attach_first_s"] = json!(begun.elapsed().as_secs_f64());
    told["restart_s"] = json!(restart(&lab, endpoints)?.as_secs_f64());
    Ok(told)
}

/// Writes the network with this many endpoints, and the hosts that they are said to be on.
fn populate(lab: &Fixture, programs: &Programs, endpoints: usize) -> Result<()> {
    let size = Size { hosts: HOSTS, endpoints, networks: 1, parts: 1 };
    let url = format!("etcd://{}:{}", Wire::SWITCH_V4, Etcd::PORT);
    let mut command = lab.wire.namespace.command(&programs.scale.display().to_string());
    weft_lab::run(command.args(["--store", &url]).args(size.arguments()).args(["populate", "--nodes"]))?;
    Ok(())
}

fn attach(daemon: &Daemon, netns: &NetNs, more: &[&str]) -> Result<()> {
    let path = netns.path().display().to_string();
    daemon.weft(&[&["attach", "net0", "--netns", &path], more].concat())?;
    Ok(())
}

/// Waits until a daemon has all of it in its kernel: an FDB and a neighbour entry for each endpoint.
fn whole(daemon: &Daemon, endpoints: usize) -> Result<()> {
    until("the whole network in the kernel", Duration::from_mins(10), || {
        let status = daemon.status().map_err(|e| e.to_string())?;
        let objects = status["kernel_objects"].as_u64().unwrap_or(0);
        let applied = status["store"]["applied"] == status["store"]["revision"];
        let enough = usize::try_from(objects).is_ok_and(|objects| objects >= 2 * endpoints);
        if enough && applied && status["problems"].as_array().is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(format!("{objects} objects, {}", status["problems"]))
        }
    })?;
    Ok(())
}

/// How long a daemon that is killed takes to stand again on what its kernel has.
fn restart(lab: &Fixture, endpoints: usize) -> Result<Duration> {
    let mut daemon = lab.daemon("h1")?.clone();
    daemon.kill()?;
    let begun = Instant::now();
    daemon.start()?;
    whole(&daemon, endpoints)?;
    let took = begun.elapsed();
    let drift = daemon.status()?["drift_repaired"].clone();
    anyhow::ensure!(drift.as_object().is_none_or(serde_json::Map::is_empty), "a restart repaired {drift}");
    daemon.stop()?;
    Ok(took)
}

/// The mean round trip of 100 pings, after one that finds the way, in milliseconds.
fn ping(from: &NetNs, to: &str) -> Result<f64> {
    from.run(&["ping", "-n", "-q", "-c", "1", "-W", "2", to])?;
    let said = from.run(&["ping", "-n", "-q", "-c", "100", "-i", "0.005", to])?;
    let mean = said.rsplit(" = ").next().and_then(|times| times.split('/').nth(1)?.parse().ok());
    mean.with_context(|| format!("ping told no round trip: {said}"))
}

fn lines(argv: &[&str]) -> Result<usize> {
    let (program, arguments) = argv.split_first().context("no command")?;
    Ok(weft_lab::run(Command::new(program).args(arguments))?.lines().count())
}

/// The share of one core that a process takes, in per cent.
fn cpu(pid: i32, over: Duration) -> Result<f64> {
    let ticks = || -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).context("/proc/PID/stat");
        Ok(field(11)? + field(12)?)
    };
    let before = ticks()?;
    // A stretch of time is what is measured here.
    thread::sleep(over);
    // USER_HZ is 100.
    Ok((ticks()? - before) / over.as_secs_f64())
}

/// What a daemon and its kernel hold, in MiB.
struct Memory {
    rss: f64,
    slab: f64,
    maps: f64,
}

impl Memory {
    fn now(pid: i32) -> Result<Self> {
        let kib = |path: String, name: &str| -> Result<f64> {
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            line.and_then(|kib| kib.trim().parse::<f64>().ok()).with_context(|| format!("{path}: {name}"))
        };
        Ok(Self {
            rss: kib(format!("/proc/{pid}/status"), "VmRSS:")? / 1024.0,
            slab: kib("/proc/meminfo".to_owned(), "Slab:")? / 1024.0,
            maps: maps(pid)?,
        })
    }
}

/// The memory of the BPF maps that a process has open, in MiB.
#[allow(clippy::cast_precision_loss)]
fn maps(pid: i32) -> Result<f64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed between the listing and the look.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if text.contains("map_type:") {
            let memlock =
                text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok());
            sum += memlock.unwrap_or(0);
        }
    }
    Ok(sum as f64 / f64::from(1 << 20))
}
