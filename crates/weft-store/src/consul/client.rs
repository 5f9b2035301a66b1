//! Consul's HTTP API, asked at the endpoint that answers.
//!
//! Source: Consul's "HTTP API structure", "Consistency modes" and "Blocking queries" pages.

use super::api::{Applied, Op, TxnAnswer, body};
use crate::{StoreError, StoreOptions, Tls, handshake, request::cause};
use bytes::Bytes;
use reqwest::{
    Client as Http, Method, RequestBuilder, StatusCode, Url,
    header::{HeaderValue, InvalidHeaderValue},
};
use rustls::{AlertDescription, ClientConfig};
use serde::de::DeserializeOwned;
use std::{
    error::Error as _,
    fmt, iter,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long Consul may hold a blocking query. It adds up to a sixteenth of that.
const WAIT: Duration = Duration::from_secs(15);
/// The header with the index that a blocking query waits from.
const INDEX: &str = "x-consul-index";
/// The header with the ACL token.
const TOKEN: &str = "x-consul-token";
/// What may be spoken over TLS: many blocking queries go over one connection of HTTP/2 (RFC 7301 and RFC 9113, 3.2).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What an agent says that knows of no leader: it has passed the request on to nobody.
const NO_LEADER: &str = "No cluster leader";
/// What Consul says to a token that may not do it, also about a single operation of a transaction.
const PERMISSION: &str = "Permission denied";

/// How to be let in by Consul.
#[derive(Clone, Default)]
pub struct ConsulOptions {
    /// The secret of an ACL token with `key_prefix "PREFIX/" { policy = "write" }` and
    /// `session_prefix "" { policy = "write" }`.
    pub token: Option<String>,
    /// Speak HTTPS.
    pub tls: Option<Tls>,
}

impl fmt::Debug for ConsulOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "secret");
        f.debug_struct("ConsulOptions").field("token", &token).field("tls", &self.tls).finish()
    }
}

/// Whether a request may be made again at another endpoint when its fate is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Doing it twice is as good as once.
    Always,
    /// Only if it was never sent.
    IfUnsent,
}

/// What Consul answered.
pub struct Answer {
    /// [`StatusCode::OK`], [`StatusCode::NOT_FOUND`] or, from a transaction, [`StatusCode::CONFLICT`].
    pub status: StatusCode,
    /// Where a blocking query goes on from; 0 when there is none.
    pub index: u64,
    body: Bytes,
}

/// A connection to the agents of one Consul cluster.
pub struct Client {
    endpoints: Vec<Endpoint>,
    /// The endpoint that is asked first: the last one that answered.
    preferred: AtomicUsize,
    http: Http,
    /// `None`: it is spoken to without TLS.
    tls: Option<ClientConfig>,
    token: RwLock<Option<HeaderValue>>,
    /// Where the token comes from, if it may be another one by and by.
    source: Option<StoreOptions>,
    address: String,
    timeout: Duration,
}

struct Endpoint {
    name: String,
    root: Url,
}

/// Why a request brought no answer, and whether nobody has seen it.
struct Failure {
    error: StoreError,
    unsent: bool,
}

