//! An ARP packet: what is read of one is what is written.

use weft_wire::arp::{PACKET_LEN, Packet, Repr};

pub fn check(bytes: &[u8]) {
    let Ok(packet) = Packet::new(bytes) else {
        assert!(bytes.len() < PACKET_LEN);
        return;
    };
    let Ok(repr) = Repr::parse(&packet) else { return };
    assert_eq!(repr.emit(), bytes[..PACKET_LEN]);
    assert!(repr.to_string().starts_with("ARP "));
}
