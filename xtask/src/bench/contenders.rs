//! Who is measured, and how each is set up: in a lab of its own, all labs up at the same time.

use super::{
    place::{Pair, Place},
    wires::WireKind,
};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
    time::Duration,
};
use weft_lab::{
    Container, Engine, EngineOptions, EngineVersion, Fixture, Host, Image, Lab, LabOptions, LabStore, NetNs,
    Tools, Wire, run, until,
};

/// A network between two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Contender {
    /// Host to host, no container
    Raw,
    /// Containers between whose hosts packets are routed: no overlay, what the containers' own veth pairs cost
    Routed,
    /// weft with `--datapath=kernel`: bridge and VXLAN device
    Kernel,
    /// weft with `--datapath=ebpf`
    Weft,
    /// The same with a network that is marked `-o weft.direct=true`
    Direct,
    /// Docker 20.10 with `--cluster-store=etcd://…` and its `overlay`
    DockerClassic,
    /// Docker 26.1, a swarm and its attachable overlay
    DockerSwarm,
    /// Docker 26.1 and a bridge network on one host
    DockerBridge,
}

/// The network's name, wherever it needs one.
const NETWORK: &str = "bench";

impl Contender {
    /// Those of `--quick`.
    pub const QUICK: [Self; 3] = [Self::Raw, Self::Kernel, Self::Weft];

    /// Its name as in `--only`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Routed => "routed",
            Self::Kernel => "kernel",
            Self::Weft => "weft",
            Self::Direct => "direct",
            Self::DockerClassic => "docker-classic",
            Self::DockerSwarm => "docker-swarm",
            Self::DockerBridge => "docker-bridge",
        }
    }

    /// Whether its network has no IPv6, by design of whoever made it.
    pub const fn lacks_ipv6(self) -> bool {
        matches!(self, Self::DockerClassic | Self::DockerSwarm)
    }

    /// The version of the Docker that it needs.
    pub const fn engine(self) -> Option<EngineVersion> {
        match self {
            Self::Raw | Self::Routed | Self::Kernel | Self::Weft | Self::Direct => None,
            Self::DockerClassic => Some(EngineVersion::V20_10),
            Self::DockerSwarm | Self::DockerBridge => Some(EngineVersion::V26_1),
        }
    }

    /// Brings it up, and returns when its places reach each other.
    pub fn set_up(self, weft: &Path) -> Result<Site> {
        let site = match self {
            Self::Raw => raw(self, weft),
            Self::Routed => routed(self, weft),
            Self::Kernel => weft_with(self, weft, "kernel"),
            Self::Weft | Self::Direct => weft_with(self, weft, "ebpf"),
            Self::DockerClassic => docker_classic(self, weft),
            Self::DockerSwarm => docker_swarm(self, weft),
            Self::DockerBridge => docker_bridge(self, weft),
        }?;
        [&site.across, &site.within].into_iter().flatten().try_for_each(Pair::wait_until_reachable)?;
        Ok(site)
    }

    /// A lab with nothing in it yet but hosts. Its name has 8 characters at most.
    fn lab(self, weft: &Path) -> LabOptions {
        let name = match self {
            Self::Raw => "braw",
            Self::Routed => "brouted",
            Self::Kernel => "bkernel",
            Self::Weft => "bweft",
            Self::Direct => "bdirect",
            Self::DockerClassic => "bclassic",
            Self::DockerSwarm => "bswarm",
            Self::DockerBridge => "bbridge",
        };
        LabOptions { daemons: false, containers: 0, ..LabOptions::new(name, weft) }
    }
}

/// A contender that is up. It is gone when dropped.
pub struct Site {
    /// Whose.
    pub contender: Contender,
    /// Its hosts.
    pub lab: Fixture,
    across: Option<Pair>,
    within: Option<Pair>,
}

impl Site {
    /// The places that this wire is between.
    pub fn pair(&self, wire: WireKind) -> Result<&Pair> {
        let pair = if wire == WireKind::Host { &self.within } else { &self.across };
        pair.as_ref().with_context(|| format!("{} does not take part", self.contender.name()))
    }
}

fn raw(contender: Contender, weft: &Path) -> Result<Site> {
    let lab = Fixture::up(contender.lab(weft))?;
    let [from, to] = [lab.host("h1")?, lab.host("h2")?].map(|host| Place::named(&host.namespace));
    let across = Pair { from, to, v4: Host::ipv4_of(2).into(), v6: Some(Host::ipv6_of(2).into()) };
    Ok(Site { contender, lab, across: Some(across), within: None })
}

