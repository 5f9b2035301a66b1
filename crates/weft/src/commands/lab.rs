//! `weft lab`: a cluster on this machine, in network namespaces.

use super::require_root;
use crate::{
    cli::{Format, LabCommand, StoreKind},
    exit::Failure,
    output,
};
use serde::Serialize;
use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};
use weft_agent::api::ErrorKind;
use weft_lab::{Lab, LabError, LabOptions, LabStore, Tools};

/// `weft lab …`
pub fn run(command: LabCommand) -> Result<ExitCode, Failure> {
    require_root("lab")?;
    match command {
        LabCommand::Up { hosts, name, containers, store } => {
            let weft = std::env::current_exe()
                .map_err(|e| Failure::new(ErrorKind::Internal, format!("this program's own path: {e}")))?;
            let tools = Tools::from_env();
            let store = match store {
                StoreKind::Embedded => LabStore::Embedded,
                StoreKind::Etcd => LabStore::Etcd(tools),
                StoreKind::Consul => LabStore::Consul(tools),
            };
            let lab = Lab::up(LabOptions { hosts, containers, store, ..LabOptions::new(&name, weft) })?;
            output::print(&made(&lab))?;
        }
        LabCommand::Down { name } => {
            Lab::load(&name)?.down()?;
            output::print(&format!("{name}\n"))?;
        }
        LabCommand::Exec { name, target, command } => {
            return Ok(passed_on(Lab::load(&name)?.exec(&target, &command)?));
        }
        LabCommand::Ls { format } => {
            let rows: Vec<Row> = Lab::list()?.iter().map(Row::of).collect();
            output::print(&match format {
                Format::Table => table(&rows),
                Format::Json => output::json(&rows)?,
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What was made, and what to do with it.
fn made(lab: &Lab) -> String {
    let mut places = Vec::new();
    for host in &lab.hosts {
        places.push([host.name.clone(), host.address.to_string()]);
    }
    for container in &lab.containers {
        let addresses: Vec<String> = container.addresses.iter().map(ToString::to_string).collect();
        places.push([format!("{}/{}", container.host, container.name), addresses.join(",")]);
    }
    let mut text = output::table(["PLACE", "ADDRESS"], places.into_iter());
    let name = if lab.name() == "lab" { String::new() } else { format!(" --name {}", lab.name()) };
    if let (Some(first), Some(last)) = (lab.containers.first(), lab.containers.last())
        && let Some(address) = last.addresses.first()
    {
        let place = format!("{}/{}", first.host, first.name);
        text = format!("{text}\nTry: weft lab exec{name} {place} -- ping -c 3 {address}\n");
    }
    format!("{text}End: weft lab down{name}\n")
}

/// A lab in the list.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    hosts: usize,
    containers: usize,
    network: String,
    subnets: Vec<String>,
}

impl Row {
    fn of(lab: &Lab) -> Self {
        Self {
            name: lab.name().to_owned(),
            hosts: lab.hosts.len(),
            containers: lab.containers.len(),
            network: lab.options.network.clone(),
            subnets: lab.options.subnets.clone(),
        }
    }
}

fn table(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        [
            row.name.clone(),
            row.hosts.to_string(),
            row.containers.to_string(),
            row.network.clone(),
            row.subnets.join(","),
        ]
    });
    output::table(["NAME", "HOSTS", "CONTAINERS", "NETWORK", "SUBNETS"], rows)
}

/// The exit code of a command as a shell has it: its own, or 128 and the number of the signal that ended it.
fn passed_on(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let kind = match &error {
            LabError::NoSuchLab(_) | LabError::NoSuchTarget { .. } => ErrorKind::NotFound,
            LabError::Exists(_) => ErrorKind::Conflict,
            LabError::BadName(_) | LabError::BadSize { .. } => ErrorKind::Invalid,
            LabError::Missing { .. } => ErrorKind::Unsupported,
            LabError::Command { .. }
            | LabError::Timeout { .. }
            | LabError::File { .. }
            | LabError::Answer { .. } => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_the_command_in_the_lab_is_passed_on() {
        assert_eq!(passed_on(ExitStatus::from_raw(0)), ExitCode::SUCCESS);
        assert_eq!(passed_on(ExitStatus::from_raw(7 << 8)), ExitCode::from(7));
        assert_eq!(passed_on(ExitStatus::from_raw(9)), ExitCode::from(137));
    }

    #[test]
    fn what_is_not_there_and_what_is_there_already_have_codes_of_their_own() {
        assert_eq!(Failure::from(LabError::NoSuchLab("x".to_owned())).kind.exit_code(), 3);
        assert_eq!(Failure::from(LabError::Exists("x".to_owned())).kind.exit_code(), 4);
        assert_eq!(Failure::from(LabError::BadName("X".to_owned())).kind.exit_code(), 5);
    }

    #[test]
    fn labs_are_listed() {
        let row = Row {
            name: "lab".to_owned(),
            hosts: 2,
            containers: 2,
            network: "lab".to_owned(),
            subnets: vec!["10.0.0.0/24".to_owned()],
        };
        assert_eq!(
            table(&[row]),
            "NAME   HOSTS   CONTAINERS   NETWORK   SUBNETS\nlab    2       2            lab       10.0.0.0/24\n"
        );
    }
}
