//! Traffic whose every byte is known beforehand and compared where it arrives.
//!
//! What goes wrong is returned in words and not asserted at once, so that a test over many settings tells of all that
//! are bad.

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use std::{
    fmt,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::LazyLock,
    thread,
    time::Duration,
};
use weft_kernel::Namespace;

/// Longer than this nothing takes between two hosts on one machine: what has not come by then is lost.
const LOST: Duration = Duration::from_secs(1);
/// From this size on a datagram begins with its number.
const NUMBERED: usize = 8;
/// So many datagrams of a burst are under way at once: fewer than a socket's buffer holds.
const WINDOW: usize = 32;

/// Bytes that look random and are the same in every run (xorshift).
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 7u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..2 << 20).flat_map(|_| next().to_le_bytes()).collect()
});

/// One end of traffic.
#[derive(Clone, Copy)]
pub struct End<'a> {
    pub namespace: &'a Namespace,
    pub address: IpAddr,
}

impl fmt::Display for End<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(out)
    }
}

impl End<'_> {
    fn udp(&self) -> UdpSocket {
        let bind = || UdpSocket::bind((self.address, 0)).unwrap();
        let socket = self.namespace.run(bind).unwrap();
        socket.set_read_timeout(Some(LOST)).unwrap();
        socket
    }
}

/// Fails with all that went wrong, if anything did.
pub fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Sends `length` bytes over one TCP connection each way, both at once.
pub fn stream(a: End<'_>, b: End<'_>, length: usize) -> Result<(), String> {
    let listener = b.namespace.run(|| TcpListener::bind((b.address, 0)).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&target, LOST);
    let client = a.namespace.run(connect).unwrap().map_err(|e| format!("TCP {a} to {b}: {e}"))?;
    let server = listener.accept().map_err(|e| format!("TCP {a} to {b}: {e}"))?.0;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(LOST)).unwrap();
        socket.set_write_timeout(Some(LOST)).unwrap();
    }
    let (forth, back) = (&NOISE[..length], &NOISE[NOISE.len() - length..]);
    let outcomes = thread::scope(|scope| {
        let jobs = [
            scope.spawn(|| send(&client, forth).map_err(|e| format!("TCP {a} to {b}, sender: {e}"))),
            scope.spawn(|| receive(&server, forth).map_err(|e| format!("TCP {a} to {b}, receiver: {e}"))),
            scope.spawn(|| send(&server, back).map_err(|e| format!("TCP {b} to {a}, sender: {e}"))),
            scope.spawn(|| receive(&client, back).map_err(|e| format!("TCP {b} to {a}, receiver: {e}"))),
        ];
        jobs.map(|job| job.join().unwrap())
    });
    outcomes.into_iter().collect()
}

fn send(mut socket: &TcpStream, bytes: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while at < bytes.len() {
        at += socket.write(&bytes[at..]).map_err(|e| format!("after {at} of {} bytes: {e}", bytes.len()))?;
    }
    Ok(())
}

fn receive(mut socket: &TcpStream, expected: &[u8]) -> Result<(), String> {
    let (mut at, mut buffer) = (0, vec![0; 1 << 16]);
    while at < expected.len() {
        let got = socket.read(&mut buffer);
        let got = got.map_err(|e| format!("after {at} of {} bytes: {e}", expected.len()))?;
        if got == 0 || buffer[..got] != expected[at..at + got] {
            return Err(format!("bytes {at} to {} are not those that were sent", at + got));
        }
        at += got;
    }
    Ok(())
}

/// Waits until datagrams arrive both ways: what is lost while neighbours are looked for is not counted.
pub fn wait_for_path(a: End<'_>, b: End<'_>) {
    let (at_a, at_b) = (a.udp(), b.udp());
    for socket in [&at_a, &at_b] {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    }
    super::wait_for(&format!("a datagram from {a} to {b} and back"), || {
        at_a.send_to(b"there?", at_b.local_addr().unwrap()).ok()?;
        at_b.recv(&mut [0; 16]).ok()?;
        at_b.send_to(b"here!", at_a.local_addr().unwrap()).ok()?;
        at_a.recv(&mut [0; 16]).ok()
    });
}

