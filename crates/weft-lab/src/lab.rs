//! A whole lab: brought up, found again, entered, taken down.

use crate::{
    Consul, Container, Daemon, DaemonOptions, Engine, EngineOptions, Etcd, Host, Image, LabError, NetNs,
    Process, Target, Tools, Wire, WireOptions, room::Room, until,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

/// Which store the daemons of a lab use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabStore {
    /// The first host's daemon serves its embedded store to the others.
    Embedded,
    /// A real etcd on the switch.
    Etcd(Tools),
    /// A real Consul on the switch.
    Consul(Tools),
    /// This `--cluster-store` for every daemon.
    Url(String),
}

/// What a lab is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    /// Its name: 1 to 16 of a-z, 0-9 and -.
    pub name: String,
    /// How many hosts: h1, h2, …
    pub hosts: usize,
    /// How many container-like namespaces on each: c1, c2, …
    pub containers: usize,
    /// The `weft` program.
    pub weft: PathBuf,
    /// Where labs keep their files, each in a folder of its name. Short: unix sockets are in there.
    pub dir: PathBuf,
    /// The store.
    pub store: LabStore,
    /// The wire.
    pub wire: WireOptions,
    /// A weft daemon on every host. Without it there is only what it would run beside, and no containers.
    pub daemons: bool,
    /// A Docker engine on every host.
    pub engine: Option<EngineOptions>,
    /// The network that is made, and that the containers are attached to.
    pub network: String,
    /// Its subnets.
    pub subnets: Vec<String>,
    /// More arguments of its `weft network create`.
    #[serde(default)]
    pub network_arguments: Vec<String>,
    /// More arguments of every `weft daemon`.
    pub daemon_arguments: Vec<String>,
}

impl LabOptions {
    /// Where labs keep their files.
    pub const DEFAULT_DIR: &str = "/run/weft-lab";

    /// Two hosts with a container each on the embedded store.
    pub fn new(name: &str, weft: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            hosts: 2,
            containers: 1,
            weft: weft.into(),
            dir: PathBuf::from(Self::DEFAULT_DIR),
            store: LabStore::Embedded,
            wire: WireOptions::default(),
            daemons: true,
            engine: None,
            network: "lab".to_owned(),
            subnets: vec!["10.0.0.0/24".to_owned()],
            network_arguments: Vec::new(),
            daemon_arguments: Vec::new(),
        }
    }
}

/// A lab. Dropping the value leaves the lab up; see [`crate::Fixture`] for one that does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lab {
    /// What it was asked to have.
    pub options: LabOptions,
    /// The process that brought it up.
    pub maker: Option<Process>,
    /// The wire.
    pub wire: Wire,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The etcd, if it has one.
    pub etcd: Option<Etcd>,
    /// The Consul, if it has one.
    pub consul: Option<Consul>,
    /// The engines, one a host or none.
    pub engines: Vec<Engine>,
    /// The daemons, one a host.
    pub daemons: Vec<Daemon>,
    /// The containers, host by host.
    pub containers: Vec<Container>,
}

impl Lab {
    /// Brings a lab up. One that fails is taken down again.
    pub fn up(options: LabOptions) -> Result<Self, LabError> {
        let mut lab = Self::plan(options)?;
        match lab.build() {
            Ok(()) => Ok(lab),
            Err(error) => {
                if let Err(leftover) = lab.down() {
                    eprintln!("weft-lab: {leftover}");
                }
                Err(error)
            }
        }
    }

