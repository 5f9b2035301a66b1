//! The embedded store of another daemon, over loopback: the conformance suite, wrong tokens, strangers and dead servers.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "each target uses its part")]
#[path = "etcd_server/certificates.rs"]
mod certificates;
mod conformance;
mod strangers;

use async_trait::async_trait;
use conformance::{Subject, done, failure, soon};
use futures::StreamExt as _;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;
use weft_model::Revision;
use weft_store::{
    Embedded, Event, JoinToken, Remote, Store, StoreError, Tls, Txn,
    embedded::{Authority, serve},
    follow, probe,
};

const HISTORY: u64 = 300;
const TIMEOUT: Duration = Duration::from_secs(5);

struct Server {
    folder: tempfile::TempDir,
    authority: Arc<Authority>,
    tls: Arc<ServerConfig>,
    token: JoinToken,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
    store: Arc<Remote>,
}

async fn server() -> Option<Server> {
    Some(server_with(None).await)
}

/// A server that shows the operator's own certificate, or asks for one.
async fn server_with(operators: Option<&Tls>) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::load_or_create(&folder.path().join(Authority::FILE)).unwrap());
    let tls = authority.server_config(operators).unwrap();
    let token = JoinToken::random(authority.pin()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let store = connect(address, &token);
    let shutdown = CancellationToken::new();
    let mut server = Server { folder, authority, tls, token, address, shutdown, task: None, store };
    server.start(listener).await;
    server
}

fn connect(address: SocketAddr, token: &JoinToken) -> Arc<Remote> {
    connect_with(address, token, None)
}

fn connect_with(address: SocketAddr, token: &JoinToken, operators: Option<&Tls>) -> Arc<Remote> {
    Arc::new(Remote::connect(&address.to_string(), token, operators, TIMEOUT).unwrap())
}

/// A CA, and a token for a server that shows its certificates.
fn some_authority() -> (Arc<Authority>, JoinToken) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(&folder.path().join(Authority::FILE)).unwrap();
    let token = JoinToken::random(authority.pin()).unwrap();
    (Arc::new(authority), token)
}

impl Server {
    fn path(&self) -> PathBuf {
        self.folder.path().join("store.redb")
    }

    async fn start(&mut self, listener: TcpListener) {
        let store = Arc::new(Embedded::open_with_history(self.path(), HISTORY).await.unwrap());
        self.shutdown = CancellationToken::new();
        let (token, tls, shutdown) = (self.token.clone(), self.tls.clone(), self.shutdown.clone());
        self.task = Some(tokio::spawn(serve(listener, store, token, tls, shutdown)));
    }

