//! The host's own network and what weft needs of it.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Host, can_run, one_network, run, two_hosts};
use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};
use weft_kernel::{KernelError, Underlay, host_routes, look, path, requirements, watch_underlay};
use weft_model::{Mtu, Vni};
use weft_plan::{Key, Op, Sight};

fn on<T: Send>(host: &Host, work: impl FnOnce() -> Result<T, KernelError> + Send) -> Result<T, KernelError> {
    host.netns.namespace.run(work).unwrap()
}

#[tokio::test]
async fn an_interface_is_known_by_its_name_and_its_addresses() {
    if !can_run("ip") {
        return;
    }
    let (a, _b) = two_hosts(false);
    let name = &a.netns.name;
    run(&format!("ip -n {name} addr add 169.254.7.7/16 dev u0"));
    run(&format!("ip -n {name} addr add 192.168.77.11/24 dev u0"));
    run(&format!("ip -n {name} link set u0 mtu 1400"));
    let expected = Underlay {
        interface: "u0".to_owned(),
        addresses: ["192.168.77.1", "192.168.77.11", "fd99::1"].map(|ip| ip.parse().unwrap()).to_vec(),
        mtu: Mtu::new(1400).unwrap(),
    };
    assert_eq!(on(&a, || Underlay::of_interface("u0")), Ok(expected.clone()));
    assert_eq!(on(&a, || Underlay::of_address("fd99::1".parse().unwrap())), Ok(expected));
    let error = on(&a, || Underlay::of_interface("eth7")).unwrap_err().to_string();
    assert!(error.contains("eth7") && error.contains("not there"), "{error}");
    let error = on(&a, || Underlay::of_address("192.168.77.99".parse().unwrap())).unwrap_err().to_string();
    assert!(error.contains("192.168.77.99") && error.contains("no device"), "{error}");
    let loopback = on(&a, || Underlay::of_interface("lo")).unwrap();
    assert_eq!((loopback.addresses, loopback.mtu.get()), (vec![], 65535));
}

#[tokio::test]
async fn the_way_to_a_peer_has_the_mtu_of_the_route_or_the_device_and_tells_of_a_gateway() {
    if !can_run("ip") {
        return;
    }
    let (a, _b) = two_hosts(false);
    let way = |to: &str| {
        let to = to.parse().unwrap();
        on(&a, || path(to)).unwrap().map(|path| (path.mtu.get(), path.gateway))
    };
    assert_eq!(way("192.168.77.2"), Some((1500, false)));
    assert_eq!(way("fd99::2"), Some((1500, false)));
    assert_eq!(way("203.0.113.9"), None);
    assert_eq!(way("2001:db8::9"), None);
    let name = &a.netns.name;
    run(&format!("ip -n {name} route add 203.0.113.0/24 via 192.168.77.2 mtu 1380"));
    run(&format!("ip -n {name} route add 2001:db8::/32 via fd99::2 mtu 1390"));
    run(&format!("ip -n {name} link set u0 mtu 9000"));
    assert_eq!(way("203.0.113.9"), Some((1380, true)));
    assert_eq!(way("2001:db8::9"), Some((1390, true)));
    assert_eq!(way("192.168.77.2"), Some((9000, false)));
    assert_eq!(way("192.168.77.1"), Some((65535, false)), "the host itself");
}

#[tokio::test]
async fn another_host_is_there_if_its_kernel_answers_and_is_missed_for_sure_only_on_a_link_that_works() {
    if !can_run("ip") || !can_run("nft") {
        return;
    }
    let (a, b) = two_hosts(false);
    // It forwards nothing.
    run(&format!("ip -n {} route add 203.0.113.0/24 via 192.168.77.2", a.netns.name));
    run(&format!("ip -n {} addr add 192.168.77.3/24 dev u0", b.netns.name));
    let firewall =
        "table inet t { chain input { type filter hook input priority 0; ip daddr 192.168.77.3 drop; }; }";
    b.netns.namespace.run(|| std::process::Command::new("nft").arg(firewall).status()).unwrap().unwrap();
    let looks = |at: [&str; 2]| -> [Sight; 2] {
        let [one, two] = at.map(|text| look((text.parse::<IpAddr>().unwrap(), lab::UDP_PORT).into()));
        let both = async { tokio::join!(one, two).into() };
        let run =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(both);
        a.netns.namespace.run(run).unwrap()
    };
    assert_eq!(looks(["192.168.77.2", "fd99::2"]), [Sight::Present; 2]);
    assert_eq!(looks(["192.168.77.99", "fd99::99"]), [Sight::Nobody; 2]);
    assert_eq!(
        looks(["203.0.113.9", "192.168.77.3"]),
        [Sight::Silent; 2],
        "routers and firewalls say nothing"
    );
    assert_eq!(looks(["198.51.100.9", "2001:db8::9"]), [Sight::Blind; 2], "there is no way to look");
    // The cable between the two is out: that is not b's fault.
    run(&format!("ip -n {} link set u0 down", b.netns.name));
    assert_eq!(looks(["192.168.77.2", "fd99::2"]), [Sight::Blind; 2]);
}

