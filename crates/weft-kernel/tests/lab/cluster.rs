//! Any number of hosts, on a switch or with routers between them, and containers on any number of networks.

use super::{
    Container, Datapath, Host, Netns, UDP_PORT, programs::counters, relay::Relay, run, traffic::End,
};
use ipnet::IpNet;
use std::{collections::BTreeSet, fs, net::IpAddr};
use weft_kernel::{Counter, Namespace};
use weft_model::{MacAddr, Mtu, Vni, vxlan_overhead};
use weft_plan::{
    Bridge, Direct, FarEndSandbox, Fdb, HostState, Key, Neighbour, Object, Port, PortFarEnd, Vxlan,
    vxlan_name,
};

/// Hosts, what joins their interfaces `u0`, and who is on which network.
#[derive(Default)]
pub struct Cluster {
    relay: Option<Relay>,
    pub hosts: Vec<Host>,
    pub wires: Vec<Netns>,
    pub attachments: Vec<Attachment>,
    /// The networks that are direct.
    pub direct: BTreeSet<u8>,
}

/// A container's interface on a network.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub host: usize,
    pub network: u8,
    pub mtu: Mtu,
    pub v4: IpAddr,
    pub v6: IpAddr,
    pub port: String,
    namespace: Namespace,
    interface: String,
}

impl Attachment {
    pub fn end(&self, ipv6: bool) -> End<'_> {
        End { namespace: &self.namespace, address: if ipv6 { self.v6 } else { self.v4 } }
    }

    /// The VNI of its network.
    pub fn vni(&self) -> Vni {
        Vni::new(4100 + u32::from(self.network)).unwrap()
    }

    pub fn mac(&self) -> MacAddr {
        MacAddr::for_address(self.v4)
    }

    fn statistic(&self, name: &str) -> u64 {
        statistic(&self.namespace_name(), &self.interface, name)
    }

    fn desired_port(&self) -> Port {
        let addresses = vec![IpNet::new(self.v4, 24).unwrap(), IpNet::new(self.v6, 64).unwrap()];
        let path = self.namespace.path().display().to_string();
        let sandbox = FarEndSandbox {
            path,
            inode: None,
            interface: self.interface.clone(),
            addresses,
            gateways: vec![],
        };
        let name = self.port.replace("weft-", "weftc");
        let far_end = PortFarEnd { name, mac: self.mac(), sandbox: Some(sandbox), tap_owner: None };
        Port { mtu: self.mtu, up: true, bridged: true, tap: None, far_end: Some(Box::new(far_end)) }
    }
}

impl Cluster {
    /// Hosts on one switch, one for each data path. Host 0 has the VTEP 192.168.77.1 or `fd99::1`, and so on.
    pub fn on_a_switch(ipv6_underlay: bool, datapaths: &[Datapath]) -> Self {
        let switch = Netns::new("s");
        run(&format!("ip -n {} link add sw type bridge", switch.name));
        run(&format!("ip -n {} link set sw mtu 9000 up", switch.name));
        let mut hosts = Vec::new();
        for (number, datapath) in (1u8..).zip(datapaths) {
            let host = Host::new(number, ipv6_underlay, *datapath);
            plug(&host, &switch, number);
            run(&format!("ip -n {} link set w{number} master sw", switch.name));
            run(&format!("ip -n {} addr add 192.168.77.{number}/24 dev u0", host.netns.name));
            run(&format!("ip -n {} addr add fd99::{number}/64 dev u0 nodad", host.netns.name));
            hosts.push(host);
        }
        Self { hosts, wires: vec![switch], ..Self::default() }
    }

    /// Two hosts with a wire between them that carries nothing but bytes: see [`Relay`].
    pub fn on_a_wire_of_bytes(ipv6_underlay: bool, datapaths: [Datapath; 2]) -> Self {
        let mut cluster = Self::on_a_switch(ipv6_underlay, &datapaths);
        run(&format!("ip -n {} link del sw", cluster.wires[0].name));
        for host in 0..2 {
            cluster.uplink(host, FRAMES);
            cluster.uplink(host, "tx off gro off");
        }
        cluster.relay = Some(Relay::between(&cluster.wires[0], "w1", "w2"));
        cluster
    }

