//! What is on a network without an engine: the host itself, and commands that `weft run` starts.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::{fs, path::PathBuf, process::Command, time::Duration};
use weft_e2e::{
    devices, drift_repaired, eventually, kernel_picture, lab, options, options_with_etcd, ping, records,
    refusal, seen, weft_devices,
};
use weft_lab::{Daemon, Fixture, Process};

/// Asks the container on the other host for an answer.
const PING: [&str; 7] = ["ping", "-n", "-c", "1", "-W", "2", "10.0.0.3"];

/// A command that `weft run` has started on a host, and that writes its pid into a file; both are gone at the end.
struct Service {
    weft: Process,
    command: Process,
}

impl Service {
    /// Starts `weft run FLAGS -- sh -c SCRIPT` on h1 and returns when the script has begun. It must not fork.
    fn start(lab: &Fixture, flags: &[&str], script: &str) -> Self {
        let daemon = lab.daemon("h1").unwrap();
        let file: PathBuf = lab.dir().join("service.pid");
        let _none = fs::remove_file(&file);
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; {script}", file.display());
        let arguments = [&["run"], flags, &["--", "sh", "-c", &script]].concat();
        let log = lab.dir().join("service.log");
        let weft = Process::spawn("weft run", &mut daemon.command(&arguments), &log).unwrap();
        let mut pid = 0;
        eventually("the command's start", Duration::from_secs(20), || {
            pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            seen(pid > 0, weft.log_tail(5))
        });
        Self { command: Process::of_pid("the command", pid).unwrap(), weft }
    }

    /// Runs `argv` in the command's network namespace.
    fn run(&self, argv: &[&str]) -> String {
        weft_lab::run(&mut self.inside(argv)).unwrap()
    }

    /// The same, whatever comes of it.
    fn try_to(&self, argv: &[&str]) -> Result<(), String> {
        weft_lab::run(&mut self.inside(argv)).map(drop).map_err(|e| e.to_string())
    }

    fn inside(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.command.pid)).arg("--").args(argv);
        command
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for process in [&self.weft, &self.command] {
            if let Err(error) = process.kill() {
                eprintln!("{error}");
            }
        }
    }
}

fn names(daemon: &Daemon) -> Vec<String> {
    let endpoints = daemon.json(&["endpoint", "ls"]).unwrap();
    let name = |e: &serde_json::Value| e["container"]["name"].as_str().unwrap_or_default().to_owned();
    endpoints.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn the_host_joins_a_network_and_stays_on_it_when_the_daemon_is_started_again() {
    let Some(mut lab) = lab(options("expose")) else { return };
    let before = devices(&lab.hosts[0].namespace);
    let h1 = lab.daemon("h1").unwrap();
    h1.weft(&["expose", "lab", "--ip", "10.0.0.100", "--alias", "gateway"]).unwrap();
    let host = lab.hosts[0].namespace.clone();
    host.run(&["ping", "-n", "-c", "1", "-W", "2", "10.0.0.3"]).unwrap();
    ping(lab.container("h2/c1").unwrap(), "10.0.0.100").unwrap();
    ping(lab.container("h1/c1").unwrap(), "10.0.0.100").unwrap();
    let routes = host.ip_json(&["route"]).unwrap();
    let via: Vec<_> = routes.as_array().unwrap().iter().filter(|r| r["dev"] == "weft0").collect();
    assert_eq!(via.len(), 1, "{routes}");
    assert_eq!(via[0]["dst"], "10.0.0.0/24");
    assert_eq!(host.ip_json(&["link", "show", "weft0"]).unwrap()[0]["mtu"], 1450);
    assert!(names(h1).contains(&"h1".to_owned()));
    let told = refusal(&h1.output(&["expose", "lab"]).unwrap(), 4);
    assert!(told.contains("this host is on network \"lab\" already, as weft0"), "{told}");

    let picture = kernel_picture(h1, true);
    let daemon = lab.daemon_mut("h1").unwrap();
    daemon.kill().unwrap();
    daemon.start().unwrap();
    let h1 = lab.daemon("h1").unwrap();
    ping(lab.container("h2/c1").unwrap(), "10.0.0.100").unwrap();
    assert_eq!((kernel_picture(h1, true), drift_repaired(h1)), (picture, 0));

    h1.weft(&["unexpose", "lab"]).unwrap();
    assert_eq!(devices(&host), before);
    let told = refusal(&h1.output(&["unexpose", "lab"]).unwrap(), 3);
    assert!(told.contains("this host has no endpoint on network \"lab\""), "{told}");
    lab.save().unwrap();
}

#[test]
fn a_host_that_has_a_route_to_the_same_addresses_is_told_and_left_alone() {
    let Some(lab) = lab(options("routed")) else { return };
    let host = lab.hosts[0].namespace.clone();
    host.ip(&["route", "add", "10.0.0.64/26", "dev", "eth0"]).unwrap();
    let told = refusal(&lab.daemon("h1").unwrap().output(&["expose", "lab"]).unwrap(), 4);
    assert!(told.contains("overlaps this host's route 10.0.0.64/26 dev eth0"), "{told}");
    assert!(!devices(&host).contains(&"weft0".to_owned()));
    lab.daemon("h2").unwrap().weft(&["expose", "lab"]).unwrap();
}

#[test]
fn down_takes_the_host_off_its_networks_and_removes_the_tap_devices() {
    let Some(lab) = lab(options_with_etcd("nedown").unwrap_or_else(|| options("nedown"))) else { return };
    let h1 = lab.daemon("h1").unwrap();
    let host = &lab.hosts[0].namespace;
    host.ip(&["tuntap", "add", "dev", "vm1", "mode", "tap"]).unwrap();
    h1.weft(&["expose", "lab"]).unwrap();
    h1.weft(&["attach", "lab", "--tap", "vm0"]).unwrap();
    h1.weft(&["attach", "lab", "--tap", "vm1"]).unwrap();
    h1.weft(&["down"]).ok();
    eventually("the daemon's end", Duration::from_secs(10), || seen(!h1.is_alive(), h1.log_tail()));
    // The one that was there before stays, and nothing of weft's is at it.
    assert_eq!(devices(host), ["eth0", "lo", "vm1"]);
    let filters = host.run(&["tc", "qdisc", "show", "dev", "vm1"]).unwrap();
    assert!(!filters.contains("clsact"), "{filters}");
}

#[test]
fn a_command_is_on_its_network_and_weft_run_ends_as_it_does() {
    let Some(options) = options_with_etcd("run") else { return };
    let Some(lab) = lab(options) else { return };
    let h1 = lab.daemon("h1").unwrap();
    let before = (records(lab.etcd.as_ref().unwrap()), kernel_picture(h1, false));
    let script = "ping -n -c 1 -W 2 10.0.0.3 && cat /etc/resolv.conf && ip -o link && exit 42";
    let output = h1.output(&["run", "--net", "lab", "--ip", "10.0.0.100", "--", "sh", "-c", script]).unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(42), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("1 received") && told.contains("nameserver 127.0.0.11"), "{told}");
    assert!(told.contains(": lo: <LOOPBACK,UP,LOWER_UP>") && told.contains(": eth0@"), "{told}");
    // Nothing is left when it has ended, so the address can be asked for again at once.
    let after = (records(lab.etcd.as_ref().unwrap()), kernel_picture(h1, false));
    assert_eq!(after, before);
    let arguments = ["run", "--net", "lab", "--ip", "10.0.0.100", "--", "no-such-command"];
    let told = refusal(&h1.output(&arguments).unwrap(), 127);
    assert!(told.contains("cannot run no-such-command"), "{told}");
    let told = refusal(&h1.output(&["run", "--net", "none", "--", "true"]).unwrap(), 3);
    assert!(told.contains("there is no network \"none\""), "{told}");
    assert_eq!(records(lab.etcd.as_ref().unwrap()), before.0);
    assert!(!fs::read_to_string("/etc/resolv.conf").unwrap_or_default().contains("127.0.0.11"));
}

