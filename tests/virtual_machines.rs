//! A virtual machine is on a network by a tap device of its host's.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::time::Duration;
use weft_e2e::{datapath, devices, drift_repaired, eventually, lab, options, ping, ping_df, refusal, seen};
use weft_lab::{Fixture, NetNs, Tools, VirtualInterface, VirtualMachine, cannot_run, figures};

/// The number that a device of the host's has.
fn number(host: &NetNs, device: &str) -> Value {
    host.ip_json(&["link", "show", device]).unwrap()[0]["ifindex"].clone()
}

/// Whether frames that come in at a device are sent to another.
fn is_redirected(host: &NetNs, device: &str) -> Result<(), String> {
    let filters = host.run(&["tc", "filter", "show", "dev", device, "ingress"]).map_err(|e| e.to_string())?;
    seen(filters.contains("mirred (Egress Redirect"), filters)
}

fn attach(lab: &Fixture, more: &[&str]) -> Value {
    let arguments = [&["attach", "lab", "--tap", "vm0"], more].concat();
    lab.daemon("h1").unwrap().json(&arguments).unwrap()
}

#[test]
fn a_virtual_machine_reaches_containers_and_is_reached_also_while_no_daemon_runs() {
    let tools = Tools::from_env();
    if let Err(missing) = VirtualMachine::can_run(&tools) {
        return cannot_run("vm", &missing);
    }
    let Some(mut lab) = lab(options("vm")) else { return };
    let endpoint = attach(&lab, &["--ip", "10.0.0.100", "--name", "machine"]);
    assert_eq!(endpoint["container"]["name"], "machine");
    let mac = endpoint["mac"].as_str().unwrap().to_owned();
    let host = lab.hosts[0].namespace.clone();
    let tap = host.ip_json(&["link", "show", "vm0"]).unwrap();
    assert_eq!(tap[0]["mtu"], 1450, "{tap}");
    let interface = VirtualInterface { tap: "vm0", mac: &mac, address: "10.0.0.100/24", mtu: 1450 };
    // It boots when a container on the other host answers it.
    let machine = VirtualMachine::boot(&tools, &lab.hosts[0], interface, "10.0.0.3").unwrap();
    let (near, far) = (lab.container("h1/c1").unwrap().clone(), lab.container("h2/c1").unwrap().clone());
    for from in [&near, &far] {
        ping(from, "10.0.0.100").unwrap();
        ping_df(&from.namespace, "10.0.0.100", 1422).unwrap();
        assert!(ping_df(&from.namespace, "10.0.0.100", 1423).is_err());
        assert_eq!(
            from.run(&["busybox", "wget", "-qO-", "http://10.0.0.100/"]).unwrap(),
            VirtualMachine::PAGE
        );
    }

    let before = number(&host, "vm0");
    lab.daemon_mut("h1").unwrap().kill().unwrap();
    ping(&far, "10.0.0.100").unwrap();
    lab.daemon_mut("h1").unwrap().start().unwrap();
    lab.save().unwrap();
    ping(&far, "10.0.0.100").unwrap();
    let h1 = lab.daemon("h1").unwrap();
    assert_eq!((number(&host, "vm0"), drift_repaired(h1)), (before.clone(), 0));

    // What somebody takes from it comes again, and the machine keeps the very device that it has open.
    host.run(&["tc", "qdisc", "del", "dev", "vm0", "clsact"]).unwrap();
    assert!(ping(&far, "10.0.0.100").is_err());
    let took = eventually("the machine's answer", Duration::from_secs(20), || ping(&far, "10.0.0.100"));
    assert_eq!(number(&host, "vm0"), before);
    assert!(drift_repaired(h1) > 0 && machine.is_alive());
    figures(
        &format!("a virtual machine's filters removed, {}", datapath(h1)),
        &format!("it answers again after {} ms", took.as_millis()),
    );

    machine.power_off().unwrap();
    h1.weft(&["detach", "lab", "--tap", "vm0"]).unwrap();
    assert_eq!(devices(&host), devices(&lab.hosts[1].namespace));
}

