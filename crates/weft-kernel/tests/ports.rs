//! Veth pairs are made completely or not at all.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{can_run, one_network, ping_both_ways, run, two_hosts};
use weft_kernel::{Kernel, Linux, LinuxOptions, remove_everything, sandbox};
use weft_model::{Mtu, Vni};
use weft_plan::{HostState, Key, Object, Op, Port, PortFarEnd, model_kernel::as_observed};

fn port_of(state: &HostState) -> (Key, Port) {
    let mut ports = state.iter().filter_map(|(key, object)| match object {
        Object::Port(port) => Some((key.clone(), port.clone())),
        _ => None,
    });
    ports.next_back().unwrap()
}

#[tokio::test]
async fn an_interface_name_that_is_taken_leaves_nothing_behind() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let vni = Vni::new(4100).unwrap();
    let desired = a.desired(&b, vni);
    let without_port: HostState = desired
        .iter()
        .filter(|(key, _)| matches!(key, Key::Bridge(_)))
        .map(|(k, o)| (k.clone(), o.clone()))
        .collect();
    a.reconcile(&without_port).await;
    run(&format!("ip -n {} link add eth0 type bridge", a.container.netns.name));
    let (key, port) = port_of(&desired);
    let outcome = a.linux.apply(&[Op::Create(key.clone(), Object::Port(port.clone()))]).await;
    let error = outcome[0].clone().unwrap_err().to_string();
    let path = a.container.netns.path();
    let expected = format!("an interface named eth0 is already in namespace {}", path.display());
    assert!(error.contains(&a.container.port) && error.contains(&expected), "{error}");
    assert_eq!(a.observe().await, without_port);
    let free = sandbox::first_free_interface(&path, "eth").unwrap();
    assert_eq!(free, "eth1");
    assert_eq!(sandbox::interface_by_mac(&path, a.container.mac).unwrap(), None);
}

#[tokio::test]
async fn a_sandbox_that_is_not_there_leaves_nothing_behind() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let desired = a.desired(&b, Vni::new(4100).unwrap());
    let bridge = desired.iter().filter(|(key, _)| matches!(key, Key::Bridge(_)));
    let bridge: Vec<Op> = bridge.map(|(k, o)| Op::Create(k.clone(), o.clone())).collect();
    assert_eq!(a.linux.apply(&bridge).await, [Ok(())]);
    let (key, mut port) = port_of(&desired);
    for path in ["/run/netns/no-such-sandbox", "/etc/hostname"] {
        if let Some(PortFarEnd { sandbox: Some(sandbox), .. }) = port.far_end.as_deref_mut() {
            path.clone_into(&mut sandbox.path);
        }
        let outcome = a.linux.apply(&[Op::Create(key.clone(), Object::Port(port.clone()))]).await;
        let error = outcome[0].clone().unwrap_err().to_string();
        assert!(error.starts_with(&format!("network namespace {path}: ")), "{error}");
    }
    // An address that the sandbox's kernel refuses: the pair was made already, and goes again.
    let (_, mut port) = port_of(&desired);
    if let Some(PortFarEnd { sandbox: Some(sandbox), .. }) = port.far_end.as_deref_mut() {
        sandbox.addresses.push("ff02::1/64".parse().unwrap());
    }
    let outcome = a.linux.apply(&[Op::Create(key, Object::Port(port))]).await;
    let error = outcome[0].clone().unwrap_err().to_string();
    assert!(error.contains("give ff02::1/64 to eth0"), "{error}");
    assert_eq!(a.observe().await.len(), 1, "only the bridge");
    let left = run(&format!("ip -n {} -o link", a.container.netns.name));
    assert!(!left.contains("eth0"), "{left}");
}

#[tokio::test]
async fn a_far_end_waits_in_the_hosts_namespace_for_an_engine() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let mut desired = a.desired(&b, Vni::new(4100).unwrap());
    let (key, mut port) = port_of(&desired);
    let far_end = PortFarEnd { sandbox: None, ..*port.far_end.clone().unwrap() };
    let name = far_end.name.clone();
    port.far_end = Some(Box::new(far_end));
    desired.insert(key.clone(), Object::Port(port.clone()));
    a.reconcile(&desired).await;
    let exists = || a.netns.namespace.run(|| sandbox::far_end_exists_in_host(&name)).unwrap().unwrap();
    assert!(exists());
    let link = run(&format!("ip -n {} -o link show {name}", a.netns.name));
    assert!(link.contains("mtu 1450") && link.contains(&a.container.mac.to_string()), "{link}");
    assert_eq!(a.linux.apply(&[Op::Remove(key.clone())]).await, [Ok(())]);
    assert!(!exists());
    // Somebody else's device of that name is not touched.
    run(&format!("ip -n {} link add {name} type bridge", a.netns.name));
    let outcome = a.linux.apply(&[Op::Create(key, Object::Port(port))]).await;
    let error = outcome[0].clone().unwrap_err().to_string();
    assert!(error.contains(&format!("{name} is already in the host's namespace")), "{error}");
    assert!(exists());
}

