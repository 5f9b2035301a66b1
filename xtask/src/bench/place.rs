//! Where a measuring program runs, and its server beside it: the same programs for every contender, so that only
//! the network between them differs.

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};
use weft_lab::{NetNs, until};

/// A network namespace: a host's, or a container's of whatever engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    netns: PathBuf,
}

impl Place {
    /// A namespace that has a name.
    pub fn named(namespace: &NetNs) -> Self {
        Self { netns: namespace.path() }
    }

    /// The namespace of a process.
    pub fn of_process(pid: i64) -> Self {
        Self { netns: PathBuf::from(format!("/proc/{pid}/ns/net")) }
    }

    /// A command that runs there with the machine's own files, on one processor if it is told which. It ends with
    /// this program, whatever happens.
    fn command(&self, program: &Path, processor: Option<usize>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).arg("--");
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        if let Some(number) = processor {
            command.args(["taskset", "--cpu-list", &number.to_string()]);
        }
        command.arg(program);
        command
    }

    /// A command's standard output; an exit status other than 0 is an error.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let (program, arguments) = argv.split_first().context("no command")?;
        Ok(weft_lab::run(self.command(Path::new(program), None).args(arguments))?)
    }
}

/// Two places, and the addresses by which the first reaches the second.
///
/// Clients run on the machine's first processor and servers on its last, as if they were on two machines. Where the
/// scheduler would put them is another place in each run: measured on one machine, a round trip took 5 µs when it
/// had put both on one processor and 60 when it had not, whatever the network.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Where clients run.
    pub from: Place,
    /// Where servers run.
    pub to: Place,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address, where the contender has IPv6 inside.
    pub v6: Option<IpAddr>,
}

impl Pair {
    /// A program at the first place.
    pub fn client(&self, program: impl AsRef<Path>) -> Command {
        self.from.command(program.as_ref(), Some(0))
    }

    /// A program at the second place.
    pub fn server(&self, program: impl AsRef<Path>) -> Result<Command> {
        let last = thread::available_parallelism()?.get() - 1;
        Ok(self.to.command(program.as_ref(), Some(last)))
    }

    /// Waits until the second place answers at all its addresses.
    pub fn wait_until_reachable(&self) -> Result<()> {
        for address in [Some(self.v4), self.v6].into_iter().flatten() {
            let address = address.to_string();
            until(&format!("an answer of {address}"), Duration::from_secs(15), || {
                self.from.run(&["ping", "-n", "-c", "1", "-W", "1", &address]).map_err(|e| format!("{e:#}"))
            })?;
        }
        Ok(())
    }
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, after its client.
    ByItself,
    /// When it is interrupted, with exit status 0.
    Interrupted,
    /// When it is killed; until then it runs.
    Killed,
}

/// A server, killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    command: String,
}

impl Server {
    /// Starts it and returns when it has the port open in its namespace, whichever protocol it is.
    pub fn start(place: &Place, command: &mut Command, port: u16) -> Result<Self> {
        let text = format!("{command:?}");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        let mut server = Self { child: child.with_context(|| text.clone())?, command: text };
        let netns = fs::metadata(&place.netns).with_context(|| place.netns.display().to_string())?.ino();
        let proc = PathBuf::from(format!("/proc/{}", server.child.id()));
        let what = format!("port {port} of {}", server.command);
        let (ended, _) = until(&what, Duration::from_secs(5), || {
            if let Some(status) = server.child.try_wait().map_err(|e| e.to_string())? {
                return Ok(Some(status));
            }
            let inside = fs::metadata(proc.join("ns/net")).is_ok_and(|m| m.ino() == netns);
            if inside && has_port(&proc, port) { Ok(None) } else { Err("it is not open".to_owned()) }
        })?;
        match ended {
            None => Ok(server),
            Some(status) => bail!("{}: {status}", server.command),
        }
    }

    /// Ends it, and checks that it ended well.
    pub fn end(mut self, end: End) -> Result<()> {
        if end == End::Killed {
            return match self.child.try_wait()? {
                Some(status) => bail!("{} ended too early: {status}", self.command),
                None => Ok(()),
            };
        }
        if end == End::Interrupted {
            kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        }
        let (status, _) = until(&format!("the end of {}", self.command), Duration::from_secs(5), || {
            self.child.try_wait().map_err(|e| e.to_string())?.ok_or_else(|| "it runs".to_owned())
        })?;
        if status.success() { Ok(()) } else { bail!("{}: {status}", self.command) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is as good.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Whether the namespace of a process has a socket that listens on this port (proc(5), net/tcp and net/udp).
fn has_port(proc: &Path, port: u16) -> bool {
    ["tcp", "tcp6", "udp", "udp6"].iter().any(|protocol| {
        let text = fs::read_to_string(proc.join("net").join(protocol)).unwrap_or_default();
        listens(&text, port, protocol.starts_with("tcp"))
    })
}

fn listens(text: &str, port: u16, tcp: bool) -> bool {
    let port = format!(":{port:04X}");
    text.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next(), fields.next(), fields.next());
        local.is_some_and(|local| local.ends_with(&port)) && (!tcp || state == Some("0A"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
        0: 0100007F:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100\n   \
        1: 0100007F:1452 0100007F:A2C4 06 00000000:00000000 00:00000000 00000000     0        0 0\n";

    #[test]
    fn a_port_is_open_when_a_socket_listens_on_it_and_not_when_a_connection_of_old_is_on_it() {
        assert!(listens(TCP, 5201, true));
        assert!(!listens(TCP, 5202, true));
        assert!(listens(TCP, 5202, false), "of UDP every socket counts");
        assert!(!listens(TCP, 520, true));
    }
}
