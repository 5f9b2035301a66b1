//! A neighbour discovery message between two addresses: what is read of one is read of what is written. The first 32
//! bytes are the addresses. The checksum is put right, or nothing behind it would ever be reached.

use std::net::Ipv6Addr;
use weft_wire::nd::{HEADER_LEN, Packet, Repr};

pub fn check(bytes: &[u8]) {
    let Some((source, rest)) = bytes.split_first_chunk::<16>() else { return };
    let Some((destination, message)) = rest.split_first_chunk::<16>() else { return };
    let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
    let Ok(packet) = Packet::new(message) else { return };
    assert!(message.len() >= HEADER_LEN);
    let options: usize = packet.options().map(|option| option.value.len() + 2).sum();
    assert_eq!(options, message.len() - HEADER_LEN, "options fill a message");
    let is_right = checksum(source, destination, message) == 0xffff;
    assert_eq!(packet.checksum_is_right(source, destination), is_right);
    assert!(is_right || Repr::parse(&packet, source, destination).is_err());

    let mut message = message.to_vec();
    message[2..4].fill(0);
    let right = !checksum(source, destination, &message);
    message[2..4].copy_from_slice(&right.to_be_bytes());
    let packet = Packet::new(&message).expect("only the checksum differs");
    let Ok(repr) = Repr::parse(&packet, source, destination) else { return };
    let written = repr.emit(source, destination);
    let again = Packet::new(&written).and_then(|packet| Repr::parse(&packet, source, destination));
    assert_eq!(again, Ok(repr));
    assert!(repr.to_string().starts_with("ND "));
}

/// RFC 1071's sum over the pseudo header of RFC 8200, section 8.1, and the message; written anew, so that a slip in weft's
/// own shows.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let whole = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58], message].concat();
    let words = whole.chunks(2).map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    words.fold(0, |sum, word| {
        let (sum, carry) = u16::overflowing_add(sum, word);
        sum + u16::from(carry)
    })
}
