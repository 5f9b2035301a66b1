//! The trunk: one veth pair that joins the overlay namespace and the host's, for frames that cross between them.
//!
//! It carries only what programs redirect; its ends have no addresses, and IPv6 gives them none. The host's end
//! forwards (`net.ipv4.conf.weft-trunk.forwarding`), or the routing table would not be asked for frames that come in
//! there. A frame with 64 KiB of segments has to fit, so its MTU is the largest.

use crate::{
    KernelError, Namespace,
    device::{Device, kind, link},
    linux::set_sysctl,
    netlink::Netlink,
};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

/// The name of both ends. No port has it: their names end with hexadecimal digits.
pub const TRUNK: &str = "weft-trunk";

const MTU: u32 = 65535;

/// What the host's end is told, in the order of writing: no address of its own before it is up.
const SETTINGS: [(&str, &str); 3] = [
    ("ipv6/conf/weft-trunk/addr_gen_mode", "1"), // IN6_ADDR_GEN_MODE_NONE
    ("ipv6/conf/weft-trunk/forwarding", "1"),
    ("ipv4/conf/weft-trunk/forwarding", "1"),
];

/// The interface indexes of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trunk {
    pub overlay: u32,
    pub host: u32,
}

/// The two namespaces that the trunk joins.
pub(super) struct Sides<'a> {
    pub overlay: &'a mut Netlink,
    pub host: &'a mut Netlink,
    pub host_namespace: &'a Namespace,
}

impl Sides<'_> {
    /// The trunk, if it is there and as it should be.
    pub fn sound_trunk(&mut self) -> Result<Option<Trunk>, KernelError> {
        let Some((overlay, host)) = self.pair()? else { return Ok(None) };
        let set = self.host_namespace.run(|| SETTINGS.iter().all(|(name, value)| is_set(name, value)))?;
        let sound = set && [&overlay, &host].iter().all(|end| end.up && end.mtu == MTU);
        Ok(sound.then_some(Trunk { overlay: overlay.index, host: host.index }))
    }

    /// Makes the trunk, or makes it as it should be.
    pub fn ensure_trunk(&mut self) -> Result<Trunk, KernelError> {
        if let Some(trunk) = self.sound_trunk()? {
            return Ok(trunk);
        }
        let (overlay, host) = match self.pair()? {
            Some(pair) => pair,
            None => self.create()?,
        };
        let folder = Path::new("/proc/sys/net");
        let settings = || SETTINGS.iter().try_for_each(|(name, value)| set_sysctl(&folder.join(name), value));
        self.host_namespace.run(settings)??;
        set_up(self.overlay, &overlay)?;
        set_up(self.host, &host)?;
        Ok(Trunk { overlay: overlay.index, host: host.index })
    }

    /// Both ends, if they are the ends of one pair.
    fn pair(&mut self) -> Result<Option<(Device, Device)>, KernelError> {
        let (Some(overlay), Some(host)) = (self.overlay.device(TRUNK)?, self.host.device(TRUNK)?) else {
            return Ok(None);
        };
        let joined = overlay.link == Some(host.index) && host.link == Some(overlay.index);
        let veth = overlay.kind == "veth" && host.kind == "veth";
        Ok((joined && veth).then_some((overlay, host)))
    }

    fn create(&mut self) -> Result<(Device, Device), KernelError> {
        // Half of a pair whose other end was renamed or moved.
        self.overlay.delete_device(TRUNK)?;
        if self.host.device(TRUNK)?.is_some() {
            let doing = format!("create device {TRUNK}");
            let reason = "the host's namespace has one of that name: does another weft daemon run in it?";
            return Err(KernelError::FastPath { doing, reason: reason.to_owned() });
        }
        let name = || LinkAttribute::IfName(TRUNK.to_owned());
        let target = LinkAttribute::NetNsFd(self.host_namespace.as_fd().as_raw_fd());
        let peer = link(0, vec![name(), target, LinkAttribute::Mtu(MTU)]);
        let veth = kind(InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer)));
        self.overlay.create_device(TRUNK, link(0, vec![name(), LinkAttribute::Mtu(MTU), veth]))?;
        let (overlay, host) = (self.overlay.existing_device(TRUNK)?, self.host.existing_device(TRUNK)?);
        self.overlay.set_alias(&overlay, "weft: to the host's namespace")?;
        self.host.set_alias(&host, "weft: to the overlay namespace")?;
        Ok((overlay, host))
    }
}

fn set_up(netlink: &mut Netlink, end: &Device) -> Result<(), KernelError> {
    if end.up && end.mtu == MTU {
        return Ok(());
    }
    let mut message = link(end.index, vec![LinkAttribute::Mtu(MTU)]);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.set_device(&format!("set device {TRUNK} up"), message)
}

/// Whether a sysctl of the calling thread's namespace is so, or is not there at all (IPv6 can be missing).
fn is_set(name: &str, value: &str) -> bool {
    fs::read_to_string(Path::new("/proc/sys/net").join(name)).map_or(true, |found| found.trim() == value)
}
