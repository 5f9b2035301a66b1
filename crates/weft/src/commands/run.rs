//! `weft run`: a command in a network namespace of its own, on networks, as a service manager wants it: it ends as the
//! command ends, and passes on what signals it gets.
//!
//! The command's process is there before it is attached, in its new namespaces, and becomes the command when all interfaces
//! are: so the namespace has a path, `/proc/PID/ns/net`, that is valid exactly as long as the command runs, also when this
//! process is killed or the daemon is started again. When the command has ended its endpoints are removed while its pid is
//! still nobody else's; if this process was killed, the daemon notices that the namespace has gone.

use super::{require_root, wait_for};
use crate::{
    cli::{RunFlags, RunInsideFlags},
    exit::Failure,
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        signal::{SigSet, Signal, kill, raise},
        signalfd::SignalFd,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Pid, close},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Display,
    fs::{self, File},
    io::{self, PipeWriter, Read, Write},
    net::IpAddr,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
    thread,
};
use weft_agent::api::{AttachRequest, Client, DetachRequest, ErrorKind, OutsideRequest};
use weft_kernel::sandbox::{RESOLV_CONF, leave_for_a_new_one};

/// Where the daemon answers questions for names, in every namespace on its networks.
const RESOLVER: &str = "nameserver 127.0.0.11";

/// The signals that are passed on. Those that stop and continue do so for both already.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The exit codes of shells for a command that is not there, and for one that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
/// What shells add to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// `weft run`
pub fn run(flags: &RunFlags, client: &Client) -> Result<ExitCode, Failure> {
    require_root("run")?;
    // Before there is another thread: it would take them.
    let signals = Signals::take()?;
    let mut waiting = Waiting::start(&flags.command)?;
    let mut attached = Vec::new();
    let outcome = wait_for(attach(flags, &waiting.netns(), client, &mut attached))
        .and_then(|()| waiting.go_on().map_err(|e| failed("start the command", &e)))
        .and_then(|()| signals.pass_on_to(waiting.pid));
    // Without the word it ends.
    drop(waiting.ready);
    let detached = wait_for(detach(&attached, &waiting.netns, client));
    let status =
        waitid(Id::Pid(waiting.pid), WaitPidFlag::WEXITED).map_err(|e| failed("wait for the command", &e));
    outcome?;
    if let Err(failure) = detached {
        // The command has ended, and its end is what is asked for; the daemon sees that the namespace is gone.
        failure.report();
    }
    Ok(end_as(status?))
}

/// The part of `weft run` that becomes the command.
pub fn inside(flags: &RunInsideFlags) -> Result<ExitCode, Failure> {
    let mut word = [0];
    let told =
        File::open(format!("/proc/self/fd/{}", flags.ready)).and_then(|mut ready| ready.read(&mut word));
    if !matches!(told, Ok(1)) {
        // The other part has told why, or was killed.
        return Ok(ExitCode::FAILURE);
    }
    let unlocked = close(flags.ready).and_then(|()| SigSet::empty().thread_set_mask());
    unlocked.map_err(|e| failed("begin the command", &e))?;
    let [program, arguments @ ..] = &flags.command[..] else { return Ok(ExitCode::FAILURE) };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("weft: cannot run {}: {error}", program.display());
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_STARTED }))
}

/// The process that becomes the command.
struct Waiting {
    pid: Pid,
    netns: String,
    ready: Option<PipeWriter>,
}

impl Waiting {
    fn start(command: &[OsString]) -> Result<Self, Failure> {
        let (told, ready) = io::pipe().map_err(|e| failed("make a pipe", &e))?;
        fcntl(&told, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| failed("hand on a pipe", &e))?;
        let text = resolv_conf(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        // Namespaces are a thread's, and those that it starts have them too. This one has done its work then.
        let started = thread::scope(|scope| {
            scope
                .spawn(|| -> Result<u32, Failure> {
                    leave_for_a_new_one(&text)?;
                    let mut inside = Command::new("/proc/self/exe");
                    inside
                        .arg0("weft")
                        .arg("run-inside")
                        .arg(told.as_raw_fd().to_string())
                        .arg("--")
                        .args(command);
                    Ok(inside.spawn().map_err(|e| failed("start a process", &e))?.id())
                })
                .join()
        });
        let pid = started.map_err(|_| failed("start a process", &"its thread has ended"))??;
        let netns = format!("/proc/{pid}/ns/net");
        Ok(Self { pid: Pid::from_raw(pid.cast_signed()), netns, ready: Some(ready) })
    }

    fn netns(&self) -> String {
        self.netns.clone()
    }

    fn go_on(&mut self) -> io::Result<()> {
        self.ready.take().map_or(Ok(()), |mut ready| ready.write_all(&[1]))
    }
}

/// Attaches the namespace to all networks; `attached` are those that it is on.
async fn attach(
    flags: &RunFlags,
    netns: &str,
    client: &Client,
    attached: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut addresses = distribute(flags, client).await?;
    let name = flags.name.clone().or_else(|| Some(name_of(flags.command.first()?)));
    for network in &flags.networks {
        let request = AttachRequest {
            network: network.clone(),
            netns: netns.to_owned(),
            addresses: addresses.remove(network).unwrap_or_default(),
            name: name.clone(),
            aliases: flags.alias.clone(),
            // Through the first network that is not internal.
            outside: Some(OutsideRequest::default()),
            ..AttachRequest::default()
        };
        client.attach(&request).await?;
        attached.push(network.clone());
    }
    Ok(())
}

/// The addresses that were asked for, by network.
async fn distribute(flags: &RunFlags, client: &Client) -> Result<BTreeMap<String, Vec<IpAddr>>, Failure> {
    let mut by_network: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    if flags.ip.is_empty() {
        return Ok(by_network);
    }
    let mut networks = Vec::new();
    for reference in &flags.networks {
        networks.push((reference, client.network(reference).await?.network));
    }
    for &ip in &flags.ip {
        let holder = networks.iter().find(|(_, network)| network.subnet_of(ip).is_some());
        let (reference, _) = holder.ok_or_else(|| {
            Failure::new(ErrorKind::Invalid, format!("--ip {ip} lies in no subnet of the networks asked for"))
        })?;
        by_network.entry((*reference).clone()).or_default().push(ip);
    }
    Ok(by_network)
}

async fn detach(networks: &[String], netns: &str, client: &Client) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for network in networks {
        let request =
            DetachRequest { network: network.clone(), netns: netns.to_owned(), ..DetachRequest::default() };
        match client.detach(&request).await {
            // The daemon was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => outcome = Err(error.into()),
            Ok(()) => {}
        }
    }
    outcome
}

