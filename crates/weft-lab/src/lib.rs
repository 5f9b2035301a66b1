//! Clusters in network namespaces on one machine, for the demo, the tests and the benchmark.
//!
//! ```text
//!   NAME-h1            NAME-h2            NAME-sw (the switch)
//!   eth0 10.77.0.1     eth0 10.77.0.2     sw0 10.77.0.254
//!     └────── h1 ────────── h2 ──────────── ports of sw0
//!   daemon, engine     daemon, engine     etcd
//!   NAME-h1-c1         NAME-h2-c1         container-like namespaces
//! ```
//!
//! [`Lab::up`] builds one, [`Lab::down`] removes all of it: a lab writes down what it is about to make before
//! it makes it, so that a lab that failed half way, or whose maker died, is removed as completely as any other.
//! Everything runs as root and stays inside namespaces of the lab's own; only the directories of
//! [`LabOptions::dir`] and the cgroup `weft-lab-NAME-HOST` are outside them.

mod capture;
mod cgroup;
mod command;
mod consul;
mod container;
mod containerd;
mod daemon;
mod docker;
mod error;
mod etcd;
mod fixture;
mod host;
mod image;
mod lab;
mod netns;
mod podman;
mod port;
mod process;
mod room;
mod small_disk;
mod soak;
mod target;
mod tools;
mod virtual_machine;
mod wait;
mod wire;

pub use capture::{Capture, Frame};
pub use command::{output, run};
pub use consul::Consul;
pub use container::Container;
pub use containerd::Containerd;
pub use daemon::{Daemon, DaemonOptions};
pub use docker::{Engine, EngineOptions};
pub use error::LabError;
pub use etcd::Etcd;
pub use fixture::{Fixture, cannot_run};
pub use host::Host;
pub use image::{Image, NGINX_PAGE};
pub use lab::{Lab, LabOptions, LabStore};
pub use netns::NetNs;
pub use podman::Podman;
pub use port::free_port;
pub use process::{Process, signal};
pub use small_disk::SmallDisk;
pub use soak::{figures, short_or_long};
pub use target::Target;
pub use tools::{EngineVersion, PodmanVersion, Tools};
pub use virtual_machine::{VirtualInterface, VirtualMachine};
pub use wait::until;
pub use wire::{Wire, WireOptions};
