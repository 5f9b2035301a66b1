//! Multicast reaches the hosts that the entries name and no other, and who is a member is known from the bridge.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Container, GROUPS, Host, V4_ANY, V6_ANY, can_run, one_network, run, wait_for};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    collections::BTreeSet,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};
use weft_model::Vni;
use weft_plan::{Key, Object, Op};

const PORT: u16 = 5000;
/// A membership that nobody asked for in this long would have ended, with the bridge's timers as `hurry` sets them.
const MEMBERSHIP: Duration = Duration::from_secs(4);

/// A socket that is a member of `group`, in the container.
fn member(container: &Container, group: IpAddr) -> Socket {
    let join = || {
        let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any = if group.is_ipv4() { V4_ANY } else { V6_ANY };
        socket.bind(&SockAddr::from(SocketAddr::new(any, PORT))).unwrap();
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        match group {
            IpAddr::V4(v4) => {
                socket.join_multicast_v4_n(&v4, &socket2::InterfaceIndexOrAddress::Index(index))
            }
            IpAddr::V6(v6) => socket.join_multicast_v6(&v6, index),
        }
        .unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket
    };
    container.netns.namespace.run(join).unwrap()
}

/// Sends `count` datagrams to a group.
fn send(from: &Container, group: IpAddr, count: usize) {
    let send = || {
        let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        match group {
            IpAddr::V4(_) => socket.set_multicast_if_v4(&match from.v4 {
                IpAddr::V4(v4) => v4,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            }),
            IpAddr::V6(_) => socket.set_multicast_if_v6(index),
        }
        .unwrap();
        for _ in 0..count {
            socket.send_to(b"to all", &SockAddr::from(SocketAddr::new(group, PORT))).unwrap();
        }
    };
    from.netns.namespace.run(send).unwrap();
}

/// How many datagrams have arrived.
fn received(mut member: &Socket) -> usize {
    let mut buffer = [0; 100];
    std::iter::from_fn(|| member.read(&mut buffer).ok()).count()
}

async fn members(host: &Host, vni: Vni) -> BTreeSet<IpAddr> {
    let snooped = host.linux.memberships().await.unwrap().remove(&vni).unwrap();
    let link_local = |group: &IpAddr| matches!(group, IpAddr::V6(v6) if v6.octets()[1] & 0xf <= 2);
    snooped.groups.into_iter().filter(|group| !link_local(group)).collect()
}

/// Waits until `host` knows that these are its members.
async fn until_members(host: &Host, vni: Vni, groups: &[IpAddr]) {
    let (wanted, until) = (groups.iter().copied().collect(), Instant::now() + Duration::from_secs(10));
    loop {
        let found = members(host, vni).await;
        if found == wanted {
            return;
        }
        assert!(Instant::now() < until, "{found:?}, not {groups:?}");
        tokio::time::timeout(Duration::from_secs(1), host.linux.memberships_changed()).await.ok();
    }
}

/// How many frames a host's VXLAN device has sent.
fn sent(host: &Host, vni: Vni) -> u64 {
    let path = format!("/sys/class/net/weft-vx{vni}/statistics/tx_packets");
    run(&format!("ip netns exec {} cat {path}", host.overlay.0)).trim().parse().unwrap()
}

#[tokio::test]
async fn multicast_goes_to_the_hosts_that_are_named_and_to_nobody_else() {
    if !can_run("ip") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let (a, b, vni) = one_network(ipv6_underlay).await;
        for group in GROUPS {
            let there = member(&b.container, group);
            until_members(&b, vni, &[group]).await;
            wait_for("a datagram to a group", || {
                send(&a.container, group, 1);
                (received(&there) > 0).then_some(())
            });
            // The entry goes: so does the traffic.
            let entry = Key::Group(vni, group, b.vtep);
            assert_eq!(a.linux.apply(&[Op::Remove(entry.clone())]).await, [Ok(())]);
            let before = sent(&a, vni);
            send(&a.container, group, 100);
            assert_eq!(received(&there), 0);
            assert!(sent(&a, vni) < before + 20, "what nobody gets is not sent");
            // To a host that gets everything.
            let all = if group.is_ipv4() { V4_ANY } else { V6_ANY };
            assert_eq!(
                a.linux.apply(&[Op::Create(Key::Group(vni, all, b.vtep), Object::Group)]).await,
                [Ok(())]
            );
            send(&a.container, group, 10);
            assert_eq!(received(&there), 10);
            drop(there);
            until_members(&b, vni, &[]).await;
        }
    }
}

