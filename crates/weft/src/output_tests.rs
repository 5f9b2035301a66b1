use super::*;
use weft_agent::api::{EngineStatus, StoreStatus};
use weft_model::{
    AddressDriver, Container, MacAddr, Mtu, Network, Outside, PortProtocol, PublishedPort, Revision, Subnet,
    Vni,
};

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(digit: &str) -> T {
    digit.repeat(64).parse().unwrap()
}

fn web() -> EndpointView {
    EndpointView {
        id: id("e"),
        network: id("a"),
        network_name: "my-multi-host-net".to_owned(),
        node: id("1"),
        node_name: "h1".to_owned(),
        vtep: Some("192.0.2.1".parse().unwrap()),
        engine: "docker".to_owned(),
        container: Some(Container::new("c0ffee", "web")),
        mac: MacAddr::for_address("10.9.0.2".parse().unwrap()),
        addresses: vec!["10.9.0.2/24".parse().unwrap(), "fd00:9::2/64".parse().unwrap()],
        sandbox: Some("/var/run/docker/netns/1a2b".to_owned()),
        outside: None,
        name_server: None,
        interface: Some("eth0".to_owned()),
        created: 100,
    }
}

fn net() -> NetworkView {
    let mut subnet = Subnet::new("10.9.0.0/24".parse().unwrap());
    subnet.range = Some("10.9.0.128/25".parse().unwrap());
    subnet.reserved = [("router".to_owned(), "10.9.0.7".parse().unwrap())].into();
    NetworkView {
        network: Network {
            id: id("a"),
            name: Some("my-multi-host-net".parse().unwrap()),
            vni: Vni::new(4096).unwrap(),
            subnets: vec![subnet, Subnet::new("fd00:9::/64".parse().unwrap())],
            mtu: None,
            internal: true,
            direct: false,
            labels: [("team".to_owned(), "web".to_owned())].into(),
            options: [("weft.vni".to_owned(), "4096".to_owned())].into(),
            address_driver: AddressDriver::Weft,
            created_by: id("1"),
            created: 100,
        },
        effective_mtu: Some(Mtu::new(1450).unwrap()),
        endpoints: vec![web()],
    }
}

fn h1() -> NodeView {
    NodeView {
        id: id("1"),
        name: "h1".to_owned(),
        this: true,
        alive: true,
        absent: false,
        vteps: vec!["192.0.2.1".parse().unwrap()],
        vxlan_port: 4789,
        underlay_mtu: Mtu::new(1500).unwrap(),
        advertise: None,
        version: "0.1.0".to_owned(),
        endpoints: 1,
        started: 1000,
        direct: true,
        not_direct: None,
    }
}

fn fine() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        node: h1(),
        store: StoreStatus {
            address: "local".to_owned(),
            connected: true,
            error: None,
            revision: Revision(12),
            applied: Revision(11),
            join_token_file: Some("/var/lib/weft/join-token".to_owned()),
        },
        vni_range: "4096-16777215".to_owned(),
        networks: 1,
        nodes: 2,
        nodes_alive: 2,
        endpoints: 3,
        datapath: "ebpf".to_owned(),
        multicast: "to the hosts of members".to_owned(),
        drops: std::collections::BTreeMap::new(),
        kernel_objects: 14,
        problems: vec![],
        drift_repaired: [("fdb".to_owned(), 0)].into(),
        engines: vec![],
    }
}

#[test]
fn networks_are_listed_like_dockers() {
    assert_eq!(
        networks(&[net()]),
        "NETWORK ID     NAME                VNI    SUBNETS                   MTU    ENDPOINTS\n\
         aaaaaaaaaaaa   my-multi-host-net   4096   10.9.0.0/24,fd00:9::/64   1450   1\n"
    );
    assert_eq!(networks(&[]), "NETWORK ID   NAME   VNI   SUBNETS   MTU   ENDPOINTS\n");
}

#[test]
fn a_network_without_a_name_or_mtu_yet_has_its_id_and_a_dash() {
    let mut view = net();
    view.network.name = None;
    view.effective_mtu = None;
    let text = networks(&[view]);
    let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words, ["aaaaaaaaaaaa", "aaaaaaaaaaaa", "4096", "10.9.0.0/24,fd00:9::/64", "-", "1"]);
}

#[test]
fn endpoints_tell_who_is_where() {
    let bare = EndpointView { container: None, vtep: None, addresses: vec![], ..web() };
    assert_eq!(
        endpoints(&[web(), bare]),
        "\
ENDPOINT ID    NETWORK             CONTAINER   ADDRESS                    MAC                 NODE   VTEP
eeeeeeeeeeee   my-multi-host-net   web         10.9.0.2/24,fd00:9::2/64   02:42:0a:09:00:02   h1     192.0.2.1
eeeeeeeeeeee   my-multi-host-net   -           -                          02:42:0a:09:00:02   h1     -
"
    );
}

#[test]
fn nodes_tell_who_is_alive_and_who_is_not_seen_either() {
    let lost = NodeView {
        id: id("2"),
        name: "h2".to_owned(),
        this: false,
        alive: false,
        endpoints: 0,
        direct: false,
        not_direct: Some("it is on another link".to_owned()),
        ..h1()
    };
    let absent = NodeView { absent: true, ..lost.clone() };
    assert_eq!(
        nodes(&[h1(), lost, absent]),
        "\
NODE ID          NAME   STATE      VTEP        PORT   MTU    ENDPOINTS   VERSION   DIRECT
111111111111 *   h1     alive      192.0.2.1   4789   1500   1           0.1.0     yes
222222222222     h2     no lease   192.0.2.1   4789   1500   0           0.1.0     no: it is on another link
222222222222     h2     absent     192.0.2.1   4789   1500   0           0.1.0     no: it is on another link
"
    );
}