/// A container on each host, by a veth pair, and routes.
fn routed(contender: Contender, weft: &Path) -> Result<Site> {
    let mut lab = Fixture::up(contender.lab(weft))?;
    for (number, peer) in [(1, 2), (2, 1)] {
        let host = lab.host(&format!("h{number}"))?.namespace.clone();
        let container = Container::named(lab.host(&format!("h{number}"))?, 1);
        let inside = NetNs::create(container.namespace.name())?;
        // The lab takes it down with its own.
        lab.containers.push(container);
        host.sysctl("ipv4/ip_forward", "1")?;
        host.sysctl("ipv6/conf/all/forwarding", "1")?;
        let (outer, inner) = (routed_address(number, 1), routed_address(number, 2));
        host.ip(&["link", "add", "near", "type", "veth", "peer", "name", "eth0", "netns", inside.name()])?;
        for (namespace, device, address) in [(&host, "near", &outer), (&inside, "eth0", &inner)] {
            namespace.ip(&["addr", "add", &format!("{}/24", address.0), "dev", device])?;
            namespace.ip(&["addr", "add", &format!("{}/64", address.1), "dev", device, "nodad"])?;
            namespace.ip(&["link", "set", device, "up"])?;
        }
        inside.ip(&["route", "add", "default", "via", &outer.0.to_string()])?;
        inside.ip(&["-6", "route", "add", "default", "via", &outer.1.to_string()])?;
        let far = routed_address(peer, 0);
        host.ip(&["route", "add", &format!("{}/24", far.0), "via", &Host::ipv4_of(peer).to_string()])?;
        host.ip(&["-6", "route", "add", &format!("{}/64", far.1), "via", &Host::ipv6_of(peer).to_string()])?;
    }
    let [from, to] = [lab.container("h1/c1")?, lab.container("h2/c1")?].map(|c| Place::named(&c.namespace));
    let (v4, v6) = routed_address(2, 2);
    Ok(Site {
        contender,
        lab,
        across: Some(Pair { from, to, v4: v4.into(), v6: Some(v6.into()) }),
        within: None,
    })
}

/// The addresses number `station` of a host's container network.
fn routed_address(host: u8, station: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd78, host.into(), 0, 0, 0, 0, 0, station.into());
    (Ipv4Addr::new(10, 78, host, station), v6)
}

/// weft's daemons, with two containers on each host.
fn weft_with(contender: Contender, weft: &Path, datapath: &str) -> Result<Site> {
    let help = run(Command::new(weft).args(["daemon", "--help"]))?;
    let daemon_arguments = match (help.contains("--datapath"), contender) {
        (true, _) => vec![format!("--datapath={datapath}")],
        // The only path it has.
        (false, Contender::Kernel) => Vec::new(),
        (false, _) => bail!("this weft has no --datapath"),
    };
    let subnets = vec!["10.0.0.0/24".to_owned(), "fd00:77::/64".to_owned()];
    let direct = ["-o", "weft.direct=true"].map(str::to_owned);
    let options = LabOptions {
        daemons: true,
        containers: 2,
        subnets,
        network_arguments: if contender == Contender::Direct { direct.to_vec() } else { Vec::new() },
        daemon_arguments,
        ..contender.lab(weft)
    };
    let lab = Fixture::up(options)?;
    let pair = |to: &Container| -> Result<Pair> {
        let v4 = to.addresses.iter().find(|a| a.is_ipv4()).context("a container without IPv4")?;
        let v6 = to.addresses.iter().find(|a| a.is_ipv6()).context("a container without IPv6")?;
        let from = Place::named(&lab.container("h1/c1")?.namespace);
        Ok(Pair { from, to: Place::named(&to.namespace), v4: *v4, v6: Some(*v6) })
    };
    let (across, within) = (pair(lab.container("h2/c1")?)?, pair(lab.container("h1/c2")?)?);
    Ok(Site { contender, lab, across: Some(across), within: Some(within) })
}

