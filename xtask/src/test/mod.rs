//! `cargo xtask test`: everything that is tested, in the order in which a mistake shows soonest.

mod harness;
mod lanes;
mod outcome;

pub(crate) use harness::take_for;
pub(crate) use outcome::{Outcome, summary};

use crate::{
    lint,
    step::{self, cargo},
    tools,
};
use anyhow::{Context, Result};
use clap::Args;
use std::{cmp::Reverse, env, fs, path::Path, process::Command, time::Instant};
use weft_lab::Tools;

/// What to test.
#[derive(Args)]
pub struct Flags {
    /// Only what needs no cluster: lints, unit, property and conformance tests
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this; no lints
    filter: Option<String>,
}

/// Crates whose tests make devices and namespaces: one test at a time, or they would wait for each other's.
const KERNEL: [&str; 2] = ["weft-kernel", "weft-lab"];
/// How many tests run at once where none disturbs another: those of the stores start a server each and wait for it, for
/// leases to end and for timeouts far longer than they compute.
const AT_ONCE: &str = "12";
/// The crate of the end-to-end tests.
const END_TO_END: &str = "weft-e2e";
const END_TO_END_FOLDER: &str = "tests";

/// `cargo xtask test`
pub fn run(flags: &Flags) -> Result<()> {
    tools::install(tools::Want::All)?;
    let cannot_run = env::temp_dir().join(format!("weft-cannot-run.{}", std::process::id()));
    let mut outcomes = Vec::new();
    if flags.filter.is_none() {
        for (name, arguments) in lint::CHECKS {
            outcomes.push(harness::take(name, &mut cargo(arguments)));
        }
    }
    let start = Instant::now();
    let weft = match step::build_weft() {
        Ok(weft) => weft,
        Err(error) => {
            outcomes.push(Outcome::failed("build", start.elapsed(), &error));
            return summary(&outcomes, &cannot_run);
        }
    };
    if flags.filter.is_none() && !flags.quick {
        let mut command = Command::new(env::current_exe()?);
        environment(command.arg("verifier"), &weft, &cannot_run);
        outcomes.push(harness::take("kernels' verifiers", &mut command));
    }
    let files =
        files_of_tests(Path::new(END_TO_END_FOLDER))?.into_iter().map(|file| format!("--test={file}"));
    let clusters: Vec<String> = std::iter::once("--lib".to_owned()).chain(files).collect();
    for Step { name, arguments, order, datapath } in steps(flags.quick) {
        let command = |of: &[&str], only: &[String]| {
            let mut command = cargo(&arguments);
            command.args(of).arg("--");
            command.env("RUST_TEST_THREADS", if order == Order::AtOnce { AT_ONCE } else { "1" });
            environment(&mut command, &weft, &cannot_run);
            if let Some(datapath) = datapath {
                // Every daemon that the tests start reads it.
                command.env("WEFT_DATAPATH", datapath);
            }
            command.args(only);
            command
        };
        let Some(filter) = &flags.filter else {
            let outcome = if order == Order::InLanes {
                lanes::take(name, &clusters, |target| command(&[target], &[]))
            } else {
                harness::take(name, &mut command(&[], &[]))
            };
            outcomes.push(outcome.or_shaky(|failed| {
                let only = [vec!["--exact".to_owned()], failed.to_vec()].concat();
                harness::take(&format!("{name}: what failed, again"), &mut command(&[], &only))
            }));
            continue;
        };
        outcomes.push(harness::take(name, &mut command(&[], std::slice::from_ref(filter))));
    }
    summary(&outcomes, &cannot_run)
}

/// The files of integration tests of a package, without their extension; the longest first, for they take the most time.
pub(crate) fn files_of_tests(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(stem) = path.file_stem()
        {
            files.push((Reverse(entry.metadata()?.len()), stem.to_string_lossy().into_owned()));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, name)| name).collect())
}

/// How many tests of a step run at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As many as can: see [`AT_ONCE`].
    AtOnce,
    /// One after the other.
    InTurn,
    /// One of a file, and some files.
    InLanes,
}

/// A run of `cargo test`.
struct Step {
    name: &'static str,
    arguments: Vec<&'static str>,
    order: Order,
    /// Which data path the daemons use.
    datapath: Option<&'static str>,
}

fn steps(quick: bool) -> Vec<Step> {
    let mut pure = vec!["test", "--no-fail-fast", "--workspace", "--exclude", END_TO_END];
    let mut kernel = vec!["test", "--no-fail-fast"];
    for name in KERNEL {
        pure.extend(["--exclude", name]);
        kernel.extend(["--package", name]);
    }
    let step = |name, arguments, order, datapath| Step { name, arguments, order, datapath };
    let mut steps = vec![step("unit, property, conformance", pure, Order::AtOnce, None)];
    if !quick {
        steps.push(step("kernel and lab", kernel, Order::InTurn, None));
        for (name, datapath) in
            [("end to end, eBPF data path", "ebpf"), ("end to end, kernel data path", "kernel")]
        {
            let end_to_end = vec!["test", "--no-fail-fast", "--package", END_TO_END];
            steps.push(step(name, end_to_end, Order::InLanes, Some(datapath)));
        }
    }
    steps
}

/// What the tests of any suite find in their environment.
pub(crate) fn environment(command: &mut Command, weft: &Path, cannot_run: &Path) {
    let tools = Tools::from_env();
    command.env("WEFT_BIN", weft).env("WEFT_CANNOT_RUN", cannot_run).env("WEFT_TOOLS", tools.dir());
    if let Ok(etcd) = tools.etcd() {
        command.env("WEFT_ETCD", etcd);
    }
    if let Ok(consul) = tools.consul() {
        command.env("WEFT_CONSUL", consul);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_tested_and_the_clusters_on_both_data_paths() {
        let all = steps(false);
        for (name, times) in [(KERNEL[0], 1), (KERNEL[1], 1), (END_TO_END, 2)] {
            let excluded = all[0].arguments.windows(2).any(|w| w == ["--exclude", name]);
            let tested = all[1..].iter().filter(|s| s.arguments.windows(2).any(|w| w == ["--package", name]));
            assert!(excluded && tested.count() == times, "{name}");
        }
        let paths: Vec<_> = all.iter().filter_map(|step| step.datapath).collect();
        assert_eq!(paths, ["ebpf", "kernel"]);
    }
}
