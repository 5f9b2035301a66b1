//! Networks that real engines have defined are imported as they were, once.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{fs, time::Duration};
use weft_e2e::{
    Pair, eventually, has_network, in_container, lab, only_on, options_with_etcd, refusal, seen, weft_output,
};
use weft_lab::{Daemon, EngineVersion, Image, Wire};

/// Networks as people make them with Docker's own overlay.
const NETWORKS: [&[&str]; 3] = [
    &["--subnet", "10.50.0.0/24", "--label", "team=a", "plain"],
    &[
        "--subnet",
        "10.51.0.0/24",
        "--gateway",
        "10.51.0.254",
        "--ip-range",
        "10.51.0.128/25",
        "--internal",
        "--opt",
        "com.docker.network.driver.mtu=1400",
        "--opt",
        "com.docker.network.driver.overlay.vxlanid_list=5000",
        "full",
    ],
    &["--subnet", "10.52.0.0/24", "--opt", "encrypted", "secret"],
];

fn network(daemon: &Daemon, name: &str) -> Value {
    let found: Value = serde_json::from_str(&daemon.weft(&["network", "inspect", name]).unwrap()).unwrap();
    found[0].clone()
}

/// Imports what `arguments` name: first told, then made, then found to be there, at last found to be another.
fn is_imported_once(daemon: &Daemon, arguments: &[&str]) {
    let import = |more: &[&str]| daemon.weft(&[&["import"], arguments, more].concat()).unwrap();
    let told = import(&[]);
    let full = "weft network create --subnet 10.51.0.0/24 --gateway 10.51.0.254 --ip-range 10.51.0.128/25 --mtu 1350 \
                --vni 5000 --internal full";
    assert!(told.lines().any(|line| line == full), "{told}");
    assert!(told.contains("# secret: left out: its frames are encrypted"), "{told}");
    assert_eq!(daemon.json(&["network", "ls"]).unwrap().as_array().unwrap().len(), 0);

    let told = import(&["--apply"]);
    assert!(told.contains("full: made, ") && told.contains("plain: made, "), "{told}");
    let made = network(daemon, "full");
    assert_eq!(
        (&made["vni"], &made["mtu"], &made["internal"]),
        (&5000.into(), &1350.into(), &true.into()),
        "{made}"
    );
    assert_eq!(made["subnets"][0]["gateway"], "10.51.0.254", "{made}");
    assert_eq!(network(daemon, "plain")["labels"]["team"], "a");

    let told = import(&["--apply"]);
    assert!(
        told.contains("full: it is there already") && told.contains("plain: it is there already"),
        "{told}"
    );
    assert_eq!(network(daemon, "full")["id"], made["id"]);

    daemon.weft(&["network", "rm", "full"]).unwrap();
    daemon.weft(&["network", "create", "--subnet", "10.51.0.0/24", "full"]).unwrap();
    let output = daemon.output(&[&["import"], arguments, &["--apply"]].concat()).unwrap();
    let told = refusal(&output, 4);
    assert!(
        told.contains("the cluster has another network of that name") && told.contains("MTU: 1350 proposed"),
        "{told}"
    );
}

#[test]
fn networks_of_dockers_cluster_store_are_imported_once() {
    if !only_on("kernel") {
        return;
    }
    let store = format!("etcd://{}:2379", Wire::SWITCH_V4);
    let arguments = [format!("--cluster-store={store}"), "--cluster-advertise=eth0:2376".to_owned()];
    let Some(pair) =
        Pair::up_with("classic", EngineVersion::V20_10, |engine| engine.arguments.extend(arguments))
    else {
        return;
    };
    for network in NETWORKS {
        pair.a().docker(&[&["network", "create", "--driver", "overlay"], network].concat()).unwrap();
    }
    // What its containers have is what the imported network gives.
    let image = Image::Box.name();
    pair.a()
        .docker(&["run", "--detach", "--name", "c1", "--net", "full", image, "sleep", "1000000"])
        .unwrap();
    let told = in_container(pair.a(), "c1", &["ip", "-o", "link", "show", "eth0"]).unwrap();
    assert!(told.contains("mtu 1350"), "{told}");
    pair.a().docker(&["rm", "--force", "c1"]).unwrap();
    is_imported_once(pair.weft_a(), &["docker-classic", "--etcd", &store]);
    let told = refusal(
        &pair.weft_a().output(&["import", "docker-classic", "--etcd", &format!("{store}/x")]).unwrap(),
        5,
    );
    assert!(told.contains("is this the URL of Docker's --cluster-store?"), "{told}");
    // Once Docker's own network is gone, its engines get the imported one by the same name.
    pair.a().docker(&["network", "rm", "plain"]).unwrap();
    for engine in [pair.a(), pair.b()] {
        eventually("weft's network in Docker", Duration::from_secs(40), || {
            has_network(engine, "plain")?;
            let driver = engine.inspect("network", "plain").map_err(|e| e.to_string())?["Driver"].clone();
            seen(driver == "weft", driver)
        });
    }
}

#[test]
fn networks_of_a_swarm_are_imported_once() {
    if !only_on("kernel") {
        return;
    }
    let Some(pair) = Pair::up("swarm", EngineVersion::V26_1) else { return };
    pair.a().docker(&["swarm", "init", "--advertise-addr", "10.77.0.1"]).unwrap();
    for network in NETWORKS {
        pair.a()
            .docker(&[&["network", "create", "--driver", "overlay", "--attachable"], network].concat())
            .unwrap();
    }
    let ids = pair.a().docker(&["network", "ls", "--quiet"]).unwrap();
    let inspect: Vec<&str> = ["network", "inspect"].into_iter().chain(ids.split_whitespace()).collect();
    let file = pair.dir().join("swarm.json");
    fs::write(&file, pair.a().docker(&inspect).unwrap()).unwrap();
    is_imported_once(pair.weft_a(), &["swarm", &file.display().to_string()]);
}

#[test]
fn flannels_network_is_imported_from_etcd_and_from_its_file() {
    if !only_on("kernel") {
        return;
    }
    let Some(options) = options_with_etcd("flannel") else { return };
    let Some(lab) = lab(options) else { return };
    let config = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1}}"#;
    let etcd = lab.etcd.as_ref().unwrap();
    let h1 = lab.daemon("h1").unwrap();
    let told = refusal(&h1.output(&["import", "flannel", "--etcd", &etcd.url()]).unwrap(), 3);
    assert!(told.contains("etcd has no key /coreos.com/network/config"), "{told}");
    etcd.ctl(&["put", "/coreos.com/network/config", config]).unwrap();
    let told = h1.weft(&["import", "flannel", "--etcd", &etcd.url(), "--name", "pods"]).unwrap();
    assert!(
        told.contains("# pods: VNI 1 is not kept, weft chooses one: this cluster uses 4096-16777215"),
        "{told}"
    );
    assert!(told.lines().any(|line| line == "weft network create --subnet 10.244.0.0/16 pods"), "{told}");
    let file = lab.dir().join("net-conf.json");
    fs::write(&file, config).unwrap();
    let file = file.display().to_string();
    assert_eq!(h1.weft(&["import", "flannel", &file, "--name", "pods"]).unwrap(), told);
    h1.weft(&["import", "flannel", &file, "--name", "pods", "--apply"]).unwrap();
    assert_eq!(network(h1, "pods")["subnets"][0]["net"], "10.244.0.0/16");

    // What would be made is told without a daemon, too.
    let output = weft_output(&["--socket", "/nonexistent/weft.sock", "import", "flannel", &file]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && told.starts_with("# no daemon answers") && told.contains("--vni 1"),
        "{told}"
    );
}
