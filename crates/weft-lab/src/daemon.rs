//! A weft daemon on a host of a lab.

use crate::{Host, LabError, NetNs, Process, command::text, output, run, until};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// How long a daemon may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How a daemon is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonOptions {
    /// The `weft` program.
    pub weft: PathBuf,
    /// The name of its overlay namespace.
    pub overlay_netns: String,
    /// `--cluster-store`.
    pub store: String,
    /// `--cluster-advertise`, as in `eth0:2375`.
    pub advertise: String,
    /// `--join-token-file`, for a store that another daemon serves.
    pub join_token_file: Option<PathBuf>,
    /// `--docker-socket`; none: `--no-docker`.
    pub docker_socket: Option<PathBuf>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment, beside this process's own.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
}

/// A daemon, running or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its host.
    host: Host,
    /// How it is started.
    pub options: DaemonOptions,
    process: Option<Process>,
}

impl Daemon {
    /// A daemon of a host that does not run yet.
    pub fn new(host: &Host, options: DaemonOptions) -> Self {
        Self { host: host.clone(), options, process: None }
    }

    /// Starts it, and returns when it answers.
    pub fn start(&mut self) -> Result<(), LabError> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts it and returns at once.
    pub fn spawn(&mut self) -> Result<(), LabError> {
        for dir in [self.state_dir(), self.run_dir()] {
            fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        }
        let mut command = self.start_command();
        self.process = Some(Process::spawn("weft", &mut command, &self.log())?);
        Ok(())
    }

    /// The command that starts it, for a test that wants to see it fail.
    pub fn start_command(&self) -> Command {
        let options = &self.options;
        let mut command = self.host.command(&options.weft.display().to_string());
        command.arg("daemon");
        command.args(["--cluster-store", &options.store, "--cluster-advertise", &options.advertise]);
        command.args(["--node-name", &self.host.name, "--overlay-netns", &options.overlay_netns]);
        command.arg("--state-dir").arg(self.state_dir()).arg("--run-dir").arg(self.run_dir());
        if let Some(file) = &options.join_token_file {
            command.arg("--join-token-file").arg(file);
        }
        match &options.docker_socket {
            Some(socket) => command.arg("--docker-socket").arg(socket),
            None => command.arg("--no-docker"),
        };
        command.args(&options.arguments);
        command.envs(options.environment.iter().cloned());
        // A panic has to leave its evidence in the log.
        command.env("RUST_BACKTRACE", "1");
        command
    }

    /// Waits until it answers.
    pub fn wait_ready(&self) -> Result<(), LabError> {
        let what = format!("an answer of weft on {}", self.host.name);
        let (outcome, _) = until(&what, READY_WITHIN, || {
            if !self.is_alive() {
                return Ok(Err(self.ended()));
            }
            if !self.socket().exists() {
                return Err(format!("it has no socket yet: {}", self.log_tail()));
            }
            self.status().map(|_| Ok(())).map_err(|e| e.to_string())
        })?;
        outcome
    }

    fn ended(&self) -> LabError {
        LabError::Command {
            command: text(&self.start_command()),
            reason: format!("ended: {}", self.log_tail()),
        }
    }

    /// The process, while it was started and not stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_alive)
    }

    /// A `weft` command that talks to it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&self.options.weft.display().to_string());
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Runs `weft ARGUMENTS` against it to its end.
    pub fn weft(&self, arguments: &[&str]) -> Result<String, LabError> {
        run(&mut self.command(arguments))
    }

    /// Runs `weft ARGUMENTS` against it, whatever its exit status.
    pub fn output(&self, arguments: &[&str]) -> Result<Output, LabError> {
        output(&mut self.command(arguments))
    }

    /// Runs `weft ARGUMENTS --format json` and parses what it wrote.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, LabError> {
        let text = self.weft(&[arguments, &["--format", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|e| LabError::Answer {
            what: format!("weft {}", arguments.join(" ")),
            answer: format!("{e}: {text}"),
        })
    }

    /// `weft status`.
    pub fn status(&self) -> Result<Value, LabError> {
        self.json(&["status"])
    }

    /// The overlay namespace.
    pub fn overlay(&self) -> NetNs {
        NetNs::named(&self.options.overlay_netns)
    }

    /// Removes the maps and programs that it has pinned: they outlive it, as they should outlive a daemon that is
    /// killed, but not a lab.
    pub fn remove_pins(&self) -> Result<(), LabError> {
        let pins = Path::new("/sys/fs/bpf/weft").join(&self.options.overlay_netns);
        match fs::remove_dir_all(&pins) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LabError::file(&pins)(error)),
            _ => Ok(()),
        }
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.process.take().map_or(Ok(()), |p| p.kill())
    }

    /// Ends it (SIGTERM). No error if it does not run.
    pub fn stop(&mut self) -> Result<(), LabError> {
        self.process.take().map_or(Ok(()), |p| p.stop(Duration::from_secs(10)))
    }

    /// Its API socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("weft.sock")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.host.log("weft")
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(|p| p.log_tail(8)).unwrap_or_default()
    }

    /// `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.host.dir.join("state")
    }

    fn run_dir(&self) -> PathBuf {
        self.host.dir.join("run")
    }

    /// The file with the token that others join with, as the daemon that serves the store tells.
    pub fn join_token_file(&self) -> Result<PathBuf, LabError> {
        let status = self.status()?;
        let file = status.pointer("/store/join_token_file").and_then(Value::as_str);
        file.map(|f| Path::new(f).to_owned()).ok_or_else(|| LabError::Answer {
            what: "weft status: store.join_token_file".to_owned(),
            answer: status.to_string(),
        })
    }
}
