//! What must hold for whatever a stranger sends: one function for every parser that meets one.
//!
//! Each function takes any bytes and panics when a promise is broken: nothing panics, what is read can be written and is
//! read as the same, what is let through keeps to its limits. The fuzzers (`fuzz/`, `cargo xtask fuzz`) look for bytes
//! that break one; the test `corpus` runs what they have found so far through the same functions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A panic is how a fuzzer is told.

mod api;
mod arp;
mod changes;
mod cni_call;
mod command_line;
mod config_file;
mod consul;
mod discovery;
mod dns;
mod docker_api;
mod import;
mod join_token;
mod kept_snapshot;
mod nd;
mod outbox;
mod plugin_call;
mod podman_call;
mod promises;
mod records;
mod store_call;
mod store_watch;
mod values;
mod vxlan;

/// A function that takes what a stranger sends.
pub type Check = fn(&[u8]);

/// All of them, each under its target's name.
pub const TARGETS: [(&str, Check); 22] = [
    ("api", api::check),
    ("arp", arp::check),
    ("changes", changes::check),
    ("cni_call", cni_call::check),
    ("command_line", command_line::check),
    ("config_file", config_file::check),
    ("consul", consul::check),
    ("discovery", discovery::check),
    ("dns", dns::check),
    ("docker_api", docker_api::check),
    ("import", import::check),
    ("join_token", join_token::check),
    ("kept_snapshot", kept_snapshot::check),
    ("nd", nd::check),
    ("outbox", outbox::check),
    ("plugin_call", plugin_call::check),
    ("podman_call", podman_call::check),
    ("records", records::check),
    ("store_call", store_call::check),
    ("store_watch", store_watch::check),
    ("values", values::check),
    ("vxlan", vxlan::check),
];

/// Runs the function of the target with this name.
///
/// # Panics
/// If there is no such target, or when a promise is broken.
pub fn check(target: &str, bytes: &[u8]) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    check(bytes);
}

/// The first line and the rest, which is empty if there is no line end.
fn first_line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    Some((line, bytes.get(end + 1..).unwrap_or_default()))
}