    /// Two hosts whose uplinks are the ends of one cable, with the addresses that they would have on a switch.
    pub fn on_a_cable(ipv6_underlay: bool, datapaths: [Datapath; 2]) -> Self {
        let (a, b) = super::two_hosts_with(ipv6_underlay, datapaths);
        Self { hosts: vec![a, b], ..Self::default() }
    }

    /// Two hosts, each with a router of its own, and a link of this MTU between the routers. Every other device takes
    /// 9000 bytes. Host 0 has the VTEP 192.168.1.1 or `fd99:1::1`, host 1 192.168.2.1 or `fd99:2::1`.
    pub fn routed(ipv6_underlay: bool, datapaths: [Datapath; 2], mtu_between: u32) -> Self {
        let routers = [Netns::new("r"), Netns::new("r")];
        let names = [&routers[0].name, &routers[1].name];
        run(&format!("ip -n {} link add mid type veth peer name mid netns {}", names[0], names[1]));
        let mut hosts = Vec::new();
        for (number, other, datapath) in [(1u8, 2u8, datapaths[0]), (2, 1, datapaths[1])] {
            let (router, mut host) =
                (&routers[usize::from(number - 1)], Host::new(number, ipv6_underlay, datapath));
            forward(&router.namespace);
            plug(&host, router, number);
            let ip = |netns: &Netns, what: &str| run(&format!("ip -n {} {what}", netns.name));
            ip(&host.netns, "link set u0 mtu 9000");
            ip(router, &format!("link set w{number} mtu 9000"));
            ip(router, &format!("link set mid mtu {mtu_between} up"));
            for (length, nodad, prefix, own, there) in [
                (24, "", "192.168.99.", format!("192.168.{number}."), format!("192.168.{other}.")),
                (64, "nodad", "fd99:99::", format!("fd99:{number}::"), format!("fd99:{other}::")),
            ] {
                ip(&host.netns, &format!("addr add {own}1/{length} dev u0 {nodad}"));
                ip(router, &format!("addr add {own}254/{length} dev w{number} {nodad}"));
                ip(router, &format!("addr add {prefix}{number}/{length} dev mid {nodad}"));
                ip(&host.netns, &format!("route add default via {own}254"));
                ip(router, &format!("route add {} via {prefix}{other}", network(&there, length)));
            }
            let vtep = if ipv6_underlay { "fd99:N::1" } else { "192.168.N.1" };
            host.vtep = vtep.replace('N', &number.to_string()).parse().unwrap();
            hosts.push(host);
        }
        Self { hosts, wires: routers.into(), ..Self::default() }
    }

    /// The largest inner packet that one frame of 1500 bytes carries.
    pub fn mtu(&self) -> Mtu {
        Mtu::new(1500 - vxlan_overhead(self.hosts[0].vtep)).unwrap()
    }

    /// Puts the container of the host numbered `host` on a network, as its interface `eth0` or the next; its number in
    /// `attachments`. On network 1 and host 0 it gets the addresses 10.1.0.10 and `fd01::10`, the next one there 11.
    pub fn attach(&mut self, host: usize, network: u8, mtu: Mtu) -> usize {
        let namespace = self.hosts[host].container.netns.namespace.clone();
        self.attach_namespace(host, &namespace, network, mtu)
    }

    /// The same for another container on that host.
    pub fn attach_other(&mut self, host: usize, container: &Container, network: u8, mtu: Mtu) -> usize {
        self.attach_namespace(host, &container.netns.namespace, network, mtu)
    }

    /// A member of the network that is the host itself, which is not weft's.
    pub fn attach_host(&mut self, host: usize, network: u8, mtu: Mtu) -> usize {
        let namespace = self.hosts[host].netns.namespace.clone();
        self.attach_namespace(host, &namespace, network, mtu)
    }

