//! Tests: what dockerd and the plugin say to one another, and what the mirror makes of it.

use super::{
    DockerOptions,
    cluster::Cluster as _,
    fake::{FakeCluster, Served, serve},
    fake_dockerd::{FakeDockerd, call},
    mirror::Mirror,
};
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
use weft_agent::api::EngineStatus;
use weft_model::{Container, EndpointId, NetworkId};

/// What a body of `CreateNetwork` has for a `/24` that Docker's own IPAM chose.
fn create_body(id: &str, options: &Value) -> Value {
    json!({
        "NetworkID": id,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": options},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Gateway": "10.9.0.1/24", "Pool": "10.9.0.0/24"}],
        "IPv6Data": [],
    })
}

async fn ok(served: &Served, name: &str, body: Value) -> Value {
    let (status, answer) = call(&served.socket, name, &body).await;
    assert_eq!(status, 200, "{name}: {answer}");
    let error = answer.get("Err").or(answer.get("Error"));
    assert!(error.is_none(), "{name}: {answer}");
    answer
}

async fn refused(served: &Served, name: &str, body: Value) -> String {
    let (status, answer) = call(&served.socket, name, &body).await;
    assert_eq!(status, 200, "{name}: {answer}");
    let field = if name.starts_with("Ipam") { "Error" } else { "Err" };
    answer[field].as_str().unwrap_or_else(|| panic!("{name} was not refused: {answer}")).to_owned()
}

#[tokio::test]
async fn the_plugin_introduces_itself() {
    let served = serve(&FakeCluster::new());
    let manifest = ok(&served, "Plugin.Activate", Value::Null).await;
    assert_eq!(manifest, json!({"Implements": ["NetworkDriver", "IpamDriver"]}));
    let capabilities = ok(&served, "NetworkDriver.GetCapabilities", Value::Null).await;
    assert_eq!(
        (&capabilities["Scope"], &capabilities["ConnectivityScope"]),
        (&"local".into(), &"global".into())
    );
    let spaces = ok(&served, "IpamDriver.GetDefaultAddressSpaces", Value::Null).await;
    assert_eq!(spaces["LocalDefaultAddressSpace"], "weft-local");
    for quiet in
        ["DiscoverNew", "DiscoverDelete", "ProgramExternalConnectivity", "RevokeExternalConnectivity"]
    {
        ok(&served, &format!("NetworkDriver.{quiet}"), json!({"DiscoveryType": 1})).await;
    }
    let (status, _) = call(&served.socket, "NetworkDriver.SomethingNew", &json!({})).await;
    assert_eq!(status, 404, "dockerd takes it as not implemented");
    let message = refused(&served, "NetworkDriver.Join", Value::Null).await;
    assert!(message.contains("without its content") && message.contains("try again"), "{message}");
    let message = refused(&served, "NetworkDriver.Join", json!([1])).await;
    assert!(message.contains("NetworkDriver.Join"), "{message}");
}

#[tokio::test]
async fn a_container_comes_and_goes() {
    let cluster = FakeCluster::new();
    let served = serve(&cluster);
    let (network, endpoint) = ("e".repeat(64), EndpointId::random());
    ok(&served, "NetworkDriver.CreateNetwork", create_body(&network, &json!({"weft.vni": "5000"}))).await;
    let made = cluster.bound(&network).unwrap();
    assert_eq!(made.vni.get(), 5000);
    ok(&served, "NetworkDriver.CreateNetwork", create_body(&network, &json!({}))).await;
    assert_eq!(cluster.read(|s| s.networks.len()), 1, "the same call again makes nothing new");

    let ids = || json!({"NetworkID": network, "EndpointID": endpoint});
    let mut create = ids();
    create["Interface"] = json!({"Address": "10.9.0.2/24", "AddressIPv6": "", "MacAddress": ""});
    let created = ok(&served, "NetworkDriver.CreateEndpoint", create).await;
    let filled = json!({"Address": "", "AddressIPv6": "", "MacAddress": "02:42:0a:09:00:02"});
    assert_eq!(created["Interface"], filled, "only what was empty may be set");

    let mut join = ids();
    join["SandboxKey"] = "/var/run/docker/netns/1a2b3c4d5e6f".into();
    let joined = ok(&served, "NetworkDriver.Join", join).await;
    let name = format!("weftc{}", endpoint.first(10));
    assert_eq!(joined, json!({"InterfaceName": {"SrcName": name, "DstPrefix": "eth"}}));
    let sandbox = cluster.read(|s| s.endpoints[&made.id][&endpoint].sandbox.clone()).unwrap();
    assert!(sandbox.configured_by_engine && sandbox.path.ends_with("1a2b3c4d5e6f"));
    let info = ok(&served, "NetworkDriver.EndpointOperInfo", ids()).await;
    assert_eq!(info["Value"]["weft.vni"], "5000");

    for _ in 0..2 {
        ok(&served, "NetworkDriver.Leave", ids()).await;
        ok(&served, "NetworkDriver.DeleteEndpoint", ids()).await;
    }
    assert_eq!(cluster.read(|s| s.all_endpoints().count()), 0);
    ok(&served, "NetworkDriver.DeleteNetwork", json!({"NetworkID": network})).await;
    assert_eq!(cluster.read(|s| s.networks.len()), 0);
    ok(&served, "NetworkDriver.DeleteNetwork", json!({"NetworkID": network})).await;
    let message = refused(&served, "NetworkDriver.Join", ids()).await;
    assert!(message.contains("does not know Docker's network"), "{message}");
}

