//! Requests to the kernel over route netlink, and its answers (rtnetlink(7)).
//!
//! A [`Netlink`] is a socket opened in one namespace and used from any thread, blocking. Requests go out many to
//! a system call: to fill an FDB with 100,000 entries one by one would cost as many round trips. The answers
//! carry the sequence number of their request, so one that got lost is noticed and never taken for success.
//! Messages are coded by `netlink-packet-route`, or by `mdb` where it has none; nothing here knows what they mean.

use crate::{KernelError, Namespace};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    libc,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};
use std::{io, marker::PhantomData};

/// Requests in one system call. Each is answered into the socket's receive buffer before the call returns: 256
/// acknowledgements take about 200 KiB there, a twentieth of [`RECEIVE_BUFFER`].
const BATCH: usize = 256;
/// The receive buffer, in bytes: more than the system's default limit, which a batch of refusals could fill.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel writes at most 32 KiB of a dump at a time.
const READ_SIZE: usize = 64 << 10;
/// Answers are there when the request has been sent; one that is not within this time will not come.
pub(crate) const ANSWER_SECONDS: i64 = 10;
/// How often a dump is repeated that was disturbed by changes.
const DUMP_ATTEMPTS: usize = 4;
/// In an error message: attributes follow (`linux/netlink.h`), and the one with the kernel's words.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_CAPPED: u16 = 0x100;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A request, with the words for its failure: "create device weft-vx4096".
pub(crate) struct Request<M = RouteNetlinkMessage> {
    pub doing: String,
    pub flags: u16,
    pub message: M,
}

impl<M> Request<M> {
    pub fn new(doing: impl Into<String>, flags: u16, message: M) -> Self {
        Self { doing: doing.into(), flags, message }
    }
}

/// The messages a request was answered with; empty for a mere acknowledgement.
pub(crate) type Answer<M = RouteNetlinkMessage> = Result<Vec<M>, KernelError>;

/// A route netlink socket in one namespace.
pub(crate) type Netlink = RouteSocket<RouteNetlinkMessage>;

/// A message of one of the kinds that route netlink carries.
pub(crate) trait Message: NetlinkSerializable + NetlinkDeserializable + Clone {}
impl<M: NetlinkSerializable + NetlinkDeserializable + Clone> Message for M {}

/// A route netlink socket in one namespace, for messages `M`.
pub(crate) struct RouteSocket<M> {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message> RouteSocket<M> {
    /// A socket in `namespace`.
    pub fn open(namespace: &Namespace) -> Result<Self, KernelError> {
        namespace.run(Self::open_here)?
    }

    /// A socket in the calling thread's namespace.
    pub fn open_here() -> Result<Self, KernelError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
            Ok(socket)
        };
        let socket = open().map_err(|e| io_failed("open a netlink socket", &e))?;
        Ok(Self { socket, sequence: 0, received: Vec::with_capacity(READ_SIZE), messages: PhantomData })
    }

    /// One request that is acknowledged.
    pub fn request(&mut self, request: Request<M>) -> Answer<M> {
        let doing = request.doing.clone();
        let answer = self.pipeline(vec![request]).pop();
        answer.unwrap_or_else(|| Err(KernelError::netlink(&doing, "no answer", 0)))
    }

    /// Many requests, in their order; one answer for each.
    pub fn pipeline(&mut self, requests: Vec<Request<M>>) -> Vec<Answer<M>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            answers.extend(self.batch(requests.by_ref().take(BATCH).collect()));
        }
        answers
    }

    fn batch(&mut self, requests: Vec<Request<M>>) -> Vec<Answer<M>> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut doing = Vec::with_capacity(requests.len());
        for request in requests {
            self.encode(request.message, request.flags | NLM_F_ACK, &mut bytes);
            doing.push(request.doing);
        }
        let mut answers: Vec<(Vec<M>, Option<Answer<M>>)> = Vec::new();
        answers.resize_with(doing.len(), Default::default);
        let mut pending = doing.len();
        let mut outcome = self.socket.send(&bytes, 0).map(|_| ());
        while outcome.is_ok() && pending > 0 {
            outcome = self.receive(|header, payload| {
                // An answer to a request that was given up earlier is older than `first`: out of range.
                let index = header.sequence_number.wrapping_sub(first) as usize;
                let Some((messages, answer)) = answers.get_mut(index) else { return };
                match payload {
                    Payload::Message(message) => messages.push(message),
                    Payload::End(end) if answer.is_none() => {
                        pending -= 1;
                        *answer = Some(end.into_answer(&doing[index], std::mem::take(messages)));
                    }
                    Payload::End(_) => {}
                }
            });
        }
        let lost = outcome.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        let answers = answers.into_iter().zip(&doing);
        answers.map(|((_, answer), doing)| answer.unwrap_or_else(|| Err(io_failed(doing, &lost)))).collect()
    }

    /// All objects of a kind. Repeated when the kernel says that they changed meanwhile; if they never stop
    /// changing, the last answer stands: the next observation will see what it missed.
    pub fn dump(&mut self, doing: &str, message: &M) -> Answer<M> {
        let mut attempts = DUMP_ATTEMPTS;
        loop {
            attempts -= 1;
            let (messages, disturbed) = self.dump_once(doing, message.clone())?;
            if !disturbed || attempts == 0 {
                return Ok(messages);
            }
        }
    }

    fn dump_once(&mut self, doing: &str, message: M) -> Result<(Vec<M>, bool), KernelError> {
        let mut bytes = Vec::new();
        self.encode(message, NLM_F_DUMP, &mut bytes);
        let sequence = self.sequence;
        self.socket.send(&bytes, 0).map_err(|e| io_failed(doing, &e))?;
        let (mut messages, mut disturbed, mut end) = (Vec::new(), false, None);
        while end.is_none() {
            self.receive(|header, payload| {
                if header.sequence_number != sequence {
                    return;
                }
                disturbed |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    Payload::Message(message) => messages.push(message),
                    Payload::End(found) => end = Some(found),
                }
            })
            .map_err(|e| io_failed(doing, &e))?;
        }
        let answer = end.unwrap_or_default().into_answer(doing, messages)?;
        Ok((answer, disturbed))
    }

    /// Appends a request to `bytes`, with the next sequence number.
    fn encode(&mut self, message: M, flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    /// Waits for one datagram and hands out the messages in it.
    fn receive(&mut self, mut each: impl FnMut(&NetlinkHeader, Payload<M>)) -> io::Result<()> {
        self.received.clear();
        while let Err(error) = self.socket.recv(&mut self.received, 0) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        let mut rest = self.received.as_slice();
        while let Some(length) = message_length(rest) {
            let (message, tail) = rest.split_at(length);
            rest = tail.get(length.next_multiple_of(4) - length..).unwrap_or_default();
            match NetlinkMessage::<M>::deserialize(message) {
                Ok(message) => {
                    let (header, payload) = message.into_parts();
                    if let Some(payload) = Payload::of(&header, payload) {
                        each(&header, payload);
                    }
                }
                // A device of a kind that the codec does not know must not hide all the others.
                Err(error) => tracing::warn!(%error, "a netlink message cannot be decoded and is left out"),
            }
        }
        Ok(())
    }
}

