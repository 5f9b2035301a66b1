//! Mixed traffic between the containers of a lab, whose every byte is known beforehand and compared at its receiver.

use crate::{eventually, ping, seen};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};
use std::{
    collections::HashSet,
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};
use weft_lab::{Container, Fixture, NetNs};

/// In each of these every stream has to move.
pub const WINDOW: Duration = Duration::from_secs(5);
/// How long a call on a socket may block: so often does a thread see whether the run is over.
const GLANCE: Duration = Duration::from_millis(200);
/// How long what is under way at the end may take to arrive.
const LAST_BYTES: Duration = Duration::from_secs(20);
/// How many bytes of a stream are made, sent and compared at once.
const BLOCK: usize = 64 * 1024;
/// The datagrams that a flow sends in one go, and how long it rests then: 400 a second, so that the loss is the
/// network's and not that of a receiver without a processor.
const BURST: (u32, Duration) = (4, Duration::from_millis(10));
/// More than a link takes in one frame: it travels in fragments.
const FRAGMENTED: usize = 4000;
/// From this size on a datagram begins with its sequence number, of four bytes, and has enough besides to show whether
/// it is the right one.
const NUMBERED: usize = 8;
/// The pairs that talk, by the family, 0 for IPv4 and 1 for IPv6: across hosts and on one host.
const PAIRS: [(&str, &str, usize); 6] = [
    ("h1/c1", "h2/c1", 0),
    ("h1/c2", "h2/c2", 1),
    ("h1/c1", "h1/c2", 1),
    ("h2/c1", "h2/c2", 0),
    ("h2/c2", "h1/c1", 0),
    ("h2/c1", "h1/c2", 1),
];

/// What all threads of a run share.
#[derive(Default)]
pub struct Run {
    ending: AtomicBool,
    faults: Mutex<Vec<String>>,
}

impl Run {
    /// Whether something is wrong already.
    pub fn is_bad(&self) -> bool {
        !self.faults.lock().unwrap().is_empty()
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    fn ends(&self) -> bool {
        self.ending.load(SeqCst)
    }

    /// Fails with all faults, if there are any.
    pub fn assert_no_fault(&self) {
        let faults = self.faults.lock().unwrap().clone();
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }
}

/// Ends a run also when the test fails: its threads are waited for.
pub struct EndOf<'a>(pub &'a Run);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.ending.store(true, SeqCst);
        if thread::panicking() {
            eprintln!("faults until then: {:?}", self.0.faults.lock().unwrap());
        }
    }
}

/// What is sent and received through.
enum Sockets {
    /// `steady`: as fast as it goes; else small pieces with rests between them.
    Tcp {
        from: TcpStream,
        to: TcpStream,
        steady: bool,
    },
    Udp {
        from: UdpSocket,
        to: UdpSocket,
    },
}

/// One direction between two containers.
pub struct Flow {
    /// What it is, for people: `TCP IPv4 h1/c1 to h2/c1`.
    pub what: String,
    seed: u64,
    sockets: Sockets,
    /// Bytes of a stream, or datagrams.
    sent: AtomicU64,
    /// The same.
    received: AtomicU64,
    /// The longest time between two arrivals, in milliseconds.
    gap: AtomicU64,
    sender_done: AtomicBool,
}

impl Flow {
    fn new(what: String, number: usize, sockets: Sockets) -> Self {
        Self {
            what,
            seed: scrambled(number as u64 + 1),
            sockets,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            gap: AtomicU64::new(0),
            sender_done: AtomicBool::new(false),
        }
    }

    /// Whether it is a TCP stream, and not datagrams.
    pub fn is_stream(&self) -> bool {
        matches!(self.sockets, Sockets::Tcp { .. })
    }

    /// How much arrived: bytes of a stream, or datagrams.
    pub fn arrived(&self) -> u64 {
        self.received.load(SeqCst)
    }

    /// How much was sent, in the same unit.
    pub fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// How much was sent and has not arrived.
    pub fn lost(&self) -> u64 {
        self.sent.load(SeqCst).saturating_sub(self.arrived())
    }

    /// The longest time between two arrivals so far.
    pub fn gap(&self) -> Duration {
        Duration::from_millis(self.gap.load(SeqCst))
    }

