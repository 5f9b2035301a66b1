//! How people name a store.

use std::{fmt, str::FromStr};

/// The prefix when none is given.
pub(crate) const DEFAULT_PREFIX: &str = "weft";

/// Where the cluster's records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `etcd://h1:2379,h2:2379/prefix`: etcd's v3 API on any of these endpoints.
    Etcd {
        /// `host:port` each, at least one.
        endpoints: Vec<String>,
        /// Before every key, without slashes at its ends; `weft` when none is given.
        prefix: String,
    },
    /// `consul://h1:8500,h2:8500/prefix`: Consul's HTTP API on any of these agents.
    Consul {
        /// `host:port` each, at least one.
        endpoints: Vec<String>,
        /// Before every key, without slashes at its ends; `weft` when none is given.
        prefix: String,
    },
    /// `weft://host:port`: the embedded store of another daemon.
    Remote {
        /// `host:port`.
        server: String,
    },
    /// `local`: an embedded store of this daemon's own.
    Local,
}

/// Why a string does not name a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A scheme nobody implements.
    #[error(
        "unknown store {0:?}: expected etcd:// or consul:// with HOST:PORT[,HOST:PORT…][/PREFIX], \
         weft://HOST:PORT or \"local\""
    )]
    UnknownScheme(String),
    /// An endpoint that is not `host:port`.
    #[error("store URL {url:?}: {endpoint:?} is not HOST:PORT (an IPv6 address goes in brackets)")]
    BadEndpoint {
        /// The whole URL.
        url: String,
        /// The part.
        endpoint: String,
    },
    /// A prefix that is not a path.
    #[error("store URL {0:?}: the prefix may hold letters, digits, '-', '_', '.' and '/'")]
    BadPrefix(String),
}

impl FromStr for StoreUrl {
    type Err = UrlError;
    fn from_str(url: &str) -> Result<Self, UrlError> {
        if url == "local" {
            return Ok(Self::Local);
        }
        let unknown = || UrlError::UnknownScheme(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        // First of all the scheme: advice on the endpoints of a store that does not exist helps nobody.
        if !matches!(scheme, "etcd" | "consul" | "weft") {
            return Err(unknown());
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let endpoints = hosts.split(',').map(|e| check_endpoint(url, e)).collect::<Result<Vec<_>, _>>()?;
        match (scheme, &endpoints[..]) {
            ("etcd", _) => Ok(Self::Etcd { endpoints, prefix: check_prefix(url, path)? }),
            ("consul", _) => Ok(Self::Consul { endpoints, prefix: check_prefix(url, path)? }),
            (_, [server]) if path.is_empty() => Ok(Self::Remote { server: server.clone() }),
            _ => Err(UrlError::BadEndpoint { url: url.to_owned(), endpoint: rest.to_owned() }),
        }
    }
}

fn check_endpoint(url: &str, endpoint: &str) -> Result<String, UrlError> {
    let good = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        let plain = !host.is_empty() && !host.contains([':', '[', ']', '@', ' ']);
        (bracketed || plain) && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    if good {
        Ok(endpoint.to_owned())
    } else {
        Err(UrlError::BadEndpoint { url: url.to_owned(), endpoint: endpoint.to_owned() })
    }
}

/// The prefix without slashes at its ends. `url` is for the error.
pub(crate) fn check_prefix(url: &str, path: &str) -> Result<String, UrlError> {
    let prefix = path.trim_matches('/');
    let good = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
    match (good, prefix) {
        (false, _) => Err(UrlError::BadPrefix(url.to_owned())),
        (true, "") => Ok(DEFAULT_PREFIX.to_owned()),
        (true, prefix) => Ok(prefix.to_owned()),
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd { endpoints, prefix } => write!(f, "etcd://{}/{prefix}", endpoints.join(",")),
            Self::Consul { endpoints, prefix } => write!(f, "consul://{}/{prefix}", endpoints.join(",")),
            Self::Remote { server } => write!(f, "weft://{server}"),
            Self::Local => f.write_str("local"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_store() {
        for (text, meaning) in [
            ("etcd://h1:2379,h2:2379/a/b/", "etcd://h1:2379,h2:2379/a/b"),
            ("etcd://127.0.0.1:2379", "etcd://127.0.0.1:2379/weft"),
            ("etcd://[fd00::1]:2379", "etcd://[fd00::1]:2379/weft"),
            ("consul://h1:8500,h2:8500/a/b/", "consul://h1:8500,h2:8500/a/b"),
            ("consul://h1:8500", "consul://h1:8500/weft"),
            ("weft://h1:2375", "weft://h1:2375"),
            ("local", "local"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), meaning);
            assert_eq!(meaning.parse::<StoreUrl>().unwrap(), url);
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_bad_one() {
        for (text, expected) in [
            ("redis://h:1", "unknown store"),
            ("zk://host", "unknown store"),
            ("h1:2379", "unknown store"),
            ("etcd://", "not HOST:PORT"),
            ("etcd://h1", "not HOST:PORT"),
            ("consul://", "not HOST:PORT"),
            ("consul://h1:8500/a b", "prefix"),
            ("etcd://h1:0", "not HOST:PORT"),
            ("etcd://h1:2379/a b", "prefix"),
            ("weft://h1:1,h2:2", "not HOST:PORT"),
        ] {
            let message = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
