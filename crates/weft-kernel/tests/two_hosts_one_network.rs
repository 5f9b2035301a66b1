//! Frames cross between containers on two hosts, by the kernel objects alone.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Host, can_run, one_network, ping, ping_both_ways, run, socket, wait_for};
use nix::sys::socket::{self as raw, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType};
use std::{
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
};
use weft_kernel::Underlay;

/// Every frame that passes a host's uplink.
struct Wire {
    socket: OwnedFd,
    uplink: usize,
}

/// What of a frame the tests look at.
#[derive(Debug, PartialEq, Eq)]
struct Encapsulated {
    from: IpAddr,
    to: IpAddr,
    checksum: u16,
    vni: u32,
    ethertype: u16,
}

impl Wire {
    fn tap(host: &Host) -> Self {
        let open = || {
            raw::socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        };
        let link = run(&format!("ip -n {} -o link show u0", host.netns.name));
        let uplink = link.split(':').next().unwrap().parse().unwrap();
        Self { socket: host.netns.namespace.run(open).unwrap().unwrap(), uplink }
    }

    /// The VXLAN frames since the last call.
    fn vxlan_frames(&self) -> Vec<Encapsulated> {
        let mut buffer = [0; 2048];
        let mut frames = Vec::new();
        let mut slices = [IoSliceMut::new(&mut buffer)];
        while let Ok(message) =
            raw::recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT)
        {
            let (length, from) = (message.bytes, message.address.unwrap());
            if from.ifindex() == self.uplink {
                frames.extend(decode(&slices[0][..length]));
            }
        }
        frames
    }
}

/// RFC 7348, section 5.
fn decode(frame: &[u8]) -> Option<Encapsulated> {
    let number = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().unwrap()));
    let ip4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
    let ip6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let (udp, from, to) = match number(12)? {
        0x0800 if frame.get(23) == Some(&17) => (34, ip4(26), ip4(30)),
        0x86dd if frame.get(20) == Some(&17) => (54, ip6(22), ip6(38)),
        _ => return None,
    };
    let vxlan = udp + 8;
    (number(udp + 2)? == lab::UDP_PORT).then_some(Encapsulated {
        from,
        to,
        checksum: number(udp + 6)?,
        vni: u32::from_be_bytes(frame.get(vxlan + 4..vxlan + 8)?.try_into().unwrap()) >> 8,
        ethertype: number(vxlan + 8 + 12)?,
    })
}

#[tokio::test]
async fn containers_on_two_hosts_reach_each_other_over_ipv4_and_ipv6() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let wire = Wire::tap(&a);
    ping_both_ways(&a, &b);
    let frames = wire.vxlan_frames();
    assert!(frames.iter().any(|f| f.from == a.vtep && f.to == b.vtep), "{frames:?}");
    assert!(frames.iter().any(|f| f.from == b.vtep && f.to == a.vtep), "{frames:?}");
    assert!(frames.iter().all(|f| f.vni == vni.get()), "{frames:?}");
}

#[tokio::test]
async fn an_ipv6_underlay_carries_the_same() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(true).await;
    let wire = Wire::tap(&a);
    ping_both_ways(&a, &b);
    let frames = wire.vxlan_frames();
    assert!(frames.iter().any(|f| f.from == a.vtep && f.to == b.vtep), "{frames:?}");
    assert!(frames.iter().all(|f| f.vni == vni.get()), "{frames:?}");
    // RFC 6935: a tunnel needs none.
    assert!(frames.iter().all(|f| f.checksum == 0), "{frames:?}");
    let mtu = a.container.netns.namespace.run(|| Underlay::of_interface("eth0")).unwrap().unwrap().mtu;
    assert_eq!(mtu.get(), 1430);
    ping(&a.container, &b.container, true, 1430 - 48);
}