/// Sends one UDP datagram of each size each way, one at a time. None may be lost, and none comes twice.
pub fn datagrams(a: End<'_>, b: End<'_>, sizes: &[usize]) -> Result<(), String> {
    let (at_a, at_b) = (a.udp(), b.udp());
    let mut buffer = vec![0; 1 << 16];
    for (number, size) in sizes.iter().enumerate() {
        for (from, to, way) in [(&at_a, &at_b, format!("{a} to {b}")), (&at_b, &at_a, format!("{b} to {a}"))]
        {
            let (target, sent) = (to.local_addr().unwrap(), &NOISE[number * 100..][..*size]);
            let fault = |e: &dyn fmt::Display| format!("UDP {way}, {size} bytes: {e}");
            from.send_to(sent, target).map_err(|e| fault(&e))?;
            let (got, sender) = to.recv_from(&mut buffer).map_err(|e| fault(&e))?;
            if &buffer[..got] != sent || sender != from.local_addr().unwrap() {
                return Err(fault(&format!("{got} bytes came from {sender}, not those that were sent")));
            }
        }
    }
    Ok(())
}

/// Sends UDP datagrams of a size one way until one arrives as it was sent: the first may be lost to tell their sender
/// that they are too big for the way.
pub fn datagram_in_the_end(from: End<'_>, to: End<'_>, size: usize) -> Result<(), String> {
    let (sender, receiver) = (from.udp(), to.udp());
    receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let (sent, mut buffer) = (&NOISE[..size], vec![0; 1 << 16]);
    for _ in 0..10 {
        // An error is what its sender was told about an earlier one.
        if sender.send(sent).is_err() {
            continue;
        }
        if let Ok(got) = receiver.recv(&mut buffer) {
            let same = &buffer[..got] == sent;
            return same.then_some(()).ok_or(format!("UDP {from} to {to}: {got} other bytes came"));
        }
    }
    Err(format!("UDP {from} to {to}: no datagram of {size} bytes arrives"))
}

/// Sends `count` UDP datagrams of `size` bytes one way, many under way at once.
pub fn burst(from: End<'_>, to: End<'_>, size: usize, count: usize) -> Result<(), String> {
    let (sender, receiver) = (from.udp(), to.udp());
    let target = receiver.local_addr().unwrap();
    let what = format!("UDP burst {from} to {to}, {size} bytes");
    for first in (0..count).step_by(WINDOW) {
        let numbers = first..count.min(first + WINDOW);
        for number in numbers.clone() {
            sender.send_to(&numbered(number, size), target).map_err(|e| format!("{what}: {e}"))?;
        }
        expect(&receiver, numbers, size).map_err(|e| format!("{what}: {e}"))?;
    }
    Ok(())
}

/// Sends trains of UDP datagrams of `size` bytes one way. A train is one packet for the kernel as long as nobody has to
/// cut it up (`UDP_SEGMENT`, what QUIC servers do).
pub fn trains(from: End<'_>, to: End<'_>, size: usize, count: usize) -> Result<(), String> {
    let (sender, receiver) = (from.udp(), to.udp());
    let target: SocketAddr = receiver.local_addr().unwrap();
    setsockopt(&sender, UdpGsoSegment, &i32::try_from(size).unwrap()).unwrap();
    let cars = (60_000 / size).min(WINDOW);
    let what = format!("UDP train {from} to {to}, {cars} of {size} bytes");
    for train in 0..count {
        let numbers = train * cars..(train + 1) * cars;
        let bytes: Vec<u8> = numbers.clone().flat_map(|number| numbered(number, size)).collect();
        sender.send_to(&bytes, target).map_err(|e| format!("{what}: {e}"))?;
        expect(&receiver, numbers, size).map_err(|e| format!("{what}, train {train}: {e}"))?;
    }
    Ok(())
}

/// A datagram that begins with its number.
fn numbered(number: usize, size: usize) -> Vec<u8> {
    assert!(size >= NUMBERED);
    let mut bytes = NOISE[number % 1000..][..size].to_vec();
    bytes[..NUMBERED].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

/// Waits for these datagrams, in any order.
fn expect(socket: &UdpSocket, numbers: std::ops::Range<usize>, size: usize) -> Result<(), String> {
    let mut missing: Vec<usize> = numbers.collect();
    let mut buffer = vec![0; 1 << 16];
    while !missing.is_empty() {
        let Ok(got) = socket.recv(&mut buffer) else {
            return Err(format!("{} datagrams are lost, {} the first", missing.len(), missing[0]));
        };
        let found = missing.iter().position(|number| numbered(*number, size) == buffer[..got]);
        let Some(found) = found else { return Err(format!("{got} bytes came that were not sent")) };
        missing.remove(found);
    }
    Ok(())
}
