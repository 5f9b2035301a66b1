//! Two hosts joined by a cable, each a network namespace, with an overlay namespace and a container's each.
#![allow(dead_code)] // Every test program uses its part of this.

pub mod cluster;
pub mod programs;
pub mod relay;
pub mod traffic;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use weft_kernel::{FastPath, Kernel, Linux, LinuxOptions, Namespace, fast_path};
use weft_model::{MacAddr, Mtu, Vni, vxlan_overhead};
use weft_plan::{
    Bridge, FarEndSandbox, Fdb, Filter, HostState, Key, Neighbour, Object, Op, Port, PortFarEnd, Vxlan,
    bridge_name, diff, model_kernel::as_observed, vxlan_name,
};

pub const UDP_PORT: u16 = 4789;
pub const V4_ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub const V6_ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// What the other host's container is said to be a member of.
pub const GROUPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1))];
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether these tests can run here. Where they cannot they say so loudly, and in CI they fail.
pub fn can_run(tool: &str) -> bool {
    let tool_is_there = Command::new(tool).arg("--version").output().is_ok();
    let reason = if !nix::unistd::geteuid().is_root() {
        "these tests make network namespaces and need root".to_owned()
    } else if !tool_is_there {
        format!("`{tool}` is not installed")
    } else {
        return true;
    };
    eprintln!("CANNOT RUN: {reason}");
    assert!(std::env::var_os("CI").is_none(), "CANNOT RUN: {reason}");
    false
}

/// Runs a command that must succeed, and gives its output.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}`: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A named namespace that goes with this value.
pub struct Netns {
    pub name: String,
    pub namespace: Namespace,
}

impl Netns {
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wk{}x{}{role}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let namespace = Namespace::create_named(&name).unwrap();
        run(&format!("ip -n {name} link set lo up"));
        Self { name, namespace }
    }

    pub fn path(&self) -> PathBuf {
        self.namespace.path().to_owned()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let outcome = Namespace::delete_named(&self.name);
        if !std::thread::panicking() {
            outcome.unwrap();
        }
    }
}

/// A host, its kernel, and a container on it.
pub struct Host {
    pub linux: Box<dyn Kernel>,
    pub overlay: Overlay,
    pub netns: Netns,
    pub container: Container,
    pub vtep: IpAddr,
    pub datapath: Datapath,
}

/// How a host carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    Kernel,
    Ebpf,
}

impl Datapath {
    /// The one that all tests are to run with: `WEFT_DATAPATH`, the kernel's unless it says `ebpf`.
    pub fn of_tests() -> Self {
        match std::env::var("WEFT_DATAPATH").as_deref() {
            Ok("ebpf") => Self::Ebpf,
            _ => Self::Kernel,
        }
    }
}

/// The name of an overlay namespace, which goes with this value.
pub struct Overlay(pub String);

impl Drop for Overlay {
    fn drop(&mut self) {
        let outcome = fast_path::remove(&self.0).and_then(|()| Namespace::delete_named(&self.0));
        if !std::thread::panicking() {
            outcome.unwrap();
        }
    }
}

pub struct Container {
    pub netns: Netns,
    pub v4: IpAddr,
    pub v6: IpAddr,
    pub mac: MacAddr,
    pub port: String,
}

impl Container {
    /// One with the addresses 10.77.0.NUMBER and `fd77::NUMBER`, on no network yet.
    pub fn new(number: u8) -> Self {
        let v4: IpAddr = [10, 77, 0, number].into();
        Self {
            netns: Netns::new("c"),
            v4,
            v6: format!("fd77::{number}").parse().unwrap(),
            mac: MacAddr::for_address(v4),
            port: format!("weft-000000000{number}"),
        }
    }

