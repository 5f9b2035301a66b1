//! Who is not let in, who is not believed, and what somebody on the wire sees.

use super::{
    Server, certificates::Certificates, conformance::done, connect, connect_with, server, server_with,
    some_authority,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use weft_store::{
    JoinToken, Store, StoreError, StoreOptions, StoreUrl, Tls, Txn, embedded::Authority, probe,
};

/// A wire in the middle that keeps all that passes.
async fn wiretap(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = heard.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            let (client, server) = (client.into_split(), server.into_split());
            tokio::spawn(pump(client.0, server.1, notes.clone()));
            tokio::spawn(pump(server.0, client.1, notes.clone()));
        }
    });
    (address, heard)
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, notes: Arc<Mutex<Vec<u8>>>) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        notes.lock().unwrap().extend_from_slice(&bytes[..count]);
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn on_the_wire_there_is_neither_a_record_nor_the_token() {
    let server = server().await.unwrap();
    let (address, heard) = wiretap(server.address).await;
    let store = connect(address, &server.token);
    done(&*store, Txn::new().put("v1/names/blue", b"the value".to_vec())).await;
    assert_eq!(store.list("v1/").await.unwrap().records.len(), 1);
    let heard = heard.lock().unwrap().clone();
    assert!(heard.len() > 1000, "the wire was not tapped");
    let token = server.token.reveal();
    let base64 = "dGhlIHZhbHVl";
    for secret in [&token[..16], &token[40..64], "v1/names", "the value", base64, "Bearer", "/store/v1"] {
        let found = heard.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret:?} can be read");
    }
}

/// Serves TLS as `config` says; what it is told by whoever believes it.
async fn impostor(config: Arc<ServerConfig>) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = told.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = vec![0; 4096];
            if let Ok(count) = stream.read(&mut asked).await {
                notes.lock().unwrap().extend_from_slice(&asked[..count]);
            }
        }
    });
    (address, told)
}

/// Shows this certificate, and the CA's behind it.
fn showing(certificate: &Certificate, key: &KeyPair, ca: &Certificate) -> Arc<ServerConfig> {
    let chain = vec![certificate.der().clone(), ca.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.unwrap())
}

/// The CA of a server as whoever has its key can make it.
fn stolen(server: &Server) -> CertifiedIssuer<'static, KeyPair> {
    let key = std::fs::read_to_string(server.folder.path().join(Authority::FILE)).unwrap();
    ca(KeyPair::from_pem(&key).unwrap())
}

fn ca(key: KeyPair) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "weft store CA");
    CertifiedIssuer::self_signed(params, key).unwrap()
}

async fn disbelieved(address: SocketAddr, token: &JoinToken, words: &str) {
    let store = connect(address, token);
    for error in
        [probe(&*store).await.unwrap_err(), store.commit(Txn::new().put("a", vec![])).await.unwrap_err()]
    {
        assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

const BETWEEN: &str = "somebody stands between";

#[tokio::test]
async fn a_token_of_another_cluster_is_told_from_a_wrong_secret() {
    let server = server().await.unwrap();
    disbelieved(server.address, &some_authority().1, BETWEEN).await;
    assert_eq!(server.store.list("").await.unwrap().records, []);
}

#[tokio::test]
async fn somebody_in_between_is_not_believed_and_is_told_nothing() {
    let server = server().await.unwrap();
    let params = || CertificateParams::new(["weft-store".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let (real, own) = (stolen(&server), ca(KeyPair::generate().unwrap()));
    // With a CA of his own; with one that has the right name; and with the right CA's certificate, which is no secret.
    let by_own = params().signed_by(&key, &own).unwrap();
    for config in [
        some_authority().0.server_config(None).unwrap(),
        showing(&by_own, &key, own.as_ref()),
        showing(&by_own, &key, real.as_ref()),
    ] {
        let (address, told) = impostor(config).await;
        disbelieved(address, &server.token, BETWEEN).await;
        assert!(told.lock().unwrap().is_empty(), "the secret was told");
    }
    // The right CA makes certificates for nobody else; were it to, it would not be for this.
    let other = CertificateParams::new(["somebody-else".to_owned()]).unwrap().signed_by(&key, &real).unwrap();
    let (address, told) = impostor(showing(&other, &key, real.as_ref())).await;
    disbelieved(address, &server.token, "of no use here").await;
    assert!(told.lock().unwrap().is_empty(), "the secret was told");
}

#[tokio::test]
async fn a_certificate_out_of_date_is_not_accepted_and_the_clocks_are_named() {
    let server = server().await.unwrap();
    let (real, key) = (stolen(&server), KeyPair::generate().unwrap());
    for (from, to) in [(2001, 2002), (2101, 2102)] {
        let mut params = CertificateParams::new(["weft-store".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let config = showing(&params.signed_by(&key, &real).unwrap(), &key, real.as_ref());
        disbelieved(impostor(config).await.0, &server.token, "are both hosts' clocks right?").await;
    }
}

#[tokio::test]
async fn a_rotated_token_ends_the_old_one() {
    let mut server = server().await.unwrap();
    let old = server.token.clone();
    server.stop().await;
    server.token = JoinToken::random(server.authority.pin()).unwrap();
    server.start_again().await;
    let error = probe(&*connect(server.address, &old)).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    probe(&*connect(server.address, &server.token)).await.unwrap();
}

/// What is in the files of these options.
fn files(options: &str) -> Tls {
    let url: StoreUrl = "weft://h:1".parse().unwrap();
    let options: StoreOptions = options.parse().unwrap();
    options.check(&url).unwrap();
    options.tls().unwrap().unwrap()
}

#[tokio::test]
async fn with_a_ca_of_the_operators_only_its_clients_are_let_in() {
    let certificates = Certificates::new();
    let server = server_with(Some(&files(&certificates.options("server")))).await;
    // The right token and no certificate; a certificate of another CA.
    let ca_only = files(&format!("kv.cacertfile={}", certificates.path("ca.pem")));
    let stranger = Certificates::new();
    let mixed = files(&format!(
        "kv.cacertfile={},kv.certfile={},kv.keyfile={}",
        certificates.path("ca.pem"),
        stranger.path("client.pem"),
        stranger.path("client.key")
    ));
    for tls in [ca_only, mixed] {
        let error = probe(&*connect_with(server.address, &server.token, Some(&tls))).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        assert!(error.to_string().contains("kv.certfile"), "{error}");
    }
    let known = files(&certificates.options("client"));
    let store = connect_with(server.address, &server.token, Some(&known));
    done(&*store, Txn::new().put("a", vec![])).await;
    // A certificate does not do instead of the token.
    let wrong = JoinToken::random(server.authority.pin()).unwrap();
    let error = probe(&*connect_with(server.address, &wrong, Some(&known))).await.unwrap_err();
    assert!(error.to_string().contains("join token is wrong"), "{error}");
    // Who trusts another CA does not believe this server.
    let doubting = files(&stranger.options("client"));
    let error = probe(&*connect_with(server.address, &server.token, Some(&doubting))).await.unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
}
