//! dockerd and weft are killed at each call that one makes to the other, and nothing is left over.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::{collections::BTreeSet, process::Stdio, time::Duration};
use weft_e2e::{
    Pair, eventually,
    gate::{Gate, Moment},
    has_network, has_no_network, seen,
};
use weft_lab::{Engine, EngineVersion, figures, short_or_long};

/// Longer than weft takes to find what a killed engine left, and Docker to repeat a call.
const CATCH_UP: Duration = Duration::from_mins(1);
/// An operation makes at most so many calls that change something.
const CALLS: usize = 4;

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Engine,
    Weft,
}

/// Something that an operator asks of Docker, and how to see whether it is done.
struct Operation {
    arguments: &'static [&'static str],
    done: fn(&Engine) -> Result<(), String>,
}

const fn operation(arguments: &'static [&'static str], done: fn(&Engine) -> Result<(), String>) -> Operation {
    Operation { arguments, done }
}

/// A container whose engine was killed is stopped when that is back, so it may have to be started at any time.
const START: Operation =
    operation(&["start", "box"], |engine| state(engine, |c| c["State"]["Running"] == true));

/// A life of a network and of a container, with every kind of call in it. Between them the container is started where it
/// does not run.
const LIFE: [Operation; 8] = [
    operation(
        &["network", "create", "--driver=weft", "--ipam-driver=weft", "--subnet=10.71.0.0/24", "one"],
        |engine| has_network(engine, "one"),
    ),
    // An engine that is started kills what is left of such a container at once.
    operation(
        &["create", "--name=box", "--stop-signal=KILL", "--net=one", "box", "sleep", "3600"],
        |engine| engine.inspect("container", "box").map(drop).map_err(|e| e.to_string()),
    ),
    START,
    operation(&["network", "connect", "other", "box"], |engine| state(engine, |c| is_on(c, "other"))),
    operation(&["network", "disconnect", "other", "box"], |engine| state(engine, |c| !is_on(c, "other"))),
    operation(&["stop", "box"], |engine| state(engine, |c| c["State"]["Running"] == false)),
    operation(&["rm", "-f", "box"], |engine| {
        let all = engine.docker(&["ps", "-aq"]).map_err(|e| e.to_string())?;
        seen(all.is_empty(), all)
    }),
    operation(&["network", "rm", "one"], |engine| has_no_network(engine, "one")),
];

/// Whether a container is on a network, or will be when it is started. Of one that runs Docker goes on listing a network
/// to which a connection failed, without an endpoint.
fn is_on(container: &Value, network: &str) -> bool {
    let told = &container["NetworkSettings"]["Networks"][network];
    let has_endpoint = told["EndpointID"].as_str().is_some_and(|id| !id.is_empty());
    has_endpoint || (!told.is_null() && container["State"]["Running"] == false)
}

fn state(engine: &Engine, is: impl Fn(&Value) -> bool) -> Result<(), String> {
    let told = engine.inspect("container", "box").map_err(|e| e.to_string())?;
    seen(is(&told), (&told["State"], &told["NetworkSettings"]["Networks"]))
}

/// Goes through [`LIFE`], with a kill at the call of each operation that comes after `skip` others. Returns the
/// calls at which there was one.
fn live(pair: &mut Pair, gate: &Gate, victim: Victim, skip: usize, moment: Moment) -> Vec<String> {
    let mut struck = Vec::new();
    pair.network("other", &["--ipam-driver=weft", "--subnet=10.72.0.0/24"]);
    for Operation { arguments, done } in LIFE {
        if pair.b().inspect("container", "box").is_ok()
            && (START.done)(pair.b()).is_err()
            && arguments != START.arguments
        {
            pair.b().docker(START.arguments).unwrap();
        }
        let what = format!("`docker {}`", arguments.join(" "));
        let process = match victim {
            Victim::Engine => pair.b().process(),
            Victim::Weft => pair.weft_b().process(),
        };
        gate.arm(skip, moment, process.unwrap());
        let mut command = pair.b().command(arguments);
        let mut docker =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut ended = false;
        eventually(&what, CATCH_UP, || {
            ended = docker.try_wait().unwrap().is_some();
            seen(ended || gate.has_struck(), "it goes on")
        });
        if gate.has_struck() {
            match victim {
                Victim::Engine => pair.engine_mut("h2").unwrap().start().unwrap(),
                Victim::Weft => pair.daemon_mut("h2").unwrap().start().unwrap(),
            }
        }
        docker.wait().unwrap();
        if let Some(call) = gate.disarm() {
            eprintln!("{what}: killed at {call}");
            struck.push(call);
        }
        eventually(&what, CATCH_UP, || {
            let Err(not_yet) = done(pair.b()) else { return Ok(()) };
            let refused = pair.b().docker(arguments).err().map(|e| e.to_string()).unwrap_or_default();
            // A call that broke Docker repeats without its content, so it fails: of a Join that failed Docker's list says
            // that there is a connection, and Docker's disconnect that there is none.
            if refused.contains("is not connected to network") {
                return Ok(());
            }
            done(pair.b()).map_err(|still| format!("{not_yet}; {refused:?}; {still}"))
        });
    }
    eventually("what a killed engine forgot to be found", CATCH_UP, || {
        let endpoints = pair.endpoints_of("h2");
        seen(endpoints.is_empty(), endpoints)
    });
    pair.a().docker(&["network", "rm", "other"]).unwrap();
    pair.assert_nothing_left();
    let left = pair.weft_a().json(&["gc", "--dry-run"]).unwrap();
    assert!(left.as_array().unwrap().is_empty(), "{left}");
    struck
}

fn killed_at_each_call(version: EngineVersion) {
    let Some(mut pair) = Pair::up_on_one_path("dokill", version) else { return };
    let gate = Gate::open(&mut pair, "h2");
    // In short: the engine of one version, weft with the other, at one call of each operation.
    let (short, at) = match version {
        EngineVersion::V20_10 => (Victim::Engine, 1),
        EngineVersion::V26_1 | EngineVersion::V28_5 => (Victim::Weft, 0),
    };
    for (victim, name) in [(Victim::Engine, "dockerd"), (Victim::Weft, "weft")] {
        let mut struck = Vec::new();
        for skip in 0..CALLS {
            for moment in [Moment::Before, Moment::After] {
                if short_or_long(victim == short && skip == at && moment == Moment::After, true) {
                    struck.extend(live(&mut pair, &gate, victim, skip, moment));
                }
            }
        }
        if struck.is_empty() {
            continue;
        }
        assert!(struck.len() >= short_or_long(6, 40), "{struck:?}");
        let calls: BTreeSet<&str> = struck.iter().filter_map(|call| call.rsplit('.').next()).collect();
        let calls = calls.into_iter().collect::<Vec<_>>().join(", ");
        let kills = struck.len();
        figures(
            &format!("{name} killed at each call, Docker {version}"),
            &format!("{kills} kills at {calls}: 0 endpoints, addresses, networks, records or devices left"),
        );
    }
}

weft_e2e::with_both_engines!(killed_at_each_call);
