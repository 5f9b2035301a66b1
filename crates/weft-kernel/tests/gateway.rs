//! Sandboxes reach out through the gateway, ports lead in, and nothing else passes.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Datapath, Netns, Overlay, can_run, run, start, wait_for};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};
use weft_kernel::{Kernel, remove_everything};
use weft_model::{MacAddr, Mtu, PortProtocol, PublishedPort};
use weft_plan::{
    FarEndSandbox, Gateway, GatewayPort, HostState, Key, Object, Op, PortFarEnd, Published, diff,
};

/// A host with sandboxes behind its gateway, and a machine beside it on the wire.
struct World {
    kernel: Box<dyn Kernel>,
    overlay: Overlay,
    host: Netns,
    outside: Netns,
    sandboxes: [Netns; 2],
}

const HOST: &str = "192.168.77.1";
const OUTSIDE: &str = "192.168.77.2";
const HOST_V6: &str = "fd99::1";
const OUTSIDE_V6: &str = "fd99::2";

impl World {
    fn new() -> Self {
        let (host, outside) = (Netns::new("h"), Netns::new("o"));
        let overlay = Overlay(format!("{}o", host.name));
        run(&format!("ip -n {} link add u0 type veth peer name u0 netns {}", host.name, outside.name));
        for (netns, v4, v6) in [(&host, HOST, HOST_V6), (&outside, OUTSIDE, OUTSIDE_V6)] {
            run(&format!("ip -n {} addr add {v4}/24 dev u0", netns.name));
            run(&format!("ip -n {} addr add {v6}/64 dev u0 nodad", netns.name));
            run(&format!("ip -n {} link set u0 up", netns.name));
        }
        // They ask for neighbours; the kernel makes them when it has noticed the wire and that nobody else has them.
        for netns in [&host, &outside] {
            wait_for("a link-local address", || {
                let address = run(&format!("ip -n {} -6 addr show dev u0 scope link -tentative", netns.name));
                (!address.is_empty()).then_some(())
            });
        }
        let kernel = start(&host, &overlay.0, Datapath::Kernel);
        Self { kernel, overlay, host, outside, sandboxes: [Netns::new("s"), Netns::new("s")] }
    }

    /// The gateway with both sandboxes, and port 8080 of the host leading to port 80 of the first.
    fn desired(&self) -> HostState {
        let published = ["10.213.0.2", "fd13::2"].map(|to| Published {
            port: PublishedPort {
                protocol: PortProtocol::Tcp,
                host_ip: None,
                host_port: 8080,
                container_port: 80,
                count: 1,
            },
            to: to.parse().unwrap(),
        });
        let subnets = ["10.213.0.0/20", "fd13::/64"].map(|net| net.parse().unwrap()).into();
        let gateway = Gateway { subnets, published: published.into(), sound: true };
        let mtu = Mtu::new(1500).unwrap();
        let gateways: BTreeSet<IpAddr> = ["10.213.0.1", "fd13::1"].map(|ip| ip.parse().unwrap()).into();
        let mut state = HostState::from([(Key::Gateway, Object::Gateway(Box::new(gateway)))]);
        for (number, sandbox) in (2u8..).zip(&self.sandboxes) {
            let name = format!("weftg000000000{number}");
            let sandbox = FarEndSandbox {
                inode: None,
                path: sandbox.path().display().to_string(),
                interface: "eth0".to_owned(),
                addresses: [format!("10.213.0.{number}/20"), format!("fd13::{number}/64")]
                    .map(|net| net.parse().unwrap())
                    .into(),
                gateways: gateways.iter().copied().collect(),
            };
            let own = sandbox.addresses.iter().map(ipnet::IpNet::addr).collect();
            let mac = MacAddr::for_address(IpAddr::from([10, 213, 0, number]));
            let far_end = Some(Box::new(PortFarEnd {
                name: name.clone(),
                mac,
                sandbox: Some(sandbox),
                tap_owner: None,
            }));
            let port = GatewayPort { mtu, up: true, gateways: gateways.clone(), sandbox: own, far_end };
            state.insert(Key::GatewayPort(name), Object::GatewayPort(Box::new(port)));
        }
        state
    }

