//! A wire between a client and a server that a test can cut: then nothing passes, and nobody is told.

use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Carries connections to a server. Dropping it closes them.
pub struct Proxy {
    pub endpoint: String,
    cut: watch::Sender<bool>,
    _end: DropGuard,
}

impl Proxy {
    pub async fn to(server: &str) -> Self {
        let server: SocketAddr = server.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let (cut, is_cut) = watch::channel(false);
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server, is_cut.clone()));
            }
        }));
        Self { endpoint, cut, _end: end.drop_guard() }
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn carry(client: TcpStream, server: SocketAddr, is_cut: watch::Receiver<bool>) {
    // A server that is down: the client sees its connection closed.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client, server) = (client.into_split(), server.into_split());
    tokio::join!(pump(client.0, server.1, is_cut.clone()), pump(server.0, client.1, is_cut));
}

/// An end of either side, or of the test, ends it.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_cut: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let whole = is_cut.wait_for(|cut| !cut).await.is_ok();
        if !whole || to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    // An error means that the other side has closed it already.
    let _closed = to.shutdown().await;
}
