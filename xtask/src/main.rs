//! `cargo xtask`: the project's chores, each one command on a fresh Debian 12 machine with Rust, as root.
//!
//! | command | does |
//! |---|---|
//! | `cargo xtask demo` | a cluster of two hosts on this machine, looked at from all sides, then removed |
//! | `cargo xtask test` | everything that is tested, from unit tests to two real Docker engines |
//! | `cargo xtask soak` | the long form of every fault test, and the table of what was measured |
//! | `cargo xtask lint` | formatting and clippy, as the tests ask for them |
//! | `cargo xtask measure` | the figures that notes and documents quote |
//! | `cargo xtask bench` | weft beside the bare wire and Docker's own networks; `--quick` in under 3 minutes |
//! | `cargo xtask fuzz` | bytes that break a promise of a parser, looked for in every one that meets a stranger |
//! | `cargo xtask scale` | a cluster of a thousand hosts on this machine, and what grows with it |
//! | `cargo xtask sim --seed N` | a simulated cluster in trouble, from its number; `--seeds M` for many |
//! | `cargo xtask verifier` | whether this kernel and Debian 12's accept the fast path's programs |
//! | `cargo xtask tools` | installs what the others need |

mod apt;
mod bench;
mod demo;
mod fuzz;
mod lint;
mod machine;
mod measure;
mod scale;
mod sim;
mod soak;
mod statistics;
mod step;
mod test;
mod throughput;
mod tools;
mod verifier;

use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Show a cluster of two hosts on this machine
    Demo,
    /// Install what is missing and run all tests
    Test(test::Flags),
    /// Run the long form of every fault test, and tell what was measured
    Soak(soak::Flags),
    /// Check formatting, and clippy without a warning
    Lint,
    /// Measure what notes and documents quote
    Measure(measure::Flags),
    /// Measure weft beside the bare wire and Docker's own networks
    Bench(bench::Flags),
    /// Measure what grows with hosts and endpoints
    Scale(scale::Flags),
    /// One end of a measurement, as the benchmark runs it
    #[command(subcommand, hide = true)]
    BenchPeer(bench::peer::Role),
    /// Look for bytes that break a promise of a parser that meets a stranger
    Fuzz(fuzz::Flags),
    /// Run simulated clusters in trouble, each from its number
    Sim(sim::Flags),
    /// Offer the fast path's programs to the verifiers of this kernel and of Debian 12's
    Verifier,
    /// Install what the demo and the tests need
    Tools,
}

fn main() -> anyhow::Result<()> {
    step::go_to_workspace()?;
    match Cli::parse().chore {
        Chore::Demo => demo::run(),
        Chore::Test(flags) => test::run(&flags),
        Chore::Soak(flags) => soak::run(&flags),
        Chore::Lint => lint::run(),
        Chore::Measure(flags) => measure::run(&flags),
        Chore::Bench(flags) => bench::run(&flags),
        Chore::Scale(flags) => scale::run(&flags),
        Chore::BenchPeer(role) => bench::peer::run(&role),
        Chore::Fuzz(flags) => fuzz::run(&flags),
        Chore::Sim(flags) => sim::run(&flags),
        Chore::Verifier => verifier::run(),
        Chore::Tools => tools::install(tools::Want::All),
    }
}
