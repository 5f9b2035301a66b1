//! The agent of one host: ties store, plan and kernel together, and is what engines and the command line talk to.
//!
//! Records flow one way: a verb (an engine's call, `weft attach`) writes the store; the follower brings the
//! change into the view; the loop plans it and changes the kernel; the verb, which waited, answers. So what was
//! answered is in the store and in the kernel, and there is one place where the kernel is changed.

pub mod api;

mod absence;
mod addresses;
mod agent;
mod attach;
mod cache;
mod endpoints;
mod error;
mod expose;
mod follow;
mod followed;
#[doc(hidden)]
pub mod fuzzing;
mod gc;
mod groups;
mod json_line;
mod known;
mod leave;
mod leftovers;
mod machine;
mod membership;
mod moving;
mod networks;
mod options;
mod outbox;
mod outside;
mod pools;
mod reconcile;
mod reserve;
mod resolvers;
mod restored;
mod start;
mod status;
mod tap;
#[cfg(test)]
mod tests;
mod troubles;
mod under_way;
mod view;

pub use agent::Agent;
pub use endpoints::EndpointSpec;
pub use error::AgentError;
pub use machine::{Machine, ThisMachine, Unchanging};
pub use networks::NetworkDetails;
pub use options::{Advertise, AdvertiseError, AgentOptions, Datapath, DatapathError};
pub use start::{Carrier, LOCK_FILE, Running, World, start, start_in};
