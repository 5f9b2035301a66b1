//! Whether this kernel can have the fast path, found out by doing it once where it hurts nobody.

use super::{
    pins::ensure_mounted,
    programs::{Loaded, Program},
};
use crate::{
    KernelError,
    device::{kind, link},
    namespace::in_throw_away,
    netlink::Netlink,
};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};

const DEVICE: &str = "weft-check";

/// Whether this kernel takes the programs, their maps and tcx links, and has a BPF filesystem to keep them: all is
/// made once in a namespace that is thrown away. [`KernelError::Unsupported`] says what is missing.
///
/// What the programs ask of the kernel besides (redirection to the other end of a veth pair, room for outer headers)
/// is older than tcx, so a kernel that attaches them has it.
pub fn probe() -> Result<(), KernelError> {
    try_out().map_err(|error| KernelError::Unsupported {
        feature: "what the eBPF data path needs",
        hint: error.to_string(),
    })
}

fn try_out() -> Result<(), KernelError> {
    ensure_mounted()?;
    in_throw_away(|| {
        let peer = link(0, vec![LinkAttribute::IfName(format!("{DEVICE}-peer"))]);
        let veth = kind(InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer)));
        let name = LinkAttribute::IfName(DEVICE.to_owned());
        Netlink::open_here()?.create_device(DEVICE, link(0, vec![name, veth]))?;
        Program::ALL.into_iter().try_for_each(|program| {
            let mut loaded = Loaded::load(program, None)?;
            loaded.attach(DEVICE, None).map_err(|error| KernelError::FastPath {
                doing: "attach a program by a tcx link, which Linux has from 6.6 on".to_owned(),
                reason: error.to_string(),
            })
        })
    })?
}
