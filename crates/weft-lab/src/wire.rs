//! The wire between hosts: a bridge in a namespace of its own, and a veth pair from it to every host.

use crate::{Host, LabError, NetNs};
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// The bridge device. Not `br`: iproute2 reads that as `brd`.
const BRIDGE: &str = "sw0";

/// How the wire is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireOptions {
    /// The MTU of every device on it, in bytes.
    pub mtu: u32,
    /// Hosts have 10.77.0.N/24.
    pub ipv4: bool,
    /// Hosts have `fd77::N/64`.
    pub ipv6: bool,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self { mtu: 1500, ipv4: true, ipv6: true }
    }
}

/// The switch of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Its namespace, where services that all hosts use can run.
    pub namespace: NetNs,
    /// How it is.
    pub options: WireOptions,
}

impl Wire {
    /// The address that services on the switch have.
    pub const SWITCH_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
    /// The same for IPv6.
    pub const SWITCH_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0xfffe);

    /// The switch of the lab `name`, whether it exists or not.
    pub fn named(name: &str, options: WireOptions) -> Self {
        Self { namespace: NetNs::named(&format!("{name}-sw")), options }
    }

    /// Makes the switch.
    pub fn create(&self) -> Result<(), LabError> {
        let namespace = NetNs::create(self.namespace.name())?;
        let mtu = self.options.mtu.to_string();
        namespace.ip(&["link", "add", BRIDGE, "mtu", &mtu, "type", "bridge"])?;
        // A machine with a firewall for its own bridges must not have a say on this wire.
        for table in ["iptables", "ip6tables", "arptables"] {
            if Path::new(&format!("/proc/sys/net/bridge/bridge-nf-call-{table}")).exists() {
                namespace.sysctl(&format!("bridge/bridge-nf-call-{table}"), "0")?;
            }
        }
        namespace.ip(&["link", "set", BRIDGE, "up"])?;
        self.address(&namespace, BRIDGE, Self::SWITCH_V4, Self::SWITCH_V6)
    }

    /// Makes a host's namespace and plugs it in.
    pub fn plug(&self, host: &Host) -> Result<(), LabError> {
        let namespace = NetNs::create(host.namespace.name())?;
        let (mtu, port, peer) = (self.options.mtu.to_string(), &host.name, host.namespace.name());
        let pair = ["type", "veth", "peer", "name", "eth0", "mtu", &mtu, "netns", peer];
        self.namespace.ip(&[&["link", "add", port, "mtu", &mtu], &pair[..]].concat())?;
        self.namespace.ip(&["link", "set", port, "master", BRIDGE, "up"])?;
        namespace.ip(&["link", "set", "eth0", "up"])?;
        self.address(&namespace, "eth0", Host::ipv4_of(host.number), Host::ipv6_of(host.number))
    }

    /// Moves a host to a subnet of its own, 10.78.N.0/24, where it is 10.78.N.1: the switch is its router, and that of the others to it. For
    /// a host whose daemon does not run.
    pub fn put_behind_router(&self, host: &Host, others: &[Host]) -> Result<(), LabError> {
        let (subnet, namespace) = (format!("10.78.{}", host.number), &host.namespace);
        for setting in ["all/forwarding", "all/send_redirects", "default/send_redirects"] {
            let on = if setting.ends_with("forwarding") { "1" } else { "0" };
            self.namespace.sysctl(&format!("ipv4/conf/{setting}"), on)?;
        }
        self.namespace.sysctl(&format!("ipv4/conf/{BRIDGE}/send_redirects"), "0")?;
        self.namespace.ip(&["addr", "add", &format!("{subnet}.254/24"), "dev", BRIDGE])?;
        namespace.ip(&["addr", "flush", "dev", "eth0"])?;
        namespace.ip(&["addr", "add", &format!("{subnet}.1/24"), "dev", "eth0"])?;
        namespace.ip(&["route", "add", "default", "via", &format!("{subnet}.254")])?;
        for other in others.iter().filter(|other| other.number != host.number) {
            let via = Self::SWITCH_V4.to_string();
            other.namespace.ip(&["route", "add", &format!("{subnet}.0/24"), "via", &via])?;
        }
        Ok(())
    }

    /// Takes a host's cable out (the host stays), or puts it back.
    pub fn set_cable(&self, host: &Host, plugged: bool) -> Result<(), LabError> {
        let state = if plugged { "up" } else { "down" };
        self.namespace.ip(&["link", "set", &host.name, state]).map(drop)
    }

    fn address(&self, ns: &NetNs, device: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<(), LabError> {
        if self.options.ipv4 {
            ns.ip(&["addr", "add", &format!("{v4}/24"), "dev", device])?;
        }
        if self.options.ipv6 {
            // Without nodad the address would be unusable for two seconds.
            ns.ip(&["-6", "addr", "add", &format!("{v6}/64"), "dev", device, "nodad"])?;
        }
        Ok(())
    }
}
