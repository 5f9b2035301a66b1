//! `cargo xtask measure`: the figures that weft's notes and documents quote, with the machine they come from.
//!
//! Every comparison is made within one run, the two sides by turns, and told as a ratio of medians: the machine
//! may be busy, but then it is for both.

mod names;

use crate::{
    machine::Machine,
    statistics::median,
    step::{need_root, optimised},
    throughput::throughput,
    tools,
};
use anyhow::{Context, Result};
use clap::Args;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use weft_lab::{
    Container, EngineOptions, EngineVersion, Fixture, Lab, LabOptions, LabStore, NetNs, Tools, until,
};

/// Rounds of what takes milliseconds.
const MANY: usize = 50;
/// Rounds of what takes seconds.
const FEW: usize = 9;

/// With what.
#[derive(Args)]
pub struct Flags {
    /// The program `weft` in this folder instead of one built now
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// `cargo xtask measure`
pub fn run(flags: &Flags) -> Result<()> {
    need_root("measure")?;
    tools::install(tools::Want::All)?;
    let weft = optimised(flags.programs.as_deref(), &["weft"])?.join("weft");
    println!("machine: {}", Machine::this()?);
    let lab = Fixture::up(LabOptions::new("measure", &weft))?;
    attach(&lab)?;
    wire(&lab)?;
    drop(lab);
    for version in EngineVersion::ALL {
        let tools = Tools::from_env();
        let engine = EngineOptions::new(&tools, version);
        let options = LabOptions::new("measure", &weft);
        let options =
            LabOptions { containers: 0, store: LabStore::Etcd(tools), engine: Some(engine), ..options };
        let lab = Fixture::up(options)?;
        engines(&lab, version)?;
        names::names(&lab, version)?;
    }
    Ok(())
}

/// `weft attach` and `weft detach` as whole commands.
fn attach(lab: &Lab) -> Result<()> {
    let (host, daemon) = (lab.host("h1")?, lab.daemon("h1")?);
    let mut container = Container::named(host, 99);
    NetNs::create(container.namespace.name())?;
    let (mut attach, mut detach) = (Times::default(), Times::default());
    for _ in 0..MANY {
        attach.take(|| Ok(container.attach(daemon, "lab", &[])?))?;
        detach.take(|| Ok(container.detach(daemon, "lab")?))?;
    }
    container.namespace.remove()?;
    println!("weft attach            {attach}");
    println!("weft detach            {detach}");
    Ok(())
}

/// TCP throughput and round trip, container to container beside host to host.
fn wire(lab: &Lab) -> Result<()> {
    let (near, far) = (lab.container("h1/c1")?, lab.container("h2/c1")?);
    let (host, peer) = (lab.host("h1")?, lab.host("h2")?);
    let (mut raw, mut across) = (Vec::new(), Vec::new());
    let (mut raw_trip, mut across_trip) = (Vec::new(), Vec::new());
    for _ in 0..FEW {
        raw.push(throughput(lab, &host.namespace, &peer.namespace, peer.address)?);
        across.push(throughput(lab, &near.namespace, &far.namespace, far.address()?)?);
        raw_trip.push(round_trip(&host.namespace, &peer.address.to_string())?);
        across_trip.push(round_trip(&near.namespace, &far.ip()?)?);
    }
    let (raw, across) = (median(&raw), median(&across));
    println!(
        "TCP, one stream        {across:.1} Gb/s, host to host {raw:.1} Gb/s: ratio {:.2}",
        across / raw
    );
    let (raw, across) = (median(&raw_trip), median(&across_trip));
    println!("ping, median of means  {across:.3} ms, host to host {raw:.3} ms: ratio {:.2}", across / raw);
    Ok(())
}

/// `docker run` on weft beside a plain bridge network, and how soon a network is on the other host.
fn engines(lab: &Lab, version: EngineVersion) -> Result<()> {
    let (a, b) = (lab.engine("h1")?, lab.engine("h2")?);
    a.docker(&["network", "create", "plain"])?;
    let mut appears = Times::default();
    for round in 0..FEW {
        let name = format!("net{round}");
        a.docker(&["network", "create", "--driver", "weft", &name])?;
        appears.take(|| {
            until("the network on the other host", Duration::from_secs(10), || {
                let listed =
                    b.docker(&["network", "ls", "--format", "{{.Name}}"]).map_err(|e| e.to_string())?;
                if listed.lines().any(|line| line == name) { Ok(()) } else { Err(listed) }
            })?;
            Ok(())
        })?;
    }
    let (mut plain, mut weft) = (Times::default(), Times::default());
    for _ in 0..FEW {
        for (network, times) in [("plain", &mut plain), ("net0", &mut weft)] {
            times.take(|| Ok(a.docker(&["run", "--rm", "--net", network, "box", "true"]).map(drop)?))?;
        }
    }
    println!("Docker {version}, etcd:");
    println!("  network on other host  {appears} after `docker network create` has answered");
    println!("  docker run, weft       {weft}");
    println!("  docker run, bridge     {plain}");
    println!("  ratio of medians       {:.2}", weft.median() / plain.median());
    Ok(())
}

/// The mean round trip of 200 pings, in milliseconds.
fn round_trip(from: &NetNs, to: &str) -> Result<f64> {
    let said = from.run(&["ping", "-n", "-q", "-c", "200", "-i", "0.002", to])?;
    // rtt min/avg/max/mdev = 0.054/0.093/0.147/0.039 ms
    let mean = said.rsplit(" = ").next().and_then(|times| times.split('/').nth(1)?.parse().ok());
    mean.with_context(|| format!("ping told no round trip: {said}"))
}

/// How long something took, several times, in milliseconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn take(&mut self, run: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        run()?;
        self.0.push(start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    fn median(&self) -> f64 {
        median(&self.0)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(0.0, f64::max);
        write!(f, "{:.0} ms, median of {} ({least:.0} to {most:.0})", self.median(), self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_their_median_and_how_far_they_go() {
        assert_eq!(Times(vec![1.0, 9.0, 2.0]).to_string(), "2 ms, median of 3 (1 to 9)");
    }
}