    /// Makes the kernel what it should be; what that took.
    async fn reconcile(&self, desired: &HostState) -> Vec<Op> {
        let ops = diff(desired, &self.kernel.observe().await.unwrap());
        for (op, outcome) in ops.iter().zip(self.kernel.apply(&ops).await) {
            outcome.unwrap_or_else(|error| panic!("{op:?}: {error}"));
        }
        ops
    }

    fn in_host(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.host.name))
    }
}

/// Whether a TCP connection from a namespace to a listener in another arrives there, and from which address.
fn call(from: &Netns, target: &str, to: &Netns, listen: &str) -> Option<IpAddr> {
    let listener =
        to.namespace.run(|| TcpListener::bind(listen.parse::<SocketAddr>().unwrap())).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let target: SocketAddr = target.parse().unwrap();
    // On a machine that is full of work a first packet may be lost: TCP sends another after a second.
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(3));
    let mut client = from.namespace.run(connect).unwrap().ok()?;
    let (mut server, peer) = wait_for("the connection is accepted", || listener.accept().ok());
    server.write_all(b"hello").unwrap();
    drop(server);
    let mut words = String::new();
    client.read_to_string(&mut words).unwrap();
    assert_eq!(words, "hello");
    Some(peer.ip())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_sandbox_reaches_out_with_the_hosts_address_and_published_ports_lead_in() {
    if !can_run("nft") {
        return;
    }
    let world = World::new();
    let desired = world.desired();
    world.reconcile(&desired).await;
    assert_eq!(diff(&desired, &world.kernel.observe().await.unwrap()), []);
    let [first, second] = &world.sandboxes;
    let (outside, host) = (&world.outside, &world.host);
    assert_eq!(call(first, "192.168.77.2:5000", outside, "0.0.0.0:5000"), Some(ip(HOST)));
    assert_eq!(call(first, "[fd99::2]:5000", outside, "[::]:5000"), Some(ip(HOST_V6)));
    // From another machine, from the host by any of its addresses, from a sandbox on the same host.
    assert_eq!(call(outside, "192.168.77.1:8080", first, "0.0.0.0:80"), Some(ip(OUTSIDE)));
    assert_eq!(call(outside, "[fd99::1]:8080", first, "[::]:80"), Some(ip(OUTSIDE_V6)));
    assert_eq!(call(host, "192.168.77.1:8080", first, "0.0.0.0:80"), Some(ip(HOST)));
    assert_eq!(call(host, "127.0.0.1:8080", first, "0.0.0.0:80"), Some(ip("10.213.0.1")));
    assert_eq!(call(second, "192.168.77.1:8080", first, "0.0.0.0:80"), Some(ip("10.213.0.1")));
    // Nothing else: not sandbox to sandbox, not from the wire to a sandbox's own address.
    assert_eq!(call(second, "10.213.0.2:80", first, "0.0.0.0:80"), None);
    run(&format!("ip -n {} route add 10.213.0.0/20 via {HOST}", outside.name));
    assert_eq!(call(outside, "10.213.0.2:80", first, "0.0.0.0:80"), None);
}

#[tokio::test]
async fn a_firewall_that_drops_what_it_does_not_know_lets_the_gateway_through() {
    if !can_run("nft") || !can_run("iptables-nft") {
        return;
    }
    let world = World::new();
    let desired = world.desired();
    world.reconcile(&desired).await;
    let call = || call(&world.sandboxes[0], "192.168.77.2:5000", &world.outside, "0.0.0.0:5000");
    // As a Docker engine does that starts later.
    world.in_host("iptables-nft -P FORWARD DROP");
    world.in_host("iptables-nft -A FORWARD -i docker0 -j ACCEPT");
    assert_eq!(call(), None);
    let changed = world.reconcile(&desired).await;
    assert_eq!(changed.iter().map(Op::key).collect::<Vec<_>>(), [&Key::Gateway]);
    assert_eq!(call(), Some(ip(HOST)));
    let rules = world.in_host("iptables-nft -S FORWARD");
    let places: Vec<&str> = rules.lines().map(|line| line.split(" -m comment").next().unwrap()).collect();
    let expected = [
        "-P FORWARD DROP",
        "-A FORWARD -i docker0 -j ACCEPT",
        "-A FORWARD -i weftg+",
        "-A FORWARD -o weftg+",
    ];
    assert_eq!(places, expected);
    world.reconcile(&HostState::new()).await;
    let rules = world.in_host("iptables-nft -S FORWARD");
    assert_eq!(rules, "-P FORWARD DROP\n-A FORWARD -i docker0 -j ACCEPT\n");
}

