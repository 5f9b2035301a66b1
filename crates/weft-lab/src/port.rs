//! Ports on loopback for the servers of tests.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// A port of 127.0.0.1 that is free. It is none that the system hands out by itself: a server that is down must find its own
/// free when it comes back.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port =
            20_000 + (std::process::id() % 10_000 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 12_000;
        if let Ok(port) = u16::try_from(port)
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            return port;
        }
    }
}