#[tokio::test]
async fn a_port_changes_in_place() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let (key, port) = port_of(&a.desired(&b, vni));
    let index = || a.ip(&format!("-o link show {}", a.container.port)).split(':').next().unwrap().to_owned();
    let before = index();
    let smaller = Port { mtu: Mtu::new(1400).unwrap(), far_end: None, ..port.clone() };
    for to in [smaller, port] {
        let expected = as_observed(&Object::Port(to.clone()));
        let from = a.observe().await[&key].clone();
        let change = Op::Change { key: key.clone(), from, to: Object::Port(to) };
        assert_eq!(a.linux.apply(&[change]).await, [Ok(())]);
        assert_eq!(a.observe().await[&key], expected);
    }
    assert_eq!(index(), before);
    let inside = sandbox::interface_by_mac(a.container.netns.path(), a.container.mac);
    assert_eq!(inside, Ok(Some("eth0".to_owned())));
    ping_both_ways(&a, &b);
}

#[tokio::test]
async fn a_pair_without_a_known_far_end_is_not_made() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let (_, port) = port_of(&a.desired(&b, vni));
    let key = Key::Port(vni, "weft-ffffffffff".to_owned());
    let outcome = a.linux.apply(&[Op::Create(key, Object::Port(Port { far_end: None, ..port }))]).await;
    let error = outcome[0].clone().unwrap_err().to_string();
    assert!(error.contains("weft-ffffffffff") && error.contains("not known"), "{error}");
}

#[tokio::test]
async fn down_leaves_nothing_and_can_be_repeated() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let name = a.netns.name.clone();
    // What an engine never took, its other end lost with an older overlay namespace.
    run(&format!("ip -n {name} link add weftc0123456789 type veth peer name other"));
    run(&format!("ip -n {name} link add weftcable type bridge"));
    assert!(!a.desired(&b, vni).is_empty());
    let host = &a.netns.namespace;
    for _ in 0..2 {
        let down = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(remove_everything(&a.overlay.0))
        };
        assert_eq!(host.run(down).unwrap(), Ok(()));
        let left = run(&format!("ip -n {name} -o link"));
        assert!(!left.contains("weftc0123456789") && left.contains("weftcable"), "{left}");
        assert!(left.contains("u0@"), "{left}");
        assert!(!std::path::Path::new("/run/netns").join(&a.overlay.0).exists());
        let container = run(&format!("ip -n {} -o link", a.container.netns.name));
        assert!(!container.contains("eth0"), "{container}");
    }
    // And it can come up again at once: the VNI is free.
    let options = LinuxOptions { overlay_netns: a.overlay.0.clone() };
    let linux = host.run(|| Linux::new(&options)).unwrap().unwrap();
    let vxlan = a.desired(&b, vni).into_iter();
    let vxlan = vxlan.filter(|(key, _)| matches!(key, Key::Bridge(_) | Key::Vxlan(_)));
    let vxlan = vxlan.map(|(key, object)| Op::Create(key, object));
    assert_eq!(linux.apply(&vxlan.collect::<Vec<_>>()).await, [Ok(()), Ok(())]);
}

#[tokio::test]
async fn a_pair_that_was_left_half_made_is_made_again_with_its_address() {
    if !can_run("ip") {
        return;
    }
    let (a, b) = two_hosts(false);
    let vni = Vni::new(4100).unwrap();
    let desired = a.desired(&b, vni);
    // What a daemon leaves that is killed as soon as the kernel has made the pair.
    let (overlay, container) = (&a.overlay.0, &a.container);
    run(&format!(
        "ip -n {overlay} link add {} group {vni} type veth peer name eth0 address {} netns {}",
        container.port, container.mac, container.netns.name
    ));
    a.reconcile(&desired).await;
    let addresses = run(&format!("ip -n {} -o -4 addr show eth0", container.netns.name));
    assert!(addresses.contains("inet "), "{addresses}");
    let pair = || run(&format!("ip -n {overlay} -o link show {}", container.port));
    let made = pair();
    a.reconcile(&desired).await;
    assert_eq!(pair(), made, "a pair that is finished stays");
}
