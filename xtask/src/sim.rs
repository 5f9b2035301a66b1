//! `cargo xtask sim`: simulated clusters from their numbers; see `docs/simulation.md`.

use crate::step::{self, cargo};
use anyhow::Result;
use clap::Args;

/// Which seeds.
#[derive(Args)]
pub struct Flags {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many; one seed prints its trace
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// End after this many seconds, however many seeds are left
    #[arg(long)]
    limit: Option<u64>,
    /// Go on after a seed that fails
    #[arg(long)]
    keep_going: bool,
}

/// `cargo xtask sim`
pub fn run(flags: &Flags) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut command = cargo(&["run", "--quiet", "--package", "weft-sim", "--"]);
    command.args(["--seed", &flags.seed.to_string(), "--seeds", &flags.seeds.to_string()]);
    command.args(["--threads", &threads.to_string()]);
    if let Some(limit) = flags.limit {
        command.args(["--limit", &limit.to_string()]);
    }
    if flags.keep_going {
        command.arg("--keep-going");
    }
    step::run(&mut command)
}
