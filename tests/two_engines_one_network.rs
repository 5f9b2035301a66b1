//! Two real Docker engines on two hosts share one network through a real etcd.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};
use weft_e2e::{
    Pair, address, eventually, fetch, field, has_network, has_no_network, in_container, only_on, seen,
    with_both_engines,
};
use weft_lab::{Capture, EngineVersion, NGINX_PAGE, output};

with_both_engines!(
    the_four_commands_work_as_they_are_written,
    large_packets_and_bulk_data_arrive_intact_and_only_vxlan_is_on_the_wire,
    the_options_of_network_create_and_run_are_honoured,
    containers_join_and_leave_while_they_run,
    a_network_of_the_same_name_is_reported_and_not_overwritten,
    compose_brings_up_a_network_of_driver_weft,
    weft_network_create_makes_it_on_every_engine,
);

/// The first and the widest of them on the newest Docker as well.
mod docker_28_5 {
    use weft_lab::EngineVersion::V28_5;

    #[test]
    fn the_four_commands_work_as_they_are_written() {
        super::the_four_commands_work_as_they_are_written(V28_5);
    }

    #[test]
    fn the_options_of_network_create_and_run_are_honoured() {
        super::the_options_of_network_create_and_run_are_honoured(V28_5);
    }

    #[test]
    fn containers_join_and_leave_while_they_run() {
        super::containers_join_and_leave_while_they_run(V28_5);
    }
}

const NET: &str = "my-multi-host-net";

fn the_four_commands_work_as_they_are_written(version: EngineVersion) {
    // The first of the four, `weft daemon` on each host, is in here.
    let Some(pair) = Pair::up("four", version) else { return };
    the_four_commands_work(&pair);
}

#[test]
fn the_four_commands_work_on_consul() {
    if !only_on("ebpf") {
        return;
    }
    let Some(pair) = Pair::up_on_consul("fourcon", EngineVersion::V26_1) else { return };
    the_four_commands_work(&pair);
}

fn the_four_commands_work(pair: &Pair) {
    let (a, b) = (pair.a(), pair.b());
    a.docker(&["network", "create", "--driver", "weft", NET]).unwrap();
    let took = eventually("the network on B", Duration::from_secs(5), || has_network(b, NET));
    assert!(took < Duration::from_secs(1), "it took {took:?} to appear on B");
    let start = Instant::now();
    a.docker(&["run", "-itd", "--name=web", &format!("--net={NET}"), "nginx"]).unwrap();
    eprintln!("docker run on weft: {} ms", start.elapsed().as_millis());
    let start = Instant::now();
    a.docker(&["run", "-itd", "--name=plain", "nginx"]).unwrap();
    eprintln!("docker run on a plain bridge: {} ms", start.elapsed().as_millis());
    let web = address(a, "web", NET);
    let url = format!("http://{web}");
    let net = format!("--net={NET}");
    let page = b.docker(&["run", "--rm", &net, "box", "timeout", "5", "wget", "-qO-", &url]).unwrap();
    assert_eq!(page, NGINX_PAGE.trim_end());

    // `docker inspect` is sane on both.
    let (on_a, on_b) = (a.inspect("network", NET).unwrap(), b.inspect("network", NET).unwrap());
    for told in [&on_a, &on_b] {
        assert_eq!(told["Driver"], "weft", "{told}");
        assert_eq!(told["Scope"], "local", "{told}");
        assert_eq!(told["IPAM"]["Config"][0]["Subnet"], on_a["IPAM"]["Config"][0]["Subnet"], "{told}");
        assert!(told["IPAM"]["Config"][0]["Subnet"].as_str().unwrap().ends_with(".0/16"), "{told}");
        assert_eq!(told["Internal"], false, "{told}");
    }
    let members = on_a["Containers"].as_object().unwrap();
    assert_eq!(members.len(), 1, "{on_a}");
    assert!(
        members.values().all(|c| c["Name"] == "web" && c["IPv4Address"] == format!("{web}/16")),
        "{on_a}"
    );
    assert_eq!(on_b["Containers"].as_object().unwrap().len(), 0, "{on_b}");
    let mac: Vec<String> = web.split('.').map(|o| format!("{:02x}", o.parse::<u8>().unwrap())).collect();
    assert_eq!(field(a, "web", NET, "MacAddress"), format!("02:42:{}", mac.join(":")));

    // What the cluster knows of it.
    let endpoints = pair.endpoints_of("h1");
    assert_eq!(endpoints.len(), 1, "{endpoints:?}");
    eventually("the container's name", Duration::from_secs(3), || {
        let endpoints = pair.endpoints_of("h1");
        seen(endpoints[0]["container"]["name"] == "web", endpoints)
    });
    assert!(pair.endpoints_of("h2").is_empty(), "B's container is gone");

    a.docker(&["rm", "-f", "web"]).unwrap();
    b.docker(&["network", "rm", NET]).unwrap();
    for engine in [a, b] {
        eventually("the network's end", Duration::from_secs(2), || has_no_network(engine, NET));
    }
    pair.assert_nothing_left();
}

