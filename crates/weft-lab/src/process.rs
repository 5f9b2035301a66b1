//! Long-running programs: started with their output in a file, recognised again later, stopped for certain.
//!
//! A process is named by its pid and its start time, so that a pid which the kernel has given to someone else
//! in the meantime is never signalled.

use crate::{
    LabError,
    command::{run, text},
    until,
};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// A program that was started and whose end nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it is, for people.
    pub what: String,
    /// Its pid.
    pub pid: i32,
    /// When it started, in the kernel's clock ticks since boot (proc(5), field 22 of stat).
    pub started: u64,
    /// The file that its standard output and error go to.
    pub log: PathBuf,
}

impl Process {
    /// Starts a command in a process group of its own, its output appended to `log`.
    pub fn spawn(what: &str, command: &mut Command, log: &Path) -> Result<Self, LabError> {
        let out = fs::File::options().create(true).append(true).open(log).map_err(LabError::file(log))?;
        let err = out.try_clone().map_err(LabError::file(log))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|e| LabError::Command { command: text(command), reason: e.to_string() })?;
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        // The child is not waited for yet, so its entry in /proc exists even if it has ended.
        let started = start_time(pid).map_or(0, |(started, _)| started);
        Ok(Self { what: what.to_owned(), pid, started, log: log.to_owned() })
    }

    /// The process that has this pid now.
    pub fn of_pid(what: &str, pid: i32) -> Option<Self> {
        let (started, alive) = start_time(pid)?;
        alive.then(|| Self { what: what.to_owned(), pid, started, log: PathBuf::new() })
    }

    /// Whether it runs. One that ended and has not been waited for does not.
    pub fn is_alive(&self) -> bool {
        // Reaps it if it is a child of this process; if it is not, ECHILD says so and nothing is lost.
        let _not_ours: Result<_, Errno> = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        start_time(self.pid).is_some_and(|(started, alive)| alive && started == self.started)
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(LabError::Command {
                command: format!("kill -{signal} {} ({})", self.pid, self.what),
                reason: error.to_string(),
            }),
        }
    }

    /// Waits until it has ended.
    pub fn wait(&self, timeout: Duration) -> Result<(), LabError> {
        until(&format!("the end of {} (pid {})", self.what, self.pid), timeout, || {
            if self.is_alive() { Err("it runs".to_owned()) } else { Ok(()) }
        })
        .map(drop)
    }

    /// Asks it to end (SIGTERM), kills it if it has not after `grace`, and returns when it is gone.
    pub fn stop(&self, grace: Duration) -> Result<(), LabError> {
        self.signal(Signal::SIGTERM)?;
        if self.wait(grace).is_ok() { Ok(()) } else { self.kill() }
    }

    /// Kills it (SIGKILL) and returns when it is gone.
    pub fn kill(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10))
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How many files it has open.
    pub fn open_files(&self) -> Result<usize, LabError> {
        let path = PathBuf::from(format!("/proc/{}/fd", self.pid));
        Ok(fs::read_dir(&path).map_err(LabError::file(&path))?.count())
    }
}

/// Sends a signal with `kill(1)`'s name for it (`-STOP`). A process that is to stand still does when this returns: each of its threads
/// goes on until it sees the signal.
pub fn signal(pid: u32, signal: &str) -> Result<(), LabError> {
    run(Command::new("kill").args([signal, &pid.to_string()]))?;
    if signal != "-STOP" {
        return Ok(());
    }
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    until(&format!("process {pid} to stand still"), Duration::from_secs(10), || {
        let all = fs::read_dir(&tasks).map_err(|e| e.to_string())?;
        let state = |task: PathBuf| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").map_or('T', |(_, rest)| rest.chars().next().unwrap_or('T'))
        };
        let states: String = all.flatten().map(|task| state(task.path())).collect();
        if states.chars().all(|state| state == 'T') { Ok(()) } else { Err(states) }
    })
    .map(drop)
}

/// The start time of a pid, and whether any thread of it still runs. The first thread of a program that was
/// killed is a zombie at once, while the others may hold its files and sockets for some time yet.
fn start_time(pid: i32) -> Option<(u64, bool)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 2 is the program's name in brackets and may hold anything: count from the last bracket.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    let ended = (state == "Z" || state == "X") && threads <= 1;
    Some((started, !ended))
}

/// Kills these pids, whoever started them, and waits until they are gone. Only for pids found inside
/// namespaces and cgroups that a lab made.
pub(crate) fn kill_all(what: &str, find: impl Fn() -> Vec<i32>) -> Result<(), LabError> {
    until(&format!("the end of all processes of {what}"), Duration::from_secs(15), || {
        let found: Vec<Process> = find().into_iter().filter_map(|pid| Process::of_pid(what, pid)).collect();
        for process in &found {
            process.signal(Signal::SIGKILL).map_err(|e| e.to_string())?;
        }
        if found.is_empty() { Ok(()) } else { Err(format!("{} run", found.len())) }
    })
    .map(drop)
}

/// All pids for which `test` holds, given the pid's directory in /proc.
pub(crate) fn pids_where(test: impl Fn(&Path) -> bool) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let this = i32::try_from(std::process::id()).unwrap_or(0);
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(|pid: i32| (pid, entry.path())))
        .filter(|(pid, path)| *pid != this && test(path))
        .map(|(pid, _)| pid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_stopped_and_its_output_is_in_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo hello; exec sleep 600"]);
        let process = Process::spawn("a sleeper", &mut command, &dir.path().join("log")).unwrap();
        until("its greeting", Duration::from_secs(5), || {
            if process.log_tail(1) == "hello" { Ok(()) } else { Err(process.log_tail(1)) }
        })
        .unwrap();
        assert!(process.is_alive());
        process.stop(Duration::from_secs(5)).unwrap();
        assert!(!process.is_alive());
        process.stop(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_pid_that_belongs_to_someone_else_now_is_not_alive_and_not_signalled() {
        let this = i32::try_from(std::process::id()).unwrap();
        let mut process = Process::of_pid("this test", this).unwrap();
        assert!(process.is_alive());
        process.started += 1;
        assert!(!process.is_alive());
        process.kill().unwrap();
    }

    #[test]
    fn one_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]);
        let process = Process::spawn("a deaf one", &mut command, &dir.path().join("log")).unwrap();
        until("its greeting", Duration::from_secs(5), || {
            if process.log_tail(1) == "deaf" { Ok(()) } else { Err(process.log_tail(1)) }
        })
        .unwrap();
        process.stop(Duration::from_millis(200)).unwrap();
        assert!(!process.is_alive());
    }
}