#[tokio::test]
async fn an_address_given_again_ends_the_endpoint_that_dockerd_forgot() {
    let cluster = FakeCluster::new();
    let served = serve(&cluster);
    let network = "e".repeat(64);
    ok(&served, "NetworkDriver.CreateNetwork", create_body(&network, &json!({}))).await;
    let (old, new) = (EndpointId::random(), EndpointId::random());
    for id in [&old, &new] {
        let interface = json!({"Address": "10.9.0.2/24"});
        let body = json!({"NetworkID": network, "EndpointID": id, "Interface": interface});
        ok(&served, "NetworkDriver.CreateEndpoint", body).await;
    }
    let present = cluster.read(|s| s.all_endpoints().map(|e| e.id.clone()).collect::<Vec<_>>());
    assert_eq!(present, [new]);
}

#[tokio::test]
async fn ipam_of_a_copy_claims_only_what_containers_use() {
    let cluster = FakeCluster::new();
    let network = cluster.add_network("blue", "10.9.0.0/24");
    cluster.change(|s| {
        let subnet = &mut s.networks.get_mut(&network.id).unwrap().subnets[0];
        subnet.reserved.insert("printer".to_owned(), "10.9.0.7".parse().unwrap());
    });
    let served = serve(&cluster);
    let ask = json!({"AddressSpace": "weft-local", "Pool": "10.9.0.0/24", "SubPool": "",
        "Options": {"weft.network": network.id}, "V6": false});
    let pool = ok(&served, "IpamDriver.RequestPool", ask).await;
    assert_eq!(pool["PoolID"], format!("{}/10.9.0.0/24", network.id));
    let address =
        |ip: &str, options: Value| json!({"PoolID": pool["PoolID"], "Address": ip, "Options": options});
    let gateway = json!({"RequestAddressType": "com.docker.network.gateway"});
    for (ip, options) in [("10.9.0.1", gateway), ("10.9.0.7", Value::Null)] {
        let answer = ok(&served, "IpamDriver.RequestAddress", address(ip, options)).await;
        assert_eq!(answer["Address"], format!("{ip}/24"));
    }
    assert!(cluster.read(|s| s.addresses.get(&network.id).is_none_or(std::collections::BTreeMap::is_empty)));

    // The copy is there: now it is containers that ask.
    let mut create = create_body("e1", &json!({"weft.network": network.id}));
    create["IPv4Data"][0]["AddressSpace"] = "weft-local".into();
    ok(&served, "NetworkDriver.CreateNetwork", create).await;
    let message = refused(&served, "IpamDriver.RequestAddress", address("10.9.0.7", Value::Null)).await;
    assert!(message.contains("10.9.0.7"), "{message}");
    let answer = ok(&served, "IpamDriver.RequestAddress", address("", json!({}))).await;
    assert_eq!(answer["Address"], "10.9.0.2/24");
    for _ in 0..2 {
        ok(&served, "IpamDriver.ReleaseAddress", address("10.9.0.2", Value::Null)).await;
    }
    ok(&served, "IpamDriver.ReleasePool", json!({"PoolID": pool["PoolID"]})).await;
    assert!(cluster.read(|s| s.addresses[&network.id].is_empty()));
}

