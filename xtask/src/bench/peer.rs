//! `cargo xtask bench-peer`: the two ends of what iperf3 and sockperf do not measure, new connections and round trips
//! over IPv6, and in the short form of what sockperf does, as it rests for two seconds at every start.
//!
//! The benchmark runs it inside the contenders' namespaces.

use super::{
    datagrams,
    metrics::{Quantity, Sample},
    place::{End, Pair, Server},
};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use std::{
    env,
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

const PORT: u16 = 11112;
/// Clients that connect at the same time, and threads that accept: enough to keep a small machine busy.
const THREADS: usize = 4;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The part of a round trip's run that does not count, while caches and routes are cold: a tenth.
const WARM_UP: u32 = 10;

/// What one end does.
#[derive(Subcommand)]
pub enum Role {
    /// Accept connections, answer a byte with a byte, and close
    Accept { address: SocketAddr },
    /// Connect, exchange a byte, and wait for the other end to close, for some seconds; print how many a second
    Connect { address: SocketAddr, seconds: u64 },
    /// Send back every datagram
    Echo { address: SocketAddr },
    /// Send a datagram and wait for it to come back, for some seconds; print the median and the 99th percentile
    RoundTrip { address: SocketAddr, seconds: u64, size: usize },
    /// Send back what comes over a connection
    EchoTcp { address: SocketAddr },
    /// As round-trip, over a connection
    RoundTripTcp { address: SocketAddr, seconds: u64, size: usize },
    /// Read datagrams
    Sink { address: SocketAddr },
    /// Send datagrams for some seconds; print how many in how many seconds
    Blast { address: SocketAddr, seconds: u64, size: usize },
}

/// `cargo xtask bench-peer`
pub fn run(role: &Role) -> Result<()> {
    let time = |seconds: &u64| Duration::from_secs(*seconds);
    match role {
        Role::Accept { address } => accept(*address),
        Role::Connect { address, seconds } => connect(*address, time(seconds)),
        Role::Echo { address } => echo(*address),
        Role::RoundTrip { address, seconds, size } => datagram_trips(*address, time(seconds), *size),
        Role::EchoTcp { address } => echo_tcp(*address),
        Role::RoundTripTcp { address, seconds, size } => stream_trips(*address, time(seconds), *size),
        Role::Sink { address } => sink(*address),
        Role::Blast { address, seconds, size } => blast(*address, time(seconds), *size),
    }
}

/// New connections, thousands a second.
pub fn connections(pair: &Pair, seconds: u64) -> Result<Sample> {
    let text = between(pair, pair.v4, ["accept", "connect"], &[&seconds.to_string()])?;
    Ok(vec![(Quantity::Rate, parse::<1>(&text)?[0] / 1e3)])
}

/// The round trip of a message.
pub fn round_trip(pair: &Pair, address: IpAddr, tcp: bool, size: usize, seconds: u64) -> Result<Sample> {
    let roles = if tcp { ["echo-tcp", "round-trip-tcp"] } else { ["echo", "round-trip"] };
    let text = between(pair, address, roles, &[&seconds.to_string(), &size.to_string()])?;
    let [median, p99] = parse(&text)?;
    Ok(vec![(Quantity::Median, median), (Quantity::P99, p99)])
}

/// Datagrams as fast as they go one way: sent, and read at the other end.
pub fn packets(pair: &Pair, size: usize, seconds: u64) -> Result<Sample> {
    let before = datagrams::read_at(&pair.to)?;
    let text = between(pair, pair.v4, ["sink", "blast"], &[&seconds.to_string(), &size.to_string()])?;
    let read = datagrams::read_at(&pair.to)? - before;
    let [sent, took] = parse(&text)?;
    Ok(vec![(Quantity::Sent, sent / took / 1e3), (Quantity::Received, read / took / 1e3)])
}

fn between(pair: &Pair, address: IpAddr, roles: [&str; 2], more: &[&str]) -> Result<String> {
    let program = env::current_exe()?;
    let address = SocketAddr::new(address, PORT).to_string();
    let mut command = pair.server(&program)?;
    command.args(["bench-peer", roles[0], &address]);
    let server = Server::start(&pair.to, &mut command, PORT)?;
    let mut client = pair.client(&program);
    let text = weft_lab::run(client.args(["bench-peer", roles[1], &address]).args(more))?;
    server.end(End::Killed)?;
    Ok(text)
}

/// The `N` numbers of a client's only line.
fn parse<const N: usize>(text: &str) -> Result<[f64; N]> {
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    numbers.try_into().ok().with_context(|| format!("bench-peer wrote {text:?}, not {N} numbers"))
}

fn accept(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| accept_all(&listener))).collect();
        threads.into_iter().try_for_each(joined)
    })
}

