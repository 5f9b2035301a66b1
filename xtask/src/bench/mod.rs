//! `cargo xtask bench`: weft beside the bare wire and Docker's own networks, in one run on one machine.
//!
//! All contenders are up at the same time, each in a lab of its own. A metric is measured in rounds; a round visits
//! every contender once, each time beginning with another one, and the figure is the ratio to the reference
//! within the round. The machine may be busy or change its speed, but then it does so for all.
//!
//! Whatever is asked for and cannot be measured is a line that begins with MISSING or FAILED; the rest is measured
//! all the same, and the exit status is 1 in the end.

mod contenders;
mod cpu;
mod datagrams;
mod iperf;
mod metrics;
pub mod peer;
mod place;
mod plot;
mod report;
mod results;
mod sockperf;
mod wires;

use crate::{
    machine::Machine,
    step::{need_root, optimised},
    tools,
};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use contenders::{Contender, Site};
use metrics::Metric;
use report::Setting;
use results::{Failure, Results};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use wires::WireKind;

/// What to measure.
#[derive(Args)]
pub struct Flags {
    /// Under 3 minutes: raw, kernel and weft, the main metrics, 3 rounds of a second
    #[arg(long)]
    quick: bool,
    /// Only these, and what they are compared with
    #[arg(long, value_name = "CONTENDER", value_delimiter = ',')]
    only: Vec<Contender>,
    /// Only these metrics
    #[arg(long, value_name = "METRIC", value_delimiter = ',')]
    metric: Vec<Metric>,
    /// Only these wires
    #[arg(long, value_name = "WIRE", value_delimiter = ',')]
    wire: Vec<WireKind>,
    /// Rounds of each metric [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Seconds of each measurement [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: Option<u16>,
    /// This weft program instead of one built now
    #[arg(long, value_name = "PATH")]
    weft: Option<PathBuf>,
}

/// What is measured, and how often.
pub struct Plan {
    wires: Vec<WireKind>,
    metrics: Vec<Metric>,
    only: Vec<Contender>,
    rounds: usize,
    seconds: u16,
    quick: bool,
}

impl Plan {
    fn of(flags: &Flags) -> Self {
        fn chosen<T: Copy + ValueEnum>(asked: &[T], quick: Option<&[T]>) -> Vec<T> {
            // In the order of their declaration, each once.
            let all = T::value_variants();
            let wanted = if asked.is_empty() { quick.unwrap_or(all) } else { asked };
            let wanted: Vec<_> = wanted.iter().filter_map(ValueEnum::to_possible_value).collect();
            all.iter()
                .filter(|one| one.to_possible_value().is_some_and(|v| wanted.contains(&v)))
                .copied()
                .collect()
        }
        let quick = flags.quick;
        let default = if quick { (3, 1) } else { (5, 3) };
        Self {
            wires: chosen(&flags.wire, quick.then_some(&[WireKind::Offload, WireKind::Frames])),
            metrics: chosen(&flags.metric, quick.then_some(&Metric::QUICK)),
            only: chosen(&flags.only, quick.then_some(&Contender::QUICK)),
            rounds: usize::from(flags.rounds.unwrap_or(default.0)),
            seconds: flags.seconds.unwrap_or(default.1),
            quick,
        }
    }

    /// Who takes part in a wire: the reference always.
    fn contenders(&self, wire: WireKind) -> Vec<Contender> {
        let takes_part = |c: &Contender| *c == wire.reference() || self.only.contains(c);
        wire.contenders().iter().copied().filter(takes_part).collect()
    }

    /// Who takes part in any of the wires.
    fn all_contenders(&self) -> Vec<Contender> {
        let on_any = |c: &Contender| self.wires.iter().any(|wire| self.contenders(*wire).contains(c));
        Contender::value_variants().iter().copied().filter(on_any).collect()
    }

    /// How many single measurements it is, and how many tenths of a second they take.
    fn size(&self) -> (usize, usize) {
        let rounds = self.rounds * self.wires.iter().map(|w| self.contenders(*w).len()).sum::<usize>();
        let tenths: usize = self.metrics.iter().map(|m| m.tenths(self.seconds, self.quick)).sum();
        (rounds * self.metrics.len(), rounds * tenths)
    }
}

/// `cargo xtask bench`
pub fn run(flags: &Flags) -> Result<()> {
    need_root("bench")?;
    let plan = Plan::of(flags);
    let contenders = plan.all_contenders();
    let docker = contenders.iter().any(|contender| contender.engine().is_some());
    tools::install(if docker { tools::Want::All } else { tools::Want::Lab })?;
    let weft = match &flags.weft {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
        None => optimised(None, &["weft"])?.join("weft"),
    };
    let mut setting = setting(&weft, &contenders)?;
    println!("machine: {}, load average {}", setting.machine, setting.load);
    let (runs, tenths) = plan.size();
    println!("{runs} measurements of {} s: about {} minutes", plan.seconds, tenths.div_ceil(600));
    let mut results = Results::default();
    let mut sites = Vec::new();
    for contender in contenders {
        let start = Instant::now();
        match contender.set_up(&weft) {
            Ok(site) => {
                println!("{} is up after {:.1} s", contender.name(), start.elapsed().as_secs_f64());
                sites.push(site);
            }
            Err(error) => fail(&mut results, contender, String::new(), &error),
        }
    }
    for wire in &plan.wires {
        measure(&plan, *wire, &sites, &mut setting, &mut results);
    }
    drop(sites);
    println!("\n{}", report::table(&plan, &results));
    write(&plan, &setting, &results)?;
    if results.failures.is_empty() {
        return Ok(());
    }
    println!();
    results.failures.iter().for_each(|failure| println!("{failure}"));
    bail!("{} of what was asked for is not in the table", results.failures.len());
}

