//! A real etcd for the hosts of a lab.

use crate::{LabError, NetNs, Process, Tools, Wire, run, until};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// One etcd server, on the switch's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etcd {
    namespace: NetNs,
    program: PathBuf,
    client: Option<PathBuf>,
    dir: PathBuf,
    process: Option<Process>,
}

impl Etcd {
    /// The client port.
    pub const PORT: u16 = 2379;

    /// Starts etcd on the switch of `wire`, its data and log in `dir`.
    pub fn start(wire: &Wire, tools: &Tools, dir: &Path) -> Result<Self, LabError> {
        let data = dir.join("etcd");
        fs::create_dir_all(&data).map_err(LabError::file(&data))?;
        let mut etcd = Self {
            namespace: wire.namespace.clone(),
            program: tools.etcd()?,
            client: tools.etcdctl().ok(),
            dir: data,
            process: None,
        };
        etcd.start_again()?;
        Ok(etcd)
    }

    /// Starts it again on the data it left.
    pub fn start_again(&mut self) -> Result<(), LabError> {
        let listen = format!("http://0.0.0.0:{}", Self::PORT);
        let mut command = self.namespace.command(&self.program.display().to_string());
        command
            .args(["--name", "lab", "--data-dir"])
            .arg(self.dir.join("data"))
            // The v2 API as well: Docker 20.10's own overlay, the peer of the benchmark, knows only that.
            .args(["--enable-v2", "--listen-client-urls", &listen])
            .args(["--advertise-client-urls", &format!("http://{}:{}", Wire::SWITCH_V4, Self::PORT)])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-cluster", "lab=http://127.0.0.1:2380"]);
        let log = self.log();
        let seen = fs::metadata(&log).map_or(0, |m| m.len());
        let process = Process::spawn("etcd", &mut command, &log)?;
        self.process = Some(process.clone());
        let (outcome, _) = until("etcd's readiness", Duration::from_secs(20), || {
            let text = fs::read(&log).map_err(|e| e.to_string())?;
            let new = String::from_utf8_lossy(text.get(usize::try_from(seen).unwrap_or(0)..).unwrap_or(&[]));
            if !process.is_alive() {
                Ok(Err(LabError::Command { command: "etcd".into(), reason: process.log_tail(5) }))
            } else if new.contains("ready to serve client requests") {
                Ok(Ok(()))
            } else {
                Err("it does not serve yet".to_owned())
            }
        })?;
        outcome
    }

    /// Starts it on a backup (`etcdctl snapshot save`) instead of the data it left. It must not run.
    pub fn restore(&mut self, backup: &Path) -> Result<(), LabError> {
        let data = self.dir.join("data");
        fs::remove_dir_all(&data).map_err(LabError::file(&data))?;
        let (data, backup) = (data.display().to_string(), backup.display().to_string());
        let peer = "http://127.0.0.1:2380";
        let cluster = format!("lab={peer}");
        let restore = ["snapshot", "restore", &backup, "--data-dir", &data, "--name", "lab"];
        let member = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", peer];
        self.ctl(&[&restore[..], &member].concat())?;
        self.start_again()
    }

    /// Where daemons find it, as `--cluster-store` takes it.
    pub fn url(&self) -> String {
        format!("etcd://{}:{}", Wire::SWITCH_V4, Self::PORT)
    }

    /// The process, while it was started and not stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("etcd.log")
    }

    /// Runs etcdctl on it and returns what it wrote.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        let client = self.client.as_ref().ok_or_else(|| LabError::Missing {
            program: "etcdctl".to_owned(),
            path: PathBuf::from("etcd/usr/bin/etcdctl"),
        })?;
        let mut command: Command = self.namespace.command(&client.display().to_string());
        command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("http://127.0.0.1:{}", Self::PORT)]);
        run(command.args(arguments))
    }

    /// All keys below `prefix`.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, LabError> {
        let text = self.ctl(&["get", "--prefix", "--keys-only", prefix])?;
        Ok(text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect())
    }

    /// All keys below `prefix` with their values.
    pub fn records(&self, prefix: &str) -> Result<Vec<(String, String)>, LabError> {
        let text = self.ctl(&["get", "--prefix", prefix])?;
        let lines: Vec<&str> = text.lines().collect();
        // weft's values are JSON on one line.
        let pairs = lines.as_chunks::<2>().0.iter();
        Ok(pairs.map(|[key, value]| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    /// Stops it without notice (SIGSTOP), as a machine that hangs; [`Etcd::resume`] lets it go on.
    pub fn pause(&self) -> Result<(), LabError> {
        self.process.as_ref().map_or(Ok(()), |p| p.signal(Signal::SIGSTOP))
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<(), LabError> {
        self.process.as_ref().map_or(Ok(()), |p| p.signal(Signal::SIGCONT))
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.process.take().map_or(Ok(()), |p| p.kill())
    }

    /// Ends it. No error if it is not running.
    pub fn stop(&mut self) -> Result<(), LabError> {
        self.process.take().map_or(Ok(()), |p| p.stop(Duration::from_secs(5)))
    }
}
