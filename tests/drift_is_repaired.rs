//! What someone else changes in the kernel by hand is repaired in under 5 s, and counted in `weft status`.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::time::Duration;
use weft_e2e::{datapath, eventually, kernel_picture, lab, options, ping, seen};
use weft_lab::{Daemon, Fixture, figures};

/// How often drift of this kind was repaired.
fn counted_as(daemon: &Daemon, kind: &str) -> u64 {
    daemon.status().unwrap()["drift_repaired"][kind].as_u64().unwrap_or(0)
}

/// Spoils something on h1, and waits until it is as before and was counted as drift of this kind. How long that took.
fn repaired(lab: &Fixture, kind: &str, what: &str, spoil: impl FnOnce(&Fixture)) -> String {
    let daemon = lab.daemon("h1").unwrap();
    let (before, counted) = (kernel_picture(daemon, false), counted_as(daemon, kind));
    spoil(lab);
    let took = eventually(&format!("the repair of {what}"), Duration::from_secs(5), || {
        let now = kernel_picture(daemon, false);
        seen(now == before, difference(&before, &now))
    });
    eventually("the count", Duration::from_secs(1), || {
        seen(counted_as(daemon, kind) > counted, daemon.status().unwrap()["drift_repaired"].clone())
    });
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    eventually("an answer after the repair", Duration::from_secs(2), || ping(near, &far.ip().unwrap()));
    eventually("an answer to the other host", Duration::from_secs(2), || ping(far, &near.ip().unwrap()));
    format!("{what} {} ms", took.as_millis())
}

fn difference(before: &Value, now: &Value) -> String {
    let mut told = Vec::new();
    for part in ["link", "fdb", "neighbours"] {
        let (a, b) = (before[part].as_array().unwrap(), now[part].as_array().unwrap());
        told.extend(a.iter().filter(|x| !b.contains(x)).map(|x| format!("- {x}")));
        told.extend(b.iter().filter(|x| !a.contains(x)).map(|x| format!("+ {x}")));
    }
    told.join("\n")
}

/// The VXLAN device, the bridge, and the ports of containers on h1.
fn names(lab: &Fixture) -> (String, String, Vec<String>) {
    let devices = weft_e2e::weft_devices(&lab.daemon("h1").unwrap().overlay());
    let one = |prefix: &str| devices.iter().find(|d| d.starts_with(prefix)).unwrap().clone();
    let ports = devices.iter().filter(|d| !d.starts_with("weft-vx") && !d.starts_with("weft-br"));
    (one("weft-vx"), one("weft-br"), ports.cloned().collect())
}

