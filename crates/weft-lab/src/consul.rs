//! A real Consul for the hosts of a lab.

use crate::{LabError, NetNs, Process, Tools, Wire, run, until};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// One Consul server, on the switch's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consul {
    namespace: NetNs,
    program: PathBuf,
    dir: PathBuf,
    process: Option<Process>,
}

impl Consul {
    /// The port of its HTTP API.
    pub const PORT: u16 = 8500;

    /// Starts Consul on the switch of `wire`, its data and log in `dir`.
    pub fn start(wire: &Wire, tools: &Tools, dir: &Path) -> Result<Self, LabError> {
        let dir = dir.join("consul");
        fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        let config = serde_json::json!({
            "server": true,
            "bootstrap_expect": 1,
            "node_name": "lab",
            "data_dir": dir.join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "0.0.0.0",
            "ports": {"http": Self::PORT, "dns": -1, "grpc": -1, "serf_wan": -1},
            // A short time to elect a leader.
            "performance": {"raft_multiplier": 1},
            "disable_update_check": true,
        });
        let file = dir.join("config.json");
        fs::write(&file, config.to_string()).map_err(LabError::file(&file))?;
        let mut consul =
            Self { namespace: wire.namespace.clone(), program: tools.consul()?, dir, process: None };
        consul.start_again()?;
        Ok(consul)
    }

    /// Starts it again on the data it left.
    pub fn start_again(&mut self) -> Result<(), LabError> {
        let mut command = self.namespace.command(&self.program.display().to_string());
        command.args(["agent", "-config-file"]).arg(self.dir.join("config.json"));
        let process = Process::spawn("consul", &mut command, &self.log())?;
        self.process = Some(process.clone());
        let (outcome, _) = until("Consul's leader", Duration::from_secs(30), || {
            if !process.is_alive() {
                let reason = process.log_tail(5);
                return Ok(Err(LabError::Command { command: "consul".into(), reason }));
            }
            // A write needs a leader that has taken over what is in the log.
            self.ctl(&["kv", "put", "weft-lab/ready"]).map(|_| Ok(())).map_err(|e| e.to_string())
        })?;
        outcome
    }

    /// Where daemons find it, as `--cluster-store` takes it.
    pub fn url(&self) -> String {
        format!("consul://{}:{}", Wire::SWITCH_V4, Self::PORT)
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("consul.log")
    }

    /// Runs `consul ARGUMENTS` on it and returns what it wrote.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        let mut command = self.namespace.command(&self.program.display().to_string());
        run(command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", Self::PORT)).args(arguments))
    }

    /// All keys below `prefix` with their values.
    pub fn records(&self, prefix: &str) -> Result<Vec<(String, String)>, LabError> {
        let text = self.ctl(&["kv", "get", "-recurse", prefix])?;
        // `KEY:VALUE`; a key may have an IPv6 address in it, and a value is JSON.
        let split = |line: &str| {
            let at = line.find(":{").or_else(|| line.find(":\""))?;
            Some((line[..at].to_owned(), line[at + 1..].to_owned()))
        };
        Ok(text.lines().filter_map(split).collect())
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.process.take().map_or(Ok(()), |p| p.kill())
    }
}
