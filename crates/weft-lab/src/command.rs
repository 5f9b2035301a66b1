//! Commands: run, and turned into errors that say what was run and what it said.

use crate::LabError;
use std::process::{Command, Output, Stdio};

/// Runs a command to its end and returns what it wrote to standard output. An exit status other than 0 is an
/// error that carries what it wrote to standard error.
pub fn run(command: &mut Command) -> Result<String, LabError> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        String::from_utf8_lossy(&output.stdout).trim().clone_into(&mut said);
    }
    Err(LabError::Command { command: text(command), reason: format!("{}: {said}", output.status) })
}

/// Runs a command to its end, whatever its exit status.
pub fn output(command: &mut Command) -> Result<Output, LabError> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| LabError::Command { command: text(command), reason: error.to_string() })
}

/// `program argument…`, run to its end.
pub(crate) fn sh(argv: &[&str]) -> Result<String, LabError> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(String::new()) };
    run(Command::new(program).args(arguments))
}

/// The command as it would be typed.
pub(crate) fn text(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_tells_what_was_run_and_what_it_said() {
        let error = sh(&["sh", "-c", "echo no such thing >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("no such thing") && error.contains("exit status: 3"), "{error}");
        assert!(error.starts_with("`sh -c"), "{error}");
    }

    #[test]
    fn a_command_that_cannot_start_names_itself() {
        let error = sh(&["/nowhere/weft"]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/weft"), "{error}");
    }
}
