//! A container's DNS query, over UDP and TCP.
//!
//! An answer has the query's id and question, is one that any resolver reads, is not larger than the asker takes, and says only what is
//! known; nothing answers an answer.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use std::net::IpAddr;
use weft_dns::{Question, Reply, TTL_SECONDS, Transport, reply, server_failure};
use weft_plan::names::Meaning;

/// What is known depends on the first letter: some endpoints, one, nobody, nothing.
fn resolve(question: Question<'_>) -> Meaning {
    match question {
        Question::Name(name) => match name.bytes().next() {
            Some(b'm') => Meaning::Addresses((0..200).map(|n| IpAddr::from([10, 9, 0, n])).collect()),
            Some(b'w') => Meaning::Addresses(vec!["10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]),
            Some(b'n') => Meaning::Nobody,
            _ => Meaning::Unknown,
        },
        Question::Address(ip) if ip.is_ipv4() => Meaning::Name("web.blue.weft".to_owned()),
        Question::Address(_) => Meaning::Unknown,
    }
}

/// Answers a query of these bytes.
pub fn check(bytes: &[u8]) {
    let asked = Message::from_vec(bytes).ok();
    for transport in [Transport::Udp, Transport::Tcp] {
        let Reply::Answer(answer) = reply(bytes, transport, bytes.len(), resolve) else { continue };
        let asked = asked.as_ref().expect("what cannot be read is not answered");
        assert_eq!(asked.metadata.message_type, MessageType::Query);
        let told = Message::from_vec(&answer).expect("an answer that can be read");
        assert_eq!((told.metadata.id, &told.queries), (asked.metadata.id, &asked.queries));
        assert_eq!(told.metadata.message_type, MessageType::Response);
        assert_eq!(told.edns.is_some(), asked.edns.is_some());
        assert!(told.answers.iter().chain(&told.authorities).all(|record| record.ttl <= TTL_SECONDS));
        match transport {
            Transport::Udp => assert!(answer.len() <= usize::from(asked.max_payload())),
            Transport::Tcp => assert!(!told.metadata.truncation),
        }
    }
    if let Some(failure) = server_failure(bytes) {
        let told = Message::from_vec(&failure).expect("an answer that can be read");
        assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
    }
}
