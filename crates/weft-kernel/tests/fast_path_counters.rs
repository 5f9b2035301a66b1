//! The counters of the fast path say what containers have sent and received, to the packet and to the byte.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{
    Datapath::Ebpf,
    can_run,
    cluster::{Cluster, SEGMENTS},
    programs::counters,
    traffic::{burst, datagrams, stream, wait_for_path},
};
use weft_kernel::Counter;

/// A container on each of two hosts, who know each other.
async fn pair(ipv6_underlay: bool) -> Cluster {
    let mut cluster = Cluster::on_a_cable(ipv6_underlay, [Ebpf; 2]);
    let mtu = cluster.mtu();
    for host in 0..2 {
        cluster.attach(host, 1, mtu);
        cluster.uplink(host, SEGMENTS);
    }
    cluster.reconcile().await;
    for ipv6 in [false, true] {
        wait_for_path(cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
    }
    cluster
}

/// What the programs have carried for both containers.
async fn carried(cluster: &Cluster) -> [Counter; 2] {
    [cluster.carried(0).await, cluster.carried(1).await]
}

#[tokio::test]
async fn every_datagram_is_counted_where_it_leaves_and_where_it_arrives() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let cluster = pair(ipv6_underlay).await;
        for (ipv6, headers) in [(false, 14 + 20 + 8), (true, 14 + 40 + 8)] {
            let (a, b) = (cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
            let before = carried(&cluster).await;
            datagrams(a, b, &[1, 64, 511, 1000]).unwrap();
            burst(a, b, 700, 150).unwrap();
            let after = carried(&cluster).await;
            let there = (4 + 150, 1576 + 150 * 700 + 154 * headers);
            let back = (4, 1576 + 4 * headers);
            let [of_a, of_b] = [0, 1].map(|end| {
                let (before, after): (&Counter, &Counter) = (&before[end], &after[end]);
                let tx = (after.tx_packets - before.tx_packets, after.tx_bytes - before.tx_bytes);
                (tx, (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes))
            });
            assert_eq!(of_a, (there, back), "IPv6 {ipv6_underlay} outside, {ipv6} inside");
            assert_eq!(of_b, (back, there), "IPv6 {ipv6_underlay} outside, {ipv6} inside");
        }
    }
}

#[tokio::test]
async fn what_a_stream_sends_is_what_its_interface_has_sent_and_the_other_end_received() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let cluster = pair(ipv6_underlay).await;
        let interfaces = || [0, 1].map(|end| cluster.sent_bytes(end));
        let (before, sent_before) = (carried(&cluster).await, interfaces());
        for ipv6 in [false, true] {
            stream(cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6), 8 << 20).unwrap();
        }
        let (after, sent) = (carried(&cluster).await, interfaces());
        for (end, other) in [(0, 1), (1, 0)] {
            let tx_bytes = after[end].tx_bytes - before[end].tx_bytes;
            let tx_packets = after[end].tx_packets - before[end].tx_packets;
            assert!(tx_bytes > 16 << 20, "all of it by the programs: {after:?}");
            assert!(tx_bytes > 2 * 1464 * tx_packets, "in packets of many segments: {after:?}");
            assert_eq!(after[other].rx_bytes - before[other].rx_bytes, tx_bytes);
            assert_eq!(after[other].rx_packets - before[other].rx_packets, tx_packets);
            // The interface sends a question for a neighbour now and then, too.
            let by_interface = sent[end] - sent_before[end];
            assert!((tx_bytes..tx_bytes + 2000).contains(&by_interface), "{by_interface} {tx_bytes}");
            let carried = counters(&cluster.hosts[end]).await;
            let peer = carried.peers[&cluster.hosts[other].vtep];
            assert_eq!((peer.tx_bytes, peer.rx_bytes), (after[end].tx_bytes, after[end].rx_bytes));
            assert!(carried.drops.values().all(|n| *n == 0), "{carried:?}");
        }
    }
}