#[test]
fn a_signal_to_weft_run_reaches_the_command_and_what_ends_it_ends_both() {
    let Some(lab) = lab(options("runsig")) else { return };
    let h1 = lab.daemon("h1").unwrap();
    let script = "trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let service = Service::start(&lab, &["--net", "lab", "--name", "web", "--alias", "www"], script);
    assert!(names(h1).contains(&"web".to_owned()));
    // Another one finds it by its name, and by what else it is called.
    let look = ["run", "--net", "lab", "--", "busybox", "nslookup"];
    for name in ["web", "www.lab.weft"] {
        let told = h1.weft(&[&look[..], &[name]].concat()).unwrap();
        assert!(told.contains("10.0.0.4"), "{told}");
    }
    service.weft.signal(Signal::SIGTERM).unwrap();
    service.weft.wait(Duration::from_secs(10)).unwrap();
    assert!(!service.command.is_alive());
    assert!(!names(h1).contains(&"web".to_owned()));
    // One that does not catch it ends by it, and `weft run` does as well: 128 and its number, as shells tell.
    let script = "kill -TERM $$";
    let output = h1.output(&["run", "--net", "lab", "--", "sh", "-c", script]).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(15), "{output:?}");
}

#[test]
fn a_command_keeps_its_network_over_a_start_of_the_daemon_and_the_end_of_weft_run() {
    let Some(mut lab) = lab(options("runkill")) else { return };
    let service = Service::start(&lab, &["--net", "lab", "--name", "web"], "exec sleep 600");
    let before = service.run(&["ip", "-o", "link", "show", "eth0"]);
    let daemon = lab.daemon_mut("h1").unwrap();
    daemon.kill().unwrap();
    daemon.start().unwrap();
    lab.save().unwrap();
    service.run(&PING);
    // When somebody removes its port, it comes again in this very namespace.
    let h1 = lab.daemon("h1").unwrap();
    let ports = weft_devices(&h1.overlay()).into_iter();
    let ports: Vec<_> =
        ports.filter(|name| !name.starts_with("weft-br") && !name.starts_with("weft-vx")).collect();
    for port in &ports {
        h1.overlay().ip(&["link", "del", port]).unwrap();
    }
    eventually("the interface", Duration::from_secs(10), || {
        let links = service.run(&["ip", "-o", "link"]);
        seen(links.contains(": eth0@") && !links.contains(before.trim()), links)
    });
    // The interface is there before the last entry that leads to it.
    eventually("an answer", Duration::from_secs(10), || service.try_to(&PING));

    service.weft.kill().unwrap();
    assert!(service.command.is_alive());
    service.run(&PING);
    service.command.kill().unwrap();
    eventually("the endpoint's end", Duration::from_secs(30), || {
        let names = names(h1);
        seen(!names.contains(&"web".to_owned()), names)
    });
}

#[test]
fn the_hosts_own_namespace_is_exposed_and_not_attached() {
    let Some(lab) = lab(options("own")) else { return };
    let h1 = lab.daemon("h1").unwrap();
    let own = lab.hosts[0].namespace.path().display().to_string();
    let told = refusal(&h1.output(&["attach", "lab", "--netns", &own]).unwrap(), 5);
    assert!(told.contains("`weft expose lab` puts the host on a network"), "{told}");
}
