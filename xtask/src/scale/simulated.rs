//! One size on one store: the hosts are played, one daemon is real.

use super::{Programs, Size, Store};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{fs, path::PathBuf, process::Command};
use weft_lab::{Daemon, Etcd, Fixture, Lab, LabOptions, LabStore, Process, Tools, Wire};

/// The daemon that is looked at, and the one that serves the embedded store.
const REAL: &str = "h2";
const SERVER: &str = "h1";

/// What `weft-scale` tells, and what the store has on disk.
pub fn measure(programs: &Programs, store: Store, size: &Size, rate: u32, seconds: u64) -> Result<Value> {
    let kind = match store {
        Store::Etcd => LabStore::Etcd(Tools::from_env()),
        Store::Embedded => LabStore::Embedded,
    };
    let lab = Fixture::up(LabOptions {
        store: kind,
        subnets: vec!["10.251.0.0/24".to_owned()],
        ..LabOptions::new("scale", &programs.weft)
    })?;
    let place = Place::of(&lab, store)?;
    weft_lab::run(place.command(&lab, programs, size).arg("populate"))?;
    // The real daemon takes part in as many networks as the others.
    let (daemon, container) = (lab.daemon(REAL)?, lab.container(&format!("{REAL}/c1"))?);
    let netns = container.namespace.path().display().to_string();
    for network in 0..size.parts {
        daemon.weft(&["attach", &format!("net{network}"), "--netns", &netns])?;
    }
    let mut command = place.command(&lab, programs, size);
    command.args(["run", "--rate", &rate.to_string(), "--device", place.device]);
    for argument in ["--rest", "--storm"] {
        command.args([argument, &seconds.to_string()]);
    }
    command.args(["--watch", &format!("daemon={}", pid(daemon.process())?)]);
    command.args(["--watch", &format!("store={}", place.pid)]);
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().context("weft-scale")?;
    anyhow::ensure!(output.status.success(), "weft-scale: {}", output.status);
    let mut told: Value = serde_json::from_slice(&output.stdout).context("what weft-scale tells")?;
    told["store"] = json!(store.name());
    told["store_bytes"] =
        json!(fs::metadata(&place.file).with_context(|| place.file.display().to_string())?.len());
    Ok(told)
}

/// Where the played hosts reach the store, and where it keeps its records.
struct Place {
    url: String,
    device: &'static str,
    pid: i32,
    file: PathBuf,
    token: Option<PathBuf>,
}

impl Place {
    fn of(lab: &Lab, store: Store) -> Result<Self> {
        let server = lab.daemon(SERVER)?;
        Ok(match store {
            Store::Etcd => {
                let etcd = lab.etcd.as_ref().context("a lab with etcd")?;
                Self {
                    url: format!("etcd://{}:{}", Wire::SWITCH_V4, Etcd::PORT),
                    device: "lo",
                    pid: pid(etcd.process())?,
                    file: lab.dir().join("etcd/data/member/snap/db"),
                    token: None,
                }
            }
            Store::Embedded => Self {
                url: format!("weft://{}:2375", lab.host(SERVER)?.address),
                device: "sw0",
                pid: pid(server.process())?,
                file: server.state_dir().join("store.redb"),
                token: Some(server.join_token_file()?),
            },
        })
    }

    /// `weft-scale` on the switch, with what it needs to find the cluster.
    fn command(&self, lab: &Lab, programs: &Programs, size: &Size) -> Command {
        let mut command = lab.wire.namespace.command(&programs.scale.display().to_string());
        command.args(["--store", &self.url]).args(size.arguments());
        if let Some(token) = &self.token {
            command.arg("--join-token-file").arg(token);
        }
        command
    }
}

/// A process that the lab has started. `nsenter` becomes the program, so it is the program's.
fn pid(process: Option<&Process>) -> Result<i32> {
    Ok(process.context("a process that runs")?.pid)
}

/// The process of a daemon.
pub fn daemon_pid(daemon: &Daemon) -> Result<i32> {
    pid(daemon.process())
}
