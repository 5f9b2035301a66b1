//! From a query's bytes to those of its answer.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA},
    },
};
use std::net::IpAddr;
use weft_plan::names::Meaning;

/// How long an answer may be kept, also a negative one: a container that has gone must not be asked for after the records
/// have told it.
pub const TTL_SECONDS: u32 = 1;
/// The most that an answer over UDP may take where the asker says nothing (RFC 1035, 2.3.4).
const PLAIN_UDP: u16 = 512;
/// The most that weft takes itself in a datagram (RFC 6891, 6.2.5); queries are far smaller.
const OWN_PAYLOAD: u16 = 4096;
/// The only version of EDNS.
const EDNS_VERSION: u8 = 0;

/// What a query asks, for whoever knows the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// Who has this name? Without the dot at its end, as it was written.
    Name(&'a str),
    /// Who has this address?
    Address(IpAddr),
}

/// How a query came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// An answer larger than the asker takes is cut, and says so.
    Udp,
    /// Answers of any size.
    Tcp,
}

/// What to do about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask the server behind.
    Elsewhere,
    /// Nothing: it is no query.
    Silence,
}

/// What to do about a query. `resolve` knows the endpoints; `turn` counts the queries, so that of several endpoints of a name each
/// comes first in its turn.
pub fn reply(
    query: &[u8],
    transport: Transport,
    turn: usize,
    resolve: impl FnOnce(Question<'_>) -> Meaning,
) -> Reply {
    // What cannot be read may be a dialect that the server behind speaks.
    let Ok(message) = Message::from_vec(query) else { return Reply::Elsewhere };
    if message.metadata.message_type != MessageType::Query {
        return Reply::Silence;
    }
    let [question] = &message.queries[..] else { return Reply::Elsewhere };
    if message.metadata.op_code != OpCode::Query || question.query_class() != DNSClass::IN {
        return Reply::Elsewhere;
    }
    let meaning = match (question.query_type(), address_of(question.name())) {
        (RecordType::PTR, Some(address)) => resolve(Question::Address(address)),
        (_, None) => match text_of(question.name()) {
            Some(name) => resolve(Question::Name(&name)),
            None => Meaning::Unknown,
        },
        (_, Some(_)) => Meaning::Unknown,
    };
    if meaning == Meaning::Unknown {
        return Reply::Elsewhere;
    }
    let mut answer = response_to(&message);
    if message.version() > EDNS_VERSION {
        set_code(&mut answer, ResponseCode::BADVERS);
    } else {
        answer.metadata.authoritative = true;
        fill(&mut answer, question, meaning, turn);
    }
    encode(&answer, transport, message.edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload).max(PLAIN_UDP))
}

/// The answer to a query that nobody could answer. `None`: it is no query.
pub fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok().filter(|m| m.metadata.message_type == MessageType::Query)?;
    let mut answer = response_to(&message);
    answer.metadata.response_code = ResponseCode::ServFail;
    answer.to_vec().ok()
}

/// The address that a name of the reverse tree stands for; `None`: it is none, or not a whole one.
fn address_of(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// A name as people write it, without the last dot. `None`: no container is called that.
fn text_of(name: &Name) -> Option<String> {
    let labels: Option<Vec<&str>> =
        name.iter().map(|l| std::str::from_utf8(l).ok().filter(|l| !l.contains('.'))).collect();
    labels.map(|labels| labels.join("."))
}

fn response_to(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.checking_disabled = query.metadata.checking_disabled;
    answer.add_queries(query.queries.iter().cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(OWN_PAYLOAD).set_version(EDNS_VERSION).set_dnssec_ok(asked.flags().dnssec_ok);
        answer.set_edns(edns);
    }
    answer
}

/// Sets a code of more than four bits, whose upper part stands in the EDNS record.
fn set_code(answer: &mut Message, code: ResponseCode) {
    answer.metadata.response_code = code;
    if let Some(edns) = &mut answer.edns {
        edns.set_rcode_high(code.high());
    }
}

fn fill(answer: &mut Message, question: &Query, meaning: Meaning, turn: usize) {
    let name = question.name();
    let record = |data| Record::from_rdata(name.clone(), TTL_SECONDS, data);
    match meaning {
        Meaning::Addresses(addresses) => {
            let kind = question.query_type();
            let wanted = |ip: &IpAddr| match ip {
                IpAddr::V4(_) => matches!(kind, RecordType::A | RecordType::ANY),
                IpAddr::V6(_) => matches!(kind, RecordType::AAAA | RecordType::ANY),
            };
            let mut found: Vec<_> = addresses.into_iter().filter(wanted).collect();
            if !found.is_empty() {
                let first = turn % found.len();
                found.rotate_left(first);
            }
            answer.add_answers(found.into_iter().map(|ip| {
                record(match ip {
                    IpAddr::V4(ip) => RData::A(A(ip)),
                    IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
                })
            }));
        }
        Meaning::Name(target) => match Name::from_ascii(format!("{target}.")) {
            Ok(target) => {
                answer.add_answer(record(RData::PTR(PTR(target))));
            }
            // Something called like that is not in DNS.
            Err(_) => answer.metadata.response_code = ResponseCode::NXDomain,
        },
        Meaning::Nobody | Meaning::Unknown => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    if answer.answers.is_empty() {
        // It says how long the absence may be kept (RFC 2308, 3). The zone is the name itself: what is above it is not ours.
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, TTL_SECONDS);
        answer.add_authority(record(RData::SOA(soa)));
    }
}

fn encode(answer: &Message, transport: Transport, limit: u16) -> Reply {
    let whole = answer.to_vec();
    let bytes = match whole {
        Ok(bytes) if transport == Transport::Udp && bytes.len() > usize::from(limit) => {
            answer.truncate().to_vec()
        }
        other => other,
    };
    // Nothing that was read can be too long to be written again.
    bytes.map_or(Reply::Silence, Reply::Answer)
}
