//! A name server on a pair of sockets.

use crate::{Question, Reply, Transport, Upstream, reply, server_failure};
use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use weft_plan::names::Meaning;

/// How many queries may wait for the servers behind at once; more are left unanswered, and asked again by who asked.
const WAITING: usize = 512;
/// How many connections there may be.
const CONNECTIONS: usize = 64;
/// How long a connection may be idle (RFC 7766, 6.2.3: some seconds).
const IDLE: Duration = Duration::from_secs(10);
/// More than any query takes.
const QUERY: usize = 4096;

/// Who knows the endpoints, as they are seen from one place.
pub trait Resolve: Send + Sync + 'static {
    /// Whom the question means.
    fn resolve(&self, question: Question<'_>) -> Meaning;
}

/// Where queries come in.
pub struct Sockets {
    /// Queries by datagram.
    pub udp: UdpSocket,
    /// Queries by connection.
    pub tcp: TcpListener,
}

struct Server {
    names: Arc<dyn Resolve>,
    upstream: Upstream,
    turn: AtomicUsize,
    waiting: Arc<Semaphore>,
}

/// Answers queries until `shutdown`; the sockets are closed when this has returned. An error: they cannot be used.
pub async fn serve(
    sockets: Sockets,
    names: Arc<dyn Resolve>,
    upstream: Upstream,
    shutdown: CancellationToken,
) -> io::Result<()> {
    sockets.udp.set_nonblocking(true)?;
    sockets.tcp.set_nonblocking(true)?;
    let udp = Arc::new(tokio::net::UdpSocket::from_std(sockets.udp)?);
    let tcp = tokio::net::TcpListener::from_std(sockets.tcp)?;
    let server = Arc::new(Server {
        names,
        upstream,
        turn: AtomicUsize::new(0),
        waiting: Arc::new(Semaphore::new(WAITING)),
    });
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        outcome = datagrams(&server, &udp, &shutdown) => outcome,
        outcome = connections(&server, &tcp, &shutdown) => outcome,
    }
}

async fn datagrams(
    server: &Arc<Server>,
    socket: &Arc<tokio::net::UdpSocket>,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let mut query = vec![0; QUERY];
    loop {
        let (length, from) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            // Somebody did not wait for an answer of before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let query = &query[..length];
        match server.reply(query, Transport::Udp) {
            Reply::Answer(answer) => send(socket, &answer, from).await,
            Reply::Silence => {}
            Reply::Elsewhere => {
                let Ok(permit) = Arc::clone(&server.waiting).try_acquire_owned() else { continue };
                let (server, socket, query) = (Arc::clone(server), Arc::clone(socket), query.to_vec());
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    let passed_on = shutdown.run_until_cancelled(server.upstream.ask(&query)).await;
                    if let Some(answer) = passed_on.and_then(|outcome| or_failure(outcome, &query)) {
                        send(&socket, &answer, from).await;
                    }
                    drop(permit);
                });
            }
        }
    }
}

async fn send(socket: &tokio::net::UdpSocket, answer: &[u8], to: SocketAddr) {
    // Who asked has gone, or will ask again.
    let _sent = socket.send_to(answer, to).await;
}

async fn connections(
    server: &Arc<Server>,
    listener: &tokio::net::TcpListener,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return Ok(()) };
        let (connection, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            // It ended before it was taken (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let (server, shutdown) = (Arc::clone(server), shutdown.clone());
        tokio::spawn(async move {
            // A connection that breaks is its owner's business.
            let _ended = shutdown.run_until_cancelled(server.converse(connection)).await;
            drop(permit);
        });
    }
}

impl Server {
    fn reply(&self, query: &[u8], transport: Transport) -> Reply {
        let turn = self.turn.fetch_add(1, Relaxed);
        reply(query, transport, turn, |question| self.names.resolve(question))
    }

    /// Answers one query of a connection after the other.
    async fn converse(&self, mut connection: TcpStream) -> io::Result<()> {
        loop {
            let Ok(length) = timeout(IDLE, connection.read_u16()).await else { return Ok(()) };
            let mut query = vec![0; usize::from(length?)];
            timeout(IDLE, connection.read_exact(&mut query)).await??;
            let answer = match self.reply(&query, Transport::Tcp) {
                Reply::Answer(answer) => answer,
                Reply::Silence => return Ok(()),
                Reply::Elsewhere => match or_failure(self.upstream.ask_by_tcp(&query).await, &query) {
                    Some(answer) => answer,
                    None => return Ok(()),
                },
            };
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            connection.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
        }
    }
}

/// What the server behind said, or that it said nothing.
fn or_failure(outcome: io::Result<Vec<u8>>, query: &[u8]) -> Option<Vec<u8>> {
    match outcome {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(%error, "a query could not be passed on");
            server_failure(query)
        }
    }
}
