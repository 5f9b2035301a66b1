//! Ports on loopback for the servers of tests.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// A free port. It is none that the system hands out by itself: a server that is down must find its own free when
/// it comes back.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() % 10_000;
    loop {
        let port = 20_000 + (first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 12_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
