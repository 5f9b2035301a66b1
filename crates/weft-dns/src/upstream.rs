//! The server behind: who is asked for what is not weft's.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::spawn_blocking,
    time::timeout,
};

/// How long a server may take: Docker's resolver asks its own servers meanwhile, several for some seconds each.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long one of several servers may take before the next is asked.
const PATIENCE_OF_SEVERAL: Duration = Duration::from_secs(3);
/// How many idle sockets are kept for a server.
const KEPT: usize = 4;
/// The largest message (RFC 1035, 4.2.2: its length has two bytes).
const LARGEST: usize = u16::MAX as usize;

/// How the servers behind are reached. Calls may block for a moment: they are made where that is allowed.
pub trait Route: Send + Sync + 'static {
    /// Whom to ask, in this order. Nobody: what is not weft's has no answer.
    fn servers(&self) -> Vec<SocketAddr>;
    /// A socket that is connected to the server.
    fn udp(&self, server: SocketAddr) -> io::Result<UdpSocket>;
    /// A connection to the server.
    fn tcp(&self, server: SocketAddr) -> io::Result<TcpStream>;
}

/// The servers behind.
pub struct Upstream {
    route: Arc<dyn Route>,
    /// Sockets on which every query has been answered.
    idle: Mutex<HashMap<SocketAddr, Vec<tokio::net::UdpSocket>>>,
}

impl Upstream {
    /// The servers that are reached like this.
    pub fn new(route: Arc<dyn Route>) -> Self {
        Self { route, idle: Mutex::default() }
    }

    /// Asks by UDP, and returns the first answer as it came.
    pub async fn ask(&self, query: &[u8]) -> io::Result<Vec<u8>> {
        self.any(|server| self.ask_by_udp(server, query)).await
    }

    /// Asks by TCP.
    pub async fn ask_by_tcp(&self, query: &[u8]) -> io::Result<Vec<u8>> {
        self.any(|server| self.ask_one_by_tcp(server, query)).await
    }

    async fn any<F>(&self, ask: impl Fn(SocketAddr) -> F) -> io::Result<Vec<u8>>
    where
        F: Future<Output = io::Result<Vec<u8>>>,
    {
        let servers = self.route.servers();
        let patience = if servers.len() > 1 { PATIENCE_OF_SEVERAL } else { PATIENCE };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no name server is known");
        for server in servers {
            match timeout(patience, ask(server)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    async fn ask_by_udp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let kept = self.idle().get_mut(&server).and_then(Vec::pop);
        let socket = if let Some(socket) = kept {
            socket
        } else {
            let route = Arc::clone(&self.route);
            let socket = spawn_blocking(move || route.udp(server)).await??;
            socket.set_nonblocking(true)?;
            tokio::net::UdpSocket::from_std(socket)?
        };
        socket.send(query).await?;
        let mut answer = vec![0; LARGEST];
        loop {
            // A socket that fails, or is given up while it waits, is not kept: what still comes on it is nobody's.
            let length = socket.recv(&mut answer).await?;
            if length >= 2 && query.get(..2) == answer.get(..2) {
                answer.truncate(length);
                let mut idle = self.idle();
                let kept = idle.entry(server).or_default();
                if kept.len() < KEPT {
                    kept.push(socket);
                }
                return Ok(answer);
            }
        }
    }

    async fn ask_one_by_tcp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let route = Arc::clone(&self.route);
        let connection = spawn_blocking(move || route.tcp(server)).await??;
        connection.set_nonblocking(true)?;
        let mut connection = tokio::net::TcpStream::from_std(connection)?;
        // In one piece: some servers take two segments for two messages.
        connection.write_all(&[&length.to_be_bytes(), query].concat()).await?;
        let mut answer = vec![0; usize::from(connection.read_u16().await?)];
        connection.read_exact(&mut answer).await?;
        Ok(answer)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Vec<tokio::net::UdpSocket>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