impl Client {
    /// Sends nothing yet. [`StoreError::Invalid`] for endpoints, a token or certificates that cannot be used.
    pub fn new(
        address: String,
        endpoints: &[String],
        timeout: Duration,
        options: &ConsulOptions,
    ) -> Result<Self, StoreError> {
        let invalid = |reason: String| StoreError::Invalid(format!("{address}: {reason}"));
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let endpoints = endpoints
            .iter()
            .map(|name| {
                let root = Url::parse(&format!("{scheme}://{name}/"))
                    .map_err(|e| invalid(format!("endpoint {name}: {e}")))?;
                Ok(Endpoint { name: name.clone(), root })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        if endpoints.is_empty() {
            return Err(invalid("no endpoint".to_owned()));
        }
        let token = options.token.as_deref().map(header).transpose();
        let token =
            token.map_err(|_| invalid("the ACL token holds characters that no token has".to_owned()))?;
        let tls = options.tls.as_ref().map(Tls::client_config).transpose();
        let mut tls = tls.map_err(|e| invalid(format!("the certificates: {e}")))?;
        if let Some(tls) = &mut tls {
            tls.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        }
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let mut http = Http::builder()
            .connect_timeout(timeout / count)
            .tcp_keepalive(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(30))
            // A redirect would carry the token to whomever it names.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(tls) = &tls {
            http = http.tls_backend_preconfigured(tls.clone());
        }
        let http = http.build().map_err(|e| invalid(cause(&e)))?;
        let (preferred, token) = (AtomicUsize::new(0), RwLock::new(token));
        Ok(Self { endpoints, preferred, http, tls, token, source: None, address, timeout })
    }

    /// Reads the token anew, as these options say, when Consul does not take the one it has.
    pub fn with_token_from(mut self, options: StoreOptions) -> Self {
        self.source = Some(options);
        self
    }

    /// Takes the token that is on disk now. Returns whether it is another one than `refused`.
    fn renew_token(&self, refused: Option<&HeaderValue>) -> bool {
        // A file that cannot be read may be about to be written: the next refusal reads it again.
        let on_disk = self.source.as_ref().and_then(|options| options.token().ok().flatten());
        let Some(token) = on_disk.and_then(|text| header(&text).ok()) else { return false };
        if refused == Some(&token) {
            return false;
        }
        let mut current = self.token.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref() != Some(&token) {
            tracing::info!(store = %self.address, "the token for Consul has changed on disk: read again");
            *current = Some(token);
        }
        true
    }

    fn token(&self) -> Option<HeaderValue> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store's address, for people to read.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The most that a call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks for a path below `/v1/kv/` and waits until its index passes `index`, or a quarter of a minute. 0
    /// does not wait.
    pub async fn watch(&self, path: &str, query: &str, index: u64) -> Result<Answer, StoreError> {
        let query = format!("{query}&index={index}&wait={}s", WAIT.as_secs());
        let held = if index == 0 { Duration::ZERO } else { WAIT + WAIT / 16 };
        let path = format!("kv/{path}");
        self.call(Again::Always, held, Method::GET, &path, &query, Bytes::new()).await
    }

    /// Asks for a path below `/v1/`, as of now: what was written before is seen.
    pub async fn get(&self, path: &str) -> Result<Answer, StoreError> {
        self.call(Again::Always, Duration::ZERO, Method::GET, path, "consistent", Bytes::new()).await
    }

    /// Puts `body` to a path below `/v1/`.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Answer, StoreError> {
        self.call(Again::Always, Duration::ZERO, Method::PUT, path, "", body.into()).await
    }

    /// A transaction that only looks, as of now, at one moment.
    pub async fn look(&self, ops: &[Op]) -> Result<Applied, StoreError> {
        let body = body(ops)?;
        self.applied(&self.call(Again::Always, Duration::ZERO, Method::PUT, "txn", "consistent", body).await?)
    }

    /// A transaction that writes.
    pub async fn apply(&self, ops: &[Op]) -> Result<Applied, StoreError> {
        let body = body(ops)?;
        self.applied(&self.call(Again::IfUnsent, Duration::ZERO, Method::PUT, "txn", "", body).await?)
    }

    fn applied(&self, answer: &Answer) -> Result<Applied, StoreError> {
        let failures = match self.read::<TxnAnswer>(answer)?.into() {
            Applied::Done(entries) => return Ok(Applied::Done(entries)),
            Applied::Failed(failures) => failures,
        };
        match failures.iter().find(|f| f.reason.contains(PERMISSION)) {
            Some(denied) => {
                // Too late for this one; the next has the token that is there by now.
                self.renew_token(self.token().as_ref());
                Err(self.denied(denied.reason.clone()))
            }
            None => Ok(Applied::Failed(failures)),
        }
    }

    /// An answer's JSON.
    pub fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, StoreError> {
        serde_json::from_slice(&answer.body).map_err(|e| self.broken(format!("not an answer of Consul: {e}")))
    }

    /// An answer that makes no sense.
    pub fn broken(&self, reason: String) -> StoreError {
        StoreError::Unreachable { store: self.address.clone(), reason }
    }

    /// It does not let us in.
    pub fn denied(&self, reason: String) -> StoreError {
        StoreError::Denied { store: self.address.clone(), reason }
    }

    /// Makes a call; once more if Consul does not take the token and there is another one by now. What is denied has
    /// done nothing. `held` is how long Consul may hold the answer back on purpose.
    async fn call(
        &self,
        again: Again,
        held: Duration,
        method: Method,
        path: &str,
        query: &str,
        body: Bytes,
    ) -> Result<Answer, StoreError> {
        let token = self.token();
        let outcome = self.call_as(token.as_ref(), again, held, &method, path, query, &body).await;
        if matches!(outcome, Err(StoreError::Denied { .. })) && self.renew_token(token.as_ref()) {
            return self.call_as(self.token().as_ref(), again, held, &method, path, query, &body).await;
        }
        outcome
    }