#[tokio::test]
async fn ipam_of_a_new_network_becomes_the_networks() {
    let cluster = FakeCluster::new();
    let served = serve(&cluster);
    let ask = json!({"AddressSpace": "weft-local", "Pool": "10.9.0.0/24", "SubPool": "10.9.0.128/25"});
    // A dockerd that was killed has asked for the same before.
    let forgotten = ok(&served, "IpamDriver.RequestPool", ask.clone()).await;
    let pool = ok(&served, "IpamDriver.RequestPool", ask).await;
    let gateway = json!({"PoolID": pool["PoolID"], "Address": "",
        "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    assert_eq!(ok(&served, "IpamDriver.RequestAddress", gateway).await["Address"], "10.9.0.1/24");
    let mut create = create_body("e1", &json!({}));
    create["IPv4Data"][0]["AddressSpace"] = "weft-local".into();
    ok(&served, "NetworkDriver.CreateNetwork", create).await;

    let network = cluster.bound("e1").unwrap();
    assert_eq!(network.subnets[0].range, Some("10.9.0.128/25".parse().unwrap()));
    for pool in [&forgotten, &pool] {
        assert_eq!(cluster.pool(pool["PoolID"].as_str().unwrap()).unwrap().network, Some(network.id.clone()));
    }
    let ask = json!({"PoolID": pool["PoolID"], "Address": "", "Options": null});
    ok(&served, "IpamDriver.RequestAddress", ask).await;
    assert_eq!(cluster.read(|s| s.addresses[&network.id].len()), 1, "the network's own claims from now on");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_reason() {
    let cluster = FakeCluster::new();
    let network = cluster.add_network("blue", "10.9.0.0/24");
    let served = serve(&cluster);
    let unknown = NetworkId::random();
    for (name, body, expected) in [
        ("NetworkDriver.CreateNetwork", create_body("e", &json!({"weft.color": "red"})), "weft.vni"),
        (
            "NetworkDriver.CreateNetwork",
            create_body("e", &json!({"weft.network": unknown})),
            "no network with",
        ),
        ("IpamDriver.RequestPool", json!({"Options": {"weft.network": unknown}}), "no network with"),
        (
            "IpamDriver.RequestPool",
            json!({"Options": {"weft.network": network.id}, "Pool": "10.8.0.0/24"}),
            "has no subnet 10.8.0.0/24",
        ),
        (
            "IpamDriver.RequestPool",
            json!({"Options": {"weft.network": network.id}, "V6": true}),
            "no IPv6 subnet",
        ),
        ("IpamDriver.RequestPool", json!({"Pool": "10.9.0.5/24"}), "did you mean 10.9.0.0/24"),
        ("IpamDriver.RequestPool", json!({"Pool": "10.9.0.0/24", "SubPool": "x"}), "ip-range"),
        ("IpamDriver.RequestAddress", json!({"PoolID": "nope"}), "does not know the address pool"),
        ("NetworkDriver.CreateEndpoint", json!({"NetworkID": "e", "EndpointID": "zz"}), "does not know"),
        ("NetworkDriver.DeleteEndpoint", json!({"NetworkID": "e", "EndpointID": "zz"}), "endpoint id"),
    ] {
        let message = refused(&served, name, body).await;
        assert!(message.contains(expected), "{name}: {message}");
    }
}

/// A mirror between a fake cluster and a fake dockerd.
struct Hall {
    cluster: FakeCluster,
    dockerd: FakeDockerd,
    api: PathBuf,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    served: Served,
    _folder: tempfile::TempDir,
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Hall {
    fn new() -> Self {
        let cluster = FakeCluster::new();
        let served = serve(&cluster);
        let folder = tempfile::tempdir().unwrap();
        let api = folder.path().join("docker.sock");
        let options = DockerOptions { api: format!("unix://{}", api.display()), ..DockerOptions::default() };
        let calls = Arc::clone(served.plugin.calls());
        let mirror = Mirror::new(cluster.clone(), calls, options, api.display().to_string());
        let mirror = tokio::spawn(async move { match mirror.run().await {} });
        let dockerd = FakeDockerd::new(served.socket.clone());
        Self { cluster, dockerd, api, tasks: vec![mirror], served, _folder: folder }
    }

    fn start_dockerd(&mut self) {
        self.tasks.push(self.dockerd.serve(&self.api));
    }

    /// Waits for dockerd to have exactly these networks (and its own bridge).
    async fn dockerd_has(&self, names: &[&str]) {
        let mut expected: Vec<_> =
            names.iter().chain(&["docker_gwbridge"]).map(ToString::to_string).collect();
        expected.sort();
        let so = || self.dockerd.names() == expected;
        wait(so, || {
            format!(
                "dockerd has {:?}, not {expected:?}: {:?}",
                self.dockerd.names(),
                *self.cluster.status().borrow()
            )
        })
        .await;
    }

    async fn status(&self, good: impl Fn(&EngineStatus) -> bool) -> EngineStatus {
        let mut status = self.cluster.status();
        let seen = status.wait_for(|s| s.as_ref().is_some_and(&good));
        let Ok(seen) = tokio::time::timeout(Duration::from_secs(10), seen).await else {
            panic!("the status stays {:?}", *self.cluster.status().borrow())
        };
        seen.unwrap().clone().unwrap()
    }
}

async fn wait(so: impl Fn() -> bool, why: impl Fn() -> String) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "{}", why());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn by_hand(name: &str, driver: &str) -> Value {
    json!({"Name": name, "Driver": driver, "Labels": {"team": "a"}, "Options": {},
        "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.8.0.0/24", "Gateway": "10.8.0.1"}]}})
}

