//! Why a member closes TLS connections: asked on a connection for nothing else.

use crate::{Tls, tls::is_of_certificates};
use rustls::{AlertDescription, pki_types::ServerName};
use std::{io, sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// The alert comes at once or never.
const PATIENCE: Duration = Duration::from_secs(1);

/// The alert on our certificate with which the member at `endpoint` ends a connection; `None`: it does not, or is not there.
pub async fn alert(endpoint: &str, tls: &Tls) -> Option<AlertDescription> {
    match timeout(PATIENCE, shake_hands(endpoint, tls)).await {
        Ok(Err(error)) => match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) if is_of_certificates(*alert) => Some(*alert),
            _ => None,
        },
        _ => None,
    }
}

async fn shake_hands(endpoint: &str, tls: &Tls) -> io::Result<()> {
    let config = tls.client_config().map_err(io::Error::other)?;
    let name = ServerName::try_from(host(endpoint).to_owned()).map_err(io::Error::other)?;
    let connection = TcpStream::connect(endpoint).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, connection).await?;
    stream.read(&mut [0]).await.map(|_| ())
}

/// The name that a member's certificate must have: in a URL an IPv6 address has brackets, in a certificate none.
pub fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
