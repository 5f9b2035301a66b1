//! `cargo xtask soak`: the long form of every fault test, and the table of what was measured.
//!
//! The same tests run in their short form with `cargo xtask test`. A step whose time is up is ended and counts as failed;
//! what it had measured until then is in the table.

use crate::{
    machine::Machine,
    step::{self, cargo},
    test::{self, Outcome},
    tools,
};
use anyhow::{Context, Result};
use clap::Args;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What to soak.
#[derive(Args)]
pub struct Flags {
    /// How long each test goes on that could go on for ever
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u64,
    /// Only steps whose name or target contains this; may be given several times
    #[arg(long, value_name = "FAULT")]
    only: Vec<String>,
    /// Write what was measured into docs/reliability.md
    #[arg(long)]
    write: bool,
    /// List the steps and run nothing
    #[arg(long)]
    list: bool,
}

/// The tests of one target.
struct Step {
    /// What happens in it.
    name: &'static str,
    package: &'static str,
    /// The file of integration tests; none: all tests of the package.
    target: Option<&'static str>,
    /// On which data paths: with one, the result does not depend on it.
    datapaths: &'static [&'static str],
    /// When it is ended, in minutes; twice the time of `--minutes` comes on top.
    limit: u64,
}

const BOTH: &[&str] = &["ebpf", "kernel"];
const EITHER: &[&str] = &["ebpf"];
/// No daemon.
const NONE: &[&str] = &[""];

/// End to end, on hosts in namespaces.
const fn hosts(
    name: &'static str,
    target: &'static str,
    datapaths: &'static [&'static str],
    limit: u64,
) -> Step {
    Step { name, package: "weft-e2e", target: Some(target), datapaths, limit }
}

/// The stores by themselves.
const fn store(name: &'static str, target: &'static str, limit: u64) -> Step {
    Step { name, package: "weft-store", target: Some(target), datapaths: NONE, limit }
}

/// All of it, the quick ones first. A file of tests with a long form that is missing here fails a test below.
const STEPS: &[Step] = &[
    hosts("host returns as another one", "host_returns", EITHER, 10),
    hosts("container started, by engine", "start_up", EITHER, 15),
    hosts("wall clock jumped", "clock_jumps", EITHER, 10),
    hosts("disk full", "disk_full", EITHER, 10),
    hosts("host dead for good", "garbage", EITHER, 10),
    hosts("host rebooted without its store", "host_reboots", EITHER, 10),
    hosts("store away", "store_away", BOTH, 20),
    hosts("store back from a backup or with compacted history", "store_restored", EITHER, 20),
    hosts("VTEP address changed", "vtep_moves", BOTH, 20),
    hosts("lease lost while the host lives", "lease_lost", BOTH, 20),
    hosts("cut off from the store and from peers", "cut_off", BOTH, 20),
    hosts("daemon killed under traffic", "killed_under_traffic", BOTH, 20),
    hosts("daemon upgraded under traffic", "upgraded_under_traffic", BOTH, 20),
    hosts("direct routing: daemons killed and upgraded", "direct_routing", EITHER, 20),
    hosts("devices and tables altered by hand", "drift_is_repaired", BOTH, 10),
    hosts("programs and maps altered by hand", "drift_of_the_fast_path", EITHER, 10),
    hosts("two hosts allocate at once, with kills", "allocation_under_kills", EITHER, 60),
    hosts("networks made and removed in a race", "networks_in_a_race", EITHER, 30),
    hosts("networks made and removed on two engines at once", "networks_at_once", EITHER, 60),
    hosts("attached and detached over and over", "attach_leaves_nothing", BOTH, 30),
    hosts("dockerd and weft killed at each call", "killed_at_each_call", BOTH, 60),
    store("embedded store killed at random", "embedded_faults", 60),
    store("members of an etcd cluster killed and cut off", "etcd_cluster", 30),
    hosts("mixed traffic", "mixed_traffic", BOTH, 5),
    hosts("10,000 container starts", "ten_thousand_starts", EITHER, 5),
    Step { name: "simulated clusters", package: "weft-sim", target: None, datapaths: NONE, limit: 370 },
];

impl Step {
    fn is_asked_for(&self, only: &[String]) -> bool {
        let is_named = |only: &String| {
            self.name.contains(only.as_str()) || self.target.is_some_and(|t| t.contains(only.as_str()))
        };
        only.is_empty() || only.iter().any(is_named)
    }

    fn command(&self) -> Command {
        let mut arguments = vec!["test", "--no-fail-fast", "--package", self.package];
        arguments.extend(self.target.iter().flat_map(|target| ["--test", target]));
        arguments.extend(["--", "--test-threads=1"]);
        cargo(&arguments)
    }
}

