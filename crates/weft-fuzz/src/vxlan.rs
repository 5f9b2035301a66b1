//! A frame of a tunnel, from the wire: its header is read as it is written, and all of it can be shown.

use weft_wire::vxlan::{DEFAULT_PORT, HEADER_LEN, Packet, Repr};

pub fn check(bytes: &[u8]) {
    if let Ok(packet) = Packet::new(bytes) {
        assert_eq!(packet.inner(), &bytes[HEADER_LEN..]);
        if let Ok(repr) = Repr::parse(&packet) {
            assert_eq!(packet.vni(), repr.vni.get());
            let written = repr.emit();
            assert_eq!(Repr::parse(&Packet::new(&written).expect("a whole header")), Ok(repr));
        }
    } else {
        assert!(bytes.len() < HEADER_LEN);
    }
    if let Ok(decoded) = weft_wire::decode(bytes, DEFAULT_PORT) {
        assert_eq!(decoded.outer.length, bytes.len());
        assert!(decoded.inner.as_ref().is_none_or(|inner| inner.length < bytes.len()));
        assert!(decoded.to_string().contains("VXLAN"));
    }
}
