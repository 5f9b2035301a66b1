//! A cluster that lives in one thread, so that all that can go wrong with one does, thousands of times, repeatably.
//!
//! The daemons are real (`weft-agent` with everything in it), and so are plan and diff. The store, the network to it,
//! the kernels, the machines and the clocks are not. A seed decides all that is random, down to which task goes on next;
//! the same seed makes the same run, line by line. `docs/simulation.md` tells what is checked and how to repeat a seed.

mod chance;
mod check;
mod cluster;
mod faults;
mod host;
mod kernel;
mod ledger;
mod machine;
mod records;
mod store;
mod tasks;
mod trace;
mod wire;
mod work;

pub use chance::Chance;
pub use cluster::{BOUND, Outcome, Size, run};
pub use tasks::{Owner, Tasks};

/// Where the hosts' disks are: in memory, if the machine has room for files there.
pub fn disks() -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}
