//! Waiting for news from the kernel: netlink's multicast groups (rtnetlink(7)).
//!
//! What the news are does not matter here, only that there are some: whoever waits looks at the kernel anew. So
//! the messages are not decoded, many are one, and lost ones (`ENOBUFS`) count as news.

use crate::{KernelError, Namespace};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use std::{io, sync::Arc};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Mutex,
};

// `linux/rtnetlink.h`, enum rtnetlink_groups.
pub(crate) const LINK: u32 = 1;
pub(crate) const NEIGHBOUR: u32 = 3;
pub(crate) const IPV4_ADDRESS: u32 = 5;
pub(crate) const IPV4_ROUTE: u32 = 7;
pub(crate) const IPV6_ADDRESS: u32 = 9;
pub(crate) const IPV6_ROUTE: u32 = 11;
pub(crate) const MULTICAST: u32 = 26;

/// A subscription to news of one namespace.
pub(crate) struct Events {
    socket: Arc<Socket>,
    /// The socket can be registered with a runtime once at a time.
    turn: Mutex<()>,
}

impl Events {
    /// Subscribes; news from now on are kept until they are waited for.
    pub fn subscribe(namespace: &Namespace, groups: &[u32]) -> Result<Self, KernelError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            for group in groups {
                socket.add_membership(*group)?;
            }
            Ok(socket)
        };
        let socket = namespace.run(open)?.map_err(|e| failed(&e))?;
        Ok(Self { socket: Arc::new(socket), turn: Mutex::new(()) })
    }

    /// Waits for news. Nothing is lost when the future is dropped.
    pub async fn wait(&self) -> Result<(), KernelError> {
        let _turn = self.turn.lock().await;
        let socket = self.register().map_err(|e| failed(&e))?;
        loop {
            let mut ready = socket.readable().await.map_err(|e| failed(&e))?;
            if self.drain().map_err(|e| failed(&e))? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    // The only unsafe code here: the runtime asks for a promise about the descriptor's life.
    #[allow(unsafe_code)]
    fn register(&self) -> io::Result<AsyncFd<Arc<Socket>>> {
        // SAFETY: the `Arc` keeps the socket open at least as long as the registration, and a `Socket` never
        // changes its descriptor.
        let registered =
            unsafe { AsyncFd::register_with_interest(Arc::clone(&self.socket), Interest::READABLE) };
        registered.map_err(|e| e.into_parts().1)
    }

    /// Takes all news that are there; whether there were any.
    fn drain(&self) -> io::Result<bool> {
        let mut news = false;
        let mut buffer = Vec::with_capacity(64);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => news = true,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => news = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn failed(error: &io::Error) -> KernelError {
    KernelError::netlink(
        "wait for news from the kernel",
        &error.to_string(),
        error.raw_os_error().unwrap_or(0),
    )
}
