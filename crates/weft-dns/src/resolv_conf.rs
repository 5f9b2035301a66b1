//! The servers that the host itself asks.

use crate::Route;
use std::{
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// The port of DNS (RFC 1035, 4.2).
const PORT: u16 = 53;
/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// The servers in the host's resolv.conf, asked from the host's namespace; the file is read again when it has changed.
pub struct HostResolvers {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Default)]
struct Read {
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl HostResolvers {
    /// Those of the file at `path`, which need not be there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: Mutex::default() }
    }

    fn load(path: &Path) -> io::Result<Vec<SocketAddr>> {
        let text = std::fs::read(path)?;
        let parsed = resolv_conf::Config::parse(&text)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        let addresses = parsed.nameservers.iter().map(|server| match server {
            resolv_conf::ScopedIp::V4(ip) => SocketAddr::from((*ip, PORT)),
            // The scope is an interface's name; without one the address is as good as without a scope.
            resolv_conf::ScopedIp::V6(ip, _) => SocketAddr::from((*ip, PORT)),
        });
        Ok(addresses.collect())
    }
}

impl Route for HostResolvers {
    fn servers(&self) -> Vec<SocketAddr> {
        let modified = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if modified.is_none() || read.modified != modified {
            match Self::load(&self.path) {
                Ok(servers) => *read = Read { modified, servers },
                Err(error) => {
                    tracing::debug!(path = %self.path.display(), %error, "the host's name servers are not known");
                    *read = Read { modified, servers: vec![] };
                }
            }
        }
        read.servers.clone()
    }

    fn udp(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let any: SocketAddr = if server.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        Ok(socket)
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect_timeout(&server, CONNECT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_those_of_the_file_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let host = HostResolvers::new(&path);
        assert_eq!(host.servers(), []);
        std::fs::write(
            &path,
            "# made by hand\nsearch example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n",
        )
        .unwrap();
        let told = ["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()];
        assert_eq!(host.servers(), told);
        std::fs::write(&path, "nameserver not-an-address\n").unwrap();
        let later = SystemTime::now() + Duration::from_secs(9);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(host.servers(), [], "a file that cannot be read names nobody");
    }
}