    fn attach_namespace(&mut self, host: usize, namespace: &Namespace, network: u8, mtu: Mtu) -> usize {
        // Or the first second of an interface would be a wait for somebody with the same link-local address.
        let without_detection = || {
            for name in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0").unwrap();
            }
        };
        namespace.run(without_detection).unwrap();
        let there = |a: &&Attachment| a.host == host && a.network == network;
        let last = (host + 1) * 10 + self.attachments.iter().filter(there).count();
        let own = self.attachments.iter().filter(|a| a.namespace.path() == namespace.path()).count();
        self.attachments.push(Attachment {
            host,
            network,
            mtu,
            v4: [10, network, 0, u8::try_from(last).unwrap()].into(),
            v6: format!("fd{network:02}::{last}").parse().unwrap(),
            port: format!("weft-{:010x}", self.attachments.len() + 1),
            namespace: namespace.clone(),
            interface: format!("eth{own}"),
        });
        self.attachments.len() - 1
    }

    /// Makes every host what it should be.
    pub async fn reconcile(&self) {
        for number in 0..self.hosts.len() {
            self.reconcile_host(number).await;
        }
    }

    /// Makes one host what it should be.
    pub async fn reconcile_host(&self, number: usize) {
        self.hosts[number].reconcile(&self.desired(number)).await;
    }

    pub fn desired(&self, number: usize) -> HostState {
        let host = &self.hosts[number];
        let mut desired = HostState::new();
        for own in self.attachments.iter().filter(|a| a.host == number) {
            let vni = own.vni();
            let mac = |kind: u32| MacAddr::for_device(vni.get() | kind << 24);
            let bridge = Bridge { mac: mac(0), mtu: own.mtu, up: true };
            let (local, mtu) = (host.vtep, own.mtu);
            let vxlan = Vxlan { local, port: UDP_PORT, mac: mac(1), mtu, up: true, bridged: true };
            desired.insert(Key::Bridge(vni), Object::Bridge(bridge));
            desired.insert(Key::Vxlan(vni), Object::Vxlan(vxlan));
            desired.insert(Key::Port(vni, own.port.clone()), Object::Port(own.desired_port()));
        }
        let networks: BTreeSet<Vni> = desired.keys().filter_map(Key::vni).collect();
        for member in self.attachments.iter().filter(|a| networks.contains(&a.vni())) {
            let vni = member.vni();
            let vtep = self.hosts[member.host].vtep;
            let fdb = if member.host == number {
                Fdb { port: Some(member.port.clone()), vtep: None }
            } else {
                desired.insert(Key::Flood(vni, vtep), Object::Flood);
                for address in [member.v4, member.v6] {
                    let neighbour = Object::Neighbour(Neighbour { mac: member.mac() });
                    desired.insert(Key::Neighbour(vni, address), neighbour);
                }
                Fdb { port: Some(vxlan_name(vni)), vtep: Some(vtep) }
            };
            desired.insert(Key::Fdb(vni, member.mac()), Object::Fdb(fdb));
            if self.direct.contains(&member.network) && host.datapath == Datapath::Ebpf {
                desired.extend(self.direct_entries(number, member));
            }
        }
        desired
    }

    /// What a host has of a member of a direct network. All hosts are on one link.
    fn direct_entries(&self, number: usize, member: &Attachment) -> Vec<(Key, Object)> {
        let its = &self.hosts[member.host];
        let sends = member.host != number && its.datapath == Datapath::Ebpf;
        let entry = |prefix| Object::Direct(Direct { mac: member.mac(), prefix, sends });
        let vni = member.vni();
        let mut entries =
            vec![(Key::Direct(vni, member.v4), entry(24)), (Key::Direct(vni, member.v6), entry(64))];
        let others = self.hosts.iter().filter(|host| host.vtep != self.hosts[number].vtep);
        entries.extend(
            others
                .filter(|host| host.datapath == Datapath::Ebpf)
                .map(|host| (Key::LinkPeer(uplink_mac(host)), Object::LinkPeer(host.vtep))),
        );
        entries
    }

    /// Runs `ip` in the namespace of an attachment's container.
    pub fn ip_in(&self, attachment: usize, what: &str) -> String {
        run(&format!("ip netns exec {} ip {what}", self.attachments[attachment].namespace_name()))
    }

    /// What the programs have carried for an attachment.
    pub async fn carried(&self, attachment: usize) -> Counter {
        let attachment = &self.attachments[attachment];
        counters(&self.hosts[attachment.host]).await.ports[&attachment.port]
    }

    /// How many packets an attachment's interface has received, by whichever path.
    pub fn received(&self, attachment: usize) -> u64 {
        self.attachments[attachment].statistic("rx_packets")
    }

    /// How many bytes an attachment's interface has sent.
    pub fn sent_bytes(&self, attachment: usize) -> u64 {
        self.attachments[attachment].statistic("tx_bytes")
    }

    /// How many frames the host's uplink could not get rid of, for one because they are larger than the wire takes.
    pub fn lost_on_the_wire(&self, host: usize) -> u64 {
        statistic(&self.hosts[host].netns.name, "u0", "tx_dropped")
    }

    /// Sets features of an uplink, and of the port of a switch that it is plugged into.
    pub fn uplink(&self, host: usize, features: &str) {
        ethtool(&self.hosts[host].netns.name, "u0", features);
        if let [switch] = self.wires.as_slice() {
            ethtool(&switch.name, &format!("w{}", host + 1), features);
        }
    }

    /// Sets features of an attachment's interface in its container.
    pub fn interface(&self, attachment: usize, features: &str) {
        let attachment = &self.attachments[attachment];
        ethtool(&attachment.namespace_name(), &attachment.interface, features);
    }
}