    /// Writes down what [`Lab::build`] will make.
    pub(crate) fn plan(options: LabOptions) -> Result<Self, LabError> {
        check(&options)?;
        let dir = options.dir.join(&options.name);
        if dir.join(STATE).exists() {
            return Err(LabError::Exists(options.name));
        }
        let wire = Wire::named(&options.name, options.wire.clone());
        let count = u8::try_from(options.hosts).unwrap_or(u8::MAX);
        let hosts: Vec<Host> = (1..=count).map(|n| Host::named(&options.name, n, &dir, &wire)).collect();
        let containers = (1..=if options.daemons { options.containers } else { 0 })
            .flat_map(|number| hosts.iter().map(move |host| Container::named(host, number)))
            .collect();
        let maker = i32::try_from(std::process::id()).ok().and_then(|pid| Process::of_pid("maker", pid));
        let (etcd, consul, engines, daemons) = (None, None, Vec::new(), Vec::new());
        let lab = Self { options, maker, wire, hosts, etcd, consul, engines, daemons, containers };
        for host in &lab.hosts {
            fs::create_dir_all(&host.dir).map_err(LabError::file(&host.dir))?;
        }
        lab.save()?;
        Ok(lab)
    }

    /// Makes it all.
    pub(crate) fn build(&mut self) -> Result<(), LabError> {
        self.wire.create()?;
        for host in &self.hosts {
            self.wire.plug(host)?;
        }
        // Before the engines: Docker 20.10's own overlay looks for it once, when it starts.
        match self.options.store.clone() {
            LabStore::Etcd(tools) => self.etcd = Some(Etcd::start(&self.wire, &tools, &self.dir())?),
            LabStore::Consul(tools) => self.consul = Some(Consul::start(&self.wire, &tools, &self.dir())?),
            LabStore::Embedded | LabStore::Url(_) => {}
        }
        self.save()?;
        if let Some(options) = self.options.engine.clone() {
            self.start_engines(&options)?;
        }
        if self.options.daemons {
            self.start_daemons()?;
            if !self.containers.is_empty() {
                self.attach_containers()?;
            }
        }
        self.save()
    }

    fn start_engines(&mut self, options: &EngineOptions) -> Result<(), LabError> {
        for host in &mut self.hosts {
            host.room = Some(Room::open(host)?);
        }
        self.engines = self.hosts.iter().map(|host| Engine::new(host, options)).collect();
        self.save()?;
        // All at once: an engine takes seconds to start.
        for engine in &mut self.engines {
            engine.spawn()?;
        }
        self.save()?;
        for engine in &self.engines {
            engine.wait_ready()?;
            for image in Image::ALL {
                engine.load(image)?;
            }
        }
        Ok(())
    }

    fn start_daemons(&mut self) -> Result<(), LabError> {
        let mut token_file = None;
        for number in 0..self.hosts.len() {
            let host = &self.hosts[number];
            let first = self.hosts.first().map_or(host.address, |h| h.address);
            let store = match (&self.options.store, &self.etcd, &self.consul) {
                (LabStore::Url(url), _, _) => url.clone(),
                (_, Some(etcd), _) => etcd.url(),
                (_, _, Some(consul)) => consul.url(),
                _ if number == 0 => "local".to_owned(),
                _ => match first {
                    IpAddr::V4(ip) => format!("weft://{ip}:2375"),
                    IpAddr::V6(ip) => format!("weft://[{ip}]:2375"),
                },
            };
            let mut daemon = Daemon::new(
                host,
                DaemonOptions {
                    weft: self.options.weft.clone(),
                    overlay_netns: format!("weft-{}", host.namespace.name()),
                    store,
                    advertise: "eth0:2375".to_owned(),
                    join_token_file: token_file.clone(),
                    docker_socket: self.engines.get(number).map(Engine::socket),
                    arguments: self.options.daemon_arguments.clone(),
                    environment: Vec::new(),
                },
            );
            // Noted before it has run: its overlay namespace is among what has to go.
            self.daemons.push(daemon.clone());
            self.save()?;
            daemon.spawn()?;
            self.daemons[number] = daemon.clone();
            self.save()?;
            daemon.wait_ready()?;
            if number == 0 && self.options.store == LabStore::Embedded && self.hosts.len() > 1 {
                token_file = Some(daemon.join_token_file()?);
            }
        }
        Ok(())
    }

