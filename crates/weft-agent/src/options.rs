//! What a daemon is told at its start.

use ipnet::Ipv4Net;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};
use weft_model::{Domain, VniRange};
use weft_store::{JoinToken, StoreOptions, StoreUrl};

/// The options of [`crate::start`]. The command line documents each.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Where the cluster's records are.
    pub cluster_store: StoreUrl,
    /// What else the store must be told: TLS, a user.
    pub store_options: StoreOptions,
    /// This host's address in the underlay; `None`: the interface of the default route, port 2375.
    pub advertise: Option<Advertise>,
    /// What lets this daemon use another daemon's embedded store; on a daemon that serves one, its own token.
    pub join_token: Option<JoinToken>,
    /// This node's name.
    pub node_name: String,
    /// Kept over restarts: the node's id, the embedded store, the last snapshot.
    pub state_dir: PathBuf,
    /// Kept while the daemon runs: its socket.
    pub run_dir: PathBuf,
    /// The name of the overlay namespace.
    pub overlay_netns: String,
    /// How frames are carried.
    pub datapath: Datapath,
    /// The UDP port of the VTEP.
    pub vxlan_port: u16,
    /// The subnet of this host's sandboxes that weft leads out; `None`: one that is free here.
    pub gateway_subnet: Option<Ipv4Net>,
    /// The VNIs to choose from.
    pub vni_range: VniRange,
    /// The domain that names of endpoints end with if written in full; `None`: no sandbox gets a name server.
    pub dns_domain: Option<Domain>,
    /// How often the kernel is read and compared even when nothing seems to have happened.
    pub reconcile_interval: Duration,
    /// How long this node counts as alive after its last sign of life.
    pub lease_ttl: Duration,
    /// How long to wait for the store at the start.
    pub store_timeout: Duration,
}

/// `--datapath`: how frames between containers are carried. Both ways speak the same on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    /// By eBPF programs where the kernel can have them, else by bridge and VXLAN device.
    #[default]
    Auto,
    /// By eBPF programs, or the daemon does not start.
    Ebpf,
    /// By bridge and VXLAN device.
    Kernel,
}

/// Why a string is no `--datapath`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not auto, ebpf or kernel")]
pub struct DatapathError(String);

impl FromStr for Datapath {
    type Err = DatapathError;
    fn from_str(s: &str) -> Result<Self, DatapathError> {
        match s {
            "auto" => Ok(Self::Auto),
            "ebpf" => Ok(Self::Ebpf),
            "kernel" => Ok(Self::Kernel),
            _ => Err(DatapathError(s.to_owned())),
        }
    }
}

/// The port when none is given: the one that Docker's `--cluster-advertise` had in its examples.
pub const DEFAULT_ADVERTISE_PORT: u16 = 2375;

/// `--cluster-advertise`: an interface or an address, and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// `eth0:2375`: the addresses that the interface has, also when they change.
    Interface {
        /// Its name.
        name: String,
        /// The port.
        port: u16,
    },
    /// `192.0.2.1:2375`, `[2001:db8::1]:2375`.
    Address(SocketAddr),
}

impl Advertise {
    /// The TCP port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Interface { port, .. } => *port,
            Self::Address(address) => address.port(),
        }
    }
}

/// Why a string is no `--cluster-advertise`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not INTERFACE[:PORT] or ADDRESS:PORT, as in eth0:2375 or 192.0.2.1:2375")]
pub struct AdvertiseError(String);

impl FromStr for Advertise {
    type Err = AdvertiseError;
    fn from_str(s: &str) -> Result<Self, AdvertiseError> {
        let error = || AdvertiseError(s.to_owned());
        if let Ok(address) = s.parse::<SocketAddr>() {
            return Ok(Self::Address(address));
        }
        if let Ok(ip) = s.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(ip, DEFAULT_ADVERTISE_PORT)));
        }
        let (name, port) = match s.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok().filter(|p| *p > 0).ok_or_else(error)?),
            None => (s, DEFAULT_ADVERTISE_PORT),
        };
        // An interface's name: 15 bytes at most (IFNAMSIZ), no slash, no space, no colon.
        let good = (1..=15).contains(&name.len())
            && !name.contains([':', '/', '[', ']'])
            && !name.contains(char::is_whitespace)
            // "10.0.0.300:2375" is a mistyped address rather than an interface.
            && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if good { Ok(Self::Interface { name: name.to_owned(), port }) } else { Err(error()) }
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface { name, port } => write!(f, "{name}:{port}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_interfaces_and_addresses() {
        for (text, meaning) in [
            ("eth0:2375", "eth0:2375"),
            ("eth0", "eth0:2375"),
            ("bond0.12:99", "bond0.12:99"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("192.0.2.1", "192.0.2.1:2375"),
            ("2001:db8::1", "[2001:db8::1]:2375"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
        ] {
            assert_eq!(text.parse::<Advertise>().unwrap().to_string(), meaning);
        }
    }

    #[test]
    fn refuses_what_is_neither() {
        for bad in
            ["", ":2375", "eth0:", "eth0:0", "eth0:70000", "10.0.0.300:2375", "a-name-that-is-too-long:1"]
        {
            let message = bad.parse::<Advertise>().unwrap_err().to_string();
            assert!(message.contains("as in eth0:2375"), "{bad}: {message}");
        }
    }
}
