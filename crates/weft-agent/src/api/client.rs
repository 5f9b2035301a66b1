//! The other end of the daemon's API: what the command line and the tests speak to a daemon with.
//!
//! One connection for each request: a command makes one or two, and a connection that outlives a restart of
//! the daemon would only be one more thing to go wrong.

use super::{
    AttachRequest, AttachTapRequest, DetachRequest, DetachTapRequest, EndpointView, ErrorBody, ErrorKind,
    Explanation, ExposeRequest, GcRequest, Leak, NetworkSpec, NetworkView, NodeView, Statistics, Status,
    UnexposeRequest,
};
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Write, io, net::IpAddr, path::PathBuf, time::Duration};
use tokio::{net::UnixStream, time::timeout};

/// Longer than the daemon waits for a store or for its kernel before it answers with an error of its own.
const PATIENCE: Duration = Duration::from_mins(1);

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The daemon's own words.
    #[error("{}", .0.error)]
    Daemon(ErrorBody),
    /// Nobody answers at the socket.
    #[error("no weft daemon answers at {}: {reason}", .socket.display())]
    NoDaemon {
        /// The socket's path.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The socket is there but is not for this user.
    #[error("permission denied on the daemon's socket {}", .socket.display())]
    Denied {
        /// The socket's path.
        socket: PathBuf,
    },
    /// What answers does not speak this API, or stopped in the middle of it.
    #[error("the weft daemon at {} gave no proper answer to {request}: {reason}", .socket.display())]
    Protocol {
        /// The socket's path.
        socket: PathBuf,
        /// The method and path.
        request: String,
        /// Why.
        reason: String,
    },
}

impl ClientError {
    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Daemon(body) => body.kind,
            Self::NoDaemon { .. } => ErrorKind::Unavailable,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Protocol { .. } => ErrorKind::Internal,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Daemon(body) => body.hint.as_deref(),
            Self::NoDaemon { .. } => {
                Some("start it with `weft daemon`, or name its socket with --socket or WEFT_SOCKET")
            }
            Self::Denied { .. } => Some("run as root, or as a member of the group weft"),
            Self::Protocol { .. } => {
                Some("`weft version` and the daemon's log tell whether the versions differ")
            }
        }
    }
}

