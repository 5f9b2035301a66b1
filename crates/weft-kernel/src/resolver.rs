//! The place of a name server in a container's network namespace.
//!
//! Containers of Docker ask 127.0.0.11; Docker translates that to a port of its own inside the namespace. A rule that is passed
//! before Docker's leads the same queries to weft's sockets, which are in the namespace too; queries that come from
//! [`BEHIND`]'s address are left to Docker, so what weft does not know can be asked there. So no resolv.conf is touched, no
//! port 53 is taken from the container, and nothing leaves the namespace.
//!
//! The rule stands in a table that the kernel removes when its owner's socket closes (`NFT_TABLE_F_OWNER`, Linux 5.12): should the
//! daemon be killed, the next query goes to Docker's resolver as if weft had never been there.

use crate::{
    KernelError, Namespace,
    netlink::Netlink,
    nftables::{
        Chain, ChainKind, Family, Hook, HookPoint, Lifetime, Nftables, Policy, Protocol, Rule, Table, Term,
        Verdict,
    },
};
use ipnet::IpNet;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

/// Whom containers ask: Docker's address for it, also where Docker is not.
pub const SERVER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(ADDRESS, PORT));
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port of DNS.
const PORT: u16 = 53;
/// Where queries to the server behind come from: they are not led back.
const BEHIND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);
const TABLE: &str = "weft";
/// Just before the destination NAT that Docker's rules are in (-100, `NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -101;
/// How often a port that is free for UDP may turn out to be taken for TCP.
const ATTEMPTS: usize = 16;
/// How long the server behind may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Sockets in a namespace that the queries of everything in it come to.
pub struct Front {
    /// The namespace. It lives as long as the sockets do, also when its owner has given it up.
    pub namespace: Namespace,
    /// Queries by datagram.
    pub udp: UdpSocket,
    /// Queries by connection.
    pub tcp: TcpListener,
    /// What leads the queries here, as long as this value lives.
    pub redirect: Redirect,
}

/// The rules that lead queries to a [`Front`]; they go with this value, and with the process.
pub struct Redirect(#[allow(dead_code, reason = "it is held for its end")] Nftables);

/// Opens sockets in the namespace at `path` and leads its queries to them; `inode` as for [`Namespace::open_if_still`]. Its
/// loopback device is brought up if nobody has.
pub fn open(path: impl AsRef<Path>, inode: Option<u64>) -> Result<Front, KernelError> {
    let namespace = Namespace::open_if_still(path, inode)?;
    let failed = |e: io::Error| KernelError::Namespace {
        path: namespace.path().display().to_string(),
        reason: format!("no sockets for a name server: {e}"),
    };
    let (udp, tcp, mut filter) = namespace.run(|| -> Result<_, KernelError> {
        Netlink::open_here()?.bring_up_loopback()?;
        let (udp, tcp) = sockets().map_err(failed)?;
        Ok((udp, tcp, Nftables::open_here()?))
    })??;
    let port = udp.local_addr().map_err(failed)?.port();
    filter.replace(&table(port))?;
    Ok(Front { namespace, udp, tcp, redirect: Redirect(filter) })
}

/// A pair of sockets on one port that the system chooses.
fn sockets() -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..ATTEMPTS {
        let udp = UdpSocket::bind((ADDRESS, 0))?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The rules that lead queries to a port.
fn table(port: u16) -> Table {
    let lead = |protocol| {
        Rule::new(
            [
                Term::Destination(IpNet::from(IpAddr::V4(ADDRESS))),
                Term::SourceNot(IpNet::from(IpAddr::V4(BEHIND))),
                Term::Protocol(protocol),
                Term::DestinationPort(PORT..=PORT),
            ],
            Verdict::DestinationNat(IpAddr::V4(ADDRESS), Some(port)),
        )
    };
    let hook =
        Hook { kind: ChainKind::Nat, point: HookPoint::Output, priority: PRIORITY, policy: Policy::Accept };
    let rules = vec![lead(Protocol::Udp), lead(Protocol::Tcp)];
    Table {
        family: Family::Ip,
        name: TABLE.to_owned(),
        lifetime: Lifetime::OfSocket,
        sets: vec![],
        chains: vec![Chain { name: "names".to_owned(), hook, rules }],
    }
}

/// A socket in `namespace` that is connected to the server that would have been asked without weft. Blocks for a moment.
pub fn behind_by_udp(namespace: &Namespace, server: SocketAddr) -> io::Result<UdpSocket> {
    within(namespace, || {
        let socket = UdpSocket::bind((BEHIND, 0))?;
        socket.connect(server)?;
        Ok(socket)
    })
}

/// The same as a connection.
pub fn behind_by_tcp(namespace: &Namespace, server: SocketAddr) -> io::Result<TcpStream> {
    within(namespace, || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((BEHIND, 0)).into())?;
        socket.connect_timeout(&server.into(), CONNECT)?;
        Ok(socket.into())
    })
}

fn within<T: Send>(namespace: &Namespace, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    namespace.run(open).map_err(io::Error::other)?
}
