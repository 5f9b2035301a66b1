//! Agents on one embedded store, each with a model of a kernel: what verbs and loop promise, without root.

mod addresses;
pub(crate) mod cluster;
mod drift;
mod networks;
