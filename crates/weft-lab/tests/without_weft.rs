//! The lab itself, with nothing of weft in it: the wire, etcd, Docker engines, and that nothing is left.
//! Needs root.

#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};
use weft_lab::{
    Capture, EngineOptions, EngineVersion, Etcd, Fixture, Lab, LabOptions, NGINX_PAGE, Tools, WireOptions,
    cannot_run, until,
};

fn options(name: &str) -> LabOptions {
    LabOptions { daemons: false, ..LabOptions::new(name, "/nowhere/weft") }
}

fn root_or_say_so(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        cannot_run(test, &"namespaces need root");
    }
    root
}

/// Everything on the machine that carries a lab's name.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |dir: &str| {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(name) {
                found.push(entry.path().display().to_string());
            }
        }
    };
    look("/run/netns");
    look(LabOptions::DEFAULT_DIR);
    look("/sys/fs/cgroup");
    look("/sys/fs/cgroup/pids");
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if command.contains(&format!("{}/{name}", LabOptions::DEFAULT_DIR)) {
            found.push(command.replace('\0', " "));
        }
    }
    found
}

#[test]
fn hosts_reach_each_other_over_a_wire_of_the_mtu_asked_for_and_then_are_gone() {
    if !root_or_say_so("wire") {
        return;
    }
    let wire = WireOptions { mtu: 9000, ..WireOptions::default() };
    let lab = Fixture::up(LabOptions { hosts: 3, wire, ..options("wire") }).unwrap();
    let name = lab.name().to_owned();
    let file = lab.dir().join("h3.pcap");
    let capture = Capture::start(&lab.hosts[2].namespace, "eth0", "icmp6 or icmp", &file).unwrap();
    lab.hosts[0].run(&["ping", "-c1", "-W2", "-Mdo", "-s8972", "10.77.0.3"]).unwrap();
    lab.hosts[1].run(&["ping", "-c1", "-W2", "fd77::3"]).unwrap();
    assert!(lab.hosts[0].run(&["ping", "-c1", "-W1", "-Mdo", "-s8973", "10.77.0.3"]).is_err());
    let large = |frames: &[weft_lab::Frame]| frames.iter().any(|f| f.bytes.len() == 9014);
    capture.wait_for("a frame of 9014 bytes", Duration::from_secs(3), large).unwrap();
    assert!(large(&capture.stop().unwrap()));
    assert!(!traces(&name).is_empty(), "the search for traces finds a lab that is up");
    drop(lab);
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn a_lab_that_fails_half_way_leaves_nothing() {
    if !root_or_say_so("half a lab") {
        return;
    }
    let options = LabOptions { daemons: true, ..LabOptions::new("half", "/nowhere/weft") };
    let error = Lab::up(options).unwrap_err().to_string();
    assert!(error.contains("/nowhere/weft"), "{error}");
    assert_eq!(traces("half"), Vec::<String>::new());
    assert!(Lab::load("half").is_err());
}

#[test]
fn a_lab_can_be_found_again_by_its_name_and_taken_down_twice() {
    if !root_or_say_so("lab by name") {
        return;
    }
    let up = Lab::up(options("again")).unwrap();
    assert!(Lab::up(options("again")).unwrap_err().to_string().contains("up already"));
    let mut found = Lab::load("again").unwrap();
    assert_eq!(found, up);
    assert!(Lab::list().unwrap().contains(&found));
    assert!(found.exec("h2", &["true".to_owned()]).unwrap().success());
    assert!(found.exec("h3", &["true".to_owned()]).unwrap_err().to_string().contains("has no \"h3\""));
    found.down().unwrap();
    found.down().unwrap();
    assert_eq!(traces("again"), Vec::<String>::new());
}

#[test]
fn etcd_serves_the_hosts_and_keeps_its_data_over_a_kill() {
    if !root_or_say_so("etcd") {
        return;
    }
    let tools = Tools::from_env();
    if let Err(missing) = tools.etcd().and_then(|_| tools.etcdctl()) {
        return cannot_run("etcd", &missing);
    }
    let lab = Fixture::up(options("etcd")).unwrap();
    let mut etcd = Etcd::start(&lab.wire, &tools, &lab.dir()).unwrap();
    etcd.ctl(&["put", "/weft/v1/a", "1"]).unwrap();
    etcd.kill().unwrap();
    assert!(etcd.keys("/weft/").is_err());
    etcd.start_again().unwrap();
    assert_eq!(etcd.keys("/weft/").unwrap(), ["/weft/v1/a"]);
    etcd.stop().unwrap();
}

fn engine_runs_and_leaves_nothing(version: EngineVersion, name: &str) {
    let tools = Tools::from_env();
    if !root_or_say_so(name) {
        return;
    }
    if let Err(missing) = tools.dockerd(version).and_then(|_| tools.nginx()) {
        return cannot_run(name, &missing);
    }
    let engine = Some(EngineOptions::new(&tools, version));
    let mut lab = Fixture::up(LabOptions { engine, ..options(name) }).unwrap();
    let name = lab.name().to_owned();
    for host in ["h1", "h2"] {
        let engine = lab.engine(host).unwrap();
        assert!(
            engine
                .docker(&["version", "--format", "{{.Server.Version}}"])
                .unwrap()
                .starts_with(&version.to_string())
        );
        assert_eq!(engine.docker(&["info", "--format", "{{.Name}}"]).unwrap(), format!("{name}-{host}"));
        engine.docker(&["run", "-d", "--name", "web", "nginx"]).unwrap();
        let web = engine.inspect("container", "web").unwrap();
        let ip = web.pointer("/NetworkSettings/IPAddress").and_then(|v| v.as_str()).unwrap().to_owned();
        until("nginx's page", Duration::from_secs(10), || {
            let page = engine.docker(&["run", "--rm", "box", "wget", "-qO-", &format!("http://{ip}")]);
            match page {
                Ok(page) if page == NGINX_PAGE.trim_end() => Ok(()),
                Ok(page) => Err(page),
                Err(error) => Err(error.to_string()),
            }
        })
        .unwrap();
    }
    // A kill leaves containers behind; the lab's end must find them without an engine's help.
    let engine = lab.engine_mut("h1").unwrap();
    engine.kill().unwrap();
    engine.start().unwrap();
    assert!(engine.docker(&["ps", "-aq"]).unwrap().len() >= 12);
    drop(lab);
    assert_eq!(traces(&name), Vec::<String>::new());
    assert!(!Path::new("/sys/fs/cgroup/memory").join(format!("weft-lab-{name}-h1")).exists());
}

#[test]
fn docker_20_10_runs_on_two_hosts_and_leaves_nothing() {
    engine_runs_and_leaves_nothing(EngineVersion::V20_10, "d20");
}

#[test]
fn docker_26_1_runs_on_two_hosts_and_leaves_nothing() {
    engine_runs_and_leaves_nothing(EngineVersion::V26_1, "d26");
}