    /// Takes note of an arrival; `last` is when the one before it was.
    fn arrives(&self, amount: u64, last: &mut Instant) {
        let waited = std::mem::replace(last, Instant::now()).elapsed().as_millis();
        self.gap.fetch_max(u64::try_from(waited).unwrap_or(u64::MAX), SeqCst);
        self.received.fetch_add(amount, SeqCst);
    }

    /// Sends until the run ends.
    pub fn send(&self, run: &Run) {
        let outcome = match &self.sockets {
            Sockets::Tcp { from, steady, .. } => self.send_stream(from, *steady, run),
            Sockets::Udp { from, .. } => self.send_datagrams(from, run),
        };
        self.sender_done.store(true, SeqCst);
        if let Err(fault) = outcome {
            run.fault(format!("{}: sender: {fault}", self.what));
        }
    }

    /// Receives and compares until nothing comes any more.
    pub fn receive(&self, run: &Run) {
        let outcome = match &self.sockets {
            Sockets::Tcp { to, .. } => self.receive_stream(to),
            Sockets::Udp { to, .. } => self.receive_datagrams(to),
        };
        if let Err(fault) = outcome {
            run.fault(format!("{}: receiver: {fault}", self.what));
        }
    }

    fn send_stream(&self, mut socket: &TcpStream, steady: bool, run: &Run) -> Result<(), String> {
        let mut block = vec![0; BLOCK];
        for number in 0.. {
            fill(self.seed.wrapping_add(number), &mut block);
            let mut at = 0;
            while at < BLOCK {
                if run.ends() {
                    return socket.shutdown(Shutdown::Write).map_err(|e| e.to_string());
                }
                let mut piece = BLOCK - at;
                if !steady {
                    // The pace of someone who types, or of calls over a connection: a frame or a few at a time.
                    thread::sleep(BURST.1);
                    piece = piece.min(1 + number_below(scrambled(number ^ at as u64), 6000));
                }
                match socket.write(&block[at..at + piece]) {
                    Ok(written) => {
                        at += written;
                        self.sent.fetch_add(written as u64, SeqCst);
                    }
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn receive_stream(&self, mut socket: &TcpStream) -> Result<(), String> {
        let (mut block, mut got) = (vec![0; BLOCK], vec![0; BLOCK]);
        let mut last = Instant::now();
        for number in 0.. {
            fill(self.seed.wrapping_add(number), &mut block);
            let mut at = 0;
            while at < BLOCK {
                match socket.read(&mut got[at..]) {
                    Ok(0) => {
                        let (sent, arrived) = (self.sent.load(SeqCst), self.arrived());
                        return seen(sent == arrived, format!("{sent} bytes sent, {arrived} arrived"));
                    }
                    Ok(length) => {
                        same(&block[at..at + length], &got[at..at + length])
                            .map_err(|what| format!("corrupt at byte {}: {what}", self.arrived()))?;
                        at += length;
                        self.arrives(length as u64, &mut last);
                    }
                    Err(error) if is_timeout(&error) => {
                        // While the sender sends, the windows judge.
                        if self.sender_done.load(SeqCst) && last.elapsed() > LAST_BYTES {
                            return Err(format!("stuck after {} bytes", self.arrived()));
                        }
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn send_datagrams(&self, socket: &UdpSocket, run: &Run) -> Result<(), String> {
        for number in 0_u32.. {
            if run.ends() {
                break;
            }
            let datagram = datagram(self.seed, number);
            match socket.send(&datagram) {
                Ok(length) => assert_eq!(length, datagram.len()),
                // It is lost, as one would be whose way ends later.
                Err(e) if matches!(e.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {}
                Err(e) => return Err(format!("datagram {number}: {e}")),
            }
            self.sent.fetch_add(1, SeqCst);
            if (number + 1).is_multiple_of(BURST.0) {
                thread::sleep(BURST.1);
            }
        }
        Ok(())
    }

    fn receive_datagrams(&self, socket: &UdpSocket) -> Result<(), String> {
        let (mut got, mut known) = (vec![0; 1 << 16], HashSet::new());
        let mut last = Instant::now();
        loop {
            match socket.recv(&mut got) {
                Ok(length) => {
                    let number = check_datagram(self.seed, &got[..length])?;
                    if let Some(number) = number.filter(|n| !known.insert(*n)) {
                        return Err(format!("datagram {number} came twice"));
                    }
                    self.arrives(1, &mut last);
                }
                Err(error) if is_timeout(&error) => {
                    // What was lost does not come any more.
                    if self.sender_done.load(SeqCst) && last.elapsed() > 5 * GLANCE {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// The output function of `SplitMix64` (Steele, Lea and Flood, 2014): every bit of the result depends on all of `z`'s.
fn scrambled(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn number_below(random: u64, limit: u32) -> usize {
    usize::try_from(random % u64::from(limit)).unwrap()
}

/// Bytes that follow from a seed.
fn fill(seed: u64, bytes: &mut [u8]) {
    let mut state = scrambled(seed);
    for word in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&scrambled(state).to_le_bytes()[..word.len()]);
    }
}

/// The datagram of this number: 1 to 1400 bytes, every sixteenth [`FRAGMENTED`]. Number and seed determine its every
/// byte, which says more than a checksum would; one too small for its number is the seed's alone.
fn datagram(seed: u64, number: u32) -> Vec<u8> {
    let size = match number % 16 {
        0 => FRAGMENTED,
        1 => 1 + number_below(u64::from(number / 16), 8),
        _ => 1 + number_below(scrambled(seed ^ u64::from(number)), 1400),
    };
    let mut bytes = vec![0; size];
    if size < NUMBERED {
        fill(seed, &mut bytes);
    } else {
        let (head, content) = bytes.split_at_mut(size_of::<u32>());
        head.copy_from_slice(&number.to_le_bytes());
        fill(seed.wrapping_add(u64::from(number)), content);
    }
    bytes
}

/// The number of a datagram that is as it was sent, if it has one.
fn check_datagram(seed: u64, got: &[u8]) -> Result<Option<u32>, String> {
    let Some(head) = got.first_chunk().filter(|_| got.len() >= NUMBERED) else {
        let mut expected = vec![0; got.len()];
        fill(seed, &mut expected);
        return same(&expected, got).map(|()| None).map_err(|e| format!("corrupt small datagram: {e}"));
    };
    let number = u32::from_le_bytes(*head);
    same(&datagram(seed, number), got).map_err(|e| format!("corrupt datagram {number}: {e}"))?;
    Ok(Some(number))
}

/// `Ok` if equal, else where the first difference is and what is there.
fn same(expected: &[u8], got: &[u8]) -> Result<(), String> {
    if expected == got {
        return Ok(());
    }
    let at = expected.iter().zip(got).position(|(a, b)| a != b).unwrap_or(expected.len().min(got.len()));
    let some = |bytes: &[u8]| format!("{:02x?}", &bytes[at..bytes.len().min(at + 16)]);
    let lengths = (expected.len(), got.len());
    Err(format!("+{at} of {lengths:?}: expected {}, got {}", some(expected), some(got)))
}

/// Opens a socket in a container. Only the thread that opens it enters the namespace; the socket stays there.
pub fn within<T: Send>(namespace: &NetNs, open: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(namespace.path()).unwrap();
    let enter = || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        open()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

fn streams(from: &Container, to: &Container, at: IpAddr) -> (TcpStream, TcpStream) {
    let listener = within(&to.namespace, || TcpListener::bind((at, 0)).unwrap());
    let place = listener.local_addr().unwrap();
    let near = within(&from.namespace, || TcpStream::connect_timeout(&place, WINDOW).unwrap());
    let (far, _) = listener.accept().unwrap();
    for socket in [&near, &far] {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(GLANCE)).unwrap();
        socket.set_write_timeout(Some(GLANCE)).unwrap();
    }
    (near, far)
}

fn datagram_sockets(from: &Container, to: &Container, family: usize) -> (UdpSocket, UdpSocket) {
    let open = |c: &Container| within(&c.namespace, || UdpSocket::bind((c.addresses[family], 0)).unwrap());
    let (near, far) = (open(from), open(to));
    // Room for a second without a processor.
    setsockopt(&far, RcvBufForce, &(8 << 20)).unwrap();
    far.set_read_timeout(Some(GLANCE)).unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    (near, far)
}

/// Opens all flows: a connection with a stream each way, and datagrams one way, between each of [`PAIRS`]. Every other
/// connection is as fast as can be.
pub fn flows(lab: &Fixture) -> Vec<Flow> {
    flows_between(lab, &PAIRS, |number| number.is_multiple_of(2))
}

/// The same between `pairs` (see [`PAIRS`]); `steady` tells by a pair's number whether its connection is as fast as can be.
pub fn flows_between(
    lab: &Fixture,
    pairs: &[(&str, &str, usize)],
    steady: impl Fn(usize) -> bool,
) -> Vec<Flow> {
    let mut flows = Vec::new();
    for (number, &(a, b, family)) in pairs.iter().enumerate() {
        let (from, to) = (lab.container(a).unwrap(), lab.container(b).unwrap());
        let at = to.addresses[family];
        eventually("an answer before the traffic", WINDOW, || ping(from, &at.to_string()));
        let version = if at.is_ipv4() { "IPv4" } else { "IPv6" };
        let (near, far) = streams(from, to, at);
        let mut add = |what, sockets| flows.push(Flow::new(what, flows.len(), sockets));
        let steady = steady(number);
        let copies = (near.try_clone().unwrap(), far.try_clone().unwrap());
        add(format!("TCP {version} {a} to {b}"), Sockets::Tcp { from: near, to: far, steady });
        add(format!("TCP {version} {b} to {a}"), Sockets::Tcp { from: copies.1, to: copies.0, steady });
        let (from, to) = datagram_sockets(from, to, family);
        add(format!("UDP {version} {a} to {b}"), Sockets::Udp { from, to });
    }
    flows
}

/// Looks in every full window whether each stream has moved, until the run ends.
pub fn watch(flows: &[Flow], run: &Run, end: &Receiver<()>) {
    let start = Instant::now();
    let mut before: Vec<u64> = flows.iter().map(Flow::arrived).collect();
    while end.recv_timeout(WINDOW) == Err(RecvTimeoutError::Timeout) {
        let now: Vec<u64> = flows.iter().map(Flow::arrived).collect();
        for (flow, _) in flows.iter().zip(before.iter().zip(&now)).filter(|(_, (b, n))| b >= n) {
            let seconds = start.elapsed().as_secs();
            run.fault(format!("{}: stuck in the window that ended at {seconds} s", flow.what));
        }
        before = now;
    }
}

/// Waits until every flow has moved on after a change.
pub fn moved_on(flows: &[Flow], after: &str) {
    let before: Vec<u64> = flows.iter().map(Flow::arrived).collect();
    let enough = |flow: &Flow| if flow.is_stream() { 10_000 } else { 100 };
    eventually(&format!("traffic after {after}"), 2 * WINDOW, || {
        let stuck: Vec<_> = flows
            .iter()
            .zip(&before)
            .filter(|(f, b)| f.arrived() < **b + enough(f))
            .map(|(f, _)| &f.what)
            .collect();
        seen(stuck.is_empty(), stuck)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_with_one_changed_bit_or_a_byte_less_is_corrupt() {
        let mut sizes = HashSet::new();
        for number in 0..2000 {
            let good = datagram(7, number);
            sizes.insert(good.len());
            let expected = (good.len() >= NUMBERED).then_some(number);
            assert_eq!(check_datagram(7, &good), Ok(expected));
            let mut bad = good.clone();
            bad[number as usize % good.len()] ^= 1 << (number % 8);
            assert!(check_datagram(7, &bad).unwrap_err().contains("corrupt"), "{number}");
            if good.len() > NUMBERED {
                assert!(check_datagram(7, &good[..good.len() - 1]).is_err(), "{number}");
            }
        }
        assert!([1, 2, 3, 4, 8, FRAGMENTED].iter().all(|size| sizes.contains(size)), "{sizes:?}");
    }

    #[test]
    fn a_stream_with_a_changed_byte_or_without_one_is_corrupt() {
        let mut block = vec![0; BLOCK];
        fill(3, &mut block);
        let mut bad = block.clone();
        bad[12_345] ^= 0x10;
        assert!(same(&block, &bad).unwrap_err().starts_with("+12345 of"));
        assert!(same(&block[..1000], &block[1..1001]).unwrap_err().starts_with("+0 of"));
    }
}
