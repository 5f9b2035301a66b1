//! Several files of tests at once.
//!
//! Tests of whole clusters wait most of the time: for engines to start, for leases to end. Within a file they run one after the
//! other, since they share the names of their hosts; files share nothing. Two at a time need three quarters of two cores.

use super::{harness, outcome::Outcome};
use std::{
    fmt::Write as _,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

/// How many files at once.
const LANES: usize = 2;

/// Runs a step: `command` for each of `files`, which are targets as cargo is told them. The output of each is shown when it has
/// ended.
pub(super) fn take(name: &str, files: &[String], command: impl Fn(&str) -> Command + Sync) -> Outcome {
    println!("\n=== {name}, {LANES} files at a time");
    let start = Instant::now();
    let (queue, outcomes) = (Mutex::new(files.iter()), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(file) = next() {
                    let outcome = one(file, &mut command(file));
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Outcome::of_all(name, start.elapsed(), outcomes)
}

fn one(file: &str, command: &mut Command) -> Outcome {
    let mut output = String::new();
    let outcome = harness::run(file, command, None, |line| {
        // Writing to a string does not fail.
        let _ = writeln!(output, "{line}");
    });
    println!("\n--- {file}, {} s\n{output}", outcome.took.as_secs());
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_run_once_and_what_failed_in_one_is_told() {
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let outcome = take("all", &names, |file| {
            let result = if file == "d" { "test late ... FAILED'; exit 1; echo '" } else { "" };
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo 'test result: ok. 1 passed; 0 failed'; echo '{result}'")]);
            command
        });
        assert_eq!(outcome.passed, 5);
        assert_eq!(outcome.failed, ["late"]);
        assert!(outcome.error.unwrap().starts_with("d: "));
    }
}