#[test]
fn a_tap_device_that_was_there_before_stays_and_one_that_is_deleted_comes_again() {
    let Some(lab) = lab(options("tap")) else { return };
    let h1 = lab.daemon("h1").unwrap();
    let host = &lab.hosts[0].namespace;
    let before = devices(host);
    host.ip(&["tuntap", "add", "dev", "vm0", "mode", "tap"]).unwrap();
    host.ip(&["link", "set", "dev", "vm0", "alias", "somebody's"]).unwrap();
    attach(&lab, &[]);
    is_redirected(host, "vm0").unwrap();
    let told = refusal(&h1.output(&["attach", "lab", "--tap", "vm0"]).unwrap(), 4);
    assert!(told.contains("tap device vm0 is on network \"lab\" already"), "{told}");
    h1.weft(&["detach", "lab", "--tap", "vm0"]).unwrap();
    assert_eq!(devices(host).len(), before.len() + 1);
    assert!(is_redirected(host, "vm0").is_err());
    assert_eq!(host.ip_json(&["link", "show", "vm0"]).unwrap()[0]["ifalias"], "somebody's");
    host.ip(&["link", "del", "vm0"]).unwrap();

    attach(&lab, &["--tap-user", "nobody"]);
    assert_eq!(
        host.ip_json(&["-d", "link", "show", "vm0"]).unwrap()[0]["linkinfo"]["info_data"]["user"],
        "nobody"
    );
    host.ip(&["link", "del", "vm0"]).unwrap();
    eventually("the tap device", Duration::from_secs(20), || is_redirected(host, "vm0"));
    // Also what is deleted at its other side.
    let far_end = devices(host).into_iter().find(|name| name.starts_with("weftc")).unwrap();
    host.ip(&["link", "del", &far_end]).unwrap();
    eventually("both", Duration::from_secs(20), || {
        is_redirected(host, "vm0").and_then(|()| is_redirected(host, &far_end))
    });
    h1.weft(&["detach", "lab", "--tap", "vm0"]).unwrap();
    assert_eq!(devices(host), before);
}

#[test]
fn a_tap_device_whose_port_was_removed_while_no_daemon_ran_is_joined_again() {
    let Some(mut lab) = lab(options("taporphan")) else { return };
    let host = lab.hosts[0].namespace.clone();
    let before = devices(&host);
    let endpoint = attach(&lab, &[]);
    lab.daemon_mut("h1").unwrap().kill().unwrap();
    let id = endpoint["id"].as_str().unwrap();
    lab.daemon("h1").unwrap().overlay().ip(&["link", "del", &format!("weft-{}", &id[..10])]).unwrap();
    assert!(devices(&host).contains(&"vm0".to_owned()));
    lab.daemon_mut("h1").unwrap().start().unwrap();
    lab.save().unwrap();
    let h1 = lab.daemon("h1").unwrap();
    // The endpoint is there still: the same tap is joined again.
    eventually("the tap device", Duration::from_secs(20), || is_redirected(&host, "vm0"));
    h1.weft(&["detach", "lab", "--tap", "vm0"]).unwrap();
    assert_eq!(devices(&host), before);
}

#[test]
fn what_is_no_tap_device_is_refused_and_nothing_is_left() {
    let Some(lab) = lab(options("notap")) else { return };
    let h1 = lab.daemon("h1").unwrap();
    let host = &lab.hosts[0].namespace;
    let before = devices(host);
    let told = refusal(&h1.output(&["attach", "lab", "--tap", "eth0"]).unwrap(), 1);
    assert!(told.contains("join tap device eth0") && told.contains("not a tap device"), "{told}");
    let told = refusal(&h1.output(&["attach", "lab", "--tap", "a-name-that-is-too-long"]).unwrap(), 5);
    assert!(told.contains("cannot be the name of a tap device"), "{told}");
    assert_eq!(devices(host), before);
    assert_eq!(h1.json(&["endpoint", "ls"]).unwrap().as_array().unwrap().len(), 2);
}
