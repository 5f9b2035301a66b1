//! `weft-sim`: runs seeds until one fails or there are no more.
//!
//!     cargo run -p weft-sim -- --seed 7              one seed, with its trace
//!     cargo run -p weft-sim -- --seed 1 --seeds 1000 a thousand

use anyhow::{Result, bail};
use clap::Parser;
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};
use weft_sim::{Outcome, Size, run};

/// Simulated clusters in trouble, each repeatable from its number
#[derive(Parser)]
#[command(name = "weft-sim")]
struct Cli {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many; one seed prints its trace
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Go on after a seed that fails
    #[arg(long)]
    keep_going: bool,
    /// End after this many seconds, however many seeds are left
    #[arg(long)]
    limit: Option<u64>,
    /// Threads, one seed each at a time
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let disks = weft_sim::disks();
    if cli.seeds == 1 {
        let outcome = run(cli.seed, Size::default(), &disks)?;
        for line in &outcome.trace {
            println!("{line}");
        }
        println!("{}", summary(cli.seed, &outcome));
        return if outcome.broken.is_empty() { Ok(()) } else { bail!("seed {} fails", cli.seed) };
    }
    many(&cli, &disks)
}

fn many(cli: &Cli, disks: &Path) -> Result<()> {
    let (next, failed, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..cli.threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let over = cli.limit.is_some_and(|limit| began.elapsed() > Duration::from_secs(limit));
                    let stop = failed.load(Ordering::SeqCst) > 0 && !cli.keep_going;
                    if number >= cli.seeds || over || stop {
                        return;
                    }
                    let seed = cli.seed + number;
                    match run(seed, Size::default(), disks) {
                        Ok(outcome) if outcome.broken.is_empty() => {}
                        Ok(outcome) => {
                            failed.fetch_add(1, Ordering::SeqCst);
                            println!("{}", summary(seed, &outcome));
                        }
                        Err(error) => {
                            failed.fetch_add(1, Ordering::SeqCst);
                            println!("seed {seed}: {error}");
                        }
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let (failed, done) = (failed.into_inner(), done.into_inner());
    println!("{done} seeds from {} on, {failed} failed, {:.0} s", cli.seed, began.elapsed().as_secs_f64());
    if failed == 0 { Ok(()) } else { bail!("{failed} seeds failed") }
}

fn summary(seed: u64, outcome: &Outcome) -> String {
    let Outcome { broken, hash, settled, polls, .. } = outcome;
    let words = if broken.is_empty() { "all well".to_owned() } else { broken.join("\n  ") };
    format!("seed {seed}: trace {hash:016x}, {polls} polls, settled in {} s: {words}", settled.as_secs())
}
