//! A gate between a Docker engine and weft: it lets the engine's calls through, and kills one of the two at a call
//! that a test chooses.
//!
//! The engine finds the gate by a spec file, and weft serves its plugin socket elsewhere, so that nothing in either of
//! them knows of the gate. A call comes on a connection of its own; a connection that a kill cuts is closed.

use crate::{eventually, seen};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use weft_lab::{Fixture, Process};

/// When in a call the gate strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The engine has made the call, weft has not got it.
    Before,
    /// weft has done what it was asked, and the engine has no answer.
    After,
}

/// Calls that change nothing and that an engine makes when it likes.
const IDLE: [&str; 4] = ["Activate", "GetCapabilities", "GetDefaultAddressSpaces", "EndpointOperInfo"];

/// A gate, open until it is dropped.
pub struct Gate {
    socket: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    weft: PathBuf,
    state: Mutex<State>,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    armed: Option<Armed>,
    struck: Option<String>,
}

struct Armed {
    /// So many calls are let through before.
    skip: usize,
    moment: Moment,
    victim: Process,
}

impl Gate {
    /// Puts a gate between the engine and the daemon of a host. The daemon is started anew, to serve elsewhere.
    pub fn open(lab: &mut Fixture, host: &str) -> Self {
        let place = lab.host(host).unwrap().clone();
        let (socket, weft) = (place.dir.join("gate.sock"), place.dir.join("weft.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared { weft: weft.clone(), state: Mutex::default(), closed: false.into() });
        let at_gate = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if at_gate.closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(engine) = stream else { continue };
                let shared = Arc::clone(&at_gate);
                // A connection that breaks is what this gate is for: the test sees what comes of it.
                drop(thread::spawn(move || shared.pass(engine)));
            }
        });
        let daemon = lab.daemon_mut(host).unwrap();
        daemon.stop().unwrap();
        daemon.options.arguments.extend(["--docker-plugin-socket".to_owned(), weft.display().to_string()]);
        let spec = format!(
            "mkdir -p /etc/docker/plugins && echo unix://{} > /etc/docker/plugins/weft.spec",
            socket.display()
        );
        place.run(&["sh", "-c", &spec]).unwrap();
        daemon.start().unwrap();
        let daemon = lab.daemon(host).unwrap();
        eventually("weft to meet its engine again", Duration::from_secs(10), || {
            let status = daemon.status().unwrap();
            seen(status["engines"][0]["connected"] == true, status)
        });
        Self { socket, shared, accepting: Some(accepting) }
    }

    /// Kills the process at the call that comes after `skip` others.
    pub fn arm(&self, skip: usize, moment: Moment, victim: &Process) {
        *self.shared.state() =
            State { armed: Some(Armed { skip, moment, victim: victim.clone() }), struck: None };
    }

    /// The call at which it has struck, and lets everything through from now on.
    pub fn disarm(&self) -> Option<String> {
        std::mem::take(&mut *self.shared.state()).struck
    }

    /// Whether it has struck.
    pub fn has_struck(&self) -> bool {
        self.shared.state().struck.is_some()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        if UnixStream::connect(&self.socket).is_ok() {
            drop(self.accepting.take().map(JoinHandle::join));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes one call on, and its answer back.
    fn pass(&self, mut engine: UnixStream) -> io::Result<()> {
        let (call, request) = read_request(&engine)?;
        let strike = self.strike_now(&call);
        if let Some((Moment::Before, victim)) = &strike {
            return self.strike(victim, &call);
        }
        let mut weft = UnixStream::connect(&self.weft)?;
        weft.write_all(&request)?;
        let mut answer = Vec::new();
        weft.read_to_end(&mut answer)?;
        match strike {
            Some((_, victim)) => self.strike(&victim, &call),
            None => engine.write_all(&answer),
        }
    }

    fn strike_now(&self, call: &str) -> Option<(Moment, Process)> {
        if IDLE.iter().any(|idle| call.ends_with(idle)) {
            return None;
        }
        let mut state = self.state();
        match &mut state.armed {
            Some(armed) if armed.skip > 0 => {
                armed.skip -= 1;
                None
            }
            _ => state.armed.take().map(|armed| (armed.moment, armed.victim)),
        }
    }

    fn strike(&self, victim: &Process, call: &str) -> io::Result<()> {
        // Locked before: whoever sees what the kill brings about finds it noted.
        let mut state = self.state();
        victim.kill().map_err(io::Error::other)?;
        state.struck = Some(call.to_owned());
        Ok(())
    }
}

/// Reads a request: its call, and itself changed so that its connection ends with the answer.
fn read_request(engine: &UnixStream) -> io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(engine);
    let (mut first, mut headers, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (name, value) = line.split_once(':').unwrap_or(("", ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.trim().is_empty() {
            break;
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let call = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let mut request = format!("{first}{headers}Connection: close\r\n\r\n").into_bytes();
    request.extend(body);
    Ok((call, request))
}