#[test]
fn entries_and_devices_that_were_deleted_by_hand_come_back() {
    let Some(lab) = lab(options("drift")) else { return };
    let overlay = lab.daemon("h1").unwrap().overlay();
    let (vxlan, bridge, ports) = names(&lab);
    let far = lab.container("h2/c1").unwrap().ip().unwrap();
    let mac = "02:42:0a:00:00:03";
    let mut took = Vec::new();
    let bridge_tool = |lab: &Fixture, argv: &[&str]| {
        let overlay = lab.daemon("h1").unwrap().overlay();
        overlay.run(&[&["bridge"], argv].concat()).unwrap();
    };
    took.push(repaired(&lab, "fdb", "the FDB entry of a remote endpoint", |lab| {
        bridge_tool(lab, &["fdb", "del", mac, "dev", &vxlan, "self"]);
    }));
    took.push(repaired(&lab, "fdb", "the bridge's FDB entry of a remote endpoint", |lab| {
        bridge_tool(lab, &["fdb", "del", mac, "dev", &vxlan, "master"]);
    }));
    took.push(repaired(&lab, "fdb", "the FDB entry of a local endpoint", |lab| {
        bridge_tool(lab, &["fdb", "del", "02:42:0a:00:00:02", "dev", &ports[0], "master"]);
    }));
    took.push(repaired(&lab, "fdb", "a FDB entry that points to the wrong host", |lab| {
        bridge_tool(lab, &["fdb", "replace", mac, "dev", &vxlan, "self", "dst", "10.77.0.99"]);
    }));
    took.push(repaired(&lab, "flood", "the flood entry", |lab| {
        bridge_tool(lab, &["fdb", "del", "00:00:00:00:00:00", "dev", &vxlan, "dst", "10.77.0.2"]);
    }));
    took.push(repaired(&lab, "neighbour", "the neighbour entry", |_| {
        overlay.ip(&["neigh", "del", &far, "dev", &vxlan]).unwrap();
    }));
    took.push(repaired(&lab, "neighbour", "a neighbour entry nobody asked for", |_| {
        overlay.ip(&["neigh", "add", "10.0.0.200", "lladdr", "02:42:0a:00:00:c8", "dev", &vxlan]).unwrap();
    }));
    took.push(repaired(&lab, "bridge", "the MTU of the bridge", |_| {
        overlay.ip(&["link", "set", &bridge, "mtu", "1300"]).unwrap();
    }));
    took.push(repaired(&lab, "vxlan", "the MAC address of the VXLAN device", |_| {
        overlay.ip(&["link", "set", &vxlan, "address", "02:00:00:00:00:01"]).unwrap();
    }));
    took.push(repaired(&lab, "vxlan", "a VXLAN device that is down", |_| {
        overlay.ip(&["link", "set", &vxlan, "down"]).unwrap();
    }));
    took.push(repaired(&lab, "vxlan", "a VXLAN device out of its bridge", |_| {
        overlay.ip(&["link", "set", &vxlan, "nomaster"]).unwrap();
    }));
    took.push(repaired(&lab, "fdb", "a FDB entry nobody asked for", |lab| {
        bridge_tool(lab, &["fdb", "add", "02:42:0a:00:00:c8", "dev", &vxlan, "self", "dst", "10.77.0.2"]);
    }));
    took.push(repaired(&lab, "flood", "a flood entry to the wrong host", |lab| {
        bridge_tool(lab, &["fdb", "append", "00:00:00:00:00:00", "dev", &vxlan, "dst", "10.77.0.99"]);
    }));
    took.push(repaired(&lab, "neighbour", "a neighbour entry with the wrong MAC address", |_| {
        overlay.ip(&["neigh", "replace", &far, "lladdr", "02:42:0a:00:00:c8", "dev", &vxlan]).unwrap();
    }));
    took.push(repaired(&lab, "bridge", "a bridge that is down", |_| {
        overlay.ip(&["link", "set", &bridge, "down"]).unwrap();
    }));
    took.push(repaired(&lab, "port", "a port that is down", |_| {
        overlay.ip(&["link", "set", &ports[0], "down"]).unwrap();
    }));
    took.push(repaired(&lab, "port", "a port out of its bridge", |_| {
        overlay.ip(&["link", "set", &ports[0], "nomaster"]).unwrap();
    }));
    took.push(repaired(&lab, "vxlan", "the VXLAN device", |_| {
        overlay.ip(&["link", "del", &vxlan]).unwrap();
    }));
    took.push(repaired(&lab, "bridge", "the bridge", |_| {
        overlay.ip(&["link", "del", &bridge]).unwrap();
    }));
    took.push(repaired(&lab, "port", "the container's veth pair", |_| {
        overlay.ip(&["link", "del", &ports[0]]).unwrap();
    }));
    let path = datapath(lab.daemon("h1").unwrap());
    figures(
        &format!("altered by hand, {path}"),
        &format!("{} kinds repaired: {}", took.len(), took.join(", ")),
    );
}

#[test]
fn an_overlay_namespace_that_was_deleted_comes_back_with_all_that_was_in_it() {
    let Some(lab) = lab(options("nsdrift")) else { return };
    let overlay = lab.daemon("h1").unwrap().overlay();
    overlay.run(&["true"]).unwrap();
    weft_lab::run(std::process::Command::new("ip").args(["netns", "del", overlay.name()])).unwrap();
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    eventually("the name's return", Duration::from_secs(5), || {
        seen(overlay.exists(), "no overlay namespace")
    });
    eventually("an answer", Duration::from_secs(5), || ping(near, &far.ip().unwrap()));
}