    /// Its port, as it should be.
    pub fn desired_port(&self, mtu: Mtu) -> Port {
        let addresses =
            vec![ipnet::IpNet::new(self.v4, 24).unwrap(), ipnet::IpNet::new(self.v6, 64).unwrap()];
        let sandbox = FarEndSandbox {
            path: self.netns.path().display().to_string(),
            inode: None,
            interface: "eth0".to_owned(),
            addresses,
            gateways: vec![],
        };
        let name = self.port.replace("weft-", "weftc");
        let far_end = PortFarEnd { name, mac: self.mac, sandbox: Some(sandbox), tap_owner: None };
        Port { mtu, up: true, bridged: true, tap: None, far_end: Some(Box::new(far_end)) }
    }
}

impl Host {
    fn new(number: u8, ipv6_underlay: bool, datapath: Datapath) -> Self {
        let netns = Netns::new("h");
        let overlay = Overlay(format!("{}o", netns.name));
        let container = Container::new(number);
        let vtep = if ipv6_underlay { format!("fd99::{number}") } else { format!("192.168.77.{number}") };
        let linux = start(&netns, &overlay.0, datapath);
        Self { linux, overlay, netns, container, vtep: vtep.parse().unwrap(), datapath }
    }

    /// Runs `ip` in the overlay namespace.
    pub fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.overlay.0))
    }

    /// As after a crash of the daemon: nothing is known, everything is still there.
    pub fn restart(&mut self) {
        self.linux = start(&self.netns, &self.overlay.0, self.datapath);
    }

    pub async fn observe(&self) -> HostState {
        self.linux.observe().await.unwrap()
    }

    /// Makes the kernel what it should be; the operations it took.
    pub async fn reconcile(&self, desired: &HostState) -> Vec<Op> {
        let ops = diff(desired, &self.observe().await);
        for (op, outcome) in ops.iter().zip(self.linux.apply(&ops).await) {
            outcome.unwrap_or_else(|error| panic!("{op:?}: {error}"));
        }
        ops
    }

    /// What this host should have when the network has a container here and `peer`'s there.
    pub fn desired(&self, peer: &Self, vni: Vni) -> HostState {
        let mtu = self.mtu();
        let (local, remote) = (&self.container, &peer.container);
        let mac = |kind: u32| MacAddr::for_device(vni.get() | kind << 24);
        let port = local.desired_port(mtu);
        let vxlan = Vxlan { local: self.vtep, port: UDP_PORT, mac: mac(1), mtu, up: true, bridged: true };
        let fdb = |port: String, vtep| Object::Fdb(Fdb { port: Some(port), vtep });
        let neighbour = || Object::Neighbour(Neighbour { mac: remote.mac });
        HostState::from([
            (Key::Filter, Object::Filter(Filter { rates: [].into(), sound: true })),
            (Key::Bridge(vni), Object::Bridge(Bridge { mac: mac(0), mtu, up: true })),
            (Key::Vxlan(vni), Object::Vxlan(vxlan)),
            (Key::Port(vni, local.port.clone()), Object::Port(port)),
            (Key::Flood(vni, peer.vtep), Object::Flood),
            (Key::Fdb(vni, local.mac), fdb(local.port.clone(), None)),
            (Key::Fdb(vni, remote.mac), fdb(vxlan_name(vni), Some(peer.vtep))),
            (Key::Neighbour(vni, remote.v4), neighbour()),
            (Key::Neighbour(vni, remote.v6), neighbour()),
            (Key::Group(vni, V4_ANY, V4_ANY), Object::Group),
            (Key::Group(vni, V6_ANY, V4_ANY), Object::Group),
            (Key::Group(vni, GROUPS[0], peer.vtep), Object::Group),
            (Key::Group(vni, GROUPS[1], peer.vtep), Object::Group),
        ])
    }

    pub fn mtu(&self) -> Mtu {
        Mtu::new(1500 - vxlan_overhead(self.vtep)).unwrap()
    }
}

