//! TLS connections for the embedded store's server. A client that is slow with its handshake holds up nobody else.

use rustls::ServerConfig;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The most that a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at once, at most; further connections wait in the kernel.
const AT_ONCE: usize = 256;
/// After the system would give no connection (too many open files, say).
const REST: Duration = Duration::from_millis(200);

/// Connections whose handshake is done.
pub struct Listener {
    ready: mpsc::Receiver<TlsStream<TcpStream>>,
    /// Ends with this.
    _accepting: JoinSet<()>,
}

impl Listener {
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        let (sender, ready) = mpsc::channel(AT_ONCE);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, TlsAcceptor::from(config), sender));
        Self { ready, _accepting: accepting }
    }

    /// The next connection, by TLS.
    pub async fn accept(&mut self) -> TlsStream<TcpStream> {
        match self.ready.recv().await {
            Some(stream) => stream,
            // Only when the runtime ends, and this with it.
            None => std::future::pending().await,
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<TlsStream<TcpStream>>) {
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.len() >= AT_ONCE {
            handshakes.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (acceptor, ready) = (acceptor.clone(), ready.clone());
                    handshakes.spawn(async move {
                        match timeout(PATIENCE, acceptor.accept(stream)).await {
                            // An error means that the server ends.
                            Ok(Ok(stream)) => drop(ready.send(stream).await),
                            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection to the store can be accepted; trying again");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = handshakes.join_next() => {}
        }
    }
}
