//! Runs `cargo test` and reads what its harnesses tell.

use super::outcome::Outcome;
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// Runs a step: its output is shown as it comes, and its harnesses' results are counted.
pub(super) fn take(name: &str, command: &mut Command) -> Outcome {
    take_for(name, command, None)
}

/// The same. When its time is up, the programs that the command has started are killed: `cargo test` calls that a
/// failure and goes on to the next.
pub(crate) fn take_for(name: &str, command: &mut Command, limit: Option<Duration>) -> Outcome {
    println!("\n=== {name}");
    run(name, command, limit, |line| println!("{line}"))
}

/// Runs a command whose standard output is given to `show`, line by line.
pub(super) fn run(
    name: &str,
    command: &mut Command,
    limit: Option<Duration>,
    show: impl FnMut(&str),
) -> Outcome {
    let start = Instant::now();
    match watch(command, limit, show) {
        Ok(outcome) => Outcome { step: name.to_owned(), took: start.elapsed(), ..outcome },
        Err(error) => Outcome::failed(name, start.elapsed(), &error),
    }
}

fn watch(command: &mut Command, limit: Option<Duration>, mut show: impl FnMut(&str)) -> Result<Outcome> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let alarm = limit.map(|limit| Alarm::set(child.id(), limit));
    let (mut passed, mut ignored, mut failed, mut panics) = (0, 0, Vec::new(), Panics::default());
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        show(&line);
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
}
