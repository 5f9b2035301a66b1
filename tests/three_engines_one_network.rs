//! Docker on one host, Podman on another, containerd on a third: one network, and everybody finds everybody by name.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use std::time::Duration;
use weft_e2e::{Pair, cni::plugins, eventually, has_network, only_on, options_with_etcd, seen, weft};
use weft_lab::{Containerd, EngineVersion, LabOptions, Podman, PodmanVersion, Tools, cannot_run};

const NET: &str = "blue";
const SOON: Duration = Duration::from_secs(15);

/// Serves a page that is its name. ctr, unlike other runtimes, leaves it to the image to name the server that CNI tells.
fn serve(name: &str) -> [String; 3] {
    let script = format!(
        "grep -q 127.0.0.11 /etc/resolv.conf 2>/dev/null || echo nameserver 127.0.0.11 >/etc/resolv.conf; \
         mkdir -p /tmp/{name} && echo {name} >/tmp/{name}/index.html && exec httpd -f -p 80 -h /tmp/{name}"
    );
    ["/bin/sh".to_owned(), "-c".to_owned(), script]
}

/// The three containers: how each runs a command, and what it is called on the network.
struct Three<'a> {
    pair: &'a Pair,
    podman: &'a Podman,
    containerd: &'a Containerd,
    names: [String; 3],
}

impl Three<'_> {
    fn fetch(&self, from: usize, name: &str) -> Result<(), String> {
        let url = format!("http://{name}");
        let argv = ["/bin/timeout", "3", "/bin/wget", "-qO-", &url];
        let page = match from {
            0 => self.pair.a().exec("dock", &argv),
            1 => self.podman.exec("pod", &argv),
            _ => self.containerd.exec("ctrd", &argv),
        };
        let page = page.map_err(|e| e.to_string())?;
        seen(name.ends_with(page.trim()) && !page.trim().is_empty(), page)
    }

    /// Every pair, both ways, by name.
    fn meet(&self, when: &str) {
        for from in 0..3 {
            for (to, name) in self.names.iter().enumerate().filter(|(to, _)| *to != from) {
                eventually(&format!("{when}: {to} for {from}"), SOON, || self.fetch(from, name));
            }
        }
    }
}

#[test]
fn containers_of_docker_podman_and_containerd_find_each_other_by_name() {
    if !only_on("ebpf") {
        return;
    }
    let tools = Tools::from_env();
    if let Err(missing) = tools.podman(PodmanVersion::V5_4).and_then(|_| tools.cni_plugins()) {
        return cannot_run("three engines", &missing);
    }
    let Some(options) = options_with_etcd("three") else { return };
    let Some(mut pair) = Pair::up_on(LabOptions { hosts: 3, ..options }, EngineVersion::V26_1, |_| {}) else {
        return;
    };
    pair.a().docker(&["network", "create", "-d", "weft", "--subnet", "10.9.0.0/24", NET]).unwrap();
    eventually("the network on the second host", SOON, || has_network(pair.b(), NET));

    let [dock, pod, ctrd] = ["dock", "pod", "ctrd"].map(serve);
    let argv = |argv: &[String; 3]| argv.clone().map(String::leak).map(|text| &*text);
    let net = format!("--network={NET}");
    let docker: Vec<&str> =
        ["run", "-d", "--name=dock", &net, "box"].into_iter().chain(argv(&dock)).collect();
    pair.a().docker(&docker).unwrap();

    let netavark = pair.dir().join("netavark");
    std::fs::create_dir(&netavark).unwrap();
    std::fs::copy(weft().with_file_name("weft-netavark"), netavark.join("weft")).unwrap();
    let socket = pair.daemons[1].socket();
    let podman = Podman::open(&tools, PodmanVersion::V5_4, &pair.hosts[1], &netavark, &socket).unwrap();
    podman.podman(&["network", "create", "-d", "weft", NET]).unwrap();
    podman.start(&["--name", "pod", "--network", NET], &argv(&pod)).unwrap();

    let list = json!({ "cniVersion": "1.0.0", "name": NET, "plugins": [
        { "type": "weft-cni", "socket": pair.daemons[2].socket() } ] });
    let host = pair.hosts[2].clone();
    let mut containerd = Containerd::start(&tools, &host, &[&plugins(&host.dir)], &list.to_string()).unwrap();
    containerd.run_detached("ctrd", &argv(&ctrd)).unwrap();
    let mut name = String::new();
    eventually("containerd's container on the network", SOON, || {
        let all = pair.weft_a().json(&["endpoint", "ls"]).unwrap();
        let found = all.as_array().unwrap().iter().find(|e| e["engine"] == "cni");
        found.and_then(|e| e["container"]["name"].as_str()).unwrap_or_default().clone_into(&mut name);
        seen(name.ends_with("ctrd"), all)
    });
    let names = ["dock".to_owned(), "pod".to_owned(), name];
    Three { pair: &pair, podman: &podman, containerd: &containerd, names: names.clone() }.meet("at first");

    // Each engine and each daemon goes and comes again.
    for host in ["h1", "h2", "h3"] {
        pair.daemon_mut(host).unwrap().kill().unwrap();
        pair.daemon_mut(host).unwrap().start().unwrap();
    }
    pair.engine_mut("h1").unwrap().kill().unwrap();
    pair.engine_mut("h1").unwrap().start().unwrap();
    eventually("Docker's container to start again", Duration::from_secs(30), || {
        pair.a().docker(&["start", "dock"]).map(drop).map_err(|e| e.to_string())
    });
    podman.podman(&["restart", "--time", "0", "pod"]).unwrap();
    containerd.kill_and_start().unwrap();
    Three { pair: &pair, podman: &podman, containerd: &containerd, names }.meet("after all have come again");

    pair.a().docker(&["rm", "-f", "dock"]).unwrap();
    podman.podman(&["rm", "--all", "--force", "--time", "0"]).unwrap();
    weft_lab::run(&mut containerd.ctr(&["task", "rm", "--force", "ctrd"])).unwrap();
    eventually("the last endpoint's end", SOON, || {
        let left = pair.weft_a().json(&["endpoint", "ls"]).unwrap();
        seen(left.as_array().unwrap().is_empty(), left)
    });
    pair.a().docker(&["network", "rm", NET]).unwrap();
    pair.assert_nothing_left();
}