    fn attach_containers(&mut self) -> Result<(), LabError> {
        let network = self.options.network.clone();
        let mut create = vec!["network", "create"];
        for subnet in &self.options.subnets {
            create.extend(["--subnet", subnet.as_str()]);
        }
        create.extend(self.options.network_arguments.iter().map(String::as_str));
        create.push(&network);
        self.daemon("h1")?.weft(&create)?;
        for daemon in &self.daemons {
            until("the network on every host", Duration::from_secs(5), || {
                daemon.weft(&["network", "inspect", &network]).map_err(|e| e.to_string())
            })?;
        }
        for number in 0..self.containers.len() {
            let daemon = self.daemon(&self.containers[number].host)?.clone();
            self.containers[number].attach(&daemon, &network, &[])?;
        }
        Ok(())
    }

    /// Takes it down: nothing of it is left. Goes on where it can when something cannot be removed, and returns
    /// the first such error. Taking down what is down already succeeds.
    pub fn down(&mut self) -> Result<(), LabError> {
        let mut results = Vec::new();
        results.extend(self.engines.iter_mut().map(Engine::destroy));
        results.extend(self.daemons.iter_mut().map(Daemon::kill));
        results.extend(self.daemons.iter().map(Daemon::remove_pins));
        results.extend(self.hosts.iter().filter_map(|host| host.room.as_ref()).map(Room::close));
        results.extend(self.etcd.as_mut().map(Etcd::kill));
        results.extend(self.consul.as_mut().map(Consul::kill));
        results.extend(self.containers.iter().map(|c| c.namespace.remove()));
        for host in &self.hosts {
            results.push(NetNs::named(&format!("weft-{}", host.namespace.name())).remove());
            results.push(host.namespace.remove());
        }
        results.push(self.wire.namespace.remove());
        results.into_iter().collect::<Result<(), _>>()?;
        let dir = self.dir();
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(LabError::file(&dir))?;
        }
        Ok(())
    }

    /// The lab of this name.
    pub fn load(name: &str) -> Result<Self, LabError> {
        Self::load_from(Path::new(LabOptions::DEFAULT_DIR), name)
    }

    fn load_from(dir: &Path, name: &str) -> Result<Self, LabError> {
        let path = dir.join(name).join(STATE);
        if !is_name(name) || !path.exists() {
            return Err(LabError::NoSuchLab(name.to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(LabError::file(&path))?;
        serde_json::from_str(&text).map_err(|e| LabError::File { path, reason: e.to_string() })
    }

    /// The labs that are up, or were not taken down completely.
    pub fn list() -> Result<Vec<Self>, LabError> {
        let dir = Path::new(LabOptions::DEFAULT_DIR);
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(dir).map_err(LabError::file(dir))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().filter(|n| dir.join(n).join(STATE).exists()).map(|n| Self::load_from(dir, n)).collect()
    }

    /// Runs `argv` on a host (`h1`) or in a container (`h1/c1`), with this process's standard input and output.
    pub fn exec(&self, target: &str, argv: &[String]) -> Result<ExitStatus, LabError> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(LabError::Command { command: String::new(), reason: "no command".to_owned() });
        };
        let mut command = self.command(target, program)?;
        command
            .args(arguments)
            .status()
            .map_err(|e| LabError::Command { command: argv.join(" "), reason: e.to_string() })
    }

    /// A command that runs on a host (`h1`) or in a container (`h1/c1`).
    pub fn command(&self, target: &str, program: &str) -> Result<Command, LabError> {
        let Ok(place) = target.parse::<Target>();
        match place.container {
            None => Ok(self.host(&place.host)?.command(program)),
            Some(_) => Ok(self.container(target)?.namespace.command(program)),
        }
    }

    /// Kills the store's server: etcd or Consul. No error where a daemon is the store.
    pub fn kill_store(&mut self) -> Result<(), LabError> {
        self.etcd.as_mut().map_or(Ok(()), Etcd::kill)?;
        self.consul.as_mut().map_or(Ok(()), Consul::kill)
    }

    /// Starts the store's server again on what it left.
    pub fn start_store(&mut self) -> Result<(), LabError> {
        self.etcd.as_mut().map_or(Ok(()), Etcd::start_again)?;
        self.consul.as_mut().map_or(Ok(()), Consul::start_again)
    }

    /// The store's records: keys and values. Empty where a daemon is the store.
    pub fn records(&self) -> Result<Vec<(String, String)>, LabError> {
        let etcd = self.etcd.as_ref().map(|etcd| etcd.records("weft/v1"));
        let consul = self.consul.as_ref().map(|consul| consul.records("weft/v1"));
        etcd.or(consul).unwrap_or(Ok(Vec::new()))
    }

    /// The host of this name: `h1`.
    pub fn host(&self, name: &str) -> Result<&Host, LabError> {
        self.hosts.iter().find(|h| h.name == name).ok_or_else(|| self.no_such(name))
    }

    /// The daemon of a host.
    pub fn daemon(&self, host: &str) -> Result<&Daemon, LabError> {
        self.index(host).and_then(|i| self.daemons.get(i).ok_or_else(|| self.no_such(host)))
    }

    /// The daemon of a host, to be stopped and started. Call [`Lab::save`] when it is to be found again by others.
    pub fn daemon_mut(&mut self, host: &str) -> Result<&mut Daemon, LabError> {
        let (index, missing) = (self.index(host)?, self.no_such(host));
        self.daemons.get_mut(index).ok_or(missing)
    }

    /// The engine of a host.
    pub fn engine(&self, host: &str) -> Result<&Engine, LabError> {
        self.index(host).and_then(|i| self.engines.get(i).ok_or_else(|| self.no_such(host)))
    }

    /// The engine of a host, to be stopped and started.
    pub fn engine_mut(&mut self, host: &str) -> Result<&mut Engine, LabError> {
        let (index, missing) = (self.index(host)?, self.no_such(host));
        self.engines.get_mut(index).ok_or(missing)
    }

    /// The container of this name: `h1/c1`.
    pub fn container(&self, name: &str) -> Result<&Container, LabError> {
        let found = self.containers.iter().find(|c| name == format!("{}/{}", c.host, c.name));
        found.ok_or_else(|| self.no_such(name))
    }

    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        self.options.dir.join(&self.options.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Writes its state down, for [`Lab::load`].
    pub fn save(&self) -> Result<(), LabError> {
        let (path, new) = (self.dir().join(STATE), self.dir().join("state.new"));
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| LabError::File { path: path.clone(), reason: e.to_string() })?;
        fs::write(&new, text).map_err(LabError::file(&new))?;
        fs::rename(&new, &path).map_err(LabError::file(&path))
    }

    fn index(&self, host: &str) -> Result<usize, LabError> {
        self.hosts.iter().position(|h| h.name == host).ok_or_else(|| self.no_such(host))
    }

    fn no_such(&self, target: &str) -> LabError {
        LabError::NoSuchTarget { lab: self.options.name.clone(), target: target.to_owned() }
    }
}

