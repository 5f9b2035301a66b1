//! `cargo xtask fuzz`: looks for bytes that break a promise (`crates/weft-fuzz`), with cargo-fuzz and libFuzzer.
//!
//! What a run finds worth keeping goes to `fuzz/found/TARGET` and is where the next run begins; `--keep` takes from there
//! into the committed corpus what reaches code that it did not reach. An input that broke a promise is in
//! `fuzz/artifacts/TARGET`.

use crate::step::{cargo, quietly, run as step};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

/// What to fuzz.
#[derive(Args)]
pub struct Flags {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many targets run at the same time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Add what reached new code to the committed corpus
    #[arg(long)]
    keep: bool,
    /// The targets: all of them if none is named
    targets: Vec<String>,
}

/// Safe Rust has no memory errors for a sanitizer to find, and without one twice as much is tried in the same time.
const NO_SANITIZER: [&str; 2] = ["--sanitizer", "none"];

/// How a target's run went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Inputs tried.
    executions: u64,
    /// Inputs tried in a second, on average.
    per_second: u64,
    /// Edges of the program that were reached.
    edges: u64,
    /// Inputs that reached something new.
    added: u64,
    /// The input that broke a promise.
    broken: Option<String>,
}

/// `cargo xtask fuzz`
pub fn run(flags: &Flags) -> Result<()> {
    let folder = Path::new("fuzz");
    let known = targets(folder)?;
    if let Some(unknown) = flags.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown:?}: known are {}", known.join(", "));
    }
    if quietly(&mut cargo(&["fuzz", "--version"])).is_err() {
        step(&mut cargo(&["install", "--locked", "cargo-fuzz"]))?;
    }
    step(fuzz(&["build"]).args(NO_SANITIZER))?;
    let chosen = if flags.targets.is_empty() { &known } else { &flags.targets };
    let outcomes = all(folder, chosen, flags)?;
    println!(
        "\n| target | executions | a second | edges | new inputs | broken by |\n|---|---|---|---|---|---|"
    );
    for (target, outcome) in &outcomes {
        let Outcome { executions, per_second, edges, added, broken } = outcome;
        let broken = broken.as_deref().unwrap_or("nothing");
        println!("| `{target}` | {executions} | {per_second} | {edges} | {added} | {broken} |");
    }
    let broken = outcomes.iter().filter(|(_, outcome)| outcome.broken.is_some()).count();
    if broken == 0 { Ok(()) } else { bail!("{broken} of {} targets broke a promise", outcomes.len()) }
}

/// The targets: a file each.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let files = fs::read_dir(folder.join("fuzz_targets")).context("fuzz/fuzz_targets")?;
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut targets: Vec<String> = files.filter_map(|file| stem(file.ok()?.path())).collect();
    targets.sort();
    Ok(targets)
}

/// `cargo fuzz`, which wants a compiler that takes unstable flags.
fn fuzz(arguments: &[&str]) -> Command {
    let mut command = cargo(&["fuzz"]);
    command.args(arguments).env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Fuzzes these targets, `--jobs` at a time. The first error ends it when those that run have ended.
fn all<'a>(folder: &Path, targets: &'a [String], flags: &Flags) -> Result<BTreeMap<&'a String, Outcome>> {
    let waiting = Mutex::new(targets.iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let job = || {
        let mut outcomes = Vec::new();
        while let Some(target) = next() {
            println!("\n=== {target}, {} s", flags.seconds);
            let outcome = one(folder, target, flags).context(target.clone());
            if outcome.is_err() {
                while next().is_some() {}
            }
            outcomes.push((target, outcome?));
        }
        Ok(outcomes)
    };
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..flags.jobs.max(1)).map(|_| scope.spawn(job)).collect();
        let ended = jobs.into_iter().map(|job| job.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Ok(ended.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    })
}

fn one(folder: &Path, target: &str, flags: &Flags) -> Result<Outcome> {
    let root = fs::canonicalize(folder).context("fuzz")?;
    let (found, corpus) = (root.join("found").join(target), root.join("corpus").join(target));
    fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
    let mut command = fuzz(&["run"]);
    command.args(NO_SANITIZER).arg(target).args([&found, &corpus]).arg("--");
    command.args([format!("-max_total_time={}", flags.seconds), "-print_final_stats=1".to_owned()]);
    let dictionary = root.join("dictionaries").join(format!("{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let outcome = watch(target, &mut command)?;
    if flags.keep && outcome.broken.is_none() {
        let mut command = fuzz(&["run"]);
        // One input for each edge, not for each number of times that one was passed: thousands, otherwise.
        let merge = ["--", "-set_cover_merge=1", "-use_counters=0"];
        step(command.args(NO_SANITIZER).arg(target).args([&corpus, &found]).args(merge))?;
    }
    Ok(outcome)
}

/// Runs a fuzzer: what it says is shown as it comes, and read for the figures.
fn watch(target: &str, command: &mut Command) -> Result<Outcome> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let (mut outcome, mut ended) = (Outcome::default(), false);
    for line in BufReader::new(child.stderr.take().context("no output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        eprintln!("{target}: {line}");
        ended |= outcome.note(&line);
    }
    let status = child.wait()?;
    if !status.success() && outcome.broken.is_none() {
        bail!("the fuzzer ended with {status}");
    }
    if ended { Ok(outcome) } else { bail!("the fuzzer told no figures") }
}

impl Outcome {
    /// Reads a line of libFuzzer's. Whether it is of its final figures.
    fn note(&mut self, line: &str) -> bool {
        let after = |text: &str, word: &str| -> Option<u64> {
            let (_, rest) = text.split_once(word)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        if line.starts_with('#') {
            self.edges = after(line, " cov: ").unwrap_or(self.edges);
        }
        // A slow one breaks no promise: the machine may have had other things to do.
        if let Some((_, path)) =
            line.split_once("Test unit written to ").filter(|(_, path)| !path.contains("/slow-unit-"))
        {
            self.broken = Some(path.to_owned());
        }
        let Some(figure) = line.strip_prefix("stat::") else { return false };
        for (name, field) in [
            ("number_of_executed_units:", &mut self.executions),
            ("average_exec_per_sec:", &mut self.per_second),
            ("new_units_added:", &mut self.added),
        ] {
            *field = after(figure, name).unwrap_or(*field);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_run_are_read() {
        let mut outcome = Outcome::default();
        let said = "\
INFO: seed corpus: files: 8 min: 43b max: 188b total: 1011b rss: 36Mb
#9	INITED cov: 301 ft: 400 corp: 8/1011b exec/s: 0 rss: 37Mb
#524288	pulse  cov: 412 ft: 999 corp: 40/3kb lim: 1200 exec/s: 262144 rss: 60Mb
#600000	DONE   cov: 415 ft: 1003 corp: 41/3kb lim: 1300 exec/s: 200000 rss: 61Mb
artifact_prefix='/w/'; Test unit written to /w/crash-1
artifact_prefix='/w/'; Test unit written to /w/slow-unit-2
stat::number_of_executed_units: 600000
stat::average_exec_per_sec:     200000
stat::new_units_added:          33";
        assert_eq!(said.lines().filter(|line| outcome.note(line)).count(), 3);
        let broken = Some("/w/crash-1".to_owned());
        let expected = Outcome { executions: 600_000, per_second: 200_000, edges: 415, added: 33, broken };
        assert_eq!(outcome, expected);
    }
}
