//! `cargo xtask test`: everything that is tested, in the order in which a mistake shows soonest.

use crate::{
    lint,
    step::{self, cargo},
    tools,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};
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
/// How many tests of a step may fail at first and pass when they are run again: the clusters are real, and so is the noise of
/// the machine under them.
const SHAKY: usize = 3;
/// The crate of the end-to-end tests.
const END_TO_END: &str = "weft-e2e";

/// How a step went.
#[derive(Default)]
pub(crate) struct Outcome {
    step: String,
    pub(crate) took: Duration,
    passed: usize,
    ignored: usize,
    /// The tests that failed, as far as their harness has named them.
    failed: Vec<String>,
    error: Option<String>,
    /// What failed at first and passed when it was run again.
    shaky: Option<String>,
}

/// `cargo xtask test`
pub fn run(flags: &Flags) -> Result<()> {
    tools::install(tools::Want::All)?;
    let cannot_run = env::temp_dir().join(format!("weft-cannot-run.{}", std::process::id()));
    let mut outcomes = Vec::new();
    if flags.filter.is_none() {
        for (name, arguments) in lint::CHECKS {
            outcomes.push(take(name, &mut cargo(arguments)));
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
        outcomes.push(take("kernels' verifiers", &mut command));
    }
    for Step { name, arguments, datapath } in steps(flags.quick) {
        let run = |name: &str, only: &[String]| {
            let mut command = cargo(&arguments);
            if !arguments.contains(&"--test-threads=1") {
                command.env("RUST_TEST_THREADS", AT_ONCE);
            }
            environment(&mut command, &weft, &cannot_run);
            if let Some(datapath) = datapath {
                // Every daemon that the tests start reads it.
                command.env("WEFT_DATAPATH", datapath);
            }
            if !only.is_empty() && !arguments.contains(&"--") {
                command.arg("--");
            }
            take(name, command.args(only))
        };
        let outcome = run(name, flags.filter.as_slice());
        outcomes.push(match flags.filter {
            None => outcome.or_shaky(|failed| {
                let only = [vec!["--exact".to_owned()], failed.to_vec()].concat();
                run(&format!("{name}: what failed, again"), &only)
            }),
            Some(_) => outcome,
        });
    }
    summary(&outcomes, &cannot_run)
}

/// A run of `cargo test`.
struct Step {
    name: &'static str,
    arguments: Vec<&'static str>,
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
    kernel.extend(["--", "--test-threads=1"]);
    let step = |name, arguments, datapath| Step { name, arguments, datapath };
    let mut steps = vec![step("unit, property, conformance", pure, None)];
    if !quick {
        steps.push(step("kernel and lab", kernel, None));
        let end_to_end = vec!["test", "--no-fail-fast", "--package", END_TO_END, "--", "--test-threads=1"];
        steps.push(step("end to end, eBPF data path", end_to_end.clone(), Some("ebpf")));
        steps.push(step("end to end, kernel data path", end_to_end, Some("kernel")));
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

/// Runs a step: its output is shown as it comes, and its harnesses' results are counted.
fn take(name: &str, command: &mut Command) -> Outcome {
    take_for(name, command, None)
}

/// The same. When its time is up, the programs that the command has started are killed: `cargo test` calls that a
/// failure and goes on to the next.
pub(crate) fn take_for(name: &str, command: &mut Command, limit: Option<Duration>) -> Outcome {
    println!("\n=== {name}");
    let start = Instant::now();
    match watch(command, limit) {
        Ok(outcome) => Outcome { step: name.to_owned(), took: start.elapsed(), ..outcome },
        Err(error) => Outcome::failed(name, start.elapsed(), &error),
    }
}

fn watch(command: &mut Command, limit: Option<Duration>) -> Result<Outcome> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let alarm = limit.map(|limit| Alarm::set(child.id(), limit));
    let (mut passed, mut ignored, mut failed, mut panics) = (0, 0, Vec::new(), Panics::default());
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        panics.read(&line);
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += count(result, "passed");
            ignored += count(result, "ignored");
        } else if let Some(test) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
            failed.push(test.to_owned());
        }
    }
    let status = child.wait()?;
    let outcome = Outcome { passed, ignored, ..Outcome::default() };
    if status.success() {
        return Ok(outcome);
    }
    if alarm.is_some_and(|alarm| alarm.has_rung()) {
        bail!("its time was up");
    }
    if failed.is_empty() {
        bail!("{status}");
    }
    let reasons: Vec<_> = failed
        .iter()
        .map(|test| match panics.of.get(test) {
            Some(message) => format!("{test}:\n        {}", message.join("\n        ")),
            None => test.clone(),
        })
        .collect();
    let error = format!("{passed} passed, {} failed:\n      {}", failed.len(), reasons.join("\n      "));
    Ok(Outcome { failed, error: Some(error), ..outcome })
}

/// Why tests failed, as their harness tells it: the summary repeats it, for whoever sees no more than the end of a run.
#[derive(Default)]
struct Panics {
    /// A test, and the first lines of its first panic.
    of: HashMap<String, Vec<String>>,
    /// Whose output is being read.
    test: String,
    open: bool,
}

impl Panics {
    /// How many lines of a message are kept.
    const LINES: usize = 12;
    /// How much of a line.
    const WIDTH: usize = 400;

    fn read(&mut self, line: &str) {
        if let Some(test) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            (self.test, self.open) = (test.to_owned(), false);
        } else if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.open = !self.test.is_empty() && !self.of.contains_key(&self.test);
            if self.open {
                self.of.insert(self.test.clone(), Vec::new());
            }
        } else if line.starts_with("stack backtrace:") || line.starts_with("note: ") {
            self.open = false;
        } else if self.open
            && let Some(message) = self.of.get_mut(&self.test)
        {
            message.push(line.chars().take(Self::WIDTH).collect());
            self.open = message.len() < Self::LINES;
        }
    }
}

