//! The header between the UDP packet of a tunnel and the frame inside (RFC 7348, section 5).
//!
//! ```text
//! flags (1)  reserved (3)  VNI (3)  reserved (1)  inner frame …
//! ```
//!
//! Reserved bits are sent as zero and ignored when received.

use crate::error::{WireError, split};
use weft_model::Vni;

/// The header's length in bytes.
pub const HEADER_LEN: usize = 8;

/// The port assigned to VXLAN.
pub const DEFAULT_PORT: u16 = 4789;

/// The I flag: the VNI is valid. Without it a packet must be dropped.
const VNI_IS_VALID: u8 = 0x08;
const WHAT: &str = "a VXLAN packet";

/// A VXLAN packet: what a UDP packet of a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    inner: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of these bytes; refused when they are shorter than the header.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        split(WHAT, bytes).map(|(header, inner)| Self { header, inner })
    }

    /// Whether the I flag is set.
    pub fn has_vni(&self) -> bool {
        self.header[0] & VNI_IS_VALID != 0
    }

    /// The number in the VNI field, whether or not it is valid.
    pub fn vni(&self) -> u32 {
        let [_, _, _, _, a, b, c, _] = *self.header;
        u32::from_be_bytes([0, a, b, c])
    }

    /// The Ethernet frame inside.
    pub fn inner(&self) -> &'a [u8] {
        self.inner
    }
}

/// What a VXLAN header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The network.
    pub vni: Vni,
}

impl Repr {
    /// What the header says; refused without the I flag or with VNI 0.
    pub fn parse(packet: &Packet<'_>) -> Result<Self, WireError> {
        let malformed = |reason: String| WireError::Malformed { what: WHAT, reason };
        if !packet.has_vni() {
            return Err(malformed("its I flag is not set".to_owned()));
        }
        Vni::new(packet.vni()).map(|vni| Self { vni }).map_err(|e| malformed(e.to_string()))
    }

    /// The header.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let [_, a, b, c] = self.vni.get().to_be_bytes();
        [VNI_IS_VALID, 0, 0, 0, a, b, c, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captures::{PING_REQUEST, bytes};
    use proptest::prelude::*;

    #[test]
    fn a_captured_header_is_read_and_written() {
        let frame = bytes(PING_REQUEST);
        let packet = Packet::new(&frame[42..]).unwrap();
        let repr = Repr::parse(&packet).unwrap();
        assert_eq!(repr.vni.get(), 4096);
        assert_eq!(repr.emit(), frame[42..50]);
        assert_eq!(packet.inner(), &frame[50..]);
    }

    #[test]
    fn a_header_without_a_vni_is_refused() {
        for (header, reason) in [([0, 0, 0, 0, 0, 16, 0, 0], "I flag"), ([8, 0, 0, 0, 0, 0, 0, 0], "VNI 0")] {
            let error = Repr::parse(&Packet::new(&header).unwrap()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let error = Packet::new(&[8; 7]).unwrap_err();
        assert_eq!(error.to_string(), "a VXLAN packet is cut off: 8 bytes are needed, there are 7");
    }

    proptest! {
        #[test]
        fn a_header_survives_the_wire_whatever_the_reserved_bits(
            vni in 1..=Vni::MAX, flags: u8, reserved: [u8; 4], inner: Vec<u8>
        ) {
            let repr = Repr { vni: Vni::new(vni).unwrap() };
            let mut wire = repr.emit().to_vec();
            wire[0] |= flags;
            wire[1..4].copy_from_slice(&reserved[..3]);
            wire[7] = reserved[3];
            wire.extend(&inner);
            let packet = Packet::new(&wire).unwrap();
            prop_assert_eq!(Repr::parse(&packet), Ok(repr));
            prop_assert_eq!(packet.inner(), &inner[..]);
        }
    }
}