fn docker_classic(contender: Contender, weft: &Path) -> Result<Site> {
    let tools = Tools::from_env();
    let store = format!("--cluster-store=etcd://{}:2379", Wire::SWITCH_V4);
    let mut engine = EngineOptions::new(&tools, EngineVersion::V20_10);
    engine.arguments = vec![store, "--cluster-advertise=eth0:2376".to_owned()];
    let options = LabOptions { store: LabStore::Etcd(tools), engine: Some(engine), ..contender.lab(weft) };
    let lab = Fixture::up(options)?;
    let create = ["network", "create", "--driver", "overlay", "--subnet", "10.0.0.0/24", NETWORK];
    lab.engine("h1")?.docker(&create)?;
    until("the network on the other host", Duration::from_secs(15), || {
        lab.engine("h2").and_then(|engine| engine.inspect("network", NETWORK)).map_err(|e| e.to_string())
    })?;
    overlay(contender, lab)
}

fn docker_swarm(contender: Contender, weft: &Path) -> Result<Site> {
    let engine = EngineOptions::new(&Tools::from_env(), EngineVersion::V26_1);
    let lab = Fixture::up(LabOptions { engine: Some(engine), ..contender.lab(weft) })?;
    let [manager, worker] = [1, 2].map(|number| Host::ipv4_of(number).to_string());
    let first = lab.engine("h1")?;
    first.docker(&["swarm", "init", "--advertise-addr", &manager])?;
    let token = first.docker(&["swarm", "join-token", "--quiet", "worker"])?;
    let join = ["swarm", "join", "--advertise-addr", &worker, "--token", &token, &format!("{manager}:2377")];
    lab.engine("h2")?.docker(&join)?;
    // The swarm has taken 10.0.0.0/24 for itself.
    let create = ["network", "create", "--driver", "overlay", "--attachable", "--subnet", "10.1.0.0/24"];
    first.docker(&[&create[..], &[NETWORK]].concat())?;
    overlay(contender, lab)
}

/// A container on each host of an overlay that both engines know.
fn overlay(contender: Contender, lab: Fixture) -> Result<Site> {
    let from = Box::run(lab.engine("h1")?, "c1")?;
    // Docker 20.10 wants names that are unique in the network, not only on the host.
    let to = Box::run(lab.engine("h2")?, "c2")?;
    let across = Pair { from: from.place, to: to.place, v4: to.v4, v6: None };
    Ok(Site { contender, lab, across: Some(across), within: None })
}

fn docker_bridge(contender: Contender, weft: &Path) -> Result<Site> {
    let engine = EngineOptions::new(&Tools::from_env(), EngineVersion::V26_1);
    let lab = Fixture::up(LabOptions { hosts: 1, engine: Some(engine), ..contender.lab(weft) })?;
    let within = bridged(&lab)?;
    Ok(Site { contender, lab, across: None, within: Some(within) })
}

fn bridged(lab: &Lab) -> Result<Pair> {
    let engine = lab.engine("h1")?;
    let subnets = ["--ipv6", "--subnet", "172.30.0.0/24", "--subnet", "fd00:30::/64"];
    engine.docker(&[&["network", "create"], &subnets[..], &[NETWORK]].concat())?;
    let (from, to) = (Box::run(engine, "c1")?, Box::run(engine, "c2")?);
    Ok(Pair { from: from.place, to: to.place, v4: to.v4, v6: Some(to.v6.context("no IPv6 address")?) })
}

/// A Docker container that sleeps.
struct Box {
    place: Place,
    v4: IpAddr,
    v6: Option<IpAddr>,
}

impl Box {
    fn run(engine: &Engine, name: &str) -> Result<Self> {
        let image = Image::Box.name();
        let command = ["run", "--detach", "--name", name, "--net", NETWORK, image, "sleep", "1000000"];
        engine.docker(&command)?;
        let said = engine.inspect("container", name)?;
        let text = |path: &str| said.pointer(path).and_then(|value| value.as_str());
        let address = |key: &str| text(&format!("/NetworkSettings/Networks/{NETWORK}/{key}"));
        Ok(Self {
            place: Place::of_process(
                said.pointer("/State/Pid").and_then(serde_json::Value::as_i64).context("no pid")?,
            ),
            v4: address("IPAddress").context("no address")?.parse()?,
            v6: address("GlobalIPv6Address").and_then(|text| text.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_is_selected_by_its_name_and_has_a_lab_of_its_own() {
        let mut labs = std::collections::BTreeSet::new();
        for contender in Contender::value_variants() {
            assert_eq!(Contender::from_str(contender.name(), false), Ok(*contender));
            let name = contender.lab(Path::new("weft")).name;
            assert!(name.len() <= 8 && labs.insert(name));
        }
    }
}
