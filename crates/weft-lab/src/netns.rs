//! Named network namespaces, as `ip netns` keeps them in /run/netns.

use crate::{
    LabError,
    command::{run, sh},
    process::{kill_all, pids_where},
};
use serde::{Deserialize, Serialize};
use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command};

/// The directory of the names.
const DIR: &str = "/run/netns";

/// A named network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// The namespace of this name, whether it exists or not.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Makes it, with its loopback device up.
    pub fn create(name: &str) -> Result<Self, LabError> {
        sh(&["ip", "netns", "add", name])?;
        sh(&["ip", "-n", name, "link", "set", "lo", "up"])?;
        Ok(Self::named(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIR).join(&self.name)
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A command that runs in it. /sys stays the machine's, unlike with `ip netns exec`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `argv` in it to its end.
    pub fn run(&self, argv: &[&str]) -> Result<String, LabError> {
        let Some((program, arguments)) = argv.split_first() else { return Ok(String::new()) };
        run(self.command(program).args(arguments))
    }

    /// Runs `ip ARGUMENTS` on it.
    pub fn ip(&self, arguments: &[&str]) -> Result<String, LabError> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// Runs `ip -j ARGUMENTS` on it.
    pub fn ip_json(&self, arguments: &[&str]) -> Result<serde_json::Value, LabError> {
        json("ip -j", &run(Command::new("ip").args(["-n", &self.name, "-j"]).args(arguments))?)
    }

    /// Runs `bridge -j ARGUMENTS` on it.
    pub fn bridge_json(&self, arguments: &[&str]) -> Result<serde_json::Value, LabError> {
        json("bridge -j", &run(Command::new("bridge").args(["-n", &self.name, "-j"]).args(arguments))?)
    }

    /// Writes a value to a file below /proc/sys/net as this namespace has it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        self.run(&["sh", "-c", &format!("echo {value} > /proc/sys/net/{key}")]).map(drop)
    }

    /// Kills what runs in it and removes it. No error if it is not there.
    pub fn remove(&self) -> Result<(), LabError> {
        let Ok(meta) = fs::metadata(self.path()) else { return Ok(()) };
        let inode = meta.ino();
        kill_all(&format!("namespace {}", self.name), || {
            pids_where(|proc| fs::metadata(proc.join("ns/net")).is_ok_and(|m| m.ino() == inode))
        })?;
        sh(&["ip", "netns", "del", &self.name]).map(drop)
    }
}

fn json(what: &str, text: &str) -> Result<serde_json::Value, LabError> {
    // `ip -j` writes nothing at all for an empty list.
    let text = if text.trim().is_empty() { "[]" } else { text };
    serde_json::from_str(text)
        .map_err(|e| LabError::Answer { what: what.to_owned(), answer: format!("{e}: {text}") })
}
