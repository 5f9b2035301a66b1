//! The fast path: programs in the kernel that carry frames between containers past the bridge and the VXLAN device.
//!
//! Four programs (`bpf/*.c`) sit at the ingress of four kinds of device, by tcx links (Linux 6.6):
//!
//! ```text
//!   overlay namespace                        host's namespace
//!   near end (weft-…)   from_container
//!   trunk (weft-trunk)  to_container   <=>   trunk (weft-trunk)  to_wire
//!                                            uplink              from_wire
//! ```
//!
//! They look everything up in maps that are filled from the same plan as the kernel's own tables, which stay complete
//! underneath: a frame that the programs do not handle takes the kernel's path. Links and maps are pinned
//! (`/sys/fs/bpf/weft/NAMESPACE/v2/`), so they outlive the daemon; the next one adopts them and replaces the
//! programs in place. Layouts: `bpf/maps.h`; `v1` is their version.
//!
//! [`FastPath`] is the [`crate::Kernel`] that has all of this; [`probe`] tells whether this host can.

mod batch;
mod counters;
mod kernel;
mod maps;
mod observe;
mod pins;
mod plane;
mod probe;
mod programs;
mod table;
mod trunk;
mod uplink;

pub use counters::{Counter, Counters};
pub use kernel::FastPath;
pub use probe::probe;
pub use trunk::TRUNK;

use crate::{KernelError, Namespace, netlink::Netlink};
use std::error::Error;

/// Removes what is pinned for the overlay namespace of that name and the trunk. Frames take the kernel's path from then
/// on; the kernel takes its time of a few milliseconds to let go of the programs. Succeeds when there is nothing.
pub fn remove(overlay_netns: &str) -> Result<(), KernelError> {
    pins::Pins::of(overlay_netns).remove_all()?;
    let path = std::path::Path::new(crate::NAMED_NAMESPACES).join(overlay_netns);
    match Namespace::open(&path) {
        // The other end goes with it.
        Ok(overlay) => Netlink::open(&overlay)?.delete_device(TRUNK),
        Err(_) => Ok(()),
    }
}

/// Whether what is pinned for the overlay namespace of that name is of another layout: then the maps are empty for a moment when
/// the programs are taken over, and packets without outer headers are not taken.
pub fn has_another_layout(overlay_netns: &str) -> Result<bool, KernelError> {
    Ok(!pins::Pins::of(overlay_netns).other_layouts()?.is_empty())
}

/// A failure of the fast path's: what was being done, and the error with its causes.
fn failed(doing: impl Into<String>, error: &dyn Error) -> KernelError {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Errors that only pass another on say the same as it.
        if !reason.ends_with(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = error.source();
    }
    KernelError::FastPath { doing: doing.into(), reason }
}
