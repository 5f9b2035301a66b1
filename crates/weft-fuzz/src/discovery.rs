//! A frame of a container's, to the answerers of the fast path (`bpf/discovery.h`, as functions of this machine): they give
//! nothing, or an answer that the other side of the protocol reads as one, to whoever asked.
//!
//! Out of bounds they cannot read unnoticed: behind the frame is a page that nobody may touch. (In the kernel the verifier
//! sees to that.)

#![allow(unsafe_code)] // The answerers are C.

use std::{ffi::c_long, net::Ipv6Addr, sync::Mutex};
use weft_model::MacAddr;
use weft_wire::{arp, nd};

unsafe extern "C" {
    fn weft_fuzz_answer(frame: *mut u8, len: u32, capacity: u32) -> c_long;
}

/// The only station that is answered for.
const STATION: MacAddr = MacAddr([2, 0x42, 10, 9, 0, 2]);

/// Where an Ethernet frame's payload begins, and an IPv6 packet's in it.
const PAYLOAD: usize = 14;
const IPV6_PAYLOAD: usize = PAYLOAD + 40;

pub fn check(bytes: &[u8]) {
    let Some(answer) = answer(bytes) else { return };
    assert_eq!(mac(&answer, 6), STATION, "it comes from the station");
    if answer[12..PAYLOAD] == [0x08, 0x06] {
        let asked = arp::Packet::new(&bytes[PAYLOAD..]).and_then(|packet| arp::Repr::parse(&packet));
        let asked = asked.expect("a question that can be read");
        assert_eq!(asked.operation, arp::Operation::Request);
        let told = arp::Packet::new(&answer[PAYLOAD..]).and_then(|packet| arp::Repr::parse(&packet));
        let expected = arp::Repr {
            operation: arp::Operation::Reply,
            sender_mac: STATION,
            sender_ip: asked.target_ip,
            target_mac: asked.sender_mac,
            target_ip: asked.sender_ip,
        };
        assert_eq!(told, Ok(expected));
        assert_eq!(mac(&answer, 0), asked.sender_mac);
    } else {
        let (source, destination) = (ip(&answer, 22), ip(&answer, 38));
        let told = nd::Packet::new(&answer[IPV6_PAYLOAD..]);
        let told = told.and_then(|packet| nd::Repr::parse(&packet, source, destination));
        let asker = ip(bytes, 22);
        let expected = nd::Repr::Advertisement {
            target: ip(bytes, 62),
            target_mac: Some(STATION),
            router: false,
            solicited: !asker.is_unspecified(),
            overrides: true,
        };
        assert_eq!(told, Ok(expected));
        assert_eq!(answer[21], nd::HOP_LIMIT);
        let whole = u16::from_be_bytes([answer[18], answer[19]]);
        assert_eq!(usize::from(whole), answer.len() - IPV6_PAYLOAD);
        let everybody: Ipv6Addr = "ff02::1".parse().expect("an address");
        assert_eq!(destination, if asker.is_unspecified() { everybody } else { asker });
    }
}

/// The answer to a frame, if there is one.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    // The answerers work in memory that there is once.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let mut buffer = frame.to_vec();
    buffer.resize(frame.len().max(256), 0);
    let len = u32::try_from(frame.len()).ok()?;
    let capacity = u32::try_from(buffer.len()).ok()?;
    // SAFETY: the function reads `len` bytes and writes `capacity` at most, and the buffer has as many; it keeps no pointer.
    let len = unsafe { weft_fuzz_answer(buffer.as_mut_ptr(), len, capacity) };
    buffer.truncate(usize::try_from(len).expect("memory for the frame"));
    (!buffer.is_empty()).then_some(buffer)
}

fn mac(frame: &[u8], at: usize) -> MacAddr {
    MacAddr(*frame[at..].first_chunk().expect("a whole header"))
}

fn ip(frame: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(*frame[at..].first_chunk::<16>().expect("a whole header"))
}