#[test]
fn a_network_in_full_has_every_fact_once() {
    let text = network(&net());
    let id = "a".repeat(64);
    assert_eq!(
        text,
        format!(
            "\
network   my-multi-host-net ({id})
VNI       4096
subnet    10.9.0.0/24, gateway 10.9.0.1, addresses from 10.9.0.128/25
reserved  10.9.0.7 as router
subnet    fd00:9::/64, gateway fd00:9::1
MTU       1450
internal  yes
label     team=web
option    weft.vni=4096
endpoint  web 10.9.0.2/24,fd00:9::2/64 on h1
"
        )
    );
}

#[test]
fn an_endpoint_in_full_has_every_fact_once() {
    let id = "e".repeat(64);
    assert_eq!(
        endpoint(&web()),
        format!(
            "\
endpoint   {id}
network    my-multi-host-net (aaaaaaaaaaaa)
container  web (c0ffee)
engine     docker
address    10.9.0.2/24,fd00:9::2/64
MAC        02:42:0a:09:00:02
node       h1 (111111111111), VTEP 192.0.2.1
sandbox    /var/run/docker/netns/1a2b as eth0
"
        )
    );
}

#[test]
fn a_way_out_is_told_with_its_ports() {
    let port = PublishedPort {
        protocol: PortProtocol::Tcp,
        host_ip: None,
        host_port: 8080,
        container_port: 80,
        count: 1,
    };
    let outside = Outside {
        id: id("e"),
        interface: "out0".to_owned(),
        ipv4: "172.16.0.2/20".parse().unwrap(),
        ipv6: None,
        ports: vec![port],
    };
    let told = endpoint(&EndpointView { outside: Some(outside), ..web() });
    assert!(told.ends_with("\nway out    172.16.0.2/20 as out0\nport       *:8080->80/tcp\n"), "{told}");
}

#[test]
fn the_status_of_a_healthy_host_is_short() {
    assert_eq!(
        status(&fine(), 1000 + 3 * 3600),
        "\
node        h1 (111111111111), up 3 h
version     0.1.0
VTEP        192.0.2.1, UDP port 4789, underlay MTU 1500
store       local, connected
revision    12, this host's kernel reflects 11
join token  /var/lib/weft/join-token
cluster     2 nodes (2 alive), 1 network; 3 endpoints on the networks here
data path   ebpf
direct      yes
multicast   to the hosts of members
kernel      14 objects
drift       none
"
    );
}

#[test]
fn the_status_of_an_ailing_host_says_what_ails_it() {
    let mut ailing = fine();
    ailing.store.connected = false;
    ailing.store.error = Some("connection refused".to_owned());
    ailing.drift_repaired =
        [("fdb".to_owned(), 2), ("device".to_owned(), 1), ("neighbour".to_owned(), 0)].into();
    ailing.problems = vec!["weft-vx4096: no such device".to_owned()];
    ailing.engines = vec![EngineStatus {
        engine: "docker".to_owned(),
        address: "unix:///var/run/docker.sock".to_owned(),
        connected: false,
        version: Some("20.10.24".to_owned()),
        problems: vec!["the name \"net\" is taken".to_owned()],
    }];
    ailing.drops = [("no route to the peer".to_owned(), 5), ("no room".to_owned(), 0)].into();
    ailing.datapath = "kernel (this kernel lacks what the eBPF data path needs: tcx)".to_owned();
    let text = status(&ailing, 1000);
    for line in [
        "store       local, NOT CONNECTED: connection refused\n",
        "drift       3 repaired (device 1, fdb 2)\n",
        "engine      docker 20.10.24 at unix:///var/run/docker.sock, NOT CONNECTED\n",
        "data path   kernel (this kernel lacks what the eBPF data path needs: tcx)\n",
        "drops       5 frames (no route to the peer)\n",
        "problem     docker: the name \"net\" is taken\n",
        "problem     weft-vx4096: no such device\n",
    ] {
        assert!(text.contains(line), "{line:?} should be in\n{text}");
    }
}

#[test]
fn traffic_stands_beside_who_has_it() {
    let traffic = Traffic { tx_packets: 3, tx_bytes: 294, rx_packets: 2, rx_bytes: 196 };
    let endpoints = [Counted { of: web(), traffic }];
    let text = endpoint_traffic(&endpoints);
    let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    let expected = "eeeeeeeeeeee my-multi-host-net web 10.9.0.2/24,fd00:9::2/64 3 294 2 196";
    assert_eq!(row.join(" "), expected);
    let text = node_traffic(&[Counted { of: h1(), traffic }]);
    assert!(text.contains("TX PACKETS   TX BYTES   RX PACKETS   RX BYTES"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&json(&endpoints).unwrap()).unwrap();
    assert_eq!((&value[0]["mac"], &value[0]["rx_bytes"]), (&"02:42:0a:09:00:02".into(), &196.into()));
}

#[test]
fn json_is_what_the_api_sent() {
    let text = json(&vec![net()]).unwrap();
    assert!(text.ends_with("]\n"));
    assert_eq!(serde_json::from_str::<Vec<NetworkView>>(&text).unwrap(), [net()]);
}

#[test]
fn an_age_has_one_unit() {
    for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")] {
        assert_eq!(age(seconds, 0), text);
    }
    assert_eq!(age(5, 9), "0 s", "a clock that went back");
}