fn accept_all(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        // A client that was ended in the middle of a connection is no reason to end.
        if stream.read_exact(&mut byte).is_ok() {
            let _client_gone = stream.write_all(&byte);
        }
    }
}

fn connect(address: SocketAddr, time: Duration) -> Result<()> {
    let start = Instant::now();
    let count = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| connect_for(address, time))).collect();
        threads.into_iter().map(joined).sum::<Result<u32>>()
    })?;
    println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

fn connect_for(address: SocketAddr, time: Duration) -> Result<u32> {
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[1])?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        // The server closes first: the ports that rest for a minute after a connection are not the client's.
        if stream.read(&mut byte)? != 0 {
            bail!("more than a byte came back");
        }
        count += 1;
    }
    Ok(count)
}

fn echo(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], from)?;
    }
}

fn echo_tcp(address: SocketAddr) -> Result<()> {
    let (mut stream, _) = TcpListener::bind(address)?.accept()?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            // The other end is through. This one is to be ended, not to end.
            0 => thread::park(),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn datagram_trips(address: SocketAddr, time: Duration, size: usize) -> Result<()> {
    let socket = connected(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (message, mut buffer) = (vec![7; size], vec![0; size]);
    trips(time, || {
        socket.send(&message)?;
        let length = socket.recv(&mut buffer).context("a datagram did not come back")?;
        if length == size { Ok(()) } else { bail!("{length} of {size} bytes came back") }
    })
}

fn stream_trips(address: SocketAddr, time: Duration, size: usize) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (message, mut buffer) = (vec![7; size], vec![0; size]);
    trips(time, || {
        stream.write_all(&message)?;
        Ok(stream.read_exact(&mut buffer)?)
    })
}

/// Makes a trip again and again, and prints how long they took in µs.
fn trips(time: Duration, mut trip: impl FnMut() -> Result<()>) -> Result<()> {
    let (start, mut took) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let sent = Instant::now();
        trip()?;
        if start.elapsed() > time / WARM_UP {
            took.push(sent.elapsed());
        }
    }
    took.sort();
    let at = |part: usize| took.get(took.len() * part / 100).map(|t| t.as_secs_f64() * 1e6);
    let (median, p99) = at(50).zip(at(99)).context("not one round trip")?;
    println!("{median} {p99}");
    Ok(())
}

fn sink(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        socket.recv(&mut buffer)?;
    }
}

fn blast(address: SocketAddr, time: Duration, size: usize) -> Result<()> {
    let (socket, message) = (connected(address)?, vec![7; size]);
    let (start, mut sent) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        socket.send(&message)?;
        sent += 1;
    }
    println!("{sent} {}", start.elapsed().as_secs_f64());
    Ok(())
}

fn connected(address: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { [0, 0, 0, 0].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_writes_its_numbers_in_one_line() {
        assert_eq!(parse::<2>("25.1 40.25\n").unwrap().map(|n| n.to_string()), ["25.1", "40.25"]);
        assert!(parse::<2>("25.1\n").unwrap_err().to_string().contains("not 2 numbers"));
        assert!(parse::<1>("Connection refused\n").is_err());
    }

    #[test]
    fn a_connection_is_counted_when_its_byte_came_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Ends with the test's process.
        thread::spawn(move || accept_all(&listener));
        assert!(connect_for(address, Duration::from_millis(50)).unwrap() > 0);
    }

    #[test]
    fn nobody_listening_is_an_error() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(connect_for(gone, Duration::from_secs(5)).is_err());
    }
}
