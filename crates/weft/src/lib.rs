//! The weft command: the daemon of a host, and the tools to look at and change the cluster through it.
//!
//! `cli` is what can be typed, `commands` has a file for each noun, `config` ties the daemon's flags, variables and
//! file together, `output` is what people read, `exit` what scripts read.

mod cli;
mod commands;
mod config;
mod daemon;
mod exit;
#[doc(hidden)]
pub mod fuzzing;
mod import;
mod output;

use clap::Parser;
use std::process::ExitCode;

/// Does what the process was started with.
pub fn run() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::from_clap(&error),
    };
    match commands::run(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