impl Client {
    /// A client of the daemon whose socket this is. Nothing is connected yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, patience: PATIENCE }
    }

    /// How the daemon is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// What this host's programs have carried; `None` where none count.
    pub async fn statistics(&self) -> Result<Option<Statistics>, ClientError> {
        self.get("/v1/statistics").await
    }

    /// All networks.
    pub async fn networks(&self) -> Result<Vec<NetworkView>, ClientError> {
        self.get("/v1/networks").await
    }

    /// The network of that name, id or beginning of an id.
    pub async fn network(&self, reference: &str) -> Result<NetworkView, ClientError> {
        self.get(&format!("/v1/networks/{}", segment(reference))).await
    }

    /// Makes a network.
    pub async fn create_network(&self, spec: &NetworkSpec) -> Result<NetworkView, ClientError> {
        self.answer(Method::POST, "/v1/networks", json(spec)).await
    }

    /// Removes a network that has no endpoints.
    pub async fn remove_network(&self, reference: &str) -> Result<(), ClientError> {
        let path = format!("/v1/networks/{}", segment(reference));
        self.send(Method::DELETE, &path, Bytes::new()).await.map(drop)
    }

    /// All endpoints.
    pub async fn endpoints(&self) -> Result<Vec<EndpointView>, ClientError> {
        self.get("/v1/endpoints").await
    }

    /// The endpoint of that id or beginning of an id.
    pub async fn endpoint(&self, reference: &str) -> Result<EndpointView, ClientError> {
        self.get(&format!("/v1/endpoints/{}", segment(reference))).await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// What is known of an address, on each network that holds it.
    pub async fn explain_address(&self, ip: IpAddr) -> Result<Vec<Explanation>, ClientError> {
        self.get(&format!("/v1/addresses/{ip}")).await
    }

    /// What nobody needs any more.
    pub async fn leaks(&self) -> Result<Vec<Leak>, ClientError> {
        self.get("/v1/leaks").await
    }

    /// Removes what is safe to remove, and all of the nodes named. What was removed.
    pub async fn collect_garbage(&self, request: &GcRequest) -> Result<Vec<Leak>, ClientError> {
        self.answer(Method::DELETE, "/v1/leaks", json(request)).await
    }

    /// Puts a network namespace on a network.
    pub async fn attach(&self, request: &AttachRequest) -> Result<EndpointView, ClientError> {
        self.answer(Method::POST, "/v1/attach", json(request)).await
    }

    /// Takes a network namespace off a network.
    pub async fn detach(&self, request: &DetachRequest) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/detach", json(request)).await.map(drop)
    }

    /// Puts a tap device on a network.
    pub async fn attach_tap(&self, request: &AttachTapRequest) -> Result<EndpointView, ClientError> {
        self.answer(Method::POST, "/v1/attach-tap", json(request)).await
    }

    /// Takes a tap device off a network.
    pub async fn detach_tap(&self, request: &DetachTapRequest) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/detach-tap", json(request)).await.map(drop)
    }

    /// Puts the host itself on a network.
    pub async fn expose(&self, request: &ExposeRequest) -> Result<EndpointView, ClientError> {
        self.answer(Method::POST, "/v1/expose", json(request)).await
    }

    /// Takes the host itself off a network.
    pub async fn unexpose(&self, request: &UnexposeRequest) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/unexpose", json(request)).await.map(drop)
    }

    /// An attachment, if it is there and its namespace has what it should.
    pub async fn check(&self, request: &DetachRequest) -> Result<EndpointView, ClientError> {
        self.answer(Method::POST, "/v1/check", json(request)).await
    }

    /// Takes this host out of the cluster; the daemon ends after its answer.
    pub async fn down(&self) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/down", Bytes::new()).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(Method::GET, path, Bytes::new()).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let request = format!("{method} {path}");
        let body = self.send(method, path, body).await?;
        serde_json::from_slice(&body).map_err(|e| self.protocol(request, &e))
    }

    /// The body of a successful answer.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let request = format!("{method} {path}");
        let (status, body) = timeout(self.patience, self.exchange(method, path, body))
            .await
            .map_err(|_| self.no_daemon(format!("no answer within {} s", self.patience.as_secs())))??;
        if status.is_success() {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(error) => ClientError::Daemon(error),
            Err(_) => self.protocol(request, &format!("HTTP {status} without an error in weft's format")),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let request = format!("{method} {path}");
        let failed = |e: hyper::Error| self.protocol(request.clone(), &e);
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.not_connected(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // HTTP wants a Host; on a unix socket there is none to name.
        let message = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "weft")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| self.protocol(request.clone(), &e))?;
        let reply = async {
            let reply = sender.send_request(message).await?;
            let status = reply.status();
            Ok((status, reply.into_body().collect().await?.to_bytes()))
        };
        // The connection moves the bytes while the reply is awaited. When the connection ends first, the reply
        // still knows what came of the request.
        tokio::pin!(reply);
        tokio::select! {
            reply = &mut reply => reply.map_err(failed),
            ended = connection => match reply.await {
                Ok(reply) => Ok(reply),
                Err(error) => Err(failed(ended.err().unwrap_or(error))),
            },
        }
    }

    fn not_connected(&self, error: &io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket: self.socket.clone() },
            io::ErrorKind::NotFound => self.no_daemon("there is no such socket".to_owned()),
            io::ErrorKind::ConnectionRefused => self.no_daemon("nobody listens".to_owned()),
            _ => self.no_daemon(error.to_string()),
        }
    }

    fn no_daemon(&self, reason: String) -> ClientError {
        ClientError::NoDaemon { socket: self.socket.clone(), reason }
    }

    fn protocol(&self, request: String, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Protocol { socket: self.socket.clone(), request, reason: reason.to_string() }
    }
}

/// The body of a request.
fn json(value: &impl Serialize) -> Bytes {
    // The request types have string keys only and no failing serializers: there is nothing that could go wrong,
    // and an empty body would be refused by the daemon.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// A reference as one segment of a path: everything but RFC 3986's unreserved characters percent-encoded.
fn segment(reference: &str) -> String {
    reference.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
        path
    })
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
