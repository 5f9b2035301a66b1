//! Whatever the devices compute themselves or leave to others, every byte arrives as it was sent.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{
    Datapath::{self, Ebpf, Kernel},
    can_run,
    cluster::{Cluster, FRAMES, SEGMENTS, ethtool},
    programs::counters,
    run,
    traffic::{assert_none, burst, datagrams, stream, trains, wait_for_path},
};

const BULK: usize = 2 << 20;

/// What the devices do: words for it, the features of both uplinks and of the containers' interfaces, each on top of
/// [`SEGMENTS`].
type Setting = (&'static str, [&'static str; 2], [&'static str; 2]);

const NO_SEGMENTS: &str =
    "tso off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off tx-udp-segmentation off";
const NOTHING: &str = "tx off sg off tso off gso off gro off";

const SETTINGS: [Setting; 13] = [
    ("segments, received as they come", ["tso on"; 2], ["tso on"; 2]),
    ("segments, GRO", ["gro on"; 2], ["tso on"; 2]),
    ("frames, GRO", [FRAMES; 2], ["tso on"; 2]),
    ("frames, received as they come", [NO_SEGMENTS; 2], ["tso on"; 2]),
    ("no checksums by the uplinks", ["tx off"; 2], ["tso on"; 2]),
    ("no checksums by the uplinks, GRO", ["tx off gro on"; 2], ["tso on"; 2]),
    ("no tunnel segments, but plain ones", ["tx-udp_tnl-segmentation off gro on"; 2], ["tso on"; 2]),
    ("nothing by the uplinks", [NOTHING; 2], ["tso on"; 2]),
    ("nothing by one uplink", [NOTHING, "gro on"], ["tso on"; 2]),
    ("frames from one, GRO at the other only", [NO_SEGMENTS, "gro on"], ["tso on"; 2]),
    ("no segments and checksums by the containers", ["gro on"; 2], ["tx off tso off"; 2]),
    ("nothing by one container", [FRAMES; 2], [NOTHING, "tso on"]),
    ("nothing by anybody", [NOTHING; 2], [NOTHING; 2]),
];

/// What is sent between the two containers with a setting; `true`: over IPv6.
type Traffic<'a> = &'a dyn Fn(&Cluster, bool) -> Vec<Result<(), String>>;

/// Does it with every setting, over IPv4 and IPv6 inside; all that went wrong.
fn with_every_setting(cluster: &Cluster, settings: &[Setting], traffic: Traffic<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    for ipv6 in [false, true] {
        wait_for_path(cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
    }
    for (what, uplinks, interfaces) in settings {
        for end in 0..2 {
            cluster.uplink(end, SEGMENTS);
            cluster.uplink(end, uplinks[end]);
            cluster.interface(end, SEGMENTS);
            cluster.interface(end, interfaces[end]);
        }
        for ipv6 in [false, true] {
            let of_setting = traffic(cluster, ipv6).into_iter().filter_map(Result::err);
            faults.extend(of_setting.map(|fault| format!("{what}: {fault}")));
        }
    }
    faults
}

/// A container on each of two hosts.
async fn pair(ipv6_underlay: bool, datapaths: [Datapath; 2]) -> Cluster {
    let mut cluster = Cluster::on_a_cable(ipv6_underlay, datapaths);
    let mtu = cluster.mtu();
    for host in 0..2 {
        cluster.attach(host, 1, mtu);
    }
    cluster.reconcile().await;
    cluster
}

fn streams_and_datagrams(cluster: &Cluster, ipv6: bool) -> Vec<Result<(), String>> {
    let (a, b) = (cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
    let whole = usize::try_from(cluster.mtu().get()).unwrap() - if ipv6 { 48 } else { 28 };
    vec![
        stream(a, b, BULK),
        datagrams(a, b, &[0, 1, 2, 3, 63, 64, 65, 511, 1400, whole, whole + 1, 1472, 1500, 9000, 60_000]),
        burst(a, b, whole, 100),
        burst(b, a, 512, 100),
    ]
}

async fn streams_and_datagrams_arrive(ipv6_underlay: bool) {
    let mut faults = Vec::new();
    for datapaths in [[Ebpf; 2], [Ebpf, Kernel], [Kernel, Ebpf]] {
        let cluster = pair(ipv6_underlay, datapaths).await;
        let found = with_every_setting(&cluster, &SETTINGS, &streams_and_datagrams);
        faults.extend(found.into_iter().map(|fault| format!("{datapaths:?}, {fault}")));
        for (number, host) in cluster.hosts.iter().enumerate().filter(|(_, host)| host.datapath == Ebpf) {
            let carried = cluster.carried(number).await;
            let bulk = u64::try_from(2 * BULK * SETTINGS.len()).unwrap();
            assert!(carried.tx_bytes > bulk, "{datapaths:?}: by the programs: {carried:?}");
            assert!(counters(host).await.drops.values().all(|n| *n == 0));
        }
    }
    assert_none(&faults);
}

#[tokio::test]
async fn streams_and_datagrams_arrive_over_ipv4_with_every_offload_on_or_off() {
    if can_run("ip") && can_run("ethtool") {
        streams_and_datagrams_arrive(false).await;
    }
}

#[tokio::test]
async fn streams_and_datagrams_arrive_over_ipv6_with_every_offload_on_or_off() {
    if can_run("ip") && can_run("ethtool") {
        streams_and_datagrams_arrive(true).await;
    }
}

#[tokio::test]
async fn trains_of_datagrams_arrive_with_every_offload_on_or_off() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    let mut faults = Vec::new();
    for (ipv6_underlay, datapaths) in [(false, [Ebpf; 2]), (true, [Ebpf; 2]), (false, [Ebpf, Kernel])] {
        let cluster = pair(ipv6_underlay, datapaths).await;
        let found = with_every_setting(&cluster, &SETTINGS, &|cluster, ipv6| {
            let (a, b) = (cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
            vec![trains(a, b, 1200, 5), trains(b, a, 500, 5)]
        });
        faults.extend(found.into_iter().map(|fault| format!("{datapaths:?}, {fault}")));
    }
    assert_none(&faults);
}

#[tokio::test]
async fn what_an_uplink_puts_together_arrives_whole_and_datagrams_one_by_one() {
    if !can_run("ip") || !can_run("ethtool") {
        return;
    }
    let mut faults = Vec::new();
    for (ipv6_underlay, datapath) in [(false, Ebpf), (true, Ebpf), (false, Kernel), (true, Kernel)] {
        let mut cluster = Cluster::on_a_wire_of_bytes(ipv6_underlay, [datapath; 2]);
        let mtu = cluster.mtu();
        for host in 0..2 {
            cluster.attach(host, 1, mtu);
            // It waits a moment for more of the same flow. A busy one need not.
            let patient = "/sys/class/net/u0/gro_flush_timeout";
            run(&format!(
                "ip netns exec {} sh -c echo${{IFS}}200000>{patient}",
                cluster.hosts[host].netns.name
            ));
        }
        cluster.reconcile().await;
        for (gro, features) in [
            ("no GRO", "gro off"),
            ("GRO of TCP", "gro on"),
            ("GRO of UDP too", "gro on rx-udp-gro-forwarding on"),
            ("GRO as lists", "gro on rx-udp-gro-forwarding off rx-gro-list on"),
        ] {
            (0..2).for_each(|host| ethtool(&cluster.hosts[host].netns.name, "u0", features));
            for ipv6 in [false, true] {
                let (a, b) = (cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
                wait_for_path(a, b);
                let mut outcomes = streams_and_datagrams(&cluster, ipv6);
                let before = cluster.received(1);
                outcomes.push(stream(a, b, BULK));
                let packets = cluster.received(1) - before;
                // A frame carries less than 1400 bytes of it.
                let together = packets < u64::try_from(BULK).unwrap() / 2 / 1400;
                assert_eq!(together, gro != "no GRO", "{packets} packets");
                outcomes.extend([trains(a, b, 1200, 10), burst(a, b, 1200, 320)]);
                let setting = format!("{datapath:?}, IPv6 underlay: {ipv6_underlay}, {gro}");
                let told = |fault| format!("{setting}: {fault}");
                faults.extend(outcomes.into_iter().filter_map(Result::err).map(told));
            }
        }
    }
    assert_none(&faults);
}
