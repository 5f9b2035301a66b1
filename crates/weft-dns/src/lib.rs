//! DNS for containers: names of endpoints are answered from the records, everything else by the server that would have been
//! asked without weft.
//!
//! [`reply`] is pure: a query's bytes in, the answer's bytes out, or the word that it is none of weft's business. [`serve`] puts
//! it behind a pair of sockets, which may be in any network namespace, and passes on what is not weft's by an [`Upstream`],
//! byte for byte: so options, sizes, truncation and errors are those of the server behind it.
//!
//! Sources: RFC 1035 (messages, TCP), RFC 2308 (negative answers), RFC 6891 (EDNS), RFC 7766 (TCP).

mod reply;
mod resolv_conf;
mod server;
mod upstream;

pub use reply::{Question, Reply, TTL_SECONDS, Transport, reply, server_failure};
pub use resolv_conf::HostResolvers;
pub use server::{Resolve, Sockets, serve};
pub use upstream::{Route, Upstream};

#[cfg(test)]
mod tests;