/// What a message from the kernel is to its request.
enum Payload<M> {
    Message(M),
    End(End),
}

/// The end of an answer: an acknowledgement (errno 0), a refusal, the end of a dump.
#[derive(Default)]
struct End {
    errno: i32,
    words: Option<String>,
}

impl<M> Payload<M> {
    fn of(header: &NetlinkHeader, payload: NetlinkPayload<M>) -> Option<Self> {
        match payload {
            NetlinkPayload::InnerMessage(message) => Some(Self::Message(message)),
            NetlinkPayload::Done(done) => Some(Self::End(End { errno: done.code.abs(), words: None })),
            NetlinkPayload::Error(error) => {
                let errno = error.raw_code().abs();
                Some(Self::End(End { errno, words: words_of(header.flags, &error.header) }))
            }
            _ => None,
        }
    }
}

impl End {
    fn into_answer<M>(self, doing: &str, messages: Vec<M>) -> Answer<M> {
        if self.errno == 0 {
            return Ok(messages);
        }
        let name = io::Error::from_raw_os_error(self.errno);
        let reason = self.words.map_or_else(|| name.to_string(), |words| format!("{words} ({name})"));
        Err(KernelError::netlink(doing, &reason, self.errno))
    }
}

/// The length of the first message in `bytes`, if all of it is there.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    (length >= 16 && length <= bytes.len()).then_some(length)
}

/// The kernel's words in the attributes behind an error: after the request's header, and after the whole
/// request when that was not cut off.
pub(crate) fn words_of(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = if flags & NLM_F_CAPPED != 0 { 16 } else { message_length(payload).unwrap_or(16) };
    let mut rest = payload.get(request.next_multiple_of(4)..)?;
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == NLMSGERR_ATTR_MSG {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

pub(crate) fn io_failed(doing: &str, error: &io::Error) -> KernelError {
    let reason = match error.kind() {
        io::ErrorKind::WouldBlock => format!("the kernel has not answered for {ANSWER_SECONDS} s"),
        _ => error.to_string(),
    };
    KernelError::netlink(doing, &reason, error.raw_os_error().unwrap_or(0))
}

impl KernelError {
    pub(crate) fn netlink(doing: &str, reason: &str, errno: i32) -> Self {
        Self::Netlink { doing: doing.to_owned(), reason: reason.to_owned(), errno }
    }

    /// The kernel's error number; 0 when there is none.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Netlink { errno, .. } => *errno,
            _ => 0,
        }
    }

    /// Whether the object that was asked about is not there (any more).
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.errno(), libc::ENOENT | libc::ENODEV | libc::ESRCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read_from_an_error() {
        let mut payload = vec![0u8; 16];
        let text = b"taken\0";
        payload.extend(u16::try_from(4 + text.len()).unwrap().to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(text);
        let flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        assert_eq!(words_of(flags, &payload).as_deref(), Some("taken"));
        assert_eq!(words_of(0, &payload), None);
        assert_eq!(words_of(flags, &payload[..18]), None);
        let end = End { errno: libc::EEXIST, words: Some("taken".to_owned()) };
        let error = end.into_answer::<RouteNetlinkMessage>("create device x", Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "create device x: taken (File exists (os error 17))");
    }

    #[test]
    fn a_truncated_message_ends_the_reading() {
        assert_eq!(message_length(&[16, 0, 0]), None);
        assert_eq!(message_length(&[0; 32]), None);
        let mut bytes = 64u32.to_ne_bytes().to_vec();
        bytes.resize(32, 0);
        assert_eq!(message_length(&bytes), None);
    }
}