fn large_packets_and_bulk_data_arrive_intact_and_only_vxlan_is_on_the_wire(version: EngineVersion) {
    let Some(pair) = Pair::up("bulk", version) else { return };
    let (a, b) = (pair.a(), pair.b());
    pair.network(NET, &[]);
    let net = format!("--net={NET}");
    for (engine, name) in [(a, "left"), (b, "right")] {
        engine.docker(&["run", "-d", "--name", name, &net, "box", "sleep", "3600"]).unwrap();
    }
    let (left, right) = (address(a, "left", NET), address(b, "right", NET));
    assert_ne!(left, right);
    let link = in_container(a, "left", &["ip", "-j", "link", "show", "eth0"]).unwrap();
    assert!(link.contains("\"mtu\":1450"), "{link}");

    let file = pair.dir().join("wire.pcap");
    // Tunnel packets, and anything of the containers' that is not in one. The hosts' own chatter does not count.
    let filter = "udp port 4789 or (ip and not net 10.77.0.0/24)";
    let capture = Capture::start(&pair.hosts[1].namespace, "eth0", filter, &file).unwrap();
    let ping = |size: &str| {
        in_container(a, "left", &["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", size, &right])
    };
    ping("1422").unwrap();
    assert!(ping("1423").is_err());
    let vni = pair.weft_a().json(&["network", "inspect", NET]).unwrap();
    let vni = vni.pointer("/vni").or_else(|| vni.pointer("/0/vni")).unwrap().as_u64().unwrap();
    capture.wait_for("both echoes", Duration::from_secs(5), |frames| frames.len() >= 2).unwrap();
    let mut ways = BTreeSet::new();
    for frame in capture.stop().unwrap() {
        let frame = weft_wire::frame::decode(&frame.bytes, 4789).unwrap();
        assert_eq!(u64::from(u32::from(frame.vni)), vni, "{frame}");
        let inner = frame.inner.as_ref().unwrap();
        assert_eq!(inner.ether_type, 0x0800, "only IPv4 was sent, no ARP: {frame}");
        ways.insert((frame.outer.source.ip().to_string(), frame.outer.destination.ip().to_string()));
    }
    let (h1, h2) = ("10.77.0.1".to_owned(), "10.77.0.2".to_owned());
    assert_eq!(ways, BTreeSet::from([(h1.clone(), h2.clone()), (h2, h1)]));

    for (from, from_name, to, to_name, to_ip) in
        [(a, "left", b, "right", &right), (b, "right", a, "left", &left)]
    {
        // 32 MiB of noise: a byte that is lost, doubled or moved changes the sum.
        from.exec(from_name, &["dd", "if=/dev/urandom", "of=/tmp/noise", "bs=1M", "count=32"]).unwrap();
        let sent = from.exec(from_name, &["sha256sum", "/tmp/noise"]).unwrap();
        // Its input never ends: nc would tell the sender, who would stop at that.
        let receive =
            "mkfifo /tmp/open; nc -l -p 5000 <> /tmp/open | sha256sum > /tmp/new; mv /tmp/new /tmp/sum";
        to.docker(&["exec", "-d", to_name, "sh", "-c", receive]).unwrap();
        eventually("the receiver", Duration::from_secs(5), || {
            let sockets = to.exec(to_name, &["netstat", "-ltn"]).unwrap();
            seen(sockets.contains(":5000 "), sockets)
        });
        from.exec(from_name, &["sh", "-c", &format!("nc {to_ip} 5000 < /tmp/noise")]).unwrap();
        eventually("the checksum", Duration::from_secs(20), || {
            let sum = to.exec(to_name, &["cat", "/tmp/sum"]).map_err(|e| e.to_string())?;
            seen(sum[..64] == sent[..64], (sum, &sent))
        });
    }
}

