//! The gateway: what leads sandboxes out through the host's namespace, as `docker_gwbridge` does for Docker.
//!
//! Each sandbox has a veth pair of its own (`port`), whose near end has the gateway's address, and to which the host
//! routes. There is no bridge: on one, two sandboxes could meet, and where `br_netfilter` is loaded (Docker loads it) the
//! kernel bridges what should be routed after a port was translated, so ports of one host's sandboxes could not be had from
//! another. What leaves the host gets its address; ports of the host lead in (`rules`). The host forwards:
//! `net.ipv4.ip_forward` is set, and stays set, since nobody can tell who else has come to rely on it.

use crate::{
    KernelError, Namespace,
    linux::{Host, set_sysctl},
    nftables::{Family, Nftables},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use weft_plan::{GATEWAY_PORTS, Gateway, HostState, Key, Object};

mod foreign;
mod port;
mod rules;

pub(crate) use port::ensure as ensure_port;

/// Sysctls with the values that they should have.
type Sysctls = Vec<(PathBuf, &'static str)>;

/// Whether a device of that name is the near end of a sandbox's way out: see [`weft_plan::gateway_port_name`].
pub(crate) fn is_port(name: &str) -> bool {
    let digits = name.strip_prefix(GATEWAY_PORTS).unwrap_or_default();
    digits.len() == 10 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The gateway and its ports, whatever there is of them.
pub(crate) fn observe(host: &mut Host) -> Result<HostState, KernelError> {
    let mut state = port::observe(host)?;
    let mut nftables = Nftables::open(&host.underlay_namespace)?;
    let Some(table) = nftables.observe(Family::Inet, rules::TABLE)? else { return Ok(state) };
    let mut found =
        Gateway { subnets: rules::subnets_in(&table), published: rules::published_in(&table), sound: false };
    found.sound = rules::table(&found).is_as_seen(&table)
        && foreign::is_let_through(&mut nftables, &families(&found))?
        && host.underlay_namespace.run(|| are_set(&settings(&found)))?;
    state.insert(Key::Gateway, Object::Gateway(Box::new(found)));
    Ok(state)
}

/// Makes or changes the gateway. Rules first: nothing passes without them.
pub(crate) fn ensure(host: &mut Host, want: &Gateway) -> Result<(), KernelError> {
    let mut nftables = Nftables::open(&host.underlay_namespace)?;
    nftables.replace(&rules::table(want))?;
    host.underlay_namespace.run(|| set(&settings(want)))??;
    foreign::let_through(&mut nftables, &families(want))
}

/// Removes the gateway's rules, if they are there. Its ports are for others to remove.
pub(crate) fn remove(host: &Namespace) -> Result<(), KernelError> {
    let mut nftables = Nftables::open(host)?;
    foreign::withdraw(&mut nftables)?;
    nftables.remove(Family::Inet, rules::TABLE)
}

/// The families that it leads out.
fn families(gateway: &Gateway) -> Vec<Family> {
    let has = |v4| gateway.subnets.iter().any(|net| net.addr().is_ipv4() == v4);
    [(true, Family::Ip), (false, Family::Ip6)]
        .into_iter()
        .filter(|(v4, _)| has(*v4))
        .map(|(_, f)| f)
        .collect()
}

fn sysctl(family: &str, name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(family).join(name)
}

/// The sysctls that it needs of the calling thread's namespace, the host's.
fn settings(gateway: &Gateway) -> Sysctls {
    let mut settings = Vec::new();
    for family in families(gateway) {
        if family == Family::Ip {
            settings.push((sysctl("ipv4", "ip_forward"), "1"));
        } else {
            settings.extend(still_hearing_routers());
            settings.push((sysctl("ipv6", "conf/all/forwarding"), "1"));
        }
    }
    settings
}

/// A host that forwards IPv6 stops listening to routers, and loses its default route, where `accept_ra` is 1: it has to be 2
/// (the kernel's `ip-sysctl` documentation).
fn still_hearing_routers() -> Sysctls {
    if is_set(&sysctl("ipv6", "conf/all/forwarding"), "1") {
        return Vec::new();
    }
    let devices = fs::read_dir(sysctl("ipv6", "conf")).into_iter().flatten().flatten();
    let paths = devices.filter(|entry| !is_port(&entry.file_name().to_string_lossy()));
    let paths = paths.map(|entry| entry.path().join("accept_ra"));
    paths.filter(|path| is_set(path, "1")).map(|path| (path, "2")).collect()
}

fn set(settings: &Sysctls) -> Result<(), KernelError> {
    settings.iter().try_for_each(|(path, value)| set_sysctl(path, value))
}

fn are_set(settings: &Sysctls) -> bool {
    settings.iter().all(|(path, value)| is_set(path, value))
}

/// What a kernel lacks (without IPv6) needs no setting.
fn is_set(path: &Path, value: &str) -> bool {
    match fs::read_to_string(path) {
        Ok(found) => found.trim() == value,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_port_is_known_by_its_name() {
        assert!(is_port("weftg0123456789"));
        for other in ["weftg", "weftgateway0000", "weftc0123456789", "weft-0123456789"] {
            assert!(!is_port(other), "{other}");
        }
    }
}