#[tokio::test]
async fn arp_and_neighbour_solicitations_never_cross_the_wire() {
    if !can_run("ip") {
        return;
    }
    let (a, b, _) = one_network(false).await;
    let (wire_a, wire_b) = (Wire::tap(&a), Wire::tap(&b));
    // An address that nobody has is asked for, too.
    let lost = socket(&a.container, (a.container.v4, 0));
    lost.send_to(b"anybody?", "10.77.0.99:9").unwrap();
    ping_both_ways(&a, &b);
    let neighbours = run(&format!("ip -n {} neigh", a.container.netns.name));
    assert!(neighbours.contains(&b.container.mac.to_string()), "{neighbours}");
    for wire in [wire_a, wire_b] {
        let frames = wire.vxlan_frames();
        assert!(frames.iter().any(|f| f.ethertype == 0x0800), "{frames:?}");
        assert!(frames.iter().all(|f| f.ethertype != 0x0806), "{frames:?}");
    }
}

#[tokio::test]
async fn a_packet_of_1450_bytes_crosses_in_one_frame_and_a_byte_more_does_not() {
    if !can_run("ip") {
        return;
    }
    let (a, b, _) = one_network(false).await;
    let inside = a.container.netns.namespace.run(|| Underlay::of_interface("eth0")).unwrap().unwrap();
    assert_eq!(inside.mtu.get(), 1450);
    assert_eq!(inside.addresses, [a.container.v4, a.container.v6]);
    ping(&a.container, &b.container, false, 1422);
    let wire = Wire::tap(&a);
    ping(&a.container, &b.container, false, 1422);
    // Multicast listeners may report themselves (IPv6) at any moment.
    let ipv4 = || wire.vxlan_frames().iter().filter(|f| f.ethertype == 0x0800).count();
    assert_eq!(ipv4(), 2, "one there, one back");
    ping(&a.container, &b.container, false, 1423);
    assert_eq!(ipv4(), 4, "two fragments there, two back");
}

#[tokio::test]
async fn broadcast_and_multicast_arrive() {
    if !can_run("ip") {
        return;
    }
    let (a, b, _) = one_network(false).await;
    let IpAddr::V4(group) = lab::GROUPS[0] else { panic!("not an IPv4 group") };
    let server = socket(&b.container, (Ipv4Addr::UNSPECIFIED, 0));
    let IpAddr::V4(own) = b.container.v4 else { unreachable!() };
    server.join_multicast_v4(&group, &own).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = socket(&a.container, (a.container.v4, 0));
    client.set_broadcast(true).unwrap();
    for target in [Ipv4Addr::new(10, 77, 0, 255), Ipv4Addr::BROADCAST, group] {
        let mut buffer = [0; 64];
        let sender = wait_for(&format!("a datagram to {target} arrives"), || {
            client.send_to(&target.octets(), (target, port)).unwrap();
            let (length, sender) = server.recv_from(&mut buffer).ok()?;
            (buffer[..length] == target.octets()).then_some(sender)
        });
        assert_eq!(sender, client.local_addr().unwrap());
    }
}

#[tokio::test]
async fn a_firewall_that_forwards_nothing_does_not_hurt_and_is_left_alone() {
    if !can_run("ip") || !can_run("nft") {
        return;
    }
    let (a, b) = lab::two_hosts(false);
    let vni = weft_model::Vni::new(4100).unwrap();
    let nft = |host: &Host, command: &str| run(&format!("ip netns exec {} nft {command}", host.netns.name));
    for host in [&a, &b] {
        nft(host, "add table inet lab");
        nft(host, "add chain inet lab forward { type filter hook forward priority 0 ; policy drop ; }");
        let bridged = || std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
        host.netns.namespace.run(bridged).unwrap().unwrap();
    }
    let before = nft(&a, "list ruleset");
    assert!(before.contains("policy drop"), "{before}");
    a.reconcile(&a.desired(&b, vni)).await;
    b.reconcile(&b.desired(&a, vni)).await;
    ping_both_ways(&a, &b);
    assert_eq!(nft(&a, "list ruleset"), before);
    let seen = || std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap();
    assert_eq!(a.netns.namespace.run(seen).unwrap().trim(), "1");
    let overlay = weft_kernel::Namespace::open(format!("/run/netns/{}", a.overlay.0)).unwrap();
    assert_eq!(overlay.run(seen).unwrap().trim(), "0");
    let inside = run(&format!("ip netns exec {} nft list tables", a.overlay.0));
    assert_eq!(inside, "table bridge weft\n", "the overlay namespace has no rules but weft's");
}
