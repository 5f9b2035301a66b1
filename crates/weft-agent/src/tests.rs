//! Agents on one embedded store, each with a model of a kernel: what verbs and loop promise, without root.

mod addresses;
mod away;
pub(crate) mod cluster;
mod coincidences;
mod drift;
mod followed;
mod gc;
mod groups;
mod moves;
mod networks;