/// Kills the children of a process when its time is up, unless it is dropped before.
struct Alarm {
    rung: Arc<AtomicBool>,
    _ended: Sender<()>,
}

impl Alarm {
    fn set(process: u32, limit: Duration) -> Self {
        let (ended, end) = mpsc::channel::<()>();
        let rung = Arc::new(AtomicBool::new(false));
        let rings = Arc::clone(&rung);
        thread::spawn(move || {
            let mut wait = limit;
            while end.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                rings.store(true, Ordering::SeqCst);
                // It may start others still.
                wait = Duration::from_secs(1);
                let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
                for pid in children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok())
                {
                    // Gone by itself: as good.
                    let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        });
        Self { rung, _ended: ended }
    }

    fn has_rung(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }
}

/// The number before `word` in "ok. 3 passed; 0 failed; …".
fn count(result: &str, word: &str) -> usize {
    let words: Vec<&str> = result.split([' ', ';']).filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| *w == word);
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
}

impl Outcome {
    fn failed(step: &str, took: Duration, error: &anyhow::Error) -> Self {
        Self { step: step.to_owned(), took, error: Some(format!("{error:#}")), ..Self::default() }
    }

    /// Runs what failed once more, alone. A test that passes then is shaky: told in the summary with its reason, and no failure.
    /// A few only: more have a cause that is no accident.
    fn or_shaky(self, again: impl FnOnce(&[String]) -> Self) -> Self {
        if self.failed.is_empty() || self.failed.len() > SHAKY {
            return self;
        }
        let second = again(&self.failed);
        if second.error.is_some() || second.passed < self.failed.len() {
            return self;
        }
        Self {
            took: self.took + second.took,
            passed: self.passed + second.passed,
            error: None,
            shaky: self.error,
            ..self
        }
    }
}

/// Prints how all steps went; fails if one did.
pub(crate) fn summary(outcomes: &[Outcome], cannot_run: &PathBuf) -> Result<()> {
    println!("\n=== summary");
    for outcome in outcomes {
        let seconds = outcome.took.as_secs();
        match &outcome.error {
            Some(error) => println!("FAILED {:<30} {seconds:>4} s  {error}", outcome.step),
            None if outcome.passed == 0 => println!("ok     {:<30} {seconds:>4} s", outcome.step),
            None => {
                let ignored = if outcome.ignored > 0 {
                    format!(", {} ignored", outcome.ignored)
                } else {
                    String::new()
                };
                println!("ok     {:<30} {seconds:>4} s  {} tests{ignored}", outcome.step, outcome.passed);
            }
        }
        if let Some(reason) = &outcome.shaky {
            println!("SHAKY  {:<30} passed when run again; at first: {reason}", outcome.step);
        }
    }
    if let Ok(lines) = fs::read_to_string(cannot_run) {
        print!("{lines}");
        fs::remove_file(cannot_run).with_context(|| cannot_run.display().to_string())?;
    }
    let failed = outcomes.iter().filter(|o| o.error.is_some()).count();
    if failed == 0 { Ok(()) } else { bail!("{failed} of {} steps failed", outcomes.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harness_result_is_counted() {
        let result = "ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; finished in 0.05s";
        assert_eq!(count(result, "passed"), 12);
        assert_eq!(count(result, "ignored"), 3);
        assert_eq!(count("garbage", "passed"), 0);
    }

    #[test]
    fn a_few_tests_may_pass_at_the_second_attempt_and_are_told() {
        let tests = |count: usize| vec!["a::b".to_owned(); count];
        let first = |count| Outcome {
            passed: 7,
            failed: tests(count),
            error: Some("lost".to_owned()),
            ..Outcome::default()
        };
        let good = |failed: &[String]| Outcome { passed: failed.len(), ..Outcome::default() };
        let shaky = first(2).or_shaky(good);
        assert_eq!((shaky.error, shaky.passed, shaky.shaky.as_deref()), (None, 9, Some("lost")));
        for failed in [
            first(SHAKY + 1).or_shaky(good),
            first(2).or_shaky(|failed| Outcome { passed: failed.len() - 1, ..Outcome::default() }),
            first(2).or_shaky(|_| Outcome {
                passed: 2,
                error: Some("again".to_owned()),
                ..Outcome::default()
            }),
        ] {
            assert_eq!((failed.error.as_deref(), failed.shaky), (Some("lost"), None));
        }
    }

    #[test]
    fn a_failed_tests_first_panic_is_told_without_its_backtrace() {
        let output = "thread 'stray' panicked at a.rs:1:1:\nnobody's\n---- cold::boot stdout ----\nsaid before\n\
                      thread 'cold::boot' (17) panicked at b.rs:2:2:\n2 faults:\nno ping\nstack backtrace:\n   0: f\n\
                      thread 'cold::boot' (17) panicked at c.rs:3:3:\nanother\n---- warm stdout ----\nnothing";
        let mut panics = Panics::default();
        output.lines().for_each(|line| panics.read(line));
        let told =
            HashMap::from([("cold::boot".to_owned(), vec!["2 faults:".to_owned(), "no ping".to_owned()])]);
        assert_eq!(panics.of, told);
    }

    #[test]
    fn a_step_whose_time_is_up_is_ended_and_says_so() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600; exit 1"]);
        let outcome = take_for("sleep", &mut command, Some(Duration::from_millis(200)));
        assert_eq!(outcome.error.as_deref(), Some("its time was up"));
        assert!(outcome.took < Duration::from_mins(1));
    }

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
