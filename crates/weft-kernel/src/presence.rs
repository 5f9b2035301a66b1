//! Whether another host is there at all, asked over the network that carries the tunnels.
//!
//! A TCP connection to the number of the tunnels' UDP port, where nobody listens: a host that lives refuses it (RFC 9293, 3.5.2),
//! whatever runs on it. No right and no protocol of our own is needed for that, and no answer but TCP's is taken for one.

use crate::{
    KernelError,
    netlink::{Netlink, Request},
    underlay::way,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
};
use nix::libc;
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use weft_plan::Sight;

/// The kernel gives up an address that nobody on the link answers for after three seconds (`retrans_time_ms` times
/// `mcast_solicit`, Documentation/networking/ip-sysctl.rst), and tries a connection a second time after one.
const PATIENCE: Duration = Duration::from_secs(4);

/// Looks at the host at `at`, from the calling thread's namespace. Takes four seconds at most.
pub async fn look(at: SocketAddr) -> Sight {
    match timeout(PATIENCE, TcpStream::connect(at)).await {
        Ok(Ok(_)) => Sight::Present,
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Sight::Present,
            // A router's word, a firewall's, or that nobody on the link answers.
            ErrorKind::HostUnreachable | ErrorKind::TimedOut => missed(at.ip()),
            _ => Sight::Blind,
        },
        Err(_) => missed(at.ip()),
    }
}

fn missed(address: IpAddr) -> Sight {
    why_missed(address).unwrap_or_else(|error| {
        tracing::debug!(%address, %error, "why it was missed cannot be seen");
        Sight::Blind
    })
}

/// What a missed look says: whether this host's own cable is out, or `address` is on the link and was asked for in vain (ARP,
/// RFC 826; RFC 4861, 7.2.2).
fn why_missed(address: IpAddr) -> Result<Sight, KernelError> {
    let mut netlink = Netlink::open_here()?;
    let Some(way) = way(&mut netlink, address)? else { return Ok(Sight::Blind) };
    let Some(device) = way.device else { return Ok(Sight::Silent) };
    if netlink.devices()?.iter().any(|found| found.index == device && !found.carrier) {
        return Ok(Sight::Blind);
    }
    if way.gateway {
        return Ok(Sight::Silent);
    }
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = device;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    let doing = format!("look for the neighbour {address}");
    let answer = match netlink.request(Request::new(doing, 0, RouteNetlinkMessage::GetNeighbour(message))) {
        Err(error) if error.errno() == libc::ENOENT => return Ok(Sight::Silent),
        answer => answer?,
    };
    let in_vain = answer.iter().any(|message| match message {
        RouteNetlinkMessage::NewNeighbour(entry) => {
            matches!(entry.header.state, NeighbourState::Failed | NeighbourState::Incomplete)
        }
        _ => false,
    });
    Ok(if in_vain { Sight::Nobody } else { Sight::Silent })
}
