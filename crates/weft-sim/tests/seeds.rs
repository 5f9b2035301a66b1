//! Simulated clusters come through their troubles, each repeatable from its number: see `docs/simulation.md`.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use weft_sim::{BOUND, Outcome, Size, disks, run};

/// Runs one seed; a failure shows its trace and how to repeat it.
fn run_well(seed: u64) -> Outcome {
    let outcome = run(seed, Size::default(), &disks()).unwrap();
    let fault = outcome.broken.join("\n");
    assert!(
        outcome.broken.is_empty(),
        "{}\n\nseed {seed}: {fault}\nrepeat it with: cargo xtask sim --seed {seed}",
        outcome.trace.join("\n")
    );
    outcome
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for seed in [3, 4, 5] {
        let (first, second) = (run_well(seed), run_well(seed));
        let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((first.hash, first.polls), (second.hash, second.polls));
    }
    assert_ne!(run_well(3).hash, run_well(4).hash);
}

/// So many are run however long that takes.
const FEWEST: u64 = 20;
/// How many at most, and how much time they get: in the short form, some two thousand on two cores.
const SHORT: (u64, Duration) = (3_000, Duration::from_mins(2));
const LONG: (u64, Duration) = (100_000, Duration::from_hours(6));

#[test]
fn clusters_come_through_their_troubles() {
    let (seeds, limit) = weft_lab::short_or_long(SHORT, LONG);
    let (next, polls) = (AtomicU64::new(1), AtomicU64::new(0));
    let (slowest, failed) = (Mutex::new(Duration::ZERO), AtomicU64::new(0));
    let done = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while failed.load(Ordering::SeqCst) == 0 {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > seeds || (seed > FEWEST && began.elapsed() > limit) {
                        return;
                    }
                    // What this thread's panic says is the test's outcome: it is shown when the threads have ended.
                    let Ok(outcome) = std::panic::catch_unwind(|| run_well(seed)) else {
                        failed.store(seed, Ordering::SeqCst);
                        return;
                    };
                    polls.fetch_add(outcome.polls, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = outcome.settled.max(*slowest);
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert_eq!(
        failed, 0,
        "seed {failed} fails: its trace is above; repeat it with: cargo xtask sim --seed {failed}"
    );
    let done = done.into_inner();
    weft_lab::figures(
        "simulated clusters",
        &format!(
            "{done} seeds, {} steps, 0 promises broken; quiet again within {} s, pairs within {} s of simulated time",
            polls.into_inner(),
            slowest.into_inner().unwrap().as_secs(),
            BOUND.as_secs()
        ),
    );
}
