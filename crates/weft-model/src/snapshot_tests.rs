use super::*;
use crate::{Subnet, unix_now};

fn network(name: &str) -> Network {
    Network {
        id: NetworkId::random(),
        name: Some(name.parse().unwrap()),
        vni: Vni::new(4096).unwrap(),
        subnets: vec![Subnet::new("10.9.0.0/24".parse().unwrap())],
        mtu: None,
        internal: false,
        direct: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        address_driver: crate::AddressDriver::Engine(NodeId::random()),
        created_by: NodeId::random(),
        created: unix_now(),
    }
}

fn node(name: &str) -> Node {
    Node {
        id: NodeId::random(),
        name: name.to_owned(),
        vteps: vec!["192.0.2.1".parse().unwrap()],
        vxlan_port: 4789,
        underlay_mtu: crate::Mtu::new(1500).unwrap(),
        advertise: None,
        version: "0".to_owned(),
        epoch: 1,
        started: 0,
        routes: vec![],
        direct: None,
    }
}

#[test]
fn a_snapshot_survives_being_written_and_read() {
    let n = network("blue");
    let mut snapshot = Snapshot::default();
    for (key, value) in [
        (schema::network_key(&n.id), encode(&n)),
        (schema::name_key(n.name.as_ref().unwrap()), encode(&n.id)),
        (schema::vni_key(n.vni), encode(&n.id)),
    ] {
        snapshot.apply(&Change { key, value: Some(value) }).unwrap();
    }
    let (again, bad) = Snapshot::from_records(Revision::ZERO, snapshot.to_records());
    assert_eq!((again, bad), (snapshot.clone(), vec![]));
    assert_eq!(snapshot.find_network("blue").unwrap().id, n.id);
    assert_eq!(snapshot.find_network(&n.id.short()).unwrap().id, n.id);
    assert!(snapshot.find_network("green").is_none());
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_left_out() {
    let n = network("blue");
    let mut snapshot = Snapshot::default();
    let key = schema::network_key(&n.id);
    snapshot.apply(&Change { key: key.clone(), value: Some(encode(&n)) }).unwrap();
    let error = snapshot.apply(&Change { key: key.clone(), value: Some(b"{".to_vec()) }).unwrap_err();
    assert_eq!(error.key, key);
    assert_eq!(snapshot, Snapshot::default());
}

#[test]
fn a_nodes_record_under_the_key_of_another_is_not_read() {
    let (here, other) = (node("here"), NodeId::random());
    let mut snapshot = Snapshot::default();
    let change = Change { key: schema::node_key(&other), value: Some(encode(&here)) };
    let error = snapshot.apply(&change).unwrap_err();
    assert!(error.reason.contains(&here.id.short()), "{error}");
    assert_eq!(snapshot, Snapshot::default());
}

#[test]
fn a_second_key_for_the_same_thing_is_malformed() {
    let (network, value) = (NetworkId::random(), encode(&NetworkId::random()));
    for key in [
        format!("{}+5", schema::VNIS),
        format!("{}05", schema::VNIS),
        format!("{}{network}/wanted/FD00::1", schema::ON),
    ] {
        let mut snapshot = Snapshot::default();
        let error = snapshot.apply(&Change { key, value: Some(value.clone()) }).unwrap_err();
        assert!(error.reason.contains("is written"), "{error}");
        assert_eq!(snapshot, Snapshot::default());
    }
}

#[test]
fn removing_the_last_endpoint_leaves_nothing_behind() {
    let mut snapshot = Snapshot::default();
    let (network, ip) = (NetworkId::random(), "10.0.0.2".parse().unwrap());
    let claim =
        AddressClaim { kind: crate::ClaimKind::Endpoint, node: NodeId::random(), endpoint: None, since: 0 };
    let key = schema::address_key(&network, ip);
    let touched = snapshot.apply(&Change { key: key.clone(), value: Some(encode(&claim)) }).unwrap();
    assert_eq!(touched, Touched::Address(network, ip));
    snapshot.apply(&Change { key, value: None }).unwrap();
    assert_eq!(snapshot, Snapshot::default());
}
