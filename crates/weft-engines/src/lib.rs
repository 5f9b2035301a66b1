//! One folder per container engine: its protocol in, weft's verbs out.
//!
//! An engine is what starts containers on a host. weft speaks to each in the engine's own words and turns them
//! into the verbs of [`weft_agent::Agent`]: make and remove a network, make and remove an endpoint, claim an
//! address. Docker is served by the daemon itself; `cni` and `podman` are programs that the engines start for each call and
//! that ask the daemon by its API. Nothing here knows the store or the kernel.

pub mod cni;
pub mod daemon;
pub mod docker;
pub mod fuzzing;
pub mod podman;

#[cfg(test)]
mod fake_daemon;
