//! A port's far end is joined with a tap device, and let go without a trace.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Host, can_run, run, two_hosts};
use std::path::Path;
use weft_kernel::sandbox;
use weft_model::Vni;
use weft_plan::{HostState, Key, Object, Op, Port, diff};

/// What a host should have with a tap in the place of its container.
fn with_tap(a: &Host, b: &Host, tap: &str) -> HostState {
    let mut desired = a.desired(b, Vni::new(4100).unwrap());
    for object in desired.values_mut() {
        if let Object::Port(Port { tap: joined, far_end: Some(far_end), .. }) = object {
            *joined = Some(tap.to_owned());
            far_end.sandbox = None;
        }
    }
    desired
}

fn port_key(state: &HostState) -> Key {
    state.keys().find(|key| matches!(key, Key::Port(..))).unwrap().clone()
}

async fn reconcile(host: &Host, desired: &HostState) {
    let ops = diff(desired, &host.linux.observe().await.unwrap());
    for outcome in host.linux.apply(&ops).await {
        outcome.unwrap();
    }
    assert_eq!(diff(desired, &host.linux.observe().await.unwrap()), []);
}

fn devices(host: &Host) -> String {
    run(&format!("ip -n {} -br link", host.netns.name))
}

#[tokio::test]
async fn a_tap_is_made_joined_repaired_and_removed() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let before = devices(&a);
    let desired = with_tap(&a, &b, "vm0");
    reconcile(&a, &desired).await;
    let host = &a.netns.name;
    let told = run(&format!("ip -n {host} -d link show vm0"));
    assert!(
        told.contains("persist on") && told.contains("vnet_hdr on") && told.contains("mtu 1450"),
        "{told}"
    );

    for disturbance in ["link del vm0", "link set vm0 down", "link set vm0 mtu 1300"] {
        run(&format!("ip -n {host} {disturbance}"));
        let ops = diff(&desired, &a.linux.observe().await.unwrap());
        assert!(matches!(&ops[..], [Op::Change { key: Key::Port(..), .. }]), "{disturbance}: {ops:?}");
        reconcile(&a, &desired).await;
    }

    let ops: Vec<Op> = desired.keys().rev().map(|key| Op::Remove(key.clone())).collect();
    for outcome in a.linux.apply(&ops).await {
        outcome.unwrap();
    }
    assert_eq!(devices(&a), before);
}

#[tokio::test]
async fn a_tap_whose_port_is_gone_is_told_as_a_port_that_is_down_and_goes_with_it() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let before = devices(&a);
    let desired = with_tap(&a, &b, "vm0");
    reconcile(&a, &desired).await;
    let key = port_key(&desired);
    run(&format!("ip -n {} link del {}", a.overlay.0, a.container.port));
    let seen = a.linux.observe().await.unwrap();
    assert!(matches!(&seen[&key], Object::Port(Port { up: false, .. })), "{:?}", seen[&key]);
    assert_eq!(a.linux.apply(&[Op::Remove(key.clone())]).await, [Ok(())]);
    assert!(!a.linux.observe().await.unwrap().contains_key(&key));
    assert_eq!(devices(&a), before);
}

#[tokio::test]
async fn a_process_that_has_an_ended_ones_pid_does_not_get_its_interface() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let mut desired = a.desired(&b, Vni::new(4100).unwrap());
    let key = port_key(&desired);
    let Some(Object::Port(Port { far_end: Some(far_end), .. })) = desired.get_mut(&key) else { panic!() };
    far_end.sandbox.as_mut().unwrap().inode = Some(1);
    let bridge = desired.iter().filter(|(key, _)| matches!(key, Key::Bridge(_)));
    let bridge = bridge.map(|(key, object)| Op::Create(key.clone(), object.clone()));
    let ops: Vec<Op> = bridge.chain([Op::Create(key.clone(), desired[&key].clone())]).collect();
    let error = a.linux.apply(&ops).await[1].clone().unwrap_err().to_string();
    assert!(error.contains("another namespace by now"), "{error}");
    let path: &Path = &a.container.netns.path();
    assert_eq!(sandbox::first_free_interface(path, "eth").unwrap(), "eth0");
}
