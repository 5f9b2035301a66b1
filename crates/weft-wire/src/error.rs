//! Why bytes are not what they should be.

use std::net::SocketAddr;

/// Why bytes are not a packet of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They end too early.
    #[error("{what} is cut off: {needed} bytes are needed, there are {got}")]
    Truncated {
        /// Of what, as in "an ARP packet".
        what: &'static str,
        /// Bytes at least needed.
        needed: usize,
        /// Bytes there are.
        got: usize,
    },
    /// They break the protocol's rules.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// What, as in "an ARP packet".
        what: &'static str,
        /// Which rule.
        reason: String,
    },
    /// A frame that carries no UDP packet.
    #[error("the frame carries no UDP packet, so it is not VXLAN")]
    NotUdp,
    /// A UDP packet to another port.
    #[error("the frame goes to {destination}, not to the VXLAN port {expected}")]
    OtherPort {
        /// Where it goes.
        destination: SocketAddr,
        /// The VXLAN port.
        expected: u16,
    },
}

/// The first `N` bytes and the rest.
pub(crate) fn split<'a, const N: usize>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(&'a [u8; N], &'a [u8]), WireError> {
    bytes.split_first_chunk::<N>().ok_or(WireError::Truncated { what, needed: N, got: bytes.len() })
}
