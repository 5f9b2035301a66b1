//! A host's programs and maps, looked at from outside.

use super::{Container, Datapath, Host, wait_for};
use aya::{
    maps::{HashMap as BpfMap, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
};
use std::path::PathBuf;
use weft_kernel::{Counter, Counters};

/// The fast path on both hosts.
pub const BOTH: [Datapath; 2] = [Datapath::Ebpf; 2];

/// What a host's programs have carried.
pub async fn counters(host: &Host) -> Counters {
    host.linux.counters().await.unwrap().unwrap()
}

pub async fn of_container(host: &Host, container: &Container) -> Counter {
    counters(host).await.ports[&container.port]
}

pub fn pin(host: &Host, name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/weft/{}/v2/{name}", host.overlay.0))
}

pub fn table<const K: usize, const V: usize>(host: &Host, name: &str) -> BpfMap<MapData, [u8; K], [u8; V]> {
    let data = MapData::from_pin(pin(host, &format!("maps/{name}"))).unwrap();
    BpfMap::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

/// The kernel's numbers of all maps and links.
pub fn identities(host: &Host) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for folder in ["maps", "links/from_container", "links/to_wire", "links/from_wire", "links/to_container"] {
        for entry in std::fs::read_dir(pin(host, folder)).unwrap() {
            let path = entry.unwrap().path();
            let id = if folder == "maps" {
                MapData::from_pin(&path).unwrap().info().unwrap().id()
            } else {
                FdLink::from(PinnedLink::from_pin(&path).unwrap()).info().unwrap().id()
            };
            found.push((path, id));
        }
    }
    found.sort();
    found
}

/// How many programs are attached to a device of the host's namespace or of the overlay namespace.
pub fn programs_at(host: &Host, in_overlay: bool, device: &str) -> usize {
    let look = || SchedClassifier::query_tcx(device, TcAttachType::Ingress).unwrap().1.len();
    if !in_overlay {
        return host.netns.namespace.run(look).unwrap();
    }
    let overlay = weft_kernel::Namespace::open(format!("/run/netns/{}", host.overlay.0));
    overlay.unwrap().run(look).unwrap()
}

/// The kernel lets go of a program a moment after its pin.
pub fn wait_until_detached(host: &Host, in_overlay: bool, device: &str) {
    wait_for(&format!("no program is at {device}"), || {
        (programs_at(host, in_overlay, device) == 0).then_some(())
    });
}
