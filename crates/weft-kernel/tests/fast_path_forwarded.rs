//! What came in through the tunnel and is forwarded by a container goes out into a tunnel again, whole.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{
    Container,
    Datapath::{self, Ebpf, Kernel},
    can_run,
    cluster::{Cluster, FRAMES, SEGMENTS, forward},
    programs::counters,
    traffic::{assert_none, burst, datagrams, stream, trains, wait_for_path},
};
use std::fs;

const BULK: usize = 4 << 20;

/// Everything between two attachments, both ways, over IPv4 and IPv6, on two kinds of wire.
fn exchange(cluster: &Cluster, a: usize, b: usize, setting: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for ipv6 in [false, true] {
        let (a, b) = (cluster.attachments[a].end(ipv6), cluster.attachments[b].end(ipv6));
        wait_for_path(a, b);
        // The largest that takes one frame, and one byte more.
        let whole = usize::try_from(cluster.mtu().get()).unwrap() - if ipv6 { 48 } else { 28 };
        for (wire, features) in [("a wire of segments", SEGMENTS), ("a wire of frames", FRAMES)] {
            (0..cluster.hosts.len()).for_each(|host| cluster.uplink(host, features));
            let outcomes = [
                stream(a, b, BULK),
                datagrams(a, b, &[1, 63, 64, 65, 511, whole, whole + 1, 9000]),
                burst(a, b, whole, 200),
                burst(b, a, 64, 200),
            ];
            let told = |fault| format!("{setting}, {wire}: {fault}");
            faults.extend(outcomes.into_iter().filter_map(Result::err).map(told));
        }
    }
    faults
}

/// A client on host 0, a server on host 2, and on host 1 a container between them that is on both networks.
struct Between {
    cluster: Cluster,
    client: usize,
    left: usize,
    right: usize,
    server: usize,
}

/// Gives each end the gateway beside it.
fn route_by(cluster: &Cluster, ends: [(usize, usize); 2]) {
    for (end, gateway) in ends {
        let gateway = &cluster.attachments[gateway];
        cluster.ip_in(end, &format!("route add default via {}", gateway.v4));
        cluster.ip_in(end, &format!("route add default via {}", gateway.v6));
    }
}

async fn between_two_networks(ipv6_underlay: bool, datapaths: &[Datapath]) -> Between {
    let mut cluster = Cluster::on_a_switch(ipv6_underlay, datapaths);
    let mtu = cluster.mtu();
    let (client, left) = (cluster.attach(0, 1, mtu), cluster.attach(1, 1, mtu));
    let (right, server) = (cluster.attach(1, 2, mtu), cluster.attach(2, 2, mtu));
    forward(&cluster.hosts[1].container.netns.namespace);
    cluster.reconcile().await;
    route_by(&cluster, [(client, left), (server, right)]);
    Between { cluster, client, left, right, server }
}

async fn a_container_forwards_between_two_networks(ipv6_underlay: bool) {
    for datapaths in [[Ebpf; 3], [Kernel; 3], [Ebpf, Kernel, Ebpf], [Kernel, Ebpf, Kernel]] {
        let lab = between_two_networks(ipv6_underlay, &datapaths).await;
        let cluster = &lab.cluster;
        let faults = exchange(cluster, lab.client, lab.server, &format!("{datapaths:?}"));
        assert_none(&faults);
        if datapaths != [Ebpf; 3] {
            continue;
        }
        // Two streams of IPv4 and two of IPv6, each way.
        let bulk = 4 * u64::try_from(BULK).unwrap();
        for (sender, receiver) in [(lab.client, lab.left), (lab.server, lab.right)] {
            let (tx, rx) = (cluster.carried(sender).await, cluster.carried(receiver).await);
            assert!(tx.tx_bytes > bulk && rx.rx_bytes > bulk, "by the programs: {tx:?} {rx:?}");
            let frame = u64::from(cluster.mtu().get()) + 14;
            assert!(tx.tx_bytes > 2 * frame * tx.tx_packets, "frames with many segments: {tx:?}");
            assert!(rx.rx_bytes > frame * rx.rx_packets, "they arrive as such: {rx:?}");
        }
        for host in &cluster.hosts {
            assert!(counters(host).await.drops.values().all(|n| *n == 0));
        }
    }
}

