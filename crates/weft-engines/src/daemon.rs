//! What the plugins that engines start (`cni`, `podman`) ask of this host's daemon.

use std::{future::Future, path::PathBuf};
use weft_agent::api::{
    AttachRequest, Client, ClientError, DetachRequest, EndpointView, NetworkSpec, NetworkView, Status,
};

/// The daemon's socket when nothing names another.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
/// The variable that names another, as for the command line.
pub const SOCKET_VARIABLE: &str = "WEFT_SOCKET";

/// The socket that a configuration names, else the variable, else the default.
pub(crate) fn socket(configured: Option<PathBuf>) -> PathBuf {
    let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    configured.or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

/// A daemon. [`Client`] is the real one; tests have their own.
pub trait Daemon {
    /// See [`Client::attach`].
    fn attach(&self, request: &AttachRequest) -> impl Future<Output = Result<EndpointView, ClientError>>;
    /// See [`Client::detach`].
    fn detach(&self, request: &DetachRequest) -> impl Future<Output = Result<(), ClientError>>;
    /// See [`Client::check`].
    fn check(&self, request: &DetachRequest) -> impl Future<Output = Result<EndpointView, ClientError>>;
    /// See [`Client::network`].
    fn network(&self, reference: &str) -> impl Future<Output = Result<NetworkView, ClientError>>;
    /// See [`Client::create_network`].
    fn create_network(&self, spec: &NetworkSpec) -> impl Future<Output = Result<NetworkView, ClientError>>;
    /// See [`Client::status`].
    fn status(&self) -> impl Future<Output = Result<Status, ClientError>>;
}

impl Daemon for Client {
    async fn attach(&self, request: &AttachRequest) -> Result<EndpointView, ClientError> {
        Self::attach(self, request).await
    }

    async fn detach(&self, request: &DetachRequest) -> Result<(), ClientError> {
        Self::detach(self, request).await
    }

    async fn check(&self, request: &DetachRequest) -> Result<EndpointView, ClientError> {
        Self::check(self, request).await
    }

    async fn network(&self, reference: &str) -> Result<NetworkView, ClientError> {
        Self::network(self, reference).await
    }

    async fn create_network(&self, spec: &NetworkSpec) -> Result<NetworkView, ClientError> {
        Self::create_network(self, spec).await
    }

    async fn status(&self) -> Result<Status, ClientError> {
        Self::status(self).await
    }
}
