//! A host of a lab: a network namespace on the wire, and for one with an engine a [`Room`] in it.

use crate::{LabError, NetNs, Process, Wire, command::run, room::Room};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name: `h1`.
    pub name: String,
    /// Its number, from 1.
    pub number: u8,
    /// Its network namespace, with `eth0` on the wire.
    pub namespace: NetNs,
    /// Where its programs keep their files and logs.
    pub dir: PathBuf,
    /// Its preferred address on the wire.
    pub address: IpAddr,
    /// The mount and host name namespaces of its programs, if it needs such.
    pub(crate) room: Option<Room>,
}

impl Host {
    /// The host number `number` of the lab `lab`, whether it exists or not.
    pub fn named(lab: &str, number: u8, dir: &Path, wire: &Wire) -> Self {
        let name = format!("h{number}");
        let address =
            if wire.options.ipv4 { Self::ipv4_of(number).into() } else { Self::ipv6_of(number).into() };
        Self {
            namespace: NetNs::named(&format!("{lab}-{name}")),
            dir: dir.join(&name),
            name,
            number,
            address,
            room: None,
        }
    }

    /// 10.77.0.N
    pub fn ipv4_of(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, number)
    }

    /// `fd77::N`
    pub fn ipv6_of(number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number))
    }

    /// A command that runs on it.
    pub fn command(&self, program: &str) -> Command {
        match &self.room {
            Some(room) => room.command(program),
            None => self.namespace.command(program),
        }
    }

    /// Runs `argv` on it to its end.
    pub fn run(&self, argv: &[&str]) -> Result<String, LabError> {
        let Some((program, arguments)) = argv.split_first() else { return Ok(String::new()) };
        run(self.command(program).args(arguments))
    }

    /// Starts `argv` on it; its output goes to `WHAT.log` in the host's directory.
    pub fn spawn(&self, what: &str, argv: &[&str]) -> Result<Process, LabError> {
        let (program, arguments) = argv.split_first().unwrap_or((&"true", &[]));
        Process::spawn(what, self.command(program).args(arguments), &self.log(what))
    }

    /// The log file of the program called `what`.
    pub fn log(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{what}.log"))
    }
}
