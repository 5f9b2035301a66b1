//! How a step of tests went, and what is told of all of them.

use anyhow::{Context, Result, bail};
use std::{fs, path::PathBuf, time::Duration};

/// How many tests of a step may fail at first and pass when they are run again: the clusters are real, and so is the noise of
/// the machine under them.
const SHAKY: usize = 3;

/// How a step went.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(super) step: String,
    pub(crate) took: Duration,
    pub(super) passed: usize,
    pub(super) ignored: usize,
    /// The tests that failed, as far as their harness has named them.
    pub(super) failed: Vec<String>,
    pub(super) error: Option<String>,
    /// What failed at first and passed when it was run again.
    pub(super) shaky: Option<String>,
}

impl Outcome {
    pub(super) fn failed(step: &str, took: Duration, error: &anyhow::Error) -> Self {
        Self { step: step.to_owned(), took, error: Some(format!("{error:#}")), ..Self::default() }
    }

    /// One step of several runs.
    pub(super) fn of_all(step: &str, took: Duration, runs: Vec<Self>) -> Self {
        let mut whole = Self { step: step.to_owned(), took, ..Self::default() };
        let mut errors = Vec::new();
        // What failed without the name of a test cannot be run again.
        let is_named = runs.iter().all(|run| run.error.is_none() || !run.failed.is_empty());
        for run in runs {
            whole.passed += run.passed;
            whole.ignored += run.ignored;
            whole.failed.extend(run.failed.into_iter().filter(|_| is_named));
            errors.extend(run.error.map(|error| format!("{}: {error}", run.step)));
        }
        whole.error = (!errors.is_empty()).then(|| errors.join("\n      "));
        whole
    }

    /// Runs what failed once more, alone. A test that passes then is shaky: told in the summary with its reason, and no failure.
    /// A few only: more have a cause that is no accident.
    pub(super) fn or_shaky(self, again: impl FnOnce(&[String]) -> Self) -> Self {
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
    fn a_step_of_several_runs_is_as_good_as_the_worst_of_them() {
        let run = |step: &str, failed: &[&str], error: Option<&str>| Outcome {
            step: step.to_owned(),
            passed: 2,
            failed: failed.iter().map(|&name| name.to_owned()).collect(),
            error: error.map(ToOwned::to_owned),
            ..Outcome::default()
        };
        let of_all = |runs| Outcome::of_all("all", Duration::from_secs(1), runs);
        let good = of_all(vec![run("a", &[], None), run("b", &[], None)]);
        assert_eq!((good.passed, good.error.as_deref(), good.failed.len()), (4, None, 0));
        let bad = of_all(vec![
            run("a", &["x", "y"], Some("late")),
            run("b", &[], None),
            run("c", &["z"], Some("lost")),
        ]);
        assert_eq!(bad.error.as_deref(), Some("a: late\n      c: lost"));
        assert_eq!(bad.failed, ["x", "y", "z"]);
        let crashed = of_all(vec![run("a", &["x"], Some("late")), run("b", &[], Some("signal 11"))]);
        assert_eq!(crashed.failed, Vec::<String>::new());
    }
}