#[tokio::test]
async fn what_somebody_changes_about_the_gateway_is_repaired() {
    if !can_run("nft") {
        return;
    }
    let world = World::new();
    let desired = world.desired();
    world.reconcile(&desired).await;
    let port = || Key::GatewayPort("weftg0000000002".to_owned());
    for (change, concerns) in [
        ("nft delete table inet weft", Key::Gateway),
        ("nft flush chain inet weft published", Key::Gateway),
        ("sysctl -qw net.ipv4.ip_forward=0", Key::Gateway),
        ("ip addr del 10.213.0.1/32 dev weftg0000000002", port()),
        ("ip addr add 10.9.9.9/24 dev weftg0000000002", port()),
        ("ip link set weftg0000000002 down", port()),
        ("ip link set weftg0000000002 mtu 1400", port()),
        ("ip route del 10.213.0.2", port()),
        ("ip -6 route del fd13::2", port()),
        ("ip route add 10.9.9.9/32 dev weftg0000000002 proto static", port()),
        ("sysctl -qw net.ipv4.conf.weftg0000000002.route_localnet=0", port()),
        ("ip link del weftg0000000002", port()),
    ] {
        world.in_host(change);
        let ops = world.reconcile(&desired).await;
        let touched: Vec<&Key> = ops.iter().map(Op::key).collect();
        assert_eq!(touched, [&concerns], "{change}: {ops:?}");
        assert_eq!(diff(&desired, &world.kernel.observe().await.unwrap()), [], "{change}");
    }
    let (first, outside) = (&world.sandboxes[0], &world.outside);
    assert_eq!(call(first, "192.168.77.2:5000", outside, "0.0.0.0:5000"), Some(ip(HOST)));
    assert_eq!(call(outside, "192.168.77.1:8080", first, "0.0.0.0:80"), Some(ip(OUTSIDE)));
}

#[tokio::test]
async fn a_host_goes_on_hearing_routers_when_it_begins_to_forward() {
    if !can_run("nft") {
        return;
    }
    let world = World::new();
    world.in_host("sysctl -qw net.ipv6.conf.u0.accept_ra=1");
    world.reconcile(&world.desired()).await;
    assert_eq!(world.in_host("sysctl -n net.ipv6.conf.u0.accept_ra"), "2\n");
    assert_eq!(world.in_host("sysctl -n net.ipv6.conf.all.forwarding"), "1\n");
}

#[tokio::test]
async fn a_sandbox_that_has_a_default_route_keeps_it_and_down_leaves_nothing() {
    if !can_run("nft") {
        return;
    }
    let world = World::new();
    let sandbox = &world.sandboxes[0].name;
    run(&format!("ip -n {sandbox} link add other0 type veth peer name other1"));
    run(&format!("ip -n {sandbox} link set other0 up"));
    run(&format!("ip -n {sandbox} addr add 10.1.0.2/24 dev other0"));
    run(&format!("ip -n {sandbox} route add default via 10.1.0.1"));
    world.reconcile(&world.desired()).await;
    let routes = run(&format!("ip -n {sandbox} route show default"));
    assert!(routes.starts_with("default via 10.1.0.1") && routes.lines().count() == 1, "{routes}");
    let overlay = world.overlay.0.clone();
    let down = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(remove_everything(&overlay))
    };
    let namespace = world.host.namespace.clone();
    thread::spawn(move || namespace.run(down)).join().unwrap().unwrap().unwrap();
    assert_eq!(world.in_host("nft list tables"), "");
    let links = world.in_host("ip -o link");
    assert!(!links.contains("weft"), "{links}");
    assert!(!run(&format!("ip -n {sandbox} -o link")).contains("eth0"));
}
