//! A real Docker engine on a host of a lab.
//!
//! The engine runs in the host's room, where it finds an empty /run/docker as on a machine of its own, so all
//! its paths but the data's are the usual ones. It starts its own containerd. Its containers are below a cgroup
//! named after the host, by which their processes are found even when no engine is left to tell of them.

use crate::{
    EngineVersion, Host, Image, LabError, Process, Tools, cgroup, output,
    process::{kill_all, pids_where},
    run,
    tools::with_root,
    until,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// How long an engine may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(40);

/// Docker 20.10, killed and started again, waits for its old containerd as long as that has a pid. Where pid 1 does
/// not wait for orphans (in a container, often) a dead one has it for ever.
const FORGET_DEAD_CONTAINERD: &str = r#"
file=/run/docker/containerd/containerd.pid
if [ -f "$file" ] && grep -q '^State:.Z' "/proc/$(cat "$file")/status" 2>/dev/null; then rm "$file"; fi
"#;

/// How an engine is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineOptions {
    /// Where its programs are.
    pub tools: Tools,
    /// Its version.
    pub version: EngineVersion,
    /// Containers outlive the engine.
    pub live_restore: bool,
    /// More arguments of dockerd.
    pub arguments: Vec<String>,
}

impl EngineOptions {
    /// An engine of this version, as it is by default.
    pub fn new(tools: &Tools, version: EngineVersion) -> Self {
        Self { tools: tools.clone(), version, live_restore: false, arguments: Vec::new() }
    }
}

/// An engine, running or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    host: Host,
    /// How it is started.
    pub options: EngineOptions,
    process: Option<Process>,
}

impl Engine {
    /// An engine of a host that does not run yet.
    pub fn new(host: &Host, options: &EngineOptions) -> Self {
        Self { host: host.clone(), options: options.clone(), process: None }
    }

    /// Starts it and returns when it answers.
    pub fn start(&mut self) -> Result<(), LabError> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts it and returns at once.
    pub fn spawn(&mut self) -> Result<(), LabError> {
        let dockerd = self.options.tools.dockerd(self.options.version)?;
        self.host.run(&["sh", "-c", FORGET_DEAD_CONTAINERD])?;
        // An empty configuration of its own: the machine's is for the machine's engine.
        let config = self.host.dir.join("daemon.json");
        fs::write(&config, "{}").map_err(LabError::file(&config))?;
        let mut command = self.host.command(&dockerd.display().to_string());
        with_root(&mut command, &self.root());
        command.arg("--config-file").arg(&config);
        command.arg("--data-root").arg(self.host.dir.join("docker"));
        command.args(["--host", &format!("unix://{}", self.socket().display())]);
        command.args(["--host", "unix:///run/docker.sock", "--storage-driver", "overlay2"]);
        command.arg(format!("--cgroup-parent=/{}", self.cgroup()));
        if self.options.live_restore {
            command.arg("--live-restore");
        }
        command.args(&self.options.arguments);
        self.process = Some(Process::spawn("dockerd", &mut command, &self.log())?);
        Ok(())
    }

    /// Waits until it answers.
    pub fn wait_ready(&self) -> Result<(), LabError> {
        let what = format!("an answer of Docker {} on {}", self.options.version, self.host.name);
        let (outcome, _) = until(&what, READY_WITHIN, || {
            if !self.is_alive() {
                return Ok(Err(LabError::Command { command: "dockerd".into(), reason: self.log_tail() }));
            }
            if !self.socket().exists() {
                return Err("it has no socket yet".to_owned());
            }
            self.docker(&["version"]).map(|_| Ok(())).map_err(|e| e.to_string())
        })?;
        outcome
    }