    /// Makes a call at the preferred endpoint, and at the others in turn if that one does not answer.
    #[allow(clippy::too_many_arguments)]
    async fn call_as(
        &self,
        token: Option<&HeaderValue>,
        again: Again,
        held: Duration,
        method: &Method,
        path: &str,
        query: &str,
        body: &Bytes,
    ) -> Result<Answer, StoreError> {
        let deadline = Instant::now() + held + self.timeout;
        let count = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        let mut last = None;
        for _ in 0..self.endpoints.len() {
            let at = self.preferred.load(Ordering::Relaxed) % self.endpoints.len();
            let endpoint = &self.endpoints[at];
            let until = match again {
                Again::Always => deadline.min(Instant::now() + held + self.timeout / count),
                Again::IfUnsent => deadline,
            };
            let request = self.request(token, endpoint, method, path, query, body);
            let failure = match tokio::time::timeout_at(until, self.send(endpoint, request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let error = self.broken(format!("{}: no answer in time", endpoint.name));
                    Failure { error, unsent: false }
                }
            };
            if !matches!(failure.error, StoreError::Unreachable { .. }) {
                return Err(failure.error);
            }
            // Another call may have moved on meanwhile: then its choice stands.
            let next = (at + 1) % self.endpoints.len();
            let _moved = self.preferred.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            let stop = again == Again::IfUnsent && !failure.unsent;
            last = Some(failure.error);
            if stop {
                break;
            }
        }
        Err(last.unwrap_or_else(|| StoreError::Invalid(format!("{} names no endpoint", self.address))))
    }

    fn request(
        &self,
        token: Option<&HeaderValue>,
        endpoint: &Endpoint,
        method: &Method,
        path: &str,
        query: &str,
        body: &Bytes,
    ) -> RequestBuilder {
        let mut url = endpoint.root.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push("v1").extend(path.split('/'));
        }
        url.set_query((!query.is_empty()).then_some(query));
        let mut request = self.http.request(method.clone(), url).body(body.clone());
        if let Some(token) = token {
            request = request.header(TOKEN, token.clone());
        }
        request
    }

    /// No answer: the network's doing, or Consul did not like our certificate.
    async fn lost(&self, endpoint: &Endpoint, error: &reqwest::Error) -> Failure {
        let unsent = is_canceled(error) || error.is_connect();
        let broke = !error.is_connect() && !error.is_timeout();
        let alert = match &self.tls {
            Some(tls) if broke => handshake::alert(&endpoint.name, tls.clone()).await,
            _ => None,
        };
        let reason = alert.map_or_else(|| cause(error), our_certificate);
        Failure { error: self.broken(format!("{}: {reason}", endpoint.name)), unsent }
    }

    async fn send(&self, endpoint: &Endpoint, request: RequestBuilder) -> Result<Answer, Failure> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Err(self.lost(endpoint, &error).await),
        };
        let status = response.status();
        let index = response.headers().get(INDEX).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
        let body = response.bytes().await.map_err(|e| Failure {
            error: self.broken(format!("{}: {}", endpoint.name, cause(&e))),
            unsent: false,
        })?;
        if matches!(status, StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT) {
            return Ok(Answer { status, index, body });
        }
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        let unsent = said.contains(NO_LEADER);
        let error = match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => self.denied(said),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => StoreError::Invalid(said),
            status => self.broken(format!("{}: it answers {status}: {said}", endpoint.name)),
        };
        Err(Failure { error, unsent })
    }
}

/// What an alert on the certificate that this daemon has shown means.
fn our_certificate(alert: AlertDescription) -> String {
    format!(
        "it does not let this daemon in: give kv.certfile and kv.keyfile with a certificate of a CA that Consul trusts \
         (ca_file), valid by its clock (TLS alert: {alert:?})"
    )
}

/// Whether the connection was closed after it was made and before the request was sent.
fn is_canceled(error: &reqwest::Error) -> bool {
    let causes =
        iter::successors(error.source(), |error: &&(dyn std::error::Error + 'static)| (*error).source());
    causes.filter_map(|error| error.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled)
}

/// A token as a header that is not printed.
fn header(token: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(token)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(endpoints: &[&str], options: &ConsulOptions) -> String {
        let endpoints: Vec<_> = endpoints.iter().map(|&e| e.to_owned()).collect();
        match Client::new("consul://x/weft".to_owned(), &endpoints, Duration::from_secs(1), options) {
            Err(StoreError::Invalid(reason)) => reason,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was taken"),
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_before_anything_is_sent() {
        let none = ConsulOptions::default();
        assert!(invalid(&["h 1:2"], &none).contains("h 1:2"));
        assert!(invalid(&[], &none).contains("no endpoint"));
        let token = ConsulOptions { token: Some("a\nb".to_owned()), tls: None };
        assert!(invalid(&["h:1"], &token).contains("token"));
        let nothing = || b"nothing".to_vec();
        let tls = |ca, identity| ConsulOptions { token: None, tls: Some(Tls { ca, identity }) };
        assert!(invalid(&["h:1"], &tls(Some(nothing()), None)).contains("CA"));
        assert!(invalid(&["h:1"], &tls(None, Some((nothing(), nothing())))).contains("certificates"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let tls = Some(Tls { ca: None, identity: Some((b"hidden".to_vec(), b"hidden".to_vec())) });
        let text = format!("{:?}", ConsulOptions { token: Some("hidden".to_owned()), tls });
        assert!(!text.contains("hidden") && !text.contains("104"), "{text}");
    }
}
