//! `cargo xtask lint`: formatting and clippy.

use crate::{
    step::{self, cargo},
    tools,
};
use anyhow::Result;

/// The arguments of the two, in the order in which they fail fastest.
pub const CHECKS: [(&str, &[&str]); 2] = [
    ("formatting", &["fmt", "--all", "--check"]),
    ("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
];

/// `cargo xtask lint`
pub fn run() -> Result<()> {
    tools::install(tools::Want::Build)?;
    CHECKS.iter().try_for_each(|(_, arguments)| step::run(&mut cargo(arguments)))
}