/// `cargo xtask soak`
pub fn run(flags: &Flags) -> Result<()> {
    let steps: Vec<&Step> = STEPS.iter().filter(|s| s.is_asked_for(&flags.only)).collect();
    if flags.list {
        for step in steps {
            println!("{:<55} {}", step.name, step.target.unwrap_or(step.package));
        }
        return Ok(());
    }
    step::need_root("soak")?;
    tools::install(tools::Want::All)?;
    let weft = step::build_weft()?;
    let temporary = |what: &str| env::temp_dir().join(format!("weft-{what}.{}", std::process::id()));
    let (cannot_run, figures) = (temporary("cannot-run"), temporary("figures"));
    let mut outcomes = Vec::new();
    let mut measured = Vec::new();
    for step in steps {
        for datapath in step.datapaths {
            let name = [step.name, datapath]
                .iter()
                .filter(|w| !w.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join(", ");
            let mut command = step.command();
            test::environment(&mut command, &weft, &cannot_run);
            command.env("WEFT_LONG", "1").env("WEFT_FIGURES", &figures);
            command.env("WEFT_SOAK_SECONDS", (flags.minutes * 60).to_string());
            if !datapath.is_empty() {
                command.env("WEFT_DATAPATH", datapath);
            }
            let limit = Duration::from_mins(step.limit + 2 * flags.minutes);
            let outcome = test::take_for(&name, &mut command, Some(limit));
            let rows = rows(&figures, step, &outcome)?;
            // At once: hours of it may be broken off.
            if flags.write {
                write(&rows)?;
            }
            measured.extend(rows);
            outcomes.push(outcome);
        }
    }
    println!("\n=== measured");
    for row in &measured {
        println!("{} | {} | {} s", row.fault, row.measured, row.took.as_secs());
    }
    test::summary(&outcomes, &cannot_run)
}

/// What a test measured of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    fault: String,
    measured: String,
    /// What to give to `--only`.
    target: String,
    /// The time of the whole step.
    took: Duration,
}

/// What a step has measured: takes the file away.
fn rows(figures: &Path, step: &Step, outcome: &Outcome) -> Result<Vec<Row>> {
    let Ok(text) = fs::read_to_string(figures) else { return Ok(Vec::new()) };
    fs::remove_file(figures).with_context(|| figures.display().to_string())?;
    let target = step.target.unwrap_or(step.package);
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines
        .map(|(fault, measured)| Row {
            fault: fault.to_owned(),
            measured: measured.to_owned(),
            target: target.to_owned(),
            took: outcome.took,
        })
        .collect())
}

const DOCUMENT: &str = "docs/reliability.md";
const BEGIN: &str = "<!-- cargo xtask soak --write: begin -->\n";
const END: &str = "<!-- end -->";

/// Writes the table into the document. Faults that were not measured this time keep what they had.
fn write(measured: &[Row]) -> Result<()> {
    let document = PathBuf::from(DOCUMENT);
    let text = fs::read_to_string(&document).with_context(|| document.display().to_string())?;
    let machine = Machine::this()?.to_string();
    let text =
        with_table(&text, measured, &machine).context(format!("{DOCUMENT} has no place for the table"))?;
    fs::write(&document, text).with_context(|| document.display().to_string())
}

fn with_table(document: &str, measured: &[Row], machine: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (table, after) = rest.split_once(END)?;
    let mut lines: BTreeMap<String, String> = table
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .filter_map(|line| Some((line.split('|').nth(1)?.trim().to_owned(), line.to_owned())))
        .collect();
    for row in measured {
        let Row { fault, measured, target, .. } = row;
        let fault = fault.replace('|', "/");
        let measured = measured.replace('|', "/");
        let line = format!("| {fault} | {measured} | `cargo xtask soak --only {target}` |");
        lines.insert(fault, line);
    }
    let lines: Vec<String> = lines.into_values().collect();
    Some(format!(
        "{before}{BEGIN}Last measured on {machine}.\n\n| fault | measured | command |\n|---|---|---|\n{}\n{END}{after}",
        lines.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fault: &str, measured: &str) -> Row {
        let target = "file".to_owned();
        Row { fault: fault.to_owned(), measured: measured.to_owned(), target, took: Duration::ZERO }
    }

    #[test]
    fn the_table_takes_what_is_new_and_keeps_what_was_not_measured_again() {
        let document = format!("before\n{BEGIN}{END}\nafter\n");
        let once = with_table(&document, &[row("b", "1 lost"), row("a", "2|3")], "a Z80").unwrap();
        assert_eq!(
            once,
            format!(
                "before\n{BEGIN}Last measured on a Z80.\n\n| fault | measured | command |\n|---|---|---|\n\
                 | a | 2/3 | `cargo xtask soak --only file` |\n| b | 1 lost | `cargo xtask soak --only file` |\n\
                 {END}\nafter\n"
            )
        );
        let twice = with_table(&once, &[row("b", "0 lost")], "a Z80").unwrap();
        assert_eq!(twice, once.replace("1 lost", "0 lost"));
        assert_eq!(with_table("no place", &[], ""), None);
    }

    #[test]
    fn the_document_has_a_place_for_the_table() {
        let document = fs::read_to_string(Path::new("..").join(DOCUMENT)).unwrap();
        assert!(with_table(&document, &[], "").is_some());
    }

    #[test]
    fn every_file_of_tests_with_a_long_form_is_soaked() {
        for (package, folder) in [("weft-e2e", "../tests"), ("weft-store", "../crates/weft-store/tests")] {
            for target in test::files_of_tests(Path::new(folder)).unwrap() {
                let is_step = STEPS.iter().any(|s| s.package == package && s.target == Some(&target));
                let text = fs::read_to_string(format!("{folder}/{target}.rs")).unwrap();
                assert!(is_step || !text.contains("short_or_long("), "{target} is not among the steps");
            }
        }
    }
}
