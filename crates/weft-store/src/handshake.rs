//! Why a server closes TLS connections: asked on a connection for nothing else.

use crate::tls::is_of_certificates;
use rustls::{AlertDescription, ClientConfig, pki_types::ServerName};
use std::{io, sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// The alert comes at once or never.
const PATIENCE: Duration = Duration::from_secs(1);

/// The alert on our certificate with which the server at `endpoint` (`host:port`) ends a connection; `None`: it does not, or is
/// not there.
///
/// In TLS 1.3 the server judges our certificate after our handshake has ended (RFC 8446, 4.4.2.4). By then HTTP may be writing
/// its request, and what it tells of is the broken pipe, not the alert.
pub async fn alert(endpoint: &str, tls: ClientConfig) -> Option<AlertDescription> {
    match timeout(PATIENCE, shake_hands(endpoint, tls)).await {
        Ok(Err(error)) => match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) if is_of_certificates(*alert) => Some(*alert),
            _ => None,
        },
        _ => None,
    }
}

async fn shake_hands(endpoint: &str, tls: ClientConfig) -> io::Result<()> {
    let name = ServerName::try_from(host(endpoint).to_owned()).map_err(io::Error::other)?;
    let connection = TcpStream::connect(endpoint).await?;
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, connection).await?;
    stream.read(&mut [0]).await.map(|_| ())
}

/// The name that a server's certificate must have: in a URL an IPv6 address has brackets, in a certificate none.
pub fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
