//! What a command leaves behind for scripts: an exit code for each kind of failure, and two lines on stderr.

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapErrorKind};
use std::{error::Error, process::ExitCode};
use weft_agent::{
    AgentError,
    api::{ClientError, ErrorKind},
};
use weft_kernel::KernelError;

/// The table that `weft --help` ends with.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something failed inside weft
  2  usage: no such command or flag
  3  not found: what the command names does not exist
  4  conflict: taken, in use, or full
  5  invalid: a value that makes no sense
  6  unreachable: the store or the daemon does not answer
  7  denied: not root, not in group weft, or a wrong token
  8  unsupported: this host lacks something (a kernel feature, a free port, Docker)
`weft lab exec` passes on the exit code of its command.";

/// Why a command did not do what it was asked: what stderr says, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What is wrong and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Decides the exit code.
    pub kind: ErrorKind,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, kind }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// `weft: MESSAGE`, and `hint: …` on a line of its own.
    pub fn text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("weft: {}\nhint: {hint}\n", self.message),
            None => format!("weft: {}\n", self.message),
        }
    }

    /// Tells it on stderr.
    pub fn report(&self) -> ExitCode {
        eprint!("{}", self.text());
        ExitCode::from(self.kind.exit_code())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { message: error.to_string(), hint: error.hint().map(str::to_owned), kind: error.kind() }
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        let body = error.to_body();
        Self { message: body.error, hint: body.hint, kind: body.kind }
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        AgentError::Kernel(error).into()
    }
}

/// What the command line's parser refused. A value that makes no sense is told like every other failure, so that
/// it reads and exits alike whether the flag, the variable, the file or the daemon had it; the rest (help, unknown
/// flags) is clap's own.
pub fn from_clap(error: &clap::Error) -> ExitCode {
    if let Some(failure) = bad_value(error) {
        return failure.report();
    }
    match error.print() {
        Ok(()) => u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(_) => ExitCode::FAILURE,
    }
}

fn bad_value(error: &clap::Error) -> Option<Failure> {
    let (ClapErrorKind::ValueValidation, Some(reason)) = (error.kind(), error.source()) else {
        return None;
    };
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "an argument",
    };
    // "--subnet <SUBNET>" is how the usage line has it; people know it as "--subnet".
    let name = argument.split_once(" <").map_or(argument, |(flag, _)| flag);
    Some(Failure::new(ErrorKind::Invalid, format!("{name}: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use weft_agent::api::ErrorBody;

    #[test]
    fn the_help_lists_the_code_of_every_kind() {
        for (kind, word) in [
            (ErrorKind::Internal, "inside weft"),
            (ErrorKind::NotFound, "not found"),
            (ErrorKind::Conflict, "conflict"),
            (ErrorKind::Invalid, "invalid"),
            (ErrorKind::Unavailable, "unreachable"),
            (ErrorKind::Denied, "denied"),
            (ErrorKind::Unsupported, "unsupported"),
        ] {
            let line = EXIT_CODES.lines().find(|line| line.contains(word)).unwrap();
            assert!(line.trim_start().starts_with(&kind.exit_code().to_string()), "{kind:?}: {line}");
        }
    }

    #[test]
    fn a_failure_reads_as_message_and_hint() {
        let failure = Failure::new(ErrorKind::NotFound, "there is no network \"x\"");
        assert_eq!(failure.text(), "weft: there is no network \"x\"\n");
        assert_eq!(failure.hint("look").text(), "weft: there is no network \"x\"\nhint: look\n");
    }

    #[test]
    fn the_daemons_errors_keep_their_words_and_codes() {
        let body = ErrorBody {
            error: "full".to_owned(),
            hint: Some("grow it".to_owned()),
            kind: ErrorKind::Conflict,
        };
        let failure = Failure::from(ClientError::Daemon(body));
        assert_eq!(failure.text(), "weft: full\nhint: grow it\n");
        assert_eq!(failure.kind.exit_code(), 4);
        let not_root = Failure::from(KernelError::NotPermitted("EPERM".to_owned()));
        assert_eq!(not_root.kind.exit_code(), 7);
        let no_network = Failure::from(AgentError::NoSuchNetwork("x".to_owned()));
        assert_eq!(
            no_network.text(),
            "weft: there is no network \"x\"\nhint: `weft network ls` lists the networks\n"
        );
    }

    #[test]
    fn a_value_that_makes_no_sense_is_told_like_any_other_failure() {
        for (line, expected) in [
            (
                "weft network create net --subnet 10.9.0.5/24",
                "--subnet: 10.9.0.5/24 has host bits set: did you mean 10.9.0.0/24?",
            ),
            ("weft network create a/b", "<NAME>: \"a/b\" is not a network name"),
            ("weft network create net --gateway ten", "--gateway: \"ten\" is not an IP address"),
            ("weft network create net --mtu 9", "--mtu: MTU 9 is out of range"),
            ("weft daemon --cluster-store redis://h:1", "--cluster-store: unknown store \"redis://h:1\""),
            ("weft daemon --vni-range 9", "--vni-range: \"9\" is not"),
            ("weft daemon --vxlan-port 0", "--vxlan-port: \"0\" is not a UDP port"),
            ("weft daemon --lease-ttl soon", "--lease-ttl: \"soon\" is not a number of seconds"),
            ("weft attach net --netns blue --mac zz", "--mac: \"zz\" is not a MAC address"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            let failure = bad_value(&error).unwrap_or_else(|| panic!("{line}: {error}"));
            assert!(failure.message.starts_with(expected), "{line}: {}", failure.message);
            assert_eq!(failure.kind, ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_wrong_command_line_is_usage() {
        for line in [
            "weft",
            "weft frobnicate",
            "weft network create",
            "weft network ls --format xml",
            "weft attach net",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(bad_value(&error), None, "{line}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
