//! The embedded store of another daemon, used over the network: `weft://HOST:PORT`.

use crate::{
    Batch, JoinToken, LeaseId, Listing, Outcome, Record, Store, StoreError, Tls, Txn, Watch,
    request::cause,
    tls::{alert_in, find_tls},
    wire::{self, Line},
};
use async_trait::async_trait;
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Version};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    sync::{PoisonError, RwLock},
    time::Duration,
};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};
use weft_model::Revision;

/// Another daemon's store.
pub struct Remote {
    address: String,
    root: String,
    secret: String,
    client: RwLock<Client>,
    tls: ClientConfig,
    timeout: Duration,
}

/// More than all answers together can be behind on a connection (RFC 9113, 6.9.1: the most there is): a watch that is read
/// slowly holds up itself alone.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const STREAM_WINDOW: u32 = 1 << 20;

fn client(tls: &ClientConfig, timeout: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(tls.clone())
        // The store is a neighbour, whatever this host does to reach the world.
        .no_proxy()
        .connect_timeout(timeout)
        .tcp_keepalive(Duration::from_secs(10))
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(wire::HEARTBEAT)
        .http2_keep_alive_timeout(wire::SILENCE)
        // What the watches go over is never idle.
        .pool_idle_timeout(None)
        .build()
}

impl Remote {
    /// Prepares the use of the store that the daemon at `server` (`host:port`) serves. Nothing is sent yet, so
    /// this does not fail when that daemon is down; [`crate::probe`] tells. `timeout` bounds every call.
    ///
    /// The daemon shows a certificate made by the CA that the token names; with a CA in `operators`, one made by that, for
    /// the host's name in `server`. It gets the token's secret only then.
    pub fn connect(
        server: &str,
        token: &JoinToken,
        operators: Option<&Tls>,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        let address = format!("weft://{server}");
        let none = Tls { ca: None, identity: None };
        let tls = match operators {
            Some(tls) if tls.ca.is_some() => tls.client_config(),
            tls => tls.unwrap_or(&none).pinned_config(token.pin()),
        };
        let invalid = |e: &dyn std::fmt::Display| StoreError::Invalid(format!("{address}: {e}"));
        let mut tls = tls.map_err(|e| invalid(&e))?;
        tls.alpn_protocols = vec![wire::ALPN.to_vec()];
        let client = client(&tls, timeout).map_err(|e| invalid(&e))?;
        Ok(Self {
            root: format!("https://{server}{}", wire::ROOT),
            secret: token.secret(),
            client: RwLock::new(client),
            tls,
            timeout,
            address,
        })
    }

    fn request(&self, call: &str, asked: &impl Serialize) -> RequestBuilder {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        client.post(format!("{}/{call}", self.root)).bearer_auth(&self.secret).json(asked)
    }

    async fn call<T: DeserializeOwned>(&self, call: &str, asked: &impl Serialize) -> Result<T, StoreError> {
        let response = self.send(self.request(call, asked).timeout(self.timeout)).await?;
        response.json().await.map_err(|e| self.unreachable(&e))
    }

    /// Sends it, and turns an answer that is none into its error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, StoreError> {
        let response = request.send().await.map_err(|e| self.failed(&e))?;
        match response.status() {
            StatusCode::OK if response.version() == Version::HTTP_2 => Ok(response),
            StatusCode::UNAUTHORIZED => {
                Err(StoreError::Denied { store: self.address.clone(), reason: wrong_token() })
            }
            StatusCode::CONFLICT => {
                Err(response.json::<StoreError>().await.unwrap_or_else(|e| self.unreachable(&e)))
            }
            StatusCode::PAYLOAD_TOO_LARGE => Err(StoreError::Invalid("the request is too large".to_owned())),
            status => Err(StoreError::Unreachable {
                store: self.address.clone(),
                reason: format!(
                    "it answers {:?} {status}: is it a weft daemon of this version?",
                    response.version()
                ),
            }),
        }
    }

    /// No answer: the network's doing, or one of the two did not like the other's certificate.
    fn failed(&self, error: &reqwest::Error) -> StoreError {
        let store = self.address.clone();
        match find_tls(error) {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                StoreError::Untrusted { store, reason: their_certificate(reason) }
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                let reason = "it does not speak TLS: is it a weft daemon of this version?".to_owned();
                StoreError::Unreachable { store, reason }
            }
            Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                let reason = "it does not speak HTTP/2: is it a weft daemon of this version?".to_owned();
                StoreError::Unreachable { store, reason }
            }
            _ => match alert_in(&cause(error)) {
                Some(alert) => {
                    let reason = format!(
                        "it wants a certificate that its CA has made ({alert:?}): give kv.certfile and kv.keyfile"
                    );
                    StoreError::Denied { store, reason }
                }
                None => self.unreachable(error),
            },
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> StoreError {
        StoreError::Unreachable { store: self.address.clone(), reason: cause(error) }
    }
}

