//! A daemon's programs and maps, looked at and spoiled from outside.

use crate::traffic::within;
use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use std::{collections::BTreeMap, path::PathBuf};
use weft_lab::{Daemon, Host, NetNs};

/// The file of a map or a link of the daemon's, as in `maps/stations`.
pub fn pin(daemon: &Daemon, name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/weft/{}/v2/{name}", daemon.options.overlay_netns))
}

fn map(daemon: &Daemon, name: &str) -> Map {
    let data = MapData::from_pin(pin(daemon, &format!("maps/{name}")));
    Map::from_map_data(data.unwrap_or_else(|e| panic!("{name}: {e}"))).unwrap()
}

/// A table with keys of `K` bytes and values of `V`: see `bpf/maps.h`.
pub fn table<const K: usize, const V: usize>(
    daemon: &Daemon,
    name: &str,
) -> HashMap<MapData, [u8; K], [u8; V]> {
    HashMap::try_from(map(daemon, name)).unwrap()
}

/// This host as the programs see it, in the slot that counts.
pub fn hosts(daemon: &Daemon) -> (Array<MapData, [u8; 36]>, u32) {
    let current: Array<MapData, u32> = Array::try_from(map(daemon, "current")).unwrap();
    (Array::try_from(map(daemon, "hosts")).unwrap(), current.get(&0, 0).unwrap())
}

/// How many programs sit at a device.
pub fn programs_at(namespace: &NetNs, device: &str) -> usize {
    within(namespace, || {
        SchedClassifier::query_tcx(device, TcAttachType::Ingress).map_or(0, |found| found.1.len())
    })
}

/// Everything that the programs work with, without counters and versions: maps by name, programs by device, pins.
pub fn picture(daemon: &Daemon, host: &Host, ports: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut picture = BTreeMap::new();
    let mut put = |name: &str, mut lines: Vec<String>| {
        lines.sort();
        picture.insert(name.to_owned(), lines);
    };
    let pins =
        ["stations", "neighbours", "ports", "peers", "hosts", "current", "counters", "drops", "next_hops"];
    let pinned: Vec<String> = pins
        .iter()
        .filter(|name| pin(daemon, &format!("maps/{name}")).exists())
        .map(ToString::to_string)
        .collect();
    if pinned.len() == pins.len() {
        let all = table::<12, 24>(daemon, "stations");
        put(
            "stations",
            all.iter()
                .map(Result::unwrap)
                .map(|(k, v)| format!("{k:?} {:?} {:?}", &v[..4], &v[8..]))
                .collect(),
        );
        let all = table::<20, 8>(daemon, "neighbours");
        put("neighbours", all.iter().map(Result::unwrap).map(|(k, v)| format!("{k:?} {v:?}")).collect());
        let all = table::<4, 8>(daemon, "ports");
        put("ports", all.iter().map(Result::unwrap).map(|(k, v)| format!("{k:?} {:?}", &v[..4])).collect());
        let all = table::<16, 4>(daemon, "peers");
        put("peers", all.iter().map(Result::unwrap).map(|(k, _)| format!("{k:?}")).collect());
        let (hosts, current) = hosts(daemon);
        put("host", vec![format!("{:?}", &hosts.get(&current, 0).unwrap()[..32])]);
    }
    put("pins", pinned);
    let overlay = daemon.overlay();
    let near = ports.iter().map(|port| (&overlay, port.as_str()));
    let base = [(&overlay, "weft-trunk"), (&host.namespace, "weft-trunk"), (&host.namespace, "eth0")];
    let programs =
        near.chain(base).map(|(ns, device)| format!("{} {device} {}", ns.name(), programs_at(ns, device)));
    put("programs", programs.collect());
    picture
}