#[tokio::test]
async fn networks_of_the_cluster_appear_on_an_engine_that_comes_late_and_go_again() {
    let mut hall = Hall::new();
    let blue = hall.cluster.add_network("blue", "10.9.0.0/24");
    assert!(!hall.status(|_| true).await.connected);
    hall.start_dockerd();
    hall.dockerd_has(&["blue"]).await;
    assert_eq!(hall.status(|s| s.connected).await.version.as_deref(), Some("20.10.24"));
    let copy = hall.dockerd.find("blue").unwrap();
    assert_eq!(copy["Options"]["weft.network"], blue.id.to_string());
    assert_eq!(copy["IPAM"]["Config"][0]["Gateway"], "10.9.0.1");

    hall.cluster.add_network("red", "10.10.0.0/24");
    hall.dockerd_has(&["blue", "red"]).await;
    hall.cluster.remove_network(&blue.id).await.unwrap();
    hall.dockerd_has(&["red"]).await;
    let bindings = || hall.cluster.read(|s| s.bindings.values().next().unwrap().len());
    wait(|| bindings() == 1, || format!("{} bindings", bindings())).await;
}

#[tokio::test]
async fn a_network_made_here_gets_its_name_and_labels_and_no_second_copy() {
    let mut hall = Hall::new();
    hall.start_dockerd();
    hall.dockerd_has(&[]).await;
    let id = hall.dockerd.create(by_hand("green", "weft")).await.unwrap();
    let named = || hall.cluster.read(|s| s.names.contains_key(&"green".parse().unwrap()));
    wait(named, || "the network has no name".to_owned()).await;
    assert_eq!(hall.cluster.bound(&id).unwrap().labels["team"], "a");
    hall.cluster.add_network("later", "10.10.0.0/24");
    hall.dockerd_has(&["green", "later"]).await;

    // `docker network rm` on this host removes it everywhere.
    hall.dockerd.remove(&id).await.unwrap().unwrap();
    hall.dockerd_has(&["later"]).await;
    assert_eq!(hall.cluster.read(|s| s.networks.len()), 1);
}

#[tokio::test]
async fn a_network_goes_with_the_endpoint_that_a_killed_dockerd_forgot_on_it() {
    let mut hall = Hall::new();
    hall.start_dockerd();
    hall.dockerd_has(&[]).await;
    let network = hall.dockerd.create(by_hand("green", "weft")).await.unwrap();
    let body = json!({"NetworkID": network, "EndpointID": EndpointId::random(), "Interface": {"Address": "10.8.0.2/24"}});
    ok(&hall.served, "NetworkDriver.CreateEndpoint", body).await;
    hall.dockerd.remove(&network).await.unwrap().unwrap();
    assert_eq!(hall.cluster.read(|s| (s.networks.len(), s.all_endpoints().count())), (0, 0));
}

#[tokio::test]
async fn a_name_clash_is_reported_and_ends_when_the_other_network_goes() {
    let mut hall = Hall::new();
    let other = hall.dockerd.create(by_hand("blue", "bridge")).await.unwrap();
    let blue = hall.cluster.add_network("blue", "10.9.0.0/24");
    hall.start_dockerd();
    let status = hall.status(|s| s.problems.iter().any(|p| p.contains("name clash"))).await;
    assert!(status.problems[0].contains("driver bridge"), "{:?}", status.problems);
    assert_eq!(hall.dockerd.find("blue").unwrap()["Driver"], "bridge");

    hall.dockerd.remove(&other).await;
    hall.status(|s| s.problems.is_empty()).await;
    assert_eq!(hall.dockerd.find("blue").unwrap()["Options"]["weft.network"], blue.id.to_string());
}

