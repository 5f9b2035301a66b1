//! What the gateway of a host is for given records.

use super::cluster::{endpoint, id, network, node, outside_of, snapshot};
use crate::{Gateway, GatewayPort, Key, Object, choose_outside, plan};
use weft_model::{Endpoint, HostRoute, Network, Node, PublishedPort, Sandbox, Snapshot, Subnet};

fn led_out(n: usize, network: usize, node: usize) -> Endpoint {
    let (path, interface) = (format!("/run/netns/c{n}"), "eth0".to_owned());
    Endpoint {
        sandbox: Some(Sandbox::namespace(path, interface)),
        outside: Some(outside_of(n, true, 8080)),
        ..endpoint(n, network, node)
    }
}

/// The gateway and its ports, by name, in a plan for node 0.
fn planned(endpoints: &[Endpoint]) -> (Option<Gateway>, Vec<(String, GatewayPort)>) {
    let nodes = [node(0, &["192.0.2.1"], 1400), node(1, &["192.0.2.2"], 1400)];
    let (mut gateway, mut ports) = (None, Vec::new());
    for (key, object) in plan(&snapshot(&nodes, &[network(1, 7), network(2, 8)], endpoints), &id(0)) {
        match (key, object) {
            (Key::Gateway, Object::Gateway(found)) => gateway = Some(*found),
            (Key::GatewayPort(name), Object::GatewayPort(port)) => ports.push((name, *port)),
            _ => {}
        }
    }
    (gateway, ports)
}

#[test]
fn a_way_out_makes_rules_for_its_subnets_and_a_port_with_default_routes() {
    let (gateway, ports) = planned(&[led_out(2, 1, 0)]);
    let gateway = gateway.unwrap();
    let subnets: Vec<String> = gateway.subnets.iter().map(ToString::to_string).collect();
    assert_eq!(subnets, ["10.213.0.0/20", "fd13::/64"]);
    assert!(gateway.sound);
    let published: Vec<String> = gateway.published.iter().map(|p| format!("{} {}", p.port, p.to)).collect();
    assert_eq!(published, ["*:8080->80/tcp 10.213.0.4", "*:8080->80/tcp fd13::4"]);
    let [(name, port)] = &ports[..] else { panic!("{ports:?}") };
    assert_eq!((name.as_str(), port.mtu.get(), port.up), ("weftg0000000002", 1400, true));
    let ways: Vec<String> = port.gateways.iter().chain(&port.sandbox).map(ToString::to_string).collect();
    assert_eq!(ways, ["10.213.0.1", "fd13::1", "10.213.0.4", "fd13::4"]);
    let sandbox = port.far_end.clone().unwrap().sandbox.unwrap();
    assert_eq!((sandbox.path.as_str(), sandbox.interface.as_str()), ("/run/netns/c2", "eth1"));
    let gateways: Vec<String> = sandbox.gateways.iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["10.213.0.1", "fd13::1"]);
}

#[test]
fn a_port_at_an_address_leads_to_the_address_of_its_family() {
    let mut endpoint = led_out(2, 1, 0);
    if let Some(outside) = &mut endpoint.outside {
        let v6 = PublishedPort { host_ip: Some("::1".parse().unwrap()), ..outside.ports[0].clone() };
        outside.ports = vec![v6];
    }
    let published = planned(&[endpoint]).0.unwrap().published;
    assert_eq!(published.into_iter().map(|p| p.to.to_string()).collect::<Vec<_>>(), ["fd13::4"]);
}

#[test]
fn without_a_way_out_on_this_host_there_is_no_gateway() {
    let inside = Endpoint { outside: None, ..led_out(2, 1, 0) };
    let not_yet = Endpoint { sandbox: None, ..led_out(3, 1, 0) };
    assert_eq!(planned(&[inside, not_yet, led_out(5, 1, 1)]), (None, vec![]));
}

#[test]
fn a_way_out_that_is_handed_on_keeps_its_devices() {
    let before = planned(&[led_out(2, 1, 0), Endpoint { outside: None, ..led_out(3, 2, 0) }]);
    let mut heir = led_out(3, 2, 0);
    heir.outside = led_out(2, 1, 0).outside;
    heir.sandbox = led_out(2, 1, 0).sandbox;
    assert_eq!(planned(&[heir]), before);
}

/// A host with these routes, a network on this subnet, and these endpoints.
fn host(routes: &[&str], endpoints: &[Endpoint]) -> (Snapshot, Network) {
    let route = |net: &&str| HostRoute { destination: net.parse().unwrap(), device: "eth0".to_owned() };
    let node = Node { routes: routes.iter().map(route).collect(), ..node(0, &["192.0.2.1"], 1500) };
    (snapshot(&[node], &[network(1, 7)], endpoints), network(1, 7))
}

fn chosen(snapshot: &Snapshot, network: &Network, configured: Option<&str>) -> Option<String> {
    let configured = configured.map(|net| net.parse().unwrap());
    choose_outside(snapshot, &id(0), network, configured).map(|(v4, _)| v4.to_string())
}

#[test]
fn a_way_out_has_the_lowest_free_address_of_a_subnet_that_is_nobody_elses() {
    let (snapshot, network) = host(&["172.16.0.0/16"], &[]);
    assert_eq!(chosen(&snapshot, &network, None), None, "all of it is routed elsewhere");
    let (snapshot, network) = host(&["172.16.3.0/24", "10.0.0.0/8"], &[]);
    assert_eq!(chosen(&snapshot, &network, None).as_deref(), Some("172.16.16.2/20"));
    let on_it = Network { subnets: vec![Subnet::new("172.16.20.0/24".parse().unwrap())], ..network.clone() };
    assert_eq!(chosen(&snapshot, &on_it, None).as_deref(), Some("172.16.32.2/20"));
    assert_eq!(chosen(&snapshot, &network, Some("192.0.3.0/29")).as_deref(), Some("192.0.3.2/29"));
}

#[test]
fn a_subnet_that_is_in_use_stays_in_use_until_it_is_full() {
    // At 10.213.0.2 and 10.213.0.4.
    let (snapshot, network) = host(&[], &[led_out(0, 1, 0), led_out(2, 1, 0)]);
    assert_eq!(chosen(&snapshot, &network, None).as_deref(), Some("10.213.0.3/20"));
    // Another is configured by now: it is for those that come.
    assert_eq!(chosen(&snapshot, &network, Some("192.0.3.0/29")).as_deref(), Some("192.0.3.2/29"));
    let (full, network) = host(&[], &[]);
    assert_eq!(chosen(&full, &network, Some("192.0.3.0/31")), None);
}

#[test]
fn a_way_out_has_ipv6_where_the_network_has_it() {
    let (snapshot, v4) = host(&[], &[]);
    assert_eq!(choose_outside(&snapshot, &id(0), &v4, None).unwrap().1, None);
    let both = Network { subnets: vec![Subnet::new("fd00:9::/64".parse().unwrap())], ..v4 };
    let v6 = choose_outside(&snapshot, &id(0), &both, None).unwrap().1.unwrap();
    assert_eq!((v6.prefix_len(), v6.addr().to_string().starts_with("fd")), (64, true));
}
