//! Why a lab did not do what it was asked.

use std::path::{Path, PathBuf};

/// An error of the lab: what was tried, and what went wrong.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command could not be started, or failed.
    #[error("`{command}`: {reason}")]
    Command {
        /// The command as it would be typed.
        command: String,
        /// Its exit status and what it said, or why it did not start.
        reason: String,
    },
    /// A condition did not come true.
    #[error("{what} did not happen within {seconds} s: {last}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        seconds: f64,
        /// What was seen last.
        last: String,
    },
    /// A file or directory.
    #[error("{}: {reason}", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No lab of that name.
    #[error("there is no lab {0:?}; `weft lab ls` lists the labs")]
    NoSuchLab(String),
    /// A lab of that name.
    #[error("lab {0:?} is up already; `weft lab down` removes it")]
    Exists(String),
    /// A name that cannot be one.
    #[error("{0:?} is not a lab's name: expected 1 to 16 of a-z, 0-9 and -, a letter first")]
    BadName(String),
    /// A number of hosts or containers that cannot be.
    #[error("a lab has 1 to 200 hosts and up to 50 containers on each, not {hosts} and {containers}")]
    BadSize {
        /// Hosts asked for.
        hosts: usize,
        /// Containers per host asked for.
        containers: usize,
    },
    /// No host or container of that name.
    #[error("lab {lab:?} has no {target:?}: expected a host as in h1, or a container as in h1/c1")]
    NoSuchTarget {
        /// The lab.
        lab: String,
        /// What was asked for.
        target: String,
    },
    /// A program that is not installed.
    #[error("{program} is not there ({}); `cargo xtask test` installs it", .path.display())]
    Missing {
        /// The program.
        program: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// An answer that makes no sense.
    #[error("{what}: unexpected answer: {answer}")]
    Answer {
        /// What was asked.
        what: String,
        /// The answer.
        answer: String,
    },
}

impl LabError {
    /// For `map_err` after an operation on a file.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, reason: error.to_string() }
    }
}