#[tokio::test]
async fn a_name_that_the_cluster_has_already_keeps_the_network_on_this_host() {
    let mut hall = Hall::new();
    let here = hall.dockerd.create(by_hand("blue", "weft")).await.unwrap();
    let blue = hall.cluster.add_network("blue", "10.9.0.0/24");
    // A day before.
    hall.cluster.change(|s| s.networks.get_mut(&blue.id).unwrap().created = 86_400);
    hall.start_dockerd();
    let status = hall.status(|s| s.connected && s.problems.len() == 2).await;
    assert!(status.problems.iter().all(|p| p.contains("name clash")), "{:?}", status.problems);
    assert!(hall.cluster.bound(&here).unwrap().name.is_none());
    assert_eq!(hall.dockerd.find("blue").unwrap()["Id"], here.as_str(), "nothing was overwritten");
}

#[tokio::test]
async fn a_network_made_on_two_hosts_at_once_becomes_one_network() {
    let mut hall = Hall::new();
    hall.dockerd.create(by_hand("blue", "weft")).await.unwrap();
    let blue = hall.cluster.add_network("blue", "10.9.0.0/24");
    hall.start_dockerd();
    let is_copy =
        || hall.dockerd.find("blue").is_some_and(|n| n["Options"]["weft.network"] == blue.id.to_string());
    wait(is_copy, || format!("dockerd has {:?}", hall.dockerd.find("blue"))).await;
    assert_eq!(hall.cluster.read(|s| s.networks.len()), 1);
    hall.status(|s| s.connected && s.problems.is_empty()).await;
}

#[tokio::test]
async fn a_network_in_use_elsewhere_comes_back_and_the_status_says_why() {
    let mut hall = Hall::new();
    let blue = hall.cluster.add_network("blue", "10.9.0.0/24");
    hall.start_dockerd();
    hall.dockerd_has(&["blue"]).await;
    let endpoint = EndpointId::random();
    hall.cluster.change(|s| {
        let record = weft_model::Endpoint {
            id: endpoint.clone(),
            network: blue.id.clone(),
            node: weft_model::NodeId::random(),
            engine: "docker".to_owned(),
            container: None,
            sandbox: None,
            outside: None,
            mac: weft_model::MacAddr::for_device(1),
            ipv4: Some("10.9.0.2/24".parse().unwrap()),
            ipv6: None,
            epoch: 1,
            created: 0,
        };
        s.endpoints.entry(blue.id.clone()).or_default().insert(endpoint.clone(), record.into());
    });
    let first = hall.dockerd.find("blue").unwrap()["Id"].clone();
    let error = hall.dockerd.remove(first.as_str().unwrap()).await.unwrap().unwrap_err();
    assert!(error.contains("1 endpoint"), "{error}");
    hall.dockerd_has(&["blue"]).await;
    let again = || hall.dockerd.find("blue").is_some_and(|n| n["Id"] != first);
    wait(again, || "the copy was not made again".to_owned()).await;
    let status = hall.status(|s| !s.problems.is_empty()).await;
    assert!(status.problems[0].contains("was not removed"), "{:?}", status.problems);
}

#[tokio::test]
async fn an_engine_that_was_away_catches_up() {
    let mut hall = Hall::new();
    let blue = hall.cluster.add_network("blue", "10.9.0.0/24");
    hall.cluster.add_network("red", "10.10.0.0/24");
    hall.start_dockerd();
    hall.dockerd_has(&["blue", "red"]).await;
    hall.tasks.pop().unwrap().abort();
    // As when dockerd dies: its connections break.
    std::fs::remove_file(&hall.api).unwrap();
    hall.dockerd.lose("red");
    hall.dockerd = hall.dockerd.clone().reborn();
    hall.status(|s| !s.connected).await;

    hall.cluster.remove_network(&blue.id).await.unwrap();
    hall.cluster.add_network("green", "10.11.0.0/24");
    hall.start_dockerd();
    hall.dockerd_has(&["green", "red"]).await;
}

#[tokio::test]
async fn the_cluster_learns_whose_an_endpoint_is() {
    let mut hall = Hall::new();
    hall.start_dockerd();
    hall.dockerd_has(&[]).await;
    let network = hall.dockerd.create(by_hand("green", "weft")).await.unwrap();
    let id = EndpointId::random();
    let interface = json!({"Address": "10.8.0.2/24"});
    let body = json!({"NetworkID": network, "EndpointID": id, "Interface": interface});
    ok(&hall.served, "NetworkDriver.CreateEndpoint", body).await;
    hall.dockerd.connect(&network, "c0ffee", "web", &id.to_string());
    let expected = Some(Container { aliases: vec!["www".to_owned()], ..Container::new("c0ffee", "web") });
    let container = || hall.cluster.read(|s| s.all_endpoints().next().and_then(|e| e.container.clone()));
    wait(|| container() == expected, || format!("its container is {:?}", container())).await;
}
