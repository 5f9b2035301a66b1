//! Removing every trace of weft from this host's kernel: `weft down`.

use crate::{
    KernelError, NAMED_NAMESPACES, Namespace, fast_path, gateway, netlink::Netlink, observe::role, tap,
};
use std::path::Path;

/// How often devices are looked for again that were removed: only a daemon that still runs makes new ones.
const ROUNDS: usize = 5;

/// Removes the fast path, all of weft's devices, from the calling thread's namespace the tap devices that weft made and the
/// far ends of veth pairs that no engine took, and the overlay namespace. When it returns they are gone. Succeeds when there is nothing.
pub async fn remove_everything(overlay_netns: &str) -> Result<(), KernelError> {
    let host = Namespace::current()?;
    let name = overlay_netns.to_owned();
    let outcome = tokio::task::spawn_blocking(move || remove(&host, &name)).await;
    outcome.map_err(|e| KernelError::netlink("remove everything", &e.to_string(), 0))?
}

fn remove(host: &Namespace, overlay_name: &str) -> Result<(), KernelError> {
    fast_path::remove(overlay_name)?;
    let path = Path::new(NAMED_NAMESPACES).join(overlay_name);
    if let Ok(overlay) = Namespace::open(&path) {
        remove_devices(&overlay, |name, _| role(name).is_some())?;
    }
    tap::release_all(host)?;
    remove_devices(host, |name, kind| kind == "veth" && (is_far_end(name) || gateway::is_port(name)))?;
    gateway::remove(host)?;
    Namespace::delete_named(overlay_name)
}

/// Removing a device is done when the kernel acknowledges it.
fn remove_devices(namespace: &Namespace, ours: impl Fn(&str, &str) -> bool) -> Result<(), KernelError> {
    let mut netlink = Netlink::open(namespace)?;
    let mut left = Vec::new();
    for _ in 0..ROUNDS {
        let devices = netlink.devices()?.into_iter();
        left = devices.filter(|device| ours(&device.name, &device.kind)).map(|device| device.name).collect();
        if left.is_empty() {
            return Ok(());
        }
        for name in &left {
            netlink.delete_device(name)?;
        }
    }
    let reason = "they are made again: is a daemon still running?";
    Err(KernelError::netlink(&format!("remove devices {}", left.join(", ")), reason, 0))
}

/// See [`weft_plan::far_end_name`].
pub(crate) fn is_far_end(name: &str) -> bool {
    let digits = name.strip_prefix("weftc").unwrap_or_default();
    digits.len() == 10 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_end_is_known_by_its_name() {
        assert!(is_far_end("weftc0123456789"));
        for other in ["weftc", "weftc012345678", "weftcable00000", "eth0", "weft-0123456789"] {
            assert!(!is_far_end(other), "{other}");
        }
    }
}