impl Attachment {
    fn namespace_name(&self) -> String {
        self.namespace.path().file_name().unwrap().to_string_lossy().into_owned()
    }
}

/// The MAC address of a host's uplink.
pub fn uplink_mac(host: &Host) -> MacAddr {
    let path = "/sys/class/net/u0/address";
    run(&format!("ip netns exec {} cat {path}", host.netns.name)).trim().parse().unwrap()
}

/// `192.168.1.` and 24 are 192.168.1.0/24, `fd99:1::` and 64 are `fd99:1::/64`.
fn network(prefix: &str, length: u8) -> String {
    format!("{prefix}{}/{length}", if prefix.ends_with('.') { "0" } else { "" })
}

/// Joins the host's `u0` with the port `wNUMBER` of a switch or router.
fn plug(host: &Host, wire: &Netns, number: u8) {
    run(&format!("ip -n {} link add u0 type veth peer name w{number} netns {}", host.netns.name, wire.name));
    run(&format!("ip -n {} link set u0 up", host.netns.name));
    run(&format!("ip -n {} link set w{number} up", wire.name));
}

/// Makes a namespace forward between its interfaces, without telling anybody of a shorter way.
pub fn forward(namespace: &Namespace) {
    let settings = || {
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ] {
            fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
        }
    };
    namespace.run(settings).unwrap();
}

fn statistic(namespace: &str, device: &str, name: &str) -> u64 {
    let path = format!("/sys/class/net/{device}/statistics/{name}");
    run(&format!("ip netns exec {namespace} cat {path}")).trim().parse().unwrap()
}

/// Sets features of a device.
pub fn ethtool(namespace: &str, device: &str, features: &str) {
    run(&format!("ip netns exec {namespace} ethtool -K {device} {features}"));
}

/// A wire whose devices take packets of 64 KiB that something later cuts into segments.
pub const SEGMENTS: &str = "tx on sg on tso on gso on gro off rx on tx-udp_tnl-segmentation on \
    tx-udp_tnl-csum-segmentation on tx-udp-segmentation on rx-udp-gro-forwarding off rx-gro-list off";
/// A wire on which every frame has its true length. The receiver puts them together again.
pub const FRAMES: &str = "tx on sg on tso off gso on gro on rx on tx-udp_tnl-segmentation off \
    tx-udp_tnl-csum-segmentation off tx-udp-segmentation off rx-udp-gro-forwarding off rx-gro-list off";
