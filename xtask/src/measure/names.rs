//! Names from inside a container: weft's name server beside Docker's own, in the same container for the same name.

use crate::statistics::median;
use anyhow::{Context, Result, bail, ensure};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use nix::sched::{CloneFlags, setns};
use std::{
    collections::HashMap,
    fs::File,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};
use weft_lab::{EngineVersion, Lab, until};

/// Where containers ask.
const SERVER: &str = "127.0.0.11:53";
/// Who is led to weft, and who comes to Docker's resolver.
const ASKERS: [(&str, &str); 2] = [("weft", "127.0.0.1:0"), ("Docker", "127.0.0.12:0")];
/// Queries of a round.
const QUERIES: u16 = 20_000;
/// How many of them are under way at once where the rate is measured.
const AT_ONCE: usize = 32;
/// Rounds of each.
const ROUNDS: usize = 7;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a round has shown.
struct Round {
    /// Queries a second.
    rate: f64,
    /// Microseconds from query to answer.
    p50: f64,
    p99: f64,
}

/// Prints rates and times of both, by turns.
pub fn names(lab: &Lab, version: EngineVersion) -> Result<()> {
    let engine = lab.engine("h1")?;
    engine.docker(&["run", "-d", "--name=asker", "--net=net0", "box", "sleep", "3600"])?;
    engine.docker(&["run", "-d", "--name=web", "--net=net0", "box", "sleep", "3600"])?;
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", "asker"])?;
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let ask = |at_once, from| {
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                round(at_once, from)
            });
            asking.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))?
        })
    };
    for (_, from) in ASKERS {
        until("the name", PATIENCE, || ask(1, from).map(drop).map_err(|e| format!("{e:#}")))?;
    }
    println!("names in a container of Docker {version}, medians of {ROUNDS} rounds of {QUERIES} queries:");
    for at_once in [1, AT_ONCE] {
        let mut rounds: [Vec<Round>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for ((_, from), rounds) in ASKERS.iter().zip(&mut rounds) {
                rounds.push(ask(at_once, from)?);
            }
        }
        let of = |which: usize, part: fn(&Round) -> f64| {
            median(&rounds[which].iter().map(part).collect::<Vec<_>>())
        };
        for (which, (name, _)) in ASKERS.iter().enumerate() {
            println!(
                "  {at_once:>2} at once, {name:<6}  {:>7.0} a second, p50 {:.0} µs, p99 {:.0} µs",
                of(which, |r| r.rate),
                of(which, |r| r.p50),
                of(which, |r| r.p99)
            );
        }
        println!("  ratio of the rates      {:.2}", of(0, |r| r.rate) / of(1, |r| r.rate));
    }
    engine.docker(&["rm", "-f", "asker", "web"])?;
    Ok(())
}

/// Asks for `web`, `at_once` times at once, until all queries are answered.
fn round(at_once: usize, from: &str) -> Result<Round> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii("web.")?, RecordType::A));
    let mut query = message.to_vec()?;
    let (mut under_way, mut times, mut next) = (HashMap::new(), Vec::new(), 0_u16);
    let (mut answer, start) = ([0; 512], Instant::now());
    while times.len() < usize::from(QUERIES) {
        while next < QUERIES && under_way.len() < at_once {
            query[..2].copy_from_slice(&next.to_be_bytes());
            under_way.insert(next, Instant::now());
            socket.send(&query)?;
            next += 1;
        }
        let length = socket.recv(&mut answer).context("no answer")?;
        let got = &answer[..length];
        let id = got.first_chunk().map(|id| u16::from_be_bytes(*id)).context("an answer without an id")?;
        let Some(asked) = under_way.remove(&id) else { bail!("an answer to no query: {id}") };
        times.push(asked.elapsed().as_secs_f64() * 1e6);
        if times.len() == 1 {
            let read = Message::from_vec(got)?;
            let good = read.metadata.response_code == ResponseCode::NoError && read.answers.len() == 1;
            ensure!(good, "{read}");
        }
    }
    let rate = f64::from(QUERIES) / start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(Round { rate, p50: at(50), p99: at(99) })
}