#[tokio::test]
async fn the_hosts_routes_are_those_a_subnet_must_keep_clear_of() {
    if !can_run("ip") {
        return;
    }
    let (a, _b) = two_hosts(false);
    let name = &a.netns.name;
    run(&format!("ip -n {name} route add default via 192.168.77.2"));
    run(&format!("ip -n {name} route add 203.0.113.0/24 via 192.168.77.2"));
    run(&format!("ip -n {name} route add blackhole 198.51.100.0/24"));
    run(&format!("ip -n {name} -6 route add default via fd99::2"));
    let routes = on(&a, host_routes).unwrap();
    let told: Vec<String> = routes.iter().map(|r| format!("{} {}", r.destination, r.device)).collect();
    assert_eq!(told, ["192.168.77.0/24 u0", "203.0.113.0/24 u0", "fd99::/64 u0"]);
}

#[tokio::test]
async fn a_changed_address_or_route_wakes_the_watch() {
    if !can_run("ip") {
        return;
    }
    let (a, _b) = two_hosts(false);
    let watch = on(&a, watch_underlay).unwrap();
    let changed = async || tokio::time::timeout(Duration::from_millis(300), watch.changed()).await.is_ok();
    while changed().await {}
    for change in [
        "addr add 10.9.9.9/24 dev u0",
        "-6 addr add fd98::1/64 dev u0",
        "link set u0 mtu 1300",
        "route add 203.0.113.0/24 via 192.168.77.2",
        "-6 route add 2001:db8::/32 via fd99::2",
    ] {
        run(&format!("ip -n {} {change}", a.netns.name));
        assert!(changed().await, "`ip {change}` is news");
        while changed().await {}
    }
}

#[tokio::test]
async fn this_host_has_what_it_takes() {
    if !can_run("ip") {
        return;
    }
    assert_eq!(requirements::check(), Ok(()));
}

#[tokio::test]
async fn a_taken_udp_port_is_told_with_who_has_it() {
    if !can_run("ip") {
        return;
    }
    let (a, _b) = two_hosts(false);
    let check = |local: &str| {
        let local = local.parse().unwrap();
        on(&a, || requirements::check_udp_port(lab::UDP_PORT, local, &a.overlay.0))
    };
    assert_eq!((check("192.168.77.1"), check("fd99::1")), (Ok(()), Ok(())));
    let holder = a.netns.namespace.run(|| UdpSocket::bind(("192.168.77.1", lab::UDP_PORT))).unwrap().unwrap();
    let error = check("192.168.77.1").unwrap_err().to_string();
    assert!(error.starts_with("UDP port 4789 is taken on this host: process "), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    assert_eq!(check("fd99::1"), Ok(()), "the other family's port is free");
    drop(holder);
    let name = &a.netns.name;
    run(&format!(
        "ip -n {name} link add flannel.1 type vxlan id 1 local 192.168.77.1 dstport 4789 nolearning"
    ));
    run(&format!("ip -n {name} link set flannel.1 up"));
    let error = check("192.168.77.1").unwrap_err().to_string();
    assert!(error.contains("a VXLAN device flannel.1 of somebody else's"), "{error}");
}

#[tokio::test]
async fn the_port_may_be_held_by_wefts_own_devices() {
    if !can_run("ip") {
        return;
    }
    let (a, _b, _) = one_network(false).await;
    let local = a.vtep;
    let own = on(&a, || requirements::check_udp_port(lab::UDP_PORT, local, &a.overlay.0));
    assert_eq!(own, Ok(()));
    let other = on(&a, || requirements::check_udp_port(lab::UDP_PORT, local, "no-such-overlay"));
    let error = other.unwrap_err().to_string();
    assert!(error.contains("a tunnel of the kernel's in another namespace"), "{error}");
}

#[tokio::test]
async fn a_network_on_a_taken_port_is_not_half_made() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let vni = Vni::new(4100).unwrap();
    let devices = a.desired(&b, vni).into_iter();
    let devices = devices.filter(|(key, _)| matches!(key, Key::Bridge(_) | Key::Vxlan(_)));
    let ops: Vec<Op> = devices.map(|(key, object)| Op::Create(key, object)).collect();
    let holder = a.netns.namespace.run(|| UdpSocket::bind(("0.0.0.0", lab::UDP_PORT))).unwrap().unwrap();
    let outcomes = a.linux.apply(&ops).await;
    assert_eq!(outcomes[0], Ok(()));
    let error = outcomes[1].clone().unwrap_err();
    assert!(matches!(error, KernelError::PortTaken { port: lab::UDP_PORT, .. }), "{error}");
    assert_eq!(a.observe().await.len(), 1, "only the bridge");
    drop(holder);
    assert_eq!(a.linux.apply(&ops).await, [Ok(()), Ok(())]);
}
