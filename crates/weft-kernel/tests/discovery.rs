//! Who asks for the MAC address of a container on another host is answered by the program at its port.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Host, can_run, one_network_with, ping_both_ways, programs::BOTH, run, socket, wait_for};
use weft_model::Vni;

/// Takes from the kernel's path what it would answer with.
fn silence_the_vxlan_device(host: &Host, vni: Vni) {
    host.ip(&format!("neigh flush dev weft-vx{vni} nud permanent"));
    host.ip(&format!("-6 neigh flush dev weft-vx{vni} nud permanent"));
    assert_eq!(host.ip(&format!("neigh show dev weft-vx{vni} nud permanent")), "");
}

fn in_container(host: &Host, arguments: &str) -> String {
    run(&format!("ip -n {} {arguments}", host.container.netns.name))
}

#[tokio::test]
async fn arp_and_neighbour_discovery_need_no_answer_of_the_vxlan_device() {
    if !can_run("ip") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let (a, b, vni) = one_network_with(ipv6_underlay, BOTH).await;
        silence_the_vxlan_device(&a, vni);
        silence_the_vxlan_device(&b, vni);
        ping_both_ways(&a, &b);
        for (host, peer) in [(&a, &b), (&b, &a)] {
            for address in [peer.container.v4, peer.container.v6] {
                let known = in_container(host, &format!("neigh show {address} dev eth0"));
                assert!(known.contains(&peer.container.mac.to_string()), "{address}: {known}");
            }
        }
    }
}

#[tokio::test]
async fn whether_a_station_is_still_there_is_answered_without_asking_it() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    silence_the_vxlan_device(&a, vni);
    in_container(&b, "link set eth0 down");
    let mac = b.container.mac;
    for address in [b.container.v4, b.container.v6] {
        // The kernel asks the station itself, by its MAC address.
        in_container(&a, &format!("neigh replace {address} lladdr {mac} dev eth0 nud probe"));
        wait_for(&format!("{address} is confirmed"), || {
            in_container(&a, &format!("neigh show {address} nud reachable")).contains("lladdr").then_some(())
        });
    }
}

#[tokio::test]
async fn whoever_means_to_take_the_ipv6_address_of_another_hosts_container_is_told() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    silence_the_vxlan_device(&a, vni);
    in_container(&a, &format!("addr add {}/64 dev eth0", b.container.v6));
    wait_for("the address is known to be a duplicate", || {
        in_container(&a, "-6 addr show dev eth0 dadfailed")
            .contains(&b.container.v6.to_string())
            .then_some(())
    });
}

#[tokio::test]
async fn nobody_answers_for_an_address_that_no_container_has() {
    if !can_run("ip") {
        return;
    }
    let (a, _b, _) = one_network_with(false, BOTH).await;
    for (own, address) in [(a.container.v4, "10.77.0.99"), (a.container.v6, "fd77::99")] {
        socket(&a.container, (own, 0)).send_to(b"?", (address, 9)).unwrap();
        wait_for(&format!("{address} stays unknown"), || {
            in_container(&a, &format!("neigh show {address} nud failed")).contains("FAILED").then_some(())
        });
    }
}