/// What is wrong with the certificate that the server has shown, and what that means.
fn their_certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "its certificate is not made by the CA that is to be trusted: the join token is another cluster's or an old one, \
             or somebody stands between; {}",
            where_the_token_is()
        ),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is out of date: are both hosts' clocks right? ({reason})")
        }
        other => format!("its certificate is of no use here: {other}"),
    }
}

/// What a daemon with a wrong join token is told.
pub fn wrong_token() -> String {
    format!("the join token is wrong; {}", where_the_token_is())
}

/// Where the right join token is.
pub fn where_the_token_is() -> String {
    format!(
        "the right one is in the file {} in the state directory of the daemon that holds the store \
         (/var/lib/weft/{} unless it was moved)",
        JoinToken::FILE,
        JoinToken::FILE
    )
}

#[async_trait]
impl Store for Remote {
    fn address(&self) -> String {
        self.address.clone()
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.call("get", &wire::Key { key: key.to_owned() }).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.call("list", &wire::Prefix { prefix: prefix.to_owned() }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let request = self.request("watch", &wire::WatchFrom { prefix: prefix.to_owned(), after });
        let silent = || StoreError::Unreachable {
            store: self.address.clone(),
            reason: "no answer in time".to_owned(),
        };
        let response =
            tokio::time::timeout(self.timeout, self.send(request)).await.unwrap_or_else(|_| Err(silent()))?;
        let lines = lines(response.bytes_stream().map_err(|e| cause(&e)));
        let watching = Watching { lines, address: self.address.clone() };
        Ok(stream::try_unfold(watching, Watching::next).boxed())
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        self.call("commit", &txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.call("grant", &wire::Ttl { milliseconds }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call("keep_alive", &wire::Lease { lease }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call("revoke", &wire::Lease { lease }).await
    }

    /// The connection was made from an address that is no more: it would be tried until it counts as dead.
    async fn address_lost(&self) {
        match client(&self.tls, self.timeout) {
            Ok(anew) => *self.client.write().unwrap_or_else(PoisonError::into_inner) = anew,
            Err(error) => tracing::warn!(%error, "the store is reached by the connection that there was"),
        }
    }
}

/// What a watch delivers whose answer's body comes in these pieces: see [`crate::fuzzing`].
pub async fn watch_of(pieces: Vec<Vec<u8>>) -> (Vec<Batch>, StoreError) {
    let body = stream::iter(pieces.into_iter().map(|piece| Ok::<_, io::Error>(io::Cursor::new(piece))));
    let mut watching = Watching { lines: lines(body), address: "weft://fuzz".to_owned() };
    let mut batches = Vec::new();
    loop {
        match watching.next().await {
            Ok(Some((batch, rest))) => {
                batches.push(batch);
                watching = rest;
            }
            Ok(None) => return (batches, StoreError::Invalid("it ended without an error".to_owned())),
            Err(error) => return (batches, error),
        }
    }
}

fn lines<B, E>(
    body: impl Stream<Item = Result<B, E>> + Send + 'static,
) -> BoxStream<'static, Result<String, String>>
where
    B: bytes::Buf + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let reader = StreamReader::new(body.map_err(io::Error::other).boxed());
    FramedRead::new(reader, LinesCodec::new_with_max_length(wire::MAX_LENGTH))
        .map_err(|e| e.to_string())
        .boxed()
}

struct Watching {
    lines: BoxStream<'static, Result<String, String>>,
    address: String,
}

impl Watching {
    async fn next(mut self) -> Result<Option<(Batch, Self)>, StoreError> {
        let text = match self.lines.next().await {
            Some(Ok(text)) => text,
            Some(Err(reason)) => return Err(self.broken(reason)),
            None => return Err(self.broken("it closed the connection".to_owned())),
        };
        match serde_json::from_str(&text) {
            Ok(Line::Batch(batch)) => Ok(Some((batch.into(), self))),
            Ok(Line::End(error)) => Err(error),
            Err(error) => Err(self.broken(format!("not a line of a watch: {error}"))),
        }
    }

    fn broken(&self, reason: String) -> StoreError {
        StoreError::Unreachable { store: self.address.clone(), reason }
    }
}
