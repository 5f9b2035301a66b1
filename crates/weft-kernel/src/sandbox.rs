//! A container's network namespace: looking into it, and making one for a command.

use crate::{KernelError, Namespace, device::link, netlink::Netlink};
use ipnet::IpNet;
use netlink_packet_route::link::LinkFlags;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path, process};
use weft_model::MacAddr;

/// The first name of `prefix` and a number from 0 that no interface of the namespace at `path` has: `eth0`, `eth1`, …
pub fn first_free_interface(path: impl AsRef<Path>, prefix: &str) -> Result<String, KernelError> {
    let devices = Netlink::open(&Namespace::open(path)?)?.devices()?;
    let mut number = 0u32;
    loop {
        let name = format!("{prefix}{number}");
        if devices.iter().all(|device| device.name != name) {
            return Ok(name);
        }
        number += 1;
    }
}

/// The interface with that MAC address in the namespace at `path`.
pub fn interface_by_mac(path: impl AsRef<Path>, mac: MacAddr) -> Result<Option<String>, KernelError> {
    let devices = Netlink::open(&Namespace::open(path)?)?.devices()?;
    Ok(devices.into_iter().find(|device| device.mac == mac).map(|device| device.name))
}

/// Sets the loopback interface of the namespace at `path` up; nothing happens if it is.
pub fn set_loopback_up(path: impl AsRef<Path>) -> Result<(), KernelError> {
    Netlink::open(&Namespace::open(path)?)?.bring_up_loopback()
}

/// What the interface of that name in the namespace at `path` lacks: itself, being up, one of the addresses. `None`: nothing.
pub fn missing(
    path: impl AsRef<Path>,
    interface: &str,
    addresses: &[IpNet],
) -> Result<Option<String>, KernelError> {
    let mut netlink = Netlink::open(&Namespace::open(path)?)?;
    let Some(device) = netlink.device(interface)? else {
        return Ok(Some(format!("there is no interface {interface}")));
    };
    if !device.up {
        return Ok(Some(format!("interface {interface} is down")));
    }
    let there = netlink.addresses()?;
    let lost = addresses.iter().find(|net| !there.contains(&(device.index, net.addr())));
    Ok(lost.map(|net| format!("interface {interface} has lost its address {net}")))
}

/// Whether a veth pair's far end of that name is in the calling thread's namespace, the host's: then no engine has
/// taken it yet.
pub fn far_end_exists_in_host(name: &str) -> Result<bool, KernelError> {
    Ok(Netlink::open_here()?.device(name)?.is_some())
}

/// Where programs look up their resolver (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Gives the calling thread a network namespace of its own, with the loopback device up, and a mount namespace of its own
/// in which [`RESOLV_CONF`] reads `resolv_conf`. What the thread starts is in them too; nobody else is. There is no way
/// back, so it is for a thread that ends soon.
pub fn leave_for_a_new_one(resolv_conf: &str) -> Result<(), KernelError> {
    let failed = |doing: &str, e: nix::Error| KernelError::netlink(doing, e.desc(), e as i32);
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(|e| match e {
        nix::Error::EPERM => KernelError::NotPermitted(e.desc().to_owned()),
        e => failed("make a network namespace", e),
    })?;
    let mut netlink = Netlink::open_here()?;
    let mut message = link(netlink.existing_device("lo")?.index, Vec::new());
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.set_device("set device lo up", message)?;
    // What is mounted here stays here; what others mount is seen still.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|e| failed("keep mounts to this namespace", e))?;
    cover_resolv_conf(resolv_conf).map_err(|e| {
        let hint = if e.kind() == io::ErrorKind::NotFound { ": make one, it may be empty" } else { "" };
        KernelError::netlink(
            &format!("mount another {RESOLV_CONF}"),
            &format!("{e}{hint}"),
            e.raw_os_error().unwrap_or(0),
        )
    })
}

fn cover_resolv_conf(text: &str) -> io::Result<()> {
    // Where a link leads (systemd-resolved has one) is where programs read.
    let covered = fs::canonicalize(RESOLV_CONF)?;
    let file = Path::new("/run").join(format!("weft-resolv.conf.{}", process::id()));
    let mut options = fs::File::options();
    options.write(true).create_new(true).mode(0o644).open(&file)?.write_all(text.as_bytes())?;
    let mounted = mount(Some(&file), &covered, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    // The mount holds it from here on, and is gone with the namespace.
    fs::remove_file(&file)?;
    Ok(mounted?)
}
