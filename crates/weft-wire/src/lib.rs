//! Bytes on the wire: VXLAN, ARP and ND, parsed and emitted, and whole frames decoded for people to read.
//!
//! Each protocol has two levels. A `Packet` is a view of bytes: once made it is long enough, and nothing it
//! tells can fail. A `Repr` is what the bytes mean: it is parsed from a `Packet`, which checks the protocol's
//! rules, and emitted as bytes again. No input makes anything here panic.

pub mod arp;
mod error;
pub mod frame;
pub mod nd;
pub mod vxlan;

pub use error::WireError;
pub use frame::{Decoded, decode};

#[cfg(test)]
mod captures;