    async fn start_again(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.start(socket.listen(64).unwrap()).await;
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        soon(self.task.take().unwrap()).await.unwrap();
        // The last connection's task may hold the store for a moment longer: wait until the file is free.
        soon(async {
            while Embedded::open(self.path()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

#[async_trait]
impl Subject for Server {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn forget_history(&self) {
        conformance::outrun(self.store(), HISTORY).await;
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

conformance!(server);
conformance_of_servers!(server);

#[tokio::test]
async fn a_wrong_token_is_told_where_the_right_one_is() {
    let server = server().await.unwrap();
    let stranger = connect(server.address, &JoinToken::random(server.authority.pin()).unwrap());
    for error in [
        probe(&*stranger).await.unwrap_err(),
        stranger.commit(Txn::new().put("a", vec![])).await.unwrap_err(),
        failure(stranger.watch("", Revision::ZERO).await).await,
    ] {
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("join token is wrong") && text.contains("/var/lib/weft/join-token"), "{text}");
    }
    assert_eq!(server.store.list("").await.unwrap().records, []);
}

#[tokio::test]
async fn a_request_without_a_token_is_answered_401() {
    let server = server().await.unwrap();
    let url = format!("https://{}/store/v1/list", server.address);
    // A stranger may well accept any certificate.
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let response = client.post(url).body("{}").send().await.unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn a_follower_lists_again_when_the_store_was_wiped() {
    let mut server = server().await.unwrap();
    for value in [b"1", b"2", b"3"] {
        done(&*server.store, Txn::new().put("f/a", value.to_vec())).await;
    }
    let mut follower = follow(server.store.clone(), "f/");
    let first = soon(follower.next()).await.unwrap();
    assert!(matches!(&first, Event::Resync(listing) if listing.revision == Revision(3)), "{first:?}");
    server.stop().await;
    let away = soon(follower.next()).await.unwrap();
    assert!(matches!(away, Event::Away(StoreError::Unreachable { .. })), "{away:?}");
    std::fs::remove_file(server.path()).unwrap();
    server.start_again().await;
    let again = soon(follower.next()).await.unwrap();
    assert!(
        matches!(&again, Event::Resync(listing) if listing.revision == Revision::ZERO && listing.records.is_empty()),
        "{again:?}"
    );
    let at = done(&*server.store, Txn::new().put("f/b", vec![])).await;
    let changed = soon(follower.next()).await.unwrap();
    assert!(matches!(&changed, Event::Changed(batch) if batch.revision == at), "{changed:?}");
}

/// A server that takes connections, says `greeting` on each once it was asked, and nothing more; and the token for it. `alpn`:
/// what it says that it speaks.
async fn mute(alpn: &[&str], greeting: &'static str) -> (SocketAddr, JoinToken) {
    let (authority, token) = some_authority();
    let mut config = ServerConfig::clone(&authority.server_config(None).unwrap());
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            // The two may have no protocol in common.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = [0; 4096];
            let _bytes = stream.read(&mut asked).await.unwrap();
            stream.write_all(greeting.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            open.push(stream);
        }
    });
    (address, token)
}

/// A way to `server` on which the connections that stand at some moment carry nothing from then on, and are not closed.
async fn cable(server: SocketAddr, pulled: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let pulled = pulled.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(server).await.unwrap();
                let carrying = tokio::io::copy_bidirectional(&mut near, &mut far);
                if pulled.is_cancelled() {
                    let _ended = carrying.await;
                } else {
                    tokio::select! {
                        _ = carrying => {}
                        () = pulled.cancelled() => std::future::pending().await,
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unreachable_in_time() {
    let (address, token) = mute(&["h2"], "").await;
    let timeout = Duration::from_millis(300);
    let store = Remote::connect(&address.to_string(), &token, None, timeout).unwrap();
    for error in [probe(&store).await.unwrap_err(), failure(store.watch("", Revision::ZERO).await).await] {
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("no answer in time"), "{error}");
    }
}

#[tokio::test]
async fn a_watch_on_a_connection_gone_silent_ends_and_calls_take_another() {
    let server = server().await.unwrap();
    let pulled = CancellationToken::new();
    let store = connect(cable(server.address, pulled.clone()).await, &server.token);
    let mut watch = store.watch("", Revision::ZERO).await.unwrap();
    let at = done(&*store, Txn::new().put("a", vec![])).await;
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().revision, at);
    pulled.cancel();
    let error = soon(watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert_eq!(store.list("").await.unwrap().revision, at);
}

#[tokio::test]
async fn a_host_that_has_lost_its_address_goes_on_by_a_new_connection() {
    let server = server().await.unwrap();
    let pulled = CancellationToken::new();
    let address = cable(server.address, pulled.clone()).await;
    let store = connect(address, &server.token);
    probe(&*store).await.unwrap();
    pulled.cancel();
    store.address_lost().await;
    probe(&*store).await.unwrap();
}

#[tokio::test]
async fn something_else_on_the_port_is_recognised() {
    let (address, token) = mute(&[], "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let error = probe(&*connect(address, &token)).await.unwrap_err().to_string();
    assert!(error.contains("404") && error.contains("is it a weft daemon"), "{error}");
    let (address, token) = mute(&["http/1.1"], "").await;
    let error = probe(&*connect(address, &token)).await.unwrap_err().to_string();
    assert!(error.contains("HTTP/2") && error.contains("is it a weft daemon"), "{error}");
}
