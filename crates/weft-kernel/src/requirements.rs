//! What weft needs of a host, and what to do where it is missing.

use crate::{
    KernelError, NAMED_NAMESPACES, Namespace,
    device::{kind, link},
    namespace::in_throw_away,
    netlink::Netlink,
    vxlan::udp_port,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use nix::{
    libc,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket,
        sockopt::Ipv6V6Only,
    },
};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
    path::Path,
};

/// `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Whether this process may do what weft does and this kernel can: capabilities, and each kind of device made once
/// in a namespace that is thrown away.
pub fn check() -> Result<(), KernelError> {
    check_capabilities(&read_status()?)?;
    in_throw_away(|| {
        let mut netlink = Netlink::open_here()?;
        for (feature, module, message) in device_kinds() {
            if let Err(error) = netlink.create_device("weft-check", message) {
                return Err(missing(feature, module, error));
            }
            netlink.delete_device("weft-check")?;
        }
        Ok(())
    })?
}

fn read_status() -> Result<String, KernelError> {
    fs::read_to_string("/proc/thread-self/status").map_err(|e| KernelError::NotPermitted(e.to_string()))
}

fn check_capabilities(status: &str) -> Result<(), KernelError> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    for (bit, name) in CAPABILITIES {
        if effective & (1 << bit) == 0 {
            return Err(KernelError::NotPermitted(format!("this process lacks {name}")));
        }
    }
    Ok(())
}

fn device_kinds() -> [(&'static str, &'static str, LinkMessage); 3] {
    let name = LinkAttribute::IfName("weft-check".to_owned());
    let of = |kind| link(0, vec![name.clone(), kind]);
    let peer = link(0, vec![LinkAttribute::IfName("weft-check-peer".to_owned())]);
    let vxlan = vec![InfoVxlan::Id(1), InfoVxlan::Port(4789)];
    [
        ("bridges", "bridge", of(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]))),
        ("VXLAN", "vxlan", of(kind(InfoKind::Vxlan, InfoData::Vxlan(vxlan)))),
        ("veth pairs", "veth", of(kind(InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))))),
    ]
}

fn missing(feature: &'static str, module: &str, error: KernelError) -> KernelError {
    match error.errno() {
        // What the kernel says to a kind of device that it does not know.
        libc::EOPNOTSUPP => KernelError::Unsupported {
            feature,
            hint: format!("load the module with `modprobe {module}`, or run a kernel that has it"),
        },
        libc::EPERM | libc::EACCES => KernelError::NotPermitted(error.to_string()),
        _ => error,
    }
}

/// Whether the VXLAN devices of this daemon can have the UDP port `port` of the calling thread's namespace, for the
/// family of `local`. One of its own devices, in the namespace named `overlay_netns`, may have it already.
pub fn check_udp_port(port: u16, local: IpAddr, overlay_netns: &str) -> Result<(), KernelError> {
    match try_bind(port, local.is_ipv4()) {
        Ok(()) => return Ok(()),
        Err(nix::Error::EADDRINUSE) => {}
        Err(e) => return Err(KernelError::netlink(&format!("bind UDP port {port}"), e.desc(), e as i32)),
    }
    let taken = |by: &str| {
        let hint = format!("{by} has it; free it there, or choose another UDP port for the whole cluster");
        Err(KernelError::PortTaken { port, hint })
    };
    if let Some(process) = process_with_port(port) {
        return taken(&process);
    }
    let overlay = Path::new(NAMED_NAMESPACES).join(overlay_netns);
    if let Ok(overlay) = Namespace::open(&overlay)
        && vxlan_device_with_port(&mut Netlink::open(&overlay)?, port)?.is_some()
    {
        return Ok(());
    }
    match vxlan_device_with_port(&mut Netlink::open_here()?, port)? {
        Some(name) => taken(&format!("a VXLAN device {name} of somebody else's")),
        None => taken("a tunnel of the kernel's in another namespace (another overlay network?)"),
    }
}

fn vxlan_device_with_port(netlink: &mut Netlink, port: u16) -> Result<Option<String>, KernelError> {
    let devices = netlink.devices()?;
    Ok(devices.into_iter().find(|device| udp_port(device) == Some(port)).map(|device| device.name))
}

/// Binds as the kernel's VXLAN does: to any address of one family.
fn try_bind(port: u16, is_ipv4: bool) -> nix::Result<()> {
    let family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if is_ipv4 {
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))
    } else {
        setsockopt(&socket, Ipv6V6Only, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))
    }
}

/// The process that has a socket on that port, if one has and can be seen from here.
fn process_with_port(port: u16) -> Option<String> {
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| inode_on_port(line, port)).collect::<Vec<_>>())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        files.find(|file| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            inodes.iter().any(|inode| target == Path::new(inode))
        })?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(format!("process {pid} ({})", name.trim()))
    })
}

/// The inode in a line of `/proc/net/udp` (proc(5)) whose local port is `port`.
fn inode_on_port(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (_, hex) = fields.nth(1)?.rsplit_once(':')?;
    (u16::from_str_radix(hex, 16).ok()? == port).then(|| fields.nth(7).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        let root = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert_eq!(check_capabilities(root), Ok(()));
        let error = check_capabilities("CapEff:\t0000000000001000\n").unwrap_err().to_string();
        assert!(error.contains("must run as root") && error.contains("CAP_SYS_ADMIN"), "{error}");
        assert!(check_capabilities("").is_err());
    }

    #[test]
    fn a_kernel_without_vxlan_is_told_with_what_to_do() {
        let refused = |errno| KernelError::netlink("create device weft-check", "no", errno);
        let error = missing("VXLAN", "vxlan", refused(libc::EOPNOTSUPP)).to_string();
        assert!(error.contains("this kernel lacks VXLAN") && error.contains("modprobe vxlan"), "{error}");
        assert!(matches!(missing("VXLAN", "vxlan", refused(libc::EPERM)), KernelError::NotPermitted(_)));
    }

    #[test]
    fn a_sockets_inode_is_found_by_its_port() {
        let line = "  82: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 \
                    4711 2 0000000000000000 0";
        assert_eq!(inode_on_port(line, 4789).as_deref(), Some("4711"));
        assert_eq!(inode_on_port(line, 53), None);
        assert_eq!(inode_on_port("  sl  local_address rem_address", 4789), None);
    }
}