/// The file of a lab's state in its folder.
const STATE: &str = "lab.json";

fn is_name(name: &str) -> bool {
    let fits = (1..=16).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_lowercase());
    fits && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check(options: &LabOptions) -> Result<(), LabError> {
    if !is_name(&options.name) {
        return Err(LabError::BadName(options.name.clone()));
    }
    let (hosts, containers) = (options.hosts, options.containers);
    if !(1..=200).contains(&hosts) || containers > 50 {
        return Err(LabError::BadSize { hosts, containers });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_or_overflow_a_socket_path_are_refused() {
        for bad in ["", "1a", "a/b", "../x", "A", "abcdefghijklmnopq", "a b", "a.b"] {
            let error = Lab::up(LabOptions::new(bad, "/nowhere/weft")).unwrap_err();
            assert!(matches!(error, LabError::BadName(_)), "{bad}: {error}");
            assert!(matches!(Lab::load(bad).unwrap_err(), LabError::NoSuchLab(_)), "{bad}");
        }
    }

    #[test]
    fn a_lab_without_hosts_is_refused() {
        let options = LabOptions { hosts: 0, ..LabOptions::new("none", "/nowhere/weft") };
        assert!(Lab::up(options).unwrap_err().to_string().contains("1 to 200 hosts"));
    }
}