fn the_options_of_network_create_and_run_are_honoured(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("opts", version) else { return };
    let (a, b) = (pair.a(), pair.b());
    let create = "--ipv6 --subnet 10.50.0.0/24 --gateway 10.50.0.254 --ip-range 10.50.0.128/25 --aux-address r=10.50.0.129 \
                --subnet fd00:50::/64 --label team=blue -o weft.vni=5050 -o com.docker.network.driver.mtu=1400";
    pair.network("rich", &create.split_whitespace().collect::<Vec<_>>());
    let told = b.inspect("network", "rich").unwrap();
    let subnets: Vec<_> =
        told["IPAM"]["Config"].as_array().unwrap().iter().map(|c| c["Subnet"].clone()).collect();
    assert!(subnets.contains(&"10.50.0.0/24".into()) && subnets.contains(&"fd00:50::/64".into()), "{told}");
    assert_eq!(told["Labels"]["team"], "blue", "{told}");
    assert_eq!(told["EnableIPv6"], true, "{told}");
    let network = pair.weft_b().json(&["network", "inspect", "rich"]).unwrap().to_string();
    assert!(network.contains("\"vni\":5050"), "{network}");

    let run = ["run", "-d", "--net=rich"];
    let addressed = ["--ip", "10.50.0.140", "--ip6", "fd00:50::40", "--mac-address", "02:aa:bb:cc:dd:ee"];
    a.docker(&[&run[..], &addressed, &["--name", "one", "box", "sleep", "3600"]].concat()).unwrap();
    assert_eq!(address(a, "one", "rich"), "10.50.0.140");
    assert_eq!(field(a, "one", "rich", "MacAddress"), "02:aa:bb:cc:dd:ee");
    assert_eq!(field(a, "one", "rich", "GlobalIPv6Address"), "fd00:50::40");
    b.docker(&[&run[..], &["--name", "two", "box", "sleep", "3600"]].concat()).unwrap();
    let two = address(b, "two", "rich");
    let last: u8 = two.strip_prefix("10.50.0.").unwrap().parse().unwrap();
    assert!(last > 129 && last != 140 && last != 254, "{two} is of the range and nobody else's");
    b.exec("two", &["ping", "-c", "1", "-W", "2", "10.50.0.140"]).unwrap();
    b.exec("two", &["ping6", "-c", "1", "-W", "2", "fd00:50::40"]).unwrap();
    let link = in_container(b, "two", &["ip", "-j", "link", "show", "eth0"]).unwrap();
    assert!(link.contains("\"mtu\":1400"), "{link}");

    // An address that a container on the other host has is refused, with its name.
    let taken = b.output(&[&run[..], &["--ip", "10.50.0.140", "box", "true"]].concat()).unwrap();
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success() && said.contains("10.50.0.140") && said.contains("one"), "{said}");
    assert_eq!(pair.endpoints_of("h2").len(), 1, "the refused one left nothing");

    // Without a way out there is no default route, and the members still reach each other.
    pair.network("closed", &["--internal"]);
    for (engine, name) in [(a, "in1"), (b, "in2")] {
        engine.docker(&["run", "-d", "--net=closed", "--name", name, "box", "sleep", "3600"]).unwrap();
    }
    b.exec("in2", &["ping", "-c", "1", "-W", "2", &address(a, "in1", "closed")]).unwrap();
    let routes = a.exec("in1", &["ip", "route"]).unwrap();
    assert!(!routes.contains("default"), "{routes}");
}

