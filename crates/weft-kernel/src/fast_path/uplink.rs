//! The uplink: the device that frames of other hosts come in by, as it has the VTEP address.

use crate::{KernelError, device::Device, netlink::Netlink};
use std::{collections::BTreeSet, net::IpAddr};
use weft_model::{DirectLink, vxlan_overhead};

/// See [`Uplink::receives`].
fn receives(device: &Device) -> bool {
    device.ethernet && device.kind != "dummy"
}

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
            receives: receives(&device),
            inner_mtu: device.mtu.saturating_sub(vxlan_overhead(vtep)),
            name: device.name,
        }))
    }

    /// The link of the device that has the address, if packets without outer headers are received there.
    pub fn direct_link(host: &mut Netlink, vtep: IpAddr) -> Result<Option<DirectLink>, KernelError> {
        let found = host.prefixes()?.into_iter().find(|(_, prefix)| prefix.addr() == vtep);
        let Some((index, prefix)) = found else { return Ok(None) };
        let device = host.devices()?.into_iter().find(|device| device.index == index && receives(device));
        Ok(device.map(|device| DirectLink { mac: device.mac, prefix, routed: BTreeSet::new() }))
    }
}
