//! Two real Docker engines on two hosts with a real etcd.

use crate::{eventually, only_on, options_with_consul, options_with_etcd, seen, weft_devices};
use serde_json::Value;
use std::{
    ops::{Deref, DerefMut},
    process::Command,
    time::Duration,
};
use weft_lab::{
    Daemon, Engine, EngineOptions, EngineVersion, Fixture, LabError, LabOptions, Tools, cannot_run, run,
};

/// Runs each test on both versions of Docker.
#[macro_export]
macro_rules! with_both_engines {
    ($($test:ident),* $(,)?) => {
        mod docker_20_10 {
            $(#[test] fn $test() { super::$test(weft_lab::EngineVersion::V20_10); })*
        }
        mod docker_26_1 {
            $(#[test] fn $test() { super::$test(weft_lab::EngineVersion::V26_1); })*
        }
    };
}

/// Runs each test on these, and on the newest Docker as well: tests of what an engine's version may matter for.
#[macro_export]
macro_rules! with_the_newest_engine_too {
    ($($test:ident),* $(,)?) => {
        $crate::with_both_engines!($($test),*);
        mod docker_28_5 {
            $(#[test] fn $test() { super::$test(weft_lab::EngineVersion::V28_5); })*
        }
    };
}

/// A lab with an engine on each of two hosts: A and B.
pub struct Pair {
    lab: Fixture,
}

impl Pair {
    /// Brings it up, or says why the test cannot run.
    pub fn up(name: &str, version: EngineVersion) -> Option<Self> {
        Self::up_with(name, version, |_| {})
    }

    /// The same, for a test that does not care how frames are carried: on one data path for each version of Docker.
    pub fn up_on_one_path(name: &str, version: EngineVersion) -> Option<Self> {
        Self::is_on_its_path(version).then(|| Self::up(name, version)).flatten()
    }

    /// Whether this run is on the data path of such a test.
    pub fn is_on_its_path(version: EngineVersion) -> bool {
        only_on(match version {
            EngineVersion::V20_10 => "kernel",
            EngineVersion::V26_1 | EngineVersion::V28_5 => "ebpf",
        })
    }

    /// The same with other options of the engines.
    pub fn up_with(
        name: &str,
        version: EngineVersion,
        change: impl FnOnce(&mut EngineOptions),
    ) -> Option<Self> {
        Self::up_on(options_with_etcd(name)?, version, change)
    }

    /// The same on a Consul.
    pub fn up_on_consul(name: &str, version: EngineVersion) -> Option<Self> {
        Self::up_on(options_with_consul(name)?, version, |_| {})
    }

    /// The same in a lab of other options.
    pub fn up_on(
        options: LabOptions,
        version: EngineVersion,
        change: impl FnOnce(&mut EngineOptions),
    ) -> Option<Self> {
        let name = &options.name;
        let tools = Tools::from_env();
        if let Err(missing) = tools.dockerd(version).and_then(|_| tools.nginx()) {
            cannot_run(&format!("{name} with Docker {version}"), &missing);
            return None;
        }
        let mut engine = EngineOptions::new(&tools, version);
        change(&mut engine);
        let lab = crate::lab(LabOptions { containers: 0, engine: Some(engine), ..options })?;
        let pair = Self { lab };
        for daemon in &pair.lab.daemons {
            eventually("weft to meet its engine", Duration::from_secs(10), || {
                let status = daemon.status().unwrap();
                seen(status["engines"][0]["connected"] == true, status)
            });
        }
        Some(pair)
    }

    /// The engine of host A.
    pub fn a(&self) -> &Engine {
        self.lab.engine("h1").unwrap()
    }

    /// The engine of host B.
    pub fn b(&self) -> &Engine {
        self.lab.engine("h2").unwrap()
    }

    /// The weft daemon of host A.
    pub fn weft_a(&self) -> &Daemon {
        self.lab.daemon("h1").unwrap()
    }

    /// The weft daemon of host B.
    pub fn weft_b(&self) -> &Daemon {
        self.lab.daemon("h2").unwrap()
    }

    /// Makes a network on A and waits until B has it. `more` are further arguments of `docker network create`.
    pub fn network(&self, name: &str, more: &[&str]) -> Duration {
        self.a().docker(&[&["network", "create", "--driver", "weft"], more, &[name]].concat()).unwrap();
        eventually(&format!("network {name} on B"), Duration::from_secs(5), || has_network(self.b(), name))
    }

    /// All endpoints on a host, as the cluster knows them.
    pub fn endpoints_of(&self, node: &str) -> Vec<Value> {
        let all = self.weft_a().json(&["endpoint", "ls"]).unwrap();
        all.as_array().unwrap().iter().filter(|e| e["node_name"] == node).cloned().collect()
    }

    /// Waits until the cluster holds no endpoint and no network, and no host a device for one.
    pub fn assert_nothing_left(&self) {
        // What a killed engine forgot counts as forgotten after 10 s only.
        eventually("an empty cluster", Duration::from_secs(30), || {
            let records = self.lab.records().unwrap();
            let of_networks =
                ["/networks/", "/names/", "/vnis/", "/endpoints/", "/addresses/", "/pools/", "/bindings/"];
            let left: Vec<_> =
                records.iter().filter(|(key, _)| of_networks.iter().any(|kind| key.contains(kind))).collect();
            seen(left.is_empty(), left)
        });
        for (host, daemon) in self.lab.hosts.iter().zip(&self.lab.daemons) {
            eventually("no device", Duration::from_secs(5), || {
                let mut left = weft_devices(&daemon.overlay());
                left.extend(weft_devices(&host.namespace));
                seen(left.is_empty(), left)
            });
        }
    }
}

impl Deref for Pair {
    type Target = Fixture;
    fn deref(&self) -> &Fixture {
        &self.lab
    }
}

impl DerefMut for Pair {
    fn deref_mut(&mut self) -> &mut Fixture {
        &mut self.lab
    }
}

/// `Ok` if `docker network ls` of an engine has exactly one network of this name, of driver weft.
pub fn has_network(engine: &Engine, name: &str) -> Result<(), String> {
    let networks =
        engine.docker(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"]).map_err(|e| e.to_string())?;
    seen(networks.lines().filter(|line| *line == format!("{name} weft")).count() == 1, networks)
}

/// `Ok` if it has none.
pub fn has_no_network(engine: &Engine, name: &str) -> Result<(), String> {
    let networks = engine.docker(&["network", "ls", "--format", "{{.Name}}"]).map_err(|e| e.to_string())?;
    seen(!networks.lines().any(|line| line == name), networks)
}

/// The address that a container has on a network.
pub fn address(engine: &Engine, container: &str, network: &str) -> String {
    field(engine, container, network, "IPAddress")
}

/// A field of a container's attachment to a network, as `docker inspect` tells it.
pub fn field(engine: &Engine, container: &str, network: &str, field: &str) -> String {
    let told = engine.inspect("container", container).unwrap();
    let value = &told["NetworkSettings"]["Networks"][network][field];
    value.as_str().unwrap_or_else(|| panic!("{container} has no {field} on {network}: {told}")).to_owned()
}

/// Runs the machine's own program in a container's network namespace.
pub fn in_container(engine: &Engine, container: &str, argv: &[&str]) -> Result<String, LabError> {
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", container])?;
    run(Command::new("nsenter").args(["--target", &pid, "--net", "--"]).args(argv))
}

/// Fetches a page from inside a container.
pub fn fetch(engine: &Engine, container: &str, url: &str) -> Result<String, String> {
    engine.exec(container, &["timeout", "2", "wget", "-qO-", url]).map_err(|e| e.to_string())
}