/// All rounds of all metrics over one wire.
fn measure(plan: &Plan, wire: WireKind, sites: &[Site], setting: &mut Setting, results: &mut Results) {
    println!("\n{}", wire.title());
    let here: Vec<&Site> = plan
        .contenders(wire)
        .iter()
        .filter_map(|contender| sites.iter().find(|site| site.contender == *contender))
        .filter(|site| match prepare(wire, site, setting) {
            Ok(()) => true,
            Err(error) => {
                fail(results, site.contender, wire.name().to_owned(), &error);
                false
            }
        })
        .collect();
    for metric in &plan.metrics {
        for round in 0..plan.rounds {
            for turn in 0..here.len() {
                let site = here[(turn + round) % here.len()];
                if metric.is_ipv6() && site.contender.lacks_ipv6() {
                    continue;
                }
                let sample =
                    site.pair(wire).and_then(|pair| metric.measure(pair, plan.seconds.into(), plan.quick));
                match sample {
                    Ok(sample) => results.add(wire, *metric, site.contender, round, sample),
                    Err(error) => {
                        let at = format!("{}, {}, round {}", wire.name(), metric.name(), round + 1);
                        fail(results, site.contender, at, &error);
                    }
                }
            }
        }
        println!("  {} measured", metric.title());
    }
}

/// Makes the wire what it is to be, and looks whether it is.
fn prepare(wire: WireKind, site: &Site, setting: &mut Setting) -> Result<()> {
    if wire == WireKind::Host {
        return Ok(());
    }
    wire.apply(&site.lab)?;
    let bytes = wire.verify(&site.lab, site.pair(wire)?)?;
    println!("  {}: {bytes:.0} bytes a frame in a stream", site.contender.name());
    setting.frames.insert((wire, site.contender), bytes);
    Ok(())
}

/// Notes a failure and tells it at once.
fn fail(results: &mut Results, contender: Contender, at: String, error: &anyhow::Error) {
    let failure = Failure { contender, at, reason: format!("{error:#}") };
    println!("{failure}");
    results.failures.push(failure);
}

fn setting(weft: &Path, contenders: &[Contender]) -> Result<Setting> {
    let first_line = |program: &Path, argument: &str| -> Result<String> {
        let text = weft_lab::run(Command::new(program).arg(argument))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let mut versions = BTreeMap::from([
        ("weft".to_owned(), first_line(weft, "--version")?),
        ("iperf3".to_owned(), first_line(Path::new("iperf3"), "--version")?),
        ("sockperf".to_owned(), first_line(Path::new("sockperf"), "--version")?),
    ]);
    // Not every copy of the sources has its history.
    if let Ok(commit) = weft_lab::run(Command::new("git").args(["describe", "--always", "--dirty"])) {
        versions.insert("commit".to_owned(), commit.trim().to_owned());
    }
    for contender in contenders {
        if let Some(engine) = contender.engine() {
            versions.insert(contender.name().to_owned(), format!("Docker {engine}"));
        }
    }
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(Setting {
        date: weft_lab::run(Command::new("date").args(["-u", "+%Y-%m-%dT%H%M%SZ"]))?.trim().to_owned(),
        machine: Machine::this()?,
        versions,
        load: load.split(' ').next().unwrap_or_default().to_owned(),
        frames: BTreeMap::new(),
    })
}

/// Writes the JSON and the plot.
fn write(plan: &Plan, setting: &Setting, results: &Results) -> Result<()> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let dir = target.join("bench");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let caption = format!("{}, {}", setting.date, setting.machine);
    let json = serde_json::to_string_pretty(&report::json(plan, setting, results))? + "\n";
    for (extension, text) in [("json", json), ("svg", plot::svg(plan, results, &caption))] {
        let path = dir.join(format!("{}.{extension}", setting.date));
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(quick: bool, only: Vec<Contender>) -> Flags {
        let (metric, wire) = (Vec::new(), Vec::new());
        Flags { quick, only, metric, wire, rounds: None, seconds: None, weft: None }
    }

    #[test]
    fn by_default_everything_is_measured() {
        let plan = Plan::of(&flags(false, Vec::new()));
        assert_eq!(plan.all_contenders(), Contender::value_variants());
        assert_eq!((plan.rounds, plan.seconds, plan.metrics.len()), (5, 3, Metric::value_variants().len()));
    }

    #[test]
    fn the_short_form_needs_no_docker_and_takes_less_than_three_minutes() {
        let plan = Plan::of(&flags(true, Vec::new()));
        assert_eq!(plan.all_contenders(), Contender::QUICK);
        assert_eq!(plan.wires, [WireKind::Offload, WireKind::Frames]);
        let (_, tenths) = plan.size();
        assert!(tenths < 1500, "{tenths} tenths of a second, and the hosts are to be set up");
    }

    #[test]
    fn whoever_is_measured_is_measured_beside_the_reference() {
        let plan = Plan::of(&flags(false, vec![Contender::Kernel]));
        assert_eq!(plan.contenders(WireKind::Offload), [Contender::Raw, Contender::Kernel]);
        assert_eq!(plan.contenders(WireKind::Host), [Contender::DockerBridge, Contender::Kernel]);
    }
}