fn containers_join_and_leave_while_they_run(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("join", version) else { return };
    let (a, b) = (pair.a(), pair.b());
    pair.network("red", &["--subnet", "10.51.0.0/24"]);
    pair.network("blue", &["--subnet", "10.52.0.0/24"]);

    // Published through docker_gwbridge, beside the network.
    let run = ["run", "-d", "--name", "web", "--net", "red", "-p", "8080:80", "--restart", "always", "nginx"];
    a.docker(&run).unwrap();
    let outside = pair.host("h2").unwrap();
    eventually("the published port", Duration::from_secs(5), || {
        let page = outside.run(&["timeout", "2", "busybox", "wget", "-qO-", "http://10.77.0.1:8080"]);
        page.map_err(|e| e.to_string()).and_then(|page| seen(page == NGINX_PAGE, page))
    });

    // Connected and disconnected while running; two networks on one container.
    b.docker(&["run", "-d", "--name", "visitor", "box", "sleep", "3600"]).unwrap();
    let red = format!("http://{}", address(a, "web", "red"));
    assert!(fetch(b, "visitor", &red).is_err());
    b.docker(&["network", "connect", "red", "visitor"]).unwrap();
    assert_eq!(fetch(b, "visitor", &red).unwrap(), NGINX_PAGE.trim_end());
    a.docker(&["network", "connect", "--ip", "10.52.0.80", "blue", "web"]).unwrap();
    b.docker(&["network", "connect", "blue", "visitor"]).unwrap();
    assert_eq!(fetch(b, "visitor", "http://10.52.0.80").unwrap(), NGINX_PAGE.trim_end());
    assert_eq!(fetch(b, "visitor", &red).unwrap(), NGINX_PAGE.trim_end(), "both networks at once");
    b.docker(&["network", "disconnect", "red", "visitor"]).unwrap();
    assert!(fetch(b, "visitor", &red).is_err());
    assert_eq!(fetch(b, "visitor", "http://10.52.0.80").unwrap(), NGINX_PAGE.trim_end());
    assert_eq!(pair.endpoints_of("h2").len(), 1);

    // A network in use is not removed, neither here nor there.
    let refused = b.output(&["network", "rm", "blue"]).unwrap();
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
    has_network(a, "blue").unwrap();

    // The container dies and is started again by its policy: it is back on both networks.
    let pid = a.docker(&["inspect", "-f", "{{.State.Pid}}", "web"]).unwrap();
    output(std::process::Command::new("kill").args(["-9", &pid])).unwrap();
    eventually("the restart", Duration::from_secs(15), || {
        let state = a.docker(&["inspect", "-f", "{{.RestartCount}} {{.State.Running}}", "web"]).unwrap();
        seen(state == "1 true", state)
    });
    eventually("the page after the restart", Duration::from_secs(5), || {
        fetch(b, "visitor", "http://10.52.0.80").and_then(|page| seen(page == NGINX_PAGE.trim_end(), page))
    });
    assert_eq!(pair.endpoints_of("h1").len(), 2);

    a.docker(&["rm", "-f", "web"]).unwrap();
    b.docker(&["rm", "-f", "visitor"]).unwrap();
    a.docker(&["network", "rm", "red", "blue"]).unwrap();
    eventually("the networks' end on B", Duration::from_secs(2), || {
        has_no_network(b, "red").and_then(|()| has_no_network(b, "blue"))
    });
    pair.assert_nothing_left();
}