/// The signals that this process gets, to be read.
struct Signals(SignalFd);

impl Signals {
    /// From here on they are read, and have no effect of their own.
    fn take() -> Result<Self, Failure> {
        let mut set: SigSet = PASSED_ON.into_iter().collect();
        set.add(Signal::SIGCHLD);
        let taken = set.thread_block().and_then(|()| SignalFd::new(&set));
        taken.map(Self).map_err(|e| failed("take signals", &e))
    }

    /// Passes them on until the process has ended; it is not waited for yet, so its pid is nobody else's.
    fn pass_on_to(&self, pid: Pid) -> Result<(), Failure> {
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::Pid(pid), ended) {
                Ok(WaitStatus::StillAlive) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(failed("wait for the command", &e)),
            }
            let told = match self.0.read_signal() {
                Ok(Some(told)) => told,
                Ok(None) | Err(Errno::EINTR) => continue,
                Err(e) => return Err(failed("read signals", &e)),
            };
            // What the terminal sends (Ctrl-C) it sends to both.
            let sent_by_a_process = told.ssi_code <= 0;
            let signal = told.ssi_signo.try_into().ok().and_then(|number: i32| Signal::try_from(number).ok());
            match signal {
                Some(signal) if signal != Signal::SIGCHLD && sent_by_a_process => {
                    // If it has ended meanwhile the next look tells.
                    let _ended = kill(pid, signal);
                }
                _ => {}
            }
        }
    }
}

/// Ends this process as the command has ended, so that a service manager sees the same.
fn end_as(status: WaitStatus) -> ExitCode {
    match status {
        WaitStatus::Exited(_, code) => exit_code(code),
        WaitStatus::Signaled(_, signal, _) => {
            if ends_quietly(signal) && SigSet::empty().thread_set_mask().is_ok() {
                // Comes back only where the signal is ignored.
                let _ignored = raise(signal);
            }
            exit_code(BY_SIGNAL + signal as i32)
        }
        _ => ExitCode::FAILURE,
    }
}

/// Whether a signal ends a process without a core dump, which would be this process's and not the command's.
fn ends_quietly(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGHUP
            | Signal::SIGINT
            | Signal::SIGKILL
            | Signal::SIGTERM
            | Signal::SIGALRM
            | Signal::SIGUSR1
            | Signal::SIGUSR2
    )
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

/// What the command is called: its file's name.
fn name_of(program: &OsString) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// The host's file with weft's resolver in the place of the host's.
fn resolv_conf(hosts: &str) -> String {
    let kept = hosts.lines().filter(|line| line.starts_with("search") || line.starts_with("options"));
    [RESOLVER].into_iter().chain(kept).flat_map(|line| [line, "\n"]).collect()
}

fn failed(doing: &str, reason: &dyn Display) -> Failure {
    Failure::new(ErrorKind::Internal, format!("cannot {doing}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_called_as_its_file() {
        assert_eq!(name_of(&"/usr/sbin/nginx".into()), "nginx");
        assert_eq!(name_of(&"redis-server".into()), "redis-server");
    }

    #[test]
    fn the_resolver_is_wefts_and_the_search_list_the_hosts() {
        let hosts = "# made by hand\nsearch example.org\nnameserver 192.0.2.53\noptions ndots:2\ndomain x\n";
        assert_eq!(resolv_conf(hosts), "nameserver 127.0.0.11\nsearch example.org\noptions ndots:2\n");
        assert_eq!(resolv_conf(""), "nameserver 127.0.0.11\n");
    }

    #[test]
    fn a_command_that_ended_by_itself_gives_its_code() {
        let pid = Pid::from_raw(1);
        for code in [0, 1, 42, 255] {
            let ended = format!("{:?}", end_as(WaitStatus::Exited(pid, code)));
            assert_eq!(ended, format!("{:?}", ExitCode::from(u8::try_from(code).unwrap())));
        }
        // This one would leave a core: its number is told instead.
        let ended = end_as(WaitStatus::Signaled(pid, Signal::SIGSEGV, true));
        assert_eq!(format!("{ended:?}"), format!("{:?}", ExitCode::from(139)));
    }
}
