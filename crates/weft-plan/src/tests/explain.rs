//! Every address can be accounted for.

use super::cluster::{endpoint, id, ip, network, node, snapshot};
use crate::explain;
use weft_model::{AddressClaim, Change, ClaimKind, NodeId, encode, schema};

#[test]
fn an_address_is_explained_on_every_network_that_holds_it() {
    let nodes = [node(1, &["192.0.2.1"], 1500)];
    let mut other = network(2, 4097);
    other.subnets[0].range = Some("10.9.0.128/25".parse().unwrap());
    let mut s = snapshot(&nodes, &[network(1, 4096), other], &[endpoint(5, 1, 1)]);
    let mut claim = |address: &str, kind, of: Option<usize>| {
        let claim = AddressClaim { kind, node: id(1), endpoint: of.map(id), since: 0 };
        let key = schema::address_key(&id(1), ip(address));
        s.apply(&Change { key, value: Some(encode(&claim)) }).unwrap();
    };
    claim("10.9.0.5", ClaimKind::Endpoint, Some(5));
    claim("10.9.0.254", ClaimKind::Reserved, None);
    let said = |s: &_, address: &str| explain(s, ip(address));
    let held = said(&s, "10.9.0.5");
    assert_eq!(held.iter().map(|e| e.free).collect::<Vec<_>>(), [false, true], "{held:?}");
    assert!(
        held[0].reason.contains("since 1970-01-01") && held[0].reason.contains("lease has ended"),
        "{held:?}"
    );
    assert!(held[1].reason.contains("outside of --ip-range"), "{held:?}");
    s.absent.insert(id(1));
    let absent = said(&s, "10.9.0.5");
    assert!(!absent[0].free && absent[0].reason.contains("not seen from here"), "{absent:?}");
    s.apply(&Change { key: schema::alive_key(&id::<NodeId>(1)), value: Some(encode(&1u64)) }).unwrap();
    let held = said(&s, "10.9.0.254");
    assert!(held[0].reason.contains("reservation") && !held[0].reason.contains("lease"), "{held:?}");
    for (address, word) in [("10.9.0.1", "gateway"), ("10.9.0.0", "network"), ("10.9.0.255", "broadcast")] {
        let all = said(&s, address);
        assert!(!all[0].free && all[0].reason.contains(word), "{all:?}");
    }
    assert_eq!(said(&s, "10.8.0.1"), []);
}
