//! A wire that carries bytes and nothing else.
//!
//! Between the ends of a veth pair a packet keeps all that the kernel knows of it: that it is a tunnel's, that its
//! checksum is still to be computed. On a real wire it does not. So here every frame is read and written by hand.

use super::Netns;
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
            setsockopt, socket,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

/// Ends with this value.
pub struct Relay {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Carries frames between two devices of a namespace. What is sent to them has to be as it is on a wire: no
    /// segments, no checksums to be computed.
    pub fn between(wire: &Netns, one: &str, two: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut relay = Self { over: over.clone(), threads: Vec::new() };
        for (from, to) in [(one, two), (two, one)] {
            let open = || {
                let kind = SockType::Raw;
                let socket =
                    socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
                (socket.unwrap(), address(from), address(to))
            };
            let (socket, from, to) = wire.namespace.run(open).unwrap();
            setsockopt(&socket, RcvBufForce, &(8 << 20)).unwrap();
            setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
            let over = over.clone();
            relay.threads.push(thread::spawn(move || carry(&socket, from, to, &over)));
        }
        relay
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            let outcome = thread.join();
            if !thread::panicking() {
                outcome.unwrap();
            }
        }
    }
}

fn address(device: &str) -> LinkAddr {
    let found = getifaddrs().unwrap().find_map(|interface| {
        let address = *interface.address?.as_link_addr()?;
        (interface.interface_name == device).then_some(address)
    });
    found.unwrap()
}

fn carry(socket: &OwnedFd, from: LinkAddr, to: LinkAddr, over: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !over.load(SeqCst) {
        // Nothing for a moment is an error too.
        let Ok((length, Some(sender))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) else {
            continue;
        };
        // Also what a device sends is seen, with that device's number.
        if sender.ifindex() == from.ifindex() && sender.pkttype() != OUTGOING {
            let frame = &buffer[..length];
            sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty()).unwrap();
        }
    }
}

/// `PACKET_OUTGOING` of `linux/if_packet.h`.
const OUTGOING: u8 = 4;