pub fn start(netns: &Netns, overlay: &str, datapath: Datapath) -> Box<dyn Kernel> {
    let options = LinuxOptions { overlay_netns: overlay.to_owned() };
    let open = || -> Box<dyn Kernel> {
        match datapath {
            Datapath::Kernel => Box::new(Linux::new(&options).unwrap()),
            Datapath::Ebpf => Box::new(FastPath::new(&options).unwrap()),
        }
    };
    netns.namespace.run(open).unwrap()
}

/// Two hosts whose interfaces `u0` are the ends of one cable.
pub fn two_hosts(ipv6_underlay: bool) -> (Host, Host) {
    two_hosts_with(ipv6_underlay, [Datapath::of_tests(); 2])
}

/// The same, each with its data path.
pub fn two_hosts_with(ipv6_underlay: bool, [of_a, of_b]: [Datapath; 2]) -> (Host, Host) {
    let (a, b) = (Host::new(1, ipv6_underlay, of_a), Host::new(2, ipv6_underlay, of_b));
    let (one, two) = (&a.netns.name, &b.netns.name);
    run(&format!("ip -n {one} link add u0 type veth peer name u0 netns {two}"));
    for (name, number) in [(one, 1), (two, 2)] {
        run(&format!("ip -n {name} addr add 192.168.77.{number}/24 dev u0"));
        run(&format!("ip -n {name} addr add fd99::{number}/64 dev u0 nodad"));
        run(&format!("ip -n {name} link set u0 up"));
    }
    (a, b)
}

/// Two hosts with a network that has a container on each.
pub async fn one_network(ipv6_underlay: bool) -> (Host, Host, Vni) {
    one_network_with(ipv6_underlay, [Datapath::of_tests(); 2]).await
}

/// The same, each host with its data path.
pub async fn one_network_with(ipv6_underlay: bool, datapaths: [Datapath; 2]) -> (Host, Host, Vni) {
    let (a, b) = two_hosts_with(ipv6_underlay, datapaths);
    let vni = Vni::new(4100).unwrap();
    a.reconcile(&a.desired(&b, vni)).await;
    b.reconcile(&b.desired(&a, vni)).await;
    (a, b, vni)
}

/// Waits until `done` gives something; fails with `what` when it never does.
pub fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
    }
}

/// A UDP socket in a container. Reading waits for a fifth of a second at most.
pub fn socket(container: &Container, address: impl Into<SocketAddr> + Send) -> UdpSocket {
    let socket = container.netns.namespace.run(|| UdpSocket::bind(address.into())).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// Sends datagrams of `length` bytes from one to the other until one arrives and its copy comes back.
pub fn ping(from: &Container, to: &Container, ipv6: bool, length: usize) {
    let address = |c: &Container| if ipv6 { c.v6 } else { c.v4 };
    let (client, server) = (socket(from, (address(from), 0)), socket(to, (address(to), 0)));
    let target = server.local_addr().unwrap();
    let sent = vec![7; length];
    let mut buffer = vec![0; 65536];
    wait_for(&format!("{length} bytes from {} to {target} and back", address(from)), || {
        client.send_to(&sent, target).unwrap();
        let (got, sender) = server.recv_from(&mut buffer).ok()?;
        assert_eq!((got, sender), (length, client.local_addr().unwrap()));
        server.send_to(&buffer[..got], sender).unwrap();
        let (got, sender) = client.recv_from(&mut buffer).ok()?;
        assert_eq!((got, sender, &buffer[..got] == sent.as_slice()), (length, target, true));
        Some(())
    });
}

pub fn ping_both_ways(a: &Host, b: &Host) {
    for ipv6 in [false, true] {
        ping(&a.container, &b.container, ipv6, 100);
        ping(&b.container, &a.container, ipv6, 100);
    }
}

/// A state as it is observed: where a port's far end belongs is not seen.
pub fn observable(state: &HostState) -> HostState {
    state.iter().map(|(key, object)| (key.clone(), as_observed(object))).collect()
}

/// The names of the network's devices, as a check that a state is about them.
pub fn device_names(vni: Vni) -> [String; 2] {
    [bridge_name(vni), vxlan_name(vni)]
}