fn a_network_of_the_same_name_is_reported_and_not_overwritten(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("clash", version) else { return };
    let (a, b) = (pair.a(), pair.b());
    b.docker(&["network", "create", "clash"]).unwrap();
    let own = b.docker(&["network", "inspect", "-f", "{{.Id}}", "clash"]).unwrap();
    a.docker(&["network", "create", "--driver", "weft", "--subnet", "10.53.0.0/24", "clash"]).unwrap();
    eventually("the report", Duration::from_secs(5), || {
        let status = pair.weft_b().status().unwrap();
        seen(status["engines"][0]["problems"].to_string().contains("clash"), status)
    });
    assert_eq!(
        b.docker(&["network", "inspect", "-f", "{{.Id}} {{.Driver}}", "clash"]).unwrap(),
        format!("{own} bridge")
    );
    has_network(a, "clash").unwrap();

    // Once the name is free, the network comes.
    b.docker(&["network", "rm", "clash"]).unwrap();
    eventually("the copy", Duration::from_secs(5), || has_network(b, "clash"));
    eventually("the report's end", Duration::from_secs(5), || {
        let status = pair.weft_b().status().unwrap();
        seen(!status["engines"][0]["problems"].to_string().contains("clash"), status)
    });

    // The name of a cluster's network is taken everywhere.
    let again = b.output(&["network", "create", "--driver", "weft", "clash"]).unwrap();
    assert!(!again.status.success());
}

fn compose_brings_up_a_network_of_driver_weft(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("compose", version) else { return };
    let (a, b) = (pair.a(), pair.b());
    if let Err(missing) = a.options.tools.compose() {
        return weft_lab::cannot_run("docker compose", &missing);
    }
    let file = pair.dir().join("compose.yaml");
    let text = "services:\n  web:\n    image: nginx\n    pull_policy: never\n    networks: [mesh]\n\
                networks:\n  mesh:\n    driver: weft\n    ipam:\n      config:\n        - subnet: 10.54.0.0/24\n";
    fs::write(&file, text).unwrap();
    a.compose("shop", &file, &["up", "-d"]).unwrap();
    eventually("the network on B", Duration::from_secs(2), || has_network(b, "shop_mesh"));
    let web = address(a, "shop-web-1", "shop_mesh");
    assert!(web.starts_with("10.54.0."), "{web}");
    let url = format!("http://{web}");
    let page =
        b.docker(&["run", "--rm", "--net=shop_mesh", "box", "timeout", "5", "wget", "-qO-", &url]).unwrap();
    assert_eq!(page, NGINX_PAGE.trim_end());
    a.compose("shop", &file, &["down"]).unwrap();
    eventually("the network's end on B", Duration::from_secs(2), || has_no_network(b, "shop_mesh"));
    pair.assert_nothing_left();
}

fn weft_network_create_makes_it_on_every_engine(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("wcreate", version) else { return };
    let (a, b) = (pair.a(), pair.b());
    let create = ["network", "create", "--subnet", "10.55.0.0/24", "--label", "by=weft", "common"];
    pair.weft_a().weft(&create).unwrap();
    for engine in [a, b] {
        eventually("the network", Duration::from_secs(1), || has_network(engine, "common"));
    }
    for (engine, name) in [(a, "left"), (b, "right")] {
        engine.docker(&["run", "-d", "--net=common", "--name", name, "box", "sleep", "3600"]).unwrap();
    }
    let addresses = BTreeSet::from([address(a, "left", "common"), address(b, "right", "common")]);
    assert_eq!(addresses, BTreeSet::from(["10.55.0.2".to_owned(), "10.55.0.3".to_owned()]));
    b.exec("right", &["ping", "-c", "1", "-W", "2", &address(a, "left", "common")]).unwrap();
    a.docker(&["rm", "-f", "left"]).unwrap();
    b.docker(&["rm", "-f", "right"]).unwrap();
    pair.weft_b().weft(&["network", "rm", "common"]).unwrap();
    for engine in [a, b] {
        eventually("the network's end", Duration::from_secs(2), || has_no_network(engine, "common"));
    }
    pair.assert_nothing_left();
}
