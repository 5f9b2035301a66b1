//! One file per container engine: its protocol in, weft's verbs out.
//!
//! An engine is what starts containers on a host. weft speaks to each in the engine's own words and turns them
//! into the verbs of [`weft_agent::Agent`]: make and remove a network, make and remove an endpoint, claim an
//! address. Nothing here knows the store or the kernel.

pub mod docker;
