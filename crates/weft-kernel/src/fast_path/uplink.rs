//! The uplink: the device that frames of other hosts come in by, as it has the VTEP address.

use crate::{KernelError, netlink::Netlink};
use std::net::IpAddr;
use weft_model::vxlan_overhead;

/// A device that has the VTEP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uplink {
    pub name: String,
    /// Frames come in by it, with Ethernet headers. Not so when the address is on a loopback device and any uplink
    /// may be the way to it: then the kernel's path receives.
    pub receives: bool,
    /// The largest inner IP packet that fits the tunnel by its MTU.
    pub inner_mtu: u32,
}

impl Uplink {
    /// The device that has the address; `None` when none has.
    pub fn of(host: &mut Netlink, vtep: IpAddr) -> Result<Option<Self>, KernelError> {
        let addresses = host.addresses()?;
        let Some((index, _)) = addresses.into_iter().find(|(_, address)| *address == vtep) else {
            return Ok(None);
        };
        let device = host.devices()?.into_iter().find(|device| device.index == index);
        Ok(device.map(|device| Self {
            receives: device.ethernet && device.kind != "dummy",
            inner_mtu: device.mtu.saturating_sub(vxlan_overhead(vtep)),
            name: device.name,
        }))
    }
}
