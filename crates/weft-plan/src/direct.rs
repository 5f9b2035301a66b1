//! Between which hosts packets of direct networks have no outer headers.
//!
//! A host *takes* such packets from every host on its own link; it *sends* them only to one that says in its record that it takes
//! them, and both have to be on the other's link. A host that takes them says so after its kernel does. So none is sent that is not
//! taken, whoever hears of whom first.

use std::net::IpAddr;
use weft_model::Node;

/// Why packets between two hosts have outer headers also on networks that are marked direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDirect {
    /// This host takes none.
    #[error("this host has no eBPF data path at an uplink that could take them")]
    NotHere,
    /// The peer takes none.
    #[error("it has no eBPF data path at an uplink that could take them, or an older weft")]
    NotThere,
    /// The two prefer VTEP addresses of different families.
    #[error("its VTEP address is of another family than this host's")]
    Family,
    /// The one is not in the prefix of the other.
    #[error("it is on another link")]
    OtherLink,
    /// A route of either leads through a gateway.
    #[error("a route between the two hosts leads through a gateway")]
    Routed,
}

/// Whether `this` takes packets without outer headers from the host with the VTEP address `from`.
pub(crate) fn takes(this: &Node, from: IpAddr) -> bool {
    this.direct.as_ref().is_some_and(|link| link.prefix.contains(&from))
}

/// Whether packets of direct networks have no outer headers between these two. The same seen from either.
pub fn direct_between(this: &Node, peer: &Node) -> Result<(), NotDirect> {
    let ours = *this.vteps.first().ok_or(NotDirect::Family)?;
    // The one that it prefers itself, or it would send from another.
    let theirs = *peer.vteps.first().filter(|ip| ip.is_ipv4() == ours.is_ipv4()).ok_or(NotDirect::Family)?;
    let here = this.direct.as_ref().ok_or(NotDirect::NotHere)?;
    let there = peer.direct.as_ref().ok_or(NotDirect::NotThere)?;
    if !takes(this, theirs) || !takes(peer, ours) {
        Err(NotDirect::OtherLink)
    } else if !here.reaches(theirs) || !there.reaches(ours) {
        Err(NotDirect::Routed)
    } else {
        Ok(())
    }
}
