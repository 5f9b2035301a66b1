//! The tunnel's address is on a loopback device, or the other end is not weft at all: every byte arrives all the same.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{
    Datapath::{Ebpf, Kernel},
    can_run,
    cluster::Cluster,
    programs::counters,
    run,
    traffic::{assert_none, burst, datagrams, stream, wait_for_path},
};

const BULK: usize = 2 << 20;

fn exchange(cluster: &Cluster) -> Vec<String> {
    let mut faults = Vec::new();
    for ipv6 in [false, true] {
        let (a, b) = (cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
        wait_for_path(a, b);
        let sizes = [1, 63, 64, 65, 511, 1400, 1402, 9000];
        let outcomes =
            [stream(a, b, BULK), datagrams(a, b, &sizes), burst(a, b, 512, 200), burst(b, a, 1300, 200)];
        faults.extend(outcomes.into_iter().filter_map(Result::err));
    }
    faults
}

#[tokio::test]
async fn the_vtep_address_is_on_a_loopback_device_and_a_route_leads_to_it() {
    if !can_run("ip") {
        return;
    }
    for (ipv6_underlay, device) in [(false, "lo"), (true, "lo"), (false, "vtep0"), (true, "vtep0")] {
        let mut cluster = Cluster::routed(ipv6_underlay, [Ebpf; 2], 1500);
        for host in 0..2 {
            let (own, other) = (host + 1, 2 - host);
            let name = cluster.hosts[host].netns.name.clone();
            if device != "lo" {
                // A bridge without ports: nothing ever comes in by it.
                run(&format!("ip -n {name} link add {device} type bridge"));
                run(&format!("ip -n {name} link set {device} up"));
            }
            let (vtep, middle, down, length) = if ipv6_underlay {
                ("fd98::", format!("fd99:99::{other}"), format!("fd99:{own}::1"), 128)
            } else {
                ("198.51.100.", format!("192.168.99.{other}"), format!("192.168.{own}.1"), 32)
            };
            run(&format!("ip -n {name} addr add {vtep}{own}/{length} dev {device}"));
            let router = &cluster.wires[host].name;
            run(&format!("ip -n {router} route add {vtep}{own}/{length} via {down}"));
            run(&format!("ip -n {router} route add {vtep}{other}/{length} via {middle}"));
            cluster.hosts[host].vtep = format!("{vtep}{own}").parse().unwrap();
        }
        let mtu = cluster.mtu();
        for host in 0..2 {
            cluster.attach(host, 1, mtu);
        }
        cluster.reconcile().await;
        assert_none(&exchange(&cluster));
        for attachment in 0..2 {
            // Two streams each way.
            let (carried, bulk) = (cluster.carried(attachment).await, u64::try_from(2 * BULK).unwrap());
            assert!(carried.tx_bytes > bulk, "the programs send: {device}: {carried:?}");
            assert!(counters(&cluster.hosts[attachment]).await.drops.values().all(|n| *n == 0));
        }
    }
}

#[tokio::test]
async fn the_other_end_is_a_plain_vxlan_device() {
    if !can_run("ip") {
        return;
    }
    for (ipv6_underlay, checksums) in [
        (false, "noudpcsum"),
        (false, "udpcsum"),
        (true, "udp6zerocsumtx udp6zerocsumrx"),
        (true, "noudp6zerocsumtx udp6zerocsumrx"),
    ] {
        let mut cluster = Cluster::on_a_cable(ipv6_underlay, [Ebpf, Kernel]);
        let mtu = cluster.mtu();
        let (ours, plain) = (cluster.attach(0, 1, mtu), cluster.attach_host(1, 1, mtu));
        cluster.reconcile_host(0).await;
        let (there, host) = (&cluster.attachments[plain], &cluster.hosts[1]);
        let ip = |what: &str| run(&format!("ip -n {} {what}", host.netns.name));
        let (vni, local, remote) = (there.vni(), host.vtep, cluster.hosts[0].vtep);
        ip(&format!(
            "link add vx0 type vxlan id {vni} local {local} remote {remote} dstport 4789 {checksums}"
        ));
        ip(&format!("link set vx0 address {} mtu {mtu} up", there.mac()));
        ip(&format!("addr add {}/24 dev vx0", there.v4));
        ip(&format!("addr add {}/64 dev vx0 nodad", there.v6));
        // Weft's hosts know each other's stations beforehand, so nobody answers what the plain one would ask.
        let ours_there = &cluster.attachments[ours];
        for address in [ours_there.v4, ours_there.v6] {
            ip(&format!("neigh add {address} lladdr {} dev vx0 nud permanent", ours_there.mac()));
        }
        assert_none(&exchange(&cluster));
        let (carried, bulk) = (cluster.carried(ours).await, u64::try_from(2 * BULK).unwrap());
        assert!(carried.tx_bytes > bulk, "the programs send: {carried:?}");
        // What comes with a checksum takes the kernel's path, which verifies it.
        let takes = checksums.starts_with("noudpcsum") || checksums.starts_with("udp6zerocsumtx");
        assert_eq!(carried.rx_bytes > bulk, takes, "{checksums}: {carried:?}");
    }
}