#[tokio::test]
async fn link_local_multicast_needs_no_entry() {
    if !can_run("ip") {
        return;
    }
    let (a, b, _) = one_network(false).await;
    let groups: [IpAddr; 2] =
        [Ipv4Addr::new(224, 0, 0, 251).into(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into()];
    for group in groups {
        let there = member(&b.container, group);
        wait_for("a datagram to a link-local group", || {
            send(&a.container, group, 1);
            (received(&there) > 0).then_some(())
        });
    }
}

/// Lowers a bridge's timers to a hundredth or so.
fn hurry(host: &Host, vni: Vni) {
    let times = "mcast_query_interval 100 mcast_query_response_interval 50 mcast_membership_interval 400 \
                 mcast_querier_interval 300 mcast_startup_query_interval 100";
    // The querier begins anew: the next query was due in half a minute.
    for what in [times, "mcast_querier 0", "mcast_querier 1"] {
        host.ip(&format!("link set weft-br{vni} type bridge {what}"));
    }
}

#[tokio::test]
async fn a_membership_lasts_while_the_member_does_and_no_longer() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    hurry(&a, vni);
    hurry(&b, vni);
    let sockets: Vec<_> = GROUPS.iter().map(|group| member(&a.container, *group)).collect();
    until_members(&a, vni, &GROUPS).await;
    let until = Instant::now() + 4 * MEMBERSHIP;
    while Instant::now() < until {
        assert_eq!(members(&a, vni).await, GROUPS.into());
        tokio::time::timeout(Duration::from_millis(200), a.linux.memberships_changed()).await.ok();
    }
    let elsewhere = run(&format!("bridge -n {} mdb show", b.overlay.0));
    assert!(
        !elsewhere.contains(&format!("dev weft-br{vni} port weft-vx")),
        "reports stay on their host: {elsewhere}"
    );
    drop(sockets);
    until_members(&a, vni, &[]).await;
    // A container that goes without a word.
    let socket = member(&a.container, GROUPS[0]);
    until_members(&a, vni, &GROUPS[..1]).await;
    let port = Key::Port(vni, a.container.port.clone());
    assert_eq!(a.linux.apply(&[Op::Remove(port)]).await, [Ok(())]);
    until_members(&a, vni, &[]).await;
    drop(socket);
}

#[tokio::test]
async fn a_bridge_that_was_made_again_learns_who_is_a_member() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let desired = a.desired(&b, vni);
    let _sockets: Vec<_> = GROUPS.iter().map(|group| member(&a.container, *group)).collect();
    until_members(&a, vni, &GROUPS).await;
    a.ip(&format!("link del weft-br{vni}"));
    a.reconcile(&desired).await;
    assert!(!a.linux.memberships().await.unwrap()[&vni].complete, "it has only begun to ask");
    let until = Instant::now() + Duration::from_secs(30);
    while !a.linux.memberships().await.unwrap()[&vni].complete {
        assert!(Instant::now() < until);
        tokio::time::timeout(Duration::from_millis(200), a.linux.memberships_changed()).await.ok();
    }
    assert_eq!(members(&a, vni).await, GROUPS.into());
    // One that does not snoop knows nothing.
    a.ip(&format!("link set weft-br{vni} type bridge mcast_snooping 0"));
    assert!(!a.linux.memberships().await.unwrap().contains_key(&vni));
}
