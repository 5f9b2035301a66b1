//! What does not fit somewhere is cut, or its sender is told; nothing is swallowed.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{
    Datapath::{self, Ebpf, Kernel},
    can_run,
    cluster::{Cluster, FRAMES, SEGMENTS, forward},
    programs::counters,
    run,
    traffic::{assert_none, datagram_in_the_end, datagrams, stream, wait_for_path},
};
use weft_model::Mtu;

const BULK: usize = 1 << 20;
/// Of the underlay, and of the data path on all hosts.
const ALL: [(bool, Datapath); 4] = [(false, Kernel), (true, Kernel), (false, Ebpf), (true, Ebpf)];

fn mtu(bytes: u32) -> Mtu {
    Mtu::new(bytes).unwrap()
}

/// Streams and datagrams of any size between the first and the last attachment, on both kinds of wire.
async fn exchange(cluster: &Cluster, setting: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for ipv6 in [false, true] {
        let (a, b) = (cluster.attachments[0].end(ipv6), cluster.attachments.last().unwrap().end(ipv6));
        wait_for_path(a, b);
        for (wire, features) in [("segments", SEGMENTS), ("frames", FRAMES)] {
            (0..cluster.hosts.len()).for_each(|host| cluster.uplink(host, features));
            let mut outcomes = vec![datagrams(a, b, &[1, 65, 1000]), stream(a, b, BULK)];
            for size in [1200, 1400, 1450, 4000, 8900, 20_000] {
                outcomes.extend([datagram_in_the_end(a, b, size), datagram_in_the_end(b, a, size)]);
            }
            // Once everybody has been told, none is lost.
            outcomes.push(datagrams(a, b, &[1400, 1450, 4000, 8900, 20_000]));
            let told = |fault| format!("{setting}, {wire}: {fault}");
            faults.extend(outcomes.into_iter().filter_map(Result::err).map(told));
        }
    }
    for host in cluster.hosts.iter().filter(|host| host.datapath == Ebpf) {
        let drops = counters(host).await.drops;
        if drops.values().any(|n| *n > 0) {
            faults.push(format!("{setting}: dropped: {drops:?}"));
        }
    }
    faults
}

#[tokio::test]
async fn a_container_joins_a_network_of_large_packets_and_one_of_small_ones() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    let mut faults = Vec::new();
    for (ipv6_underlay, datapath) in ALL {
        let mut cluster = Cluster::on_a_switch(ipv6_underlay, &[datapath; 3]);
        let large = cluster.mtu();
        let (client, left) = (cluster.attach(0, 1, large), cluster.attach(1, 1, large));
        let (right, server) = (cluster.attach(1, 2, mtu(1280)), cluster.attach(2, 2, mtu(1280)));
        forward(&cluster.hosts[1].container.netns.namespace);
        cluster.reconcile().await;
        for (end, gateway) in [(client, left), (server, right)] {
            let gateway = cluster.attachments[gateway].clone();
            cluster.ip_in(end, &format!("route add default via {}", gateway.v4));
            cluster.ip_in(end, &format!("route add default via {}", gateway.v6));
        }
        let setting = format!("{datapath:?}, IPv6 underlay: {ipv6_underlay}");
        faults.extend(exchange(&cluster, &setting).await);
        let server = cluster.attachments[server].clone();
        for address in [server.v4, server.v6] {
            let route = cluster.ip_in(client, &format!("route get {address}"));
            assert!(route.contains("mtu 1280"), "{setting}: the client was told: {route}");
        }
    }
    assert_none(&faults);
}

#[tokio::test]
async fn a_network_may_have_been_given_a_larger_mtu_than_its_tunnel_carries() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    let mut faults = Vec::new();
    for (ipv6_underlay, datapath) in ALL {
        let mut cluster = Cluster::on_a_cable(ipv6_underlay, [datapath; 2]);
        for host in 0..2 {
            cluster.attach(host, 1, mtu(1500));
        }
        cluster.reconcile().await;
        let setting = format!("{datapath:?}, IPv6 underlay: {ipv6_underlay}");
        // What the wire does not take is not given to it. (TCP would get by, a frame at a time.)
        (0..2).for_each(|host| cluster.uplink(host, &format!("{FRAMES} gro off")));
        let before = [0, 1].map(|host| cluster.lost_on_the_wire(host));
        for ipv6 in [false, true] {
            let (a, b) = (cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
            faults.extend(stream(a, b, BULK).err());
        }
        let after = [0, 1].map(|host| cluster.lost_on_the_wire(host));
        if after != before {
            faults.push(format!("{setting}: too large for the wire: {before:?} {after:?}"));
        }
        faults.extend(exchange(&cluster, &setting).await);
    }
    assert_none(&faults);
}

#[tokio::test]
async fn one_host_has_an_uplink_of_1500_bytes_and_the_other_one_of_9000() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    let mut faults = Vec::new();
    for (ipv6_underlay, datapath) in ALL {
        for network in [1430, 8930] {
            let mut cluster = Cluster::routed(ipv6_underlay, [datapath; 2], 9000);
            run(&format!("ip -n {} link set u0 mtu 1500", cluster.hosts[1].netns.name));
            run(&format!("ip -n {} link set w2 mtu 1500", cluster.wires[1].name));
            for host in 0..2 {
                cluster.attach(host, 1, mtu(network));
            }
            cluster.reconcile().await;
            let setting = format!("{datapath:?}, IPv6 underlay: {ipv6_underlay}, network {network}");
            faults.extend(exchange(&cluster, &setting).await);
        }
    }
    assert_none(&faults);
}

#[tokio::test]
async fn the_way_between_two_hosts_is_narrower_in_the_middle() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    let mut faults = Vec::new();
    for (ipv6_underlay, datapath) in ALL {
        let mut cluster = Cluster::routed(ipv6_underlay, [datapath; 2], 1400);
        for host in 0..2 {
            cluster.attach(host, 1, mtu(8930));
        }
        cluster.reconcile().await;
        faults.extend(exchange(&cluster, &format!("{datapath:?}, IPv6 underlay: {ipv6_underlay}")).await);
    }
    assert_none(&faults);
}
