//! Looking into a container's network namespace.

use crate::{KernelError, Namespace, netlink::Netlink};
use std::path::Path;
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

/// Whether a veth pair's far end of that name is in the calling thread's namespace, the host's: then no engine has
/// taken it yet.
pub fn far_end_exists_in_host(name: &str) -> Result<bool, KernelError> {
    Ok(Netlink::open_here()?.device(name)?.is_some())
}
