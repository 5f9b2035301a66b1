//! Consul's HTTP API, asked at the endpoint that answers.
//!
//! Source: Consul's "HTTP API structure", "Consistency modes" and "Blocking queries" pages.

use super::api::{Applied, Op, TxnAnswer, body};
use crate::{StoreError, StoreOptions, request::cause};
use bytes::Bytes;
use reqwest::{
    Certificate, Client as Http, Identity, Method, RequestBuilder, StatusCode, Url,
    header::{HeaderValue, InvalidHeaderValue},
};
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
    pub tls: Option<ConsulTls>,
}

/// Whom to trust over HTTPS, and what to show.
#[derive(Clone, Default)]
pub struct ConsulTls {
    /// Certificates of the authorities to trust, PEM; `None` trusts those of the machine.
    pub ca: Option<Vec<u8>>,
    /// The client's certificate and its key, PEM, one after the other.
    pub identity: Option<Vec<u8>>,
}

impl fmt::Debug for ConsulOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "secret");
        f.debug_struct("ConsulOptions").field("token", &token).field("tls", &self.tls).finish()
    }
}

impl fmt::Debug for ConsulTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.as_ref().map(|_| "secret");
        f.debug_struct("ConsulTls").field("ca", &self.ca.is_some()).field("identity", &identity).finish()
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
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let mut http = Http::builder()
            .connect_timeout(timeout / count)
            .tcp_keepalive(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(30))
            // A redirect would carry the token to whomever it names.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(tls) = &options.tls {
            if let Some(ca) = &tls.ca {
                let trusted = Certificate::from_pem_bundle(ca)
                    .map_err(|e| invalid(format!("CA file: {}", cause(&e))))?;
                if trusted.is_empty() {
                    return Err(invalid("CA file: no certificate in it".to_owned()));
                }
                http = http.tls_certs_only(trusted);
            }
            if let Some(identity) = &tls.identity {
                let identity = Identity::from_pem(identity)
                    .map_err(|e| invalid(format!("client certificate and key: {}", cause(&e))))?;
                http = http.identity(identity);
            }
        }
        let http = http.build().map_err(|e| invalid(cause(&e)))?;
        let (preferred, token) = (AtomicUsize::new(0), RwLock::new(token));
        Ok(Self { endpoints, preferred, http, token, source: None, address, timeout })
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

    async fn send(&self, endpoint: &Endpoint, request: RequestBuilder) -> Result<Answer, Failure> {
        let lost = |error: &reqwest::Error| {
            let closed = is_canceled(error);
            let hint = if closed && endpoint.root.scheme() == "https" {
                " (it closed the connection: does it want a client certificate, or not take this one?)"
            } else {
                ""
            };
            let error_text = format!("{}: {}{hint}", endpoint.name, cause(error));
            Failure { error: self.broken(error_text), unsent: closed || error.is_connect() }
        };
        let response = request.send().await.map_err(|e| lost(&e))?;
        let status = response.status();
        let index = response.headers().get(INDEX).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
        let body = response.bytes().await.map_err(|e| Failure { unsent: false, ..lost(&e) })?;
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

/// Whether the connection was closed after it was made and before the request was sent. With TLS 1.3 a server judges the
/// client's certificate only then (RFC 8446, 4.4.2.4), and why it closed is sometimes lost.
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
        let tls = |ca: Option<&str>, identity: Option<&str>| ConsulOptions {
            token: None,
            tls: Some(ConsulTls {
                ca: ca.map(|t| t.as_bytes().to_vec()),
                identity: identity.map(|t| t.as_bytes().to_vec()),
            }),
        };
        assert!(invalid(&["h:1"], &tls(Some("nothing"), None)).contains("CA file"));
        assert!(invalid(&["h:1"], &tls(None, Some("nothing"))).contains("client certificate"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let tls = Some(ConsulTls { ca: None, identity: Some(b"hidden".to_vec()) });
        let text = format!("{:?}", ConsulOptions { token: Some("hidden".to_owned()), tls });
        assert!(!text.contains("hidden") && !text.contains("104"), "{text}");
    }
}
