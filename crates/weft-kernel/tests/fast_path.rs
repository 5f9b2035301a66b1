//! The fast path carries what it should, beside the kernel's path and with it.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Datapath, can_run, one_network_with, ping_both_ways};

#[tokio::test]
async fn containers_on_two_hosts_reach_each_other_by_programs_alone() {
    if !can_run("ip") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let (a, b, _) = one_network_with(ipv6_underlay, [Datapath::Ebpf; 2]).await;
        ping_both_ways(&a, &b);
        let carried = a.linux.counters().await.unwrap().unwrap();
        eprintln!("{carried:?}");
        let port = carried.ports[&a.container.port];
        assert!(port.tx_packets >= 4 && port.rx_packets >= 4, "{carried:?}");
        let peer = carried.peers[&b.vtep];
        assert!(peer.tx_packets >= 4 && peer.rx_packets >= 4, "{carried:?}");
        assert!(carried.drops.values().all(|count| *count == 0), "{carried:?}");
    }
}