#[tokio::test]
async fn a_container_forwards_between_two_networks_over_ipv4() {
    if can_run("ip") && can_run("ethtool") {
        a_container_forwards_between_two_networks(false).await;
    }
}

#[tokio::test]
async fn a_container_forwards_between_two_networks_over_ipv6() {
    if can_run("ip") && can_run("ethtool") {
        a_container_forwards_between_two_networks(true).await;
    }
}

#[tokio::test]
async fn a_container_sends_on_into_the_network_that_it_came_from() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    for (ipv6_underlay, datapaths) in [(false, [Ebpf; 3]), (true, [Ebpf; 3]), (false, [Kernel; 3])] {
        let mut cluster = Cluster::on_a_switch(ipv6_underlay, &datapaths);
        let mtu = cluster.mtu();
        let ends = [0, 1, 2].map(|host| cluster.attach(host, 1, mtu));
        let [client, between, server] = ends;
        forward(&cluster.hosts[1].container.netns.namespace);
        for host in [0, 2] {
            // Or the one between would tell them of the shorter way (IPv6 cannot be told not to).
            let deaf = || fs::write("/proc/sys/net/ipv6/conf/default/accept_redirects", "0").unwrap();
            cluster.hosts[host].container.netns.namespace.run(deaf).unwrap();
        }
        cluster.reconcile().await;
        let [of_client, of_between, of_server] = ends.map(|end| cluster.attachments[end].clone());
        for (end, other) in [(client, &of_server), (server, &of_client)] {
            cluster.ip_in(end, &format!("route add {}/32 via {}", other.v4, of_between.v4));
            cluster.ip_in(end, &format!("route add {}/128 via {}", other.v6, of_between.v6));
        }
        assert_none(&exchange(&cluster, client, server, &format!("{datapaths:?}")));
        if datapaths == [Ebpf; 3] {
            let (tx, rx) = (cluster.carried(client).await, cluster.carried(between).await);
            let bulk = 4 * u64::try_from(BULK).unwrap();
            assert!(tx.tx_bytes > bulk && rx.rx_bytes > 2 * bulk, "both ways through it: {tx:?} {rx:?}");
        }
    }
}

#[tokio::test]
async fn a_container_forwards_to_a_neighbour_on_its_host() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let mut cluster = Cluster::on_a_switch(ipv6_underlay, &[Ebpf; 2]);
        let mtu = cluster.mtu();
        let third = Container::new(9);
        let (client, left) = (cluster.attach(0, 1, mtu), cluster.attach(1, 1, mtu));
        let (right, server) = (cluster.attach(1, 2, mtu), cluster.attach_other(1, &third, 2, mtu));
        forward(&cluster.hosts[1].container.netns.namespace);
        cluster.reconcile().await;
        route_by(&cluster, [(client, left), (server, right)]);
        assert_none(&exchange(&cluster, client, server, "a third on the same host"));
        let (sent, received) = (cluster.carried(right).await, cluster.carried(server).await);
        let bulk = 4 * u64::try_from(BULK).unwrap();
        assert!(sent.tx_bytes > bulk && received.rx_bytes > bulk, "by the programs: {sent:?} {received:?}");
    }
}

#[tokio::test]
async fn a_container_that_forwards_cuts_up_what_it_received_as_one_packet() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let lab = between_two_networks(ipv6_underlay, &[Ebpf; 3]).await;
        for interface in [lab.left, lab.right] {
            lab.cluster.interface(interface, "tx off sg off tso off gso off tx-udp-segmentation off");
        }
        let faults = exchange(&lab.cluster, lab.client, lab.server, "no offload by the one between");
        assert_none(&faults);
    }
}

#[tokio::test]
async fn a_container_forwards_trains_of_datagrams() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    let mut faults = Vec::new();
    for (ipv6_underlay, features) in [(false, "tso on"), (true, "tso on"), (false, "tx-udp-segmentation off")]
    {
        let lab = between_two_networks(ipv6_underlay, &[Ebpf; 3]).await;
        lab.cluster.interface(lab.right, features);
        lab.cluster.interface(lab.left, features);
        for ipv6 in [false, true] {
            let [a, b] = [lab.client, lab.server].map(|end| lab.cluster.attachments[end].end(ipv6));
            wait_for_path(a, b);
            faults
                .extend([trains(a, b, 1200, 10), trains(b, a, 500, 10)].into_iter().filter_map(Result::err));
        }
    }
    assert_none(&faults);
}