    /// dockerd's process, while it was started and not stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_alive)
    }

    /// A `docker` command, of the engine's own version, that talks to it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.root().join("usr/bin/docker"));
        with_root(&mut command, &self.root());
        self.point(&mut command);
        command.args(arguments);
        command
    }

    /// Runs `docker ARGUMENTS` and returns what it wrote, without the last newline.
    pub fn docker(&self, arguments: &[&str]) -> Result<String, LabError> {
        run(&mut self.command(arguments)).map(|text| text.trim_end().to_owned())
    }

    /// Runs `docker ARGUMENTS`, whatever its exit status.
    pub fn output(&self, arguments: &[&str]) -> Result<Output, LabError> {
        output(&mut self.command(arguments))
    }

    /// What `docker inspect` tells of an object: the first of the list.
    pub fn inspect(&self, kind: &str, name: &str) -> Result<serde_json::Value, LabError> {
        let text = self.docker(&[kind, "inspect", name])?;
        let answer =
            |reason: String| LabError::Answer { what: format!("docker inspect {name}"), answer: reason };
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|e| answer(e.to_string()))?;
        list.into_iter().next().ok_or_else(|| answer("an empty list".to_owned()))
    }

    /// Runs a command in a container.
    pub fn exec(&self, container: &str, argv: &[&str]) -> Result<String, LabError> {
        self.docker(&[&["exec", container], argv].concat())
    }

    /// Runs `docker-compose -p PROJECT -f FILE ARGUMENTS`.
    pub fn compose(&self, project: &str, file: &Path, arguments: &[&str]) -> Result<String, LabError> {
        let mut command = Command::new(self.options.tools.compose()?);
        self.point(&mut command);
        command.args(["-p", project, "-f"]).arg(file).args(arguments);
        run(&mut command)
    }

    fn point(&self, command: &mut Command) {
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        // The configuration of whoever runs this (contexts, proxies) has no say here.
        command.env("DOCKER_CONFIG", self.host.dir.join("client"));
        for variable in ["DOCKER_CONTEXT", "DOCKER_API_VERSION", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
            command.env_remove(variable);
        }
    }

    /// Gives it an image.
    pub fn load(&self, image: Image) -> Result<(), LabError> {
        let tar = image.pack(&self.options.tools)?;
        let mut command = self.command(&["import"]);
        for change in image.changes() {
            command.args(["--change", change]);
        }
        run(command.arg(tar).arg(image.name())).map(drop)
    }

    /// Kills dockerd (SIGKILL) and nothing else.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.process.take().map_or(Ok(()), |p| p.kill())
    }

    /// Ends dockerd (SIGTERM); it stops its containers unless they live on. No error if it does not run.
    pub fn stop(&mut self) -> Result<(), LabError> {
        self.process.take().map_or(Ok(()), |p| p.stop(Duration::from_secs(30)))
    }

    /// Kills it and all its containers, and removes their cgroups. The rest goes with the host's room.
    pub fn destroy(&mut self) -> Result<(), LabError> {
        self.kill()?;
        let mark = format!("/{}", self.cgroup());
        kill_all(&format!("cgroup {mark}"), || {
            pids_where(|proc| {
                fs::read_to_string(proc.join("cgroup"))
                    .is_ok_and(|text| text.split(['\n', ':']).any(|path| is_below(path, &mark)))
            })
        })?;
        cgroup::remove(&self.cgroup())
    }

    /// Its API socket.
    pub fn socket(&self) -> PathBuf {
        self.host.dir.join("docker.sock")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.host.log("dockerd")
    }

    fn log_tail(&self) -> String {
        self.process.as_ref().map(|p| p.log_tail(8)).unwrap_or_default()
    }

    fn root(&self) -> PathBuf {
        self.options.tools.engine(self.options.version)
    }

    fn cgroup(&self) -> String {
        format!("weft-lab-{}", self.host.namespace.name())
    }
}

/// Whether a cgroup's path is `mark` or below it.
fn is_below(path: &str, mark: &str) -> bool {
    path.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_own_cgroup_and_what_is_below_it_count() {
        assert!(is_below("/weft-lab-a-h1", "/weft-lab-a-h1"));
        assert!(is_below("/weft-lab-a-h1/0123", "/weft-lab-a-h1"));
        assert!(!is_below("/weft-lab-a-h10/0123", "/weft-lab-a-h1"));
        assert!(!is_below("/user/weft-lab-a-h1", "/weft-lab-a-h1"));
    }
}
