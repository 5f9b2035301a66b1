//! What holds for every snapshot that a stranger's records can make.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{Change, Network, NodeId, Revision, Snapshot, Subnet, Touched, VniRange};
use weft_plan::{
    HostState, Order, Planner, Reserving, choose, choose_subnet, choose_vni, claims_of, conflicting_route,
    describe_holder, diff, diff_keys, explain, leaks,
    model_kernel::{apply_ops, as_observed},
    plan,
};

/// These changes, one after the other, come to what `store` holds; the planner that follows them plans what one plans that
/// sees the end alone, and so does the kernel that is told only what changed.
pub fn hold_after(changes: &[Change], store: BTreeMap<String, Vec<u8>>) {
    let this: NodeId = "aaaaaaaaaaaa".parse().expect("an id");
    let mut snapshot = Snapshot::default();
    let mut planner = Planner::new(this.clone());
    let mut kernel = HostState::new();
    let keys = planner.reset(&snapshot);
    assert!(keys.is_empty());
    for change in changes {
        let keys = match snapshot.apply(change) {
            Ok(Touched::Other) => continue,
            Ok(touched) => planner.update(&snapshot, &touched),
            Err(bad) => {
                assert!(bad.to_string().contains(&bad.key));
                planner.reset(&snapshot)
            }
        };
        let operations = diff_keys(planner.desired(), &kernel, &keys);
        apply_ops(&mut kernel, &operations).expect("nothing is asked that a kernel refuses");
        assert_eq!(kernel, seen(planner.desired()));
    }
    assert_eq!(planner.desired(), &plan(&snapshot, &this));
    let (from_the_end, _) = Snapshot::from_records(Revision::ZERO, store);
    assert_eq!(snapshot, from_the_end, "the history of the records is irrelevant");
    hold(&snapshot);
}

/// It is written as it was read, planned for every node, and every question about it is answered.
pub fn hold(snapshot: &Snapshot) {
    let (again, bad) = Snapshot::from_records(snapshot.revision, snapshot.to_records());
    assert_eq!((&again, &bad[..]), (snapshot, &[][..]), "it is written as it was read");
    for node in snapshot.nodes.keys() {
        let desired = plan(snapshot, node);
        let mut kernel = HostState::new();
        let making = diff(&desired, &kernel);
        apply_ops(&mut kernel, &making).expect("it can be made");
        assert_eq!(kernel, seen(&desired));
        assert_eq!(diff(&desired, &kernel), [], "and is then as it should be");
        let removing = diff(&HostState::new(), &kernel);
        apply_ops(&mut kernel, &removing).expect("and taken away");
        assert!(kernel.is_empty());
    }
    questions(snapshot);
    for network in snapshot.networks.values() {
        for subnet in &network.subnets {
            addresses(snapshot, network, subnet);
        }
    }
}

fn seen(desired: &HostState) -> HostState {
    desired.iter().map(|(key, object)| (key.clone(), as_observed(object))).collect()
}

fn questions(snapshot: &Snapshot) {
    for leak in leaks(snapshot) {
        assert!(!leak.key.is_empty());
    }
    let claimed: BTreeSet<IpAddr> = snapshot.addresses.values().flat_map(BTreeMap::keys).copied().collect();
    for ip in claimed {
        drop(explain(snapshot, ip));
    }
    for (network, claims) in &snapshot.addresses {
        for ip in claims.keys() {
            assert!(!describe_holder(snapshot, network, *ip).is_empty());
            let _ = snapshot.endpoint_at(network, *ip);
        }
    }
    let nets = snapshot.networks.values().flat_map(|n| &n.subnets).map(|s| s.net);
    let routes = snapshot.nodes.values().flat_map(|n| &n.routes);
    if let Some(free) = choose_subnet(nets.clone(), routes) {
        assert!(nets.clone().all(|net| !net.contains(&free) && !free.contains(&net)));
        assert!(conflicting_route(snapshot.nodes.values(), free).is_none());
    }
    let free = choose_vni(VniRange::default(), &snapshot.vnis, 0).expect("not all are taken");
    assert!(!snapshot.vnis.contains_key(&free));
    for network in snapshot.networks.values() {
        assert!(!network.display_name().is_empty());
        let _ = snapshot.find_network(&network.id.short());
    }
}

/// An address that is chosen is one that an endpoint may have, and so are those that are held ahead.
fn addresses(snapshot: &Snapshot, network: &Network, subnet: &Subnet) {
    let (unclaimed, unasked) = (BTreeMap::new(), BTreeMap::new());
    let claims = snapshot.addresses.get(&network.id).unwrap_or(&unclaimed);
    let wanted = snapshot.wanted.get(&network.id).unwrap_or(&unasked);
    let usable = |ip: IpAddr| {
        subnet.check_host("address", ip).is_ok()
            && subnet.withheld(ip).is_none()
            && !claims.contains_key(&ip)
            && subnet.range.is_none_or(|range| range.contains(&ip))
    };
    for order in [Order::LowestFirst, Order::HighestFirst] {
        if let Ok(ip) = choose(network, subnet, claims, None, order) {
            assert!(usable(ip), "{ip} of {subnet:?}");
            assert_eq!(choose(network, subnet, claims, Some(ip), order), Ok(ip));
        }
    }
    let Some(node) = snapshot.nodes.keys().next() else { return };
    let own = claims_of(claims, node);
    for in_use in [true, false] {
        let nodes = snapshot.nodes.len();
        let change = Reserving { network, claims, own: &own, wanted, node, nodes, in_use }.change(subnet);
        assert!(change.claim.iter().all(|ip| usable(*ip)), "{:?} of {subnet:?}", change.claim);
        assert!(in_use || change.claim.is_empty());
    }
}
