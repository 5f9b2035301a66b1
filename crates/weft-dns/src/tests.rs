//! Queries and answers as bytes, and a server on real sockets.

use crate::{
    Question, Reply, Resolve, Route, Sockets, TTL_SECONDS, Transport, Upstream, reply, serve, server_failure,
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use proptest::prelude::*;
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use weft_plan::names::Meaning;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Knows `web`, with three addresses, its first one, `many`, with a hundred, and that `gone` is nobody.
fn resolve(question: Question<'_>) -> Meaning {
    let web = ["10.9.0.2", "10.9.0.3", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap());
    match question {
        Question::Name(name) => match name.to_ascii_lowercase().as_str() {
            "web" => Meaning::Addresses(web.to_vec()),
            "many" => Meaning::Addresses((0..100).map(|n| IpAddr::from([10, 9, 1, n])).collect()),
            "gone" => Meaning::Nobody,
            _ => Meaning::Unknown,
        },
        Question::Address(ip) if ip == web[0] => Meaning::Name("web.blue.weft".to_owned()),
        Question::Address(ip) if ip == web[2] => Meaning::Nobody,
        Question::Address(_) => Meaning::Unknown,
    }
}

fn answer_by(message: &Message, transport: Transport, turn: usize) -> Message {
    match reply(&message.to_vec().unwrap(), transport, turn, resolve) {
        Reply::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn answer(message: &Message) -> Message {
    answer_by(message, Transport::Udp, 0)
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn a_name_has_the_addresses_of_the_family_asked_for() {
    let a = answer(&query("Web.", RecordType::A));
    assert_eq!(addresses(&a), ["10.9.0.2", "10.9.0.3"]);
    assert_eq!(a.queries[0].name().to_ascii(), "Web.", "as it was asked: some askers compare");
    assert!(a.metadata.authoritative && a.metadata.recursion_available && a.metadata.recursion_desired);
    assert_eq!((a.metadata.id, a.metadata.response_code), (4711, ResponseCode::NoError));
    assert!(a.answers.iter().all(|record| record.ttl == TTL_SECONDS) && a.edns.is_none());
    assert_eq!(addresses(&answer(&query("web.", RecordType::AAAA))), ["fd00::2"]);
    assert_eq!(addresses(&answer(&query("web.", RecordType::ANY))).len(), 3);
}

#[test]
fn each_of_several_comes_first_in_its_turn() {
    let first = |turn| {
        let got = answer_by(&query("web.", RecordType::A), Transport::Udp, turn);
        addresses(&got)[0].clone()
    };
    assert_eq!([first(0), first(1), first(2), first(3)], ["10.9.0.2", "10.9.0.3", "10.9.0.2", "10.9.0.3"]);
}

#[test]
fn a_name_without_what_is_asked_for_exists_and_nobody_does_not_and_neither_is_kept_for_long() {
    for (name, kind, code) in [
        ("web.", RecordType::MX, ResponseCode::NoError),
        ("many.", RecordType::AAAA, ResponseCode::NoError),
        ("gone.", RecordType::A, ResponseCode::NXDomain),
        ("gone.", RecordType::PTR, ResponseCode::NXDomain),
    ] {
        let got = answer(&query(name, kind));
        assert_eq!(got.metadata.response_code, code, "{name}");
        assert!(got.answers.is_empty(), "{name}");
        let [soa] = &got.authorities[..] else { panic!("{got:?}") };
        let RData::SOA(data) = &soa.data else { panic!("{soa:?}") };
        assert_eq!((soa.ttl, data.minimum), (TTL_SECONDS, TTL_SECONDS));
    }
}

#[test]
fn an_address_has_a_name() {
    assert_eq!(addresses(&answer(&query("2.0.9.10.in-addr.arpa.", RecordType::PTR))), ["web.blue.weft."]);
    let v6 = format!("2.{}d.f.ip6.arpa.", "0.".repeat(27) + "0.0.");
    assert_eq!(answer(&query(&v6, RecordType::PTR)).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn what_is_not_known_or_not_a_plain_question_is_passed_on() {
    let mut two = query("web.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("web.").unwrap(), RecordType::AAAA));
    let mut chaos = query("web.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut notify = query("web.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    for message in [
        query("example.com.", RecordType::A),
        query("1.2.0.192.in-addr.arpa.", RecordType::PTR),
        query("9.10.in-addr.arpa.", RecordType::PTR),
        query("w\\.eb.", RecordType::A),
        query(".", RecordType::NS),
        two,
        chaos,
        notify,
    ] {
        let bytes = message.to_vec().unwrap();
        assert_eq!(reply(&bytes, Transport::Udp, 0, resolve), Reply::Elsewhere, "{message:?}");
    }
    assert_eq!(reply(b"?", Transport::Udp, 0, resolve), Reply::Elsewhere);
    let mut response = query("web.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(reply(&response.to_vec().unwrap(), Transport::Udp, 0, resolve), Reply::Silence, "no loops");
}

#[test]
fn an_answer_is_as_large_as_the_asker_takes() {
    let plain = query("many.", RecordType::A);
    let cut = answer(&plain);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(answer_by(&plain, Transport::Tcp, 0).answers.len(), 100);
    let mut large = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    large.set_edns(edns);
    let whole = answer(&large);
    assert!(!whole.metadata.truncation && whole.answers.len() == 100);
    assert!(whole.edns.as_ref().unwrap().flags().dnssec_ok);
    let mut small = plain;
    small.set_edns(Edns::new());
    assert!(answer(&small).metadata.truncation && answer(&small).edns.is_some());
}

#[test]
fn another_version_of_edns_is_refused_with_the_version_that_is_known() {
    let mut message = query("web.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let got = answer(&message);
    // The number has a second name, BADSIG, in answers with a signature.
    assert_eq!((u16::from(got.metadata.response_code), got.version()), (16, 0));
    assert!(got.answers.is_empty());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_no_answer_is_larger_than_allowed(
        bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0..64usize, with: u8, turn: usize,
    ) {
        let mut changed = query("many.", RecordType::A).to_vec().unwrap();
        let at = at % changed.len();
        changed[at] = with;
        for bytes in [&bytes, &changed] {
            let _failure = server_failure(bytes);
            if let Reply::Answer(answer) = reply(bytes, Transport::Udp, turn, resolve) {
                let limit = Message::from_vec(bytes).unwrap().max_payload();
                prop_assert!(answer.len() <= usize::from(limit));
                prop_assert_eq!(&answer[..2], &bytes[..2]);
            }
        }
    }
}

/// The server behind: it answers every query with the query and a word.
struct Behind(SocketAddr);

impl Behind {
    fn start() -> Self {
        let udp = UdpSocket::bind(LOOPBACK).unwrap();
        let at = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(at).unwrap();
        std::thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut query) {
                udp.send_to(&[&query[..length], b"by UDP"].concat(), from).unwrap();
            }
        });
        std::thread::spawn(move || {
            for connection in tcp.incoming() {
                let mut connection = connection.unwrap();
                let query = read_message(&mut connection);
                write_message(&mut connection, &[&query[..], b"by TCP"].concat());
            }
        });
        Self(at)
    }
}

struct To(Vec<SocketAddr>);

impl Route for To {
    fn servers(&self) -> Vec<SocketAddr> {
        self.0.clone()
    }

    fn udp(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(LOOPBACK)?;
        socket.connect(server)?;
        Ok(socket)
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(server)
    }
}

struct Known;

impl Resolve for Known {
    fn resolve(&self, question: Question<'_>) -> Meaning {
        resolve(question)
    }
}

fn read_message(connection: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    connection.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    connection.read_exact(&mut message).unwrap();
    message
}

fn write_message(connection: &mut TcpStream, message: &[u8]) {
    connection.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).unwrap();
    connection.write_all(message).unwrap();
}

/// A server on sockets of its own, before these servers; its address.
fn start(behind: Vec<SocketAddr>, shutdown: &CancellationToken) -> SocketAddr {
    let udp = UdpSocket::bind(LOOPBACK).unwrap();
    let at = udp.local_addr().unwrap();
    let sockets = Sockets { udp, tcp: TcpListener::bind(at).unwrap() };
    let upstream = Upstream::new(Arc::new(To(behind)));
    tokio::spawn(serve(sockets, Arc::new(Known), upstream, shutdown.clone()));
    at
}

async fn by_udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let message = message.to_vec();
    tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind(LOOPBACK).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send_to(&message, server).unwrap();
        let mut answer = vec![0; 65535];
        let length = socket.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    })
    .await
    .unwrap()
}

async fn by_tcp(server: SocketAddr, messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let mut connection = TcpStream::connect(server).unwrap();
        let ask = |message: &Vec<u8>| {
            write_message(&mut connection, message);
            read_message(&mut connection)
        };
        messages.iter().map(ask).collect()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_names_are_answered_and_others_passed_on_byte_for_byte_by_udp_and_tcp() {
    let shutdown = CancellationToken::new();
    let server = start(vec![Behind::start().0], &shutdown);
    let [known, other] = ["web.", "example.com."].map(|name| query(name, RecordType::A).to_vec().unwrap());
    assert_eq!(addresses(&Message::from_vec(&by_udp(server, &known).await).unwrap()).len(), 2);
    for _ in 0..10 {
        assert_eq!(by_udp(server, &other).await, [&other[..], b"by UDP"].concat());
    }
    assert_eq!(by_udp(server, b"??not DNS").await, b"??not DNSby UDP");
    let [first, second] = &by_tcp(server, vec![known, other.clone()]).await[..] else { panic!() };
    assert_eq!(addresses(&Message::from_vec(first).unwrap()).len(), 2);
    assert_eq!(*second, [&other[..], b"by TCP"].concat());
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_behind_known_names_are_answered_and_others_fail_at_once() {
    let shutdown = CancellationToken::new();
    let gone = UdpSocket::bind(LOOPBACK).unwrap().local_addr().unwrap();
    for behind in [vec![], vec![gone]] {
        let server = start(behind, &shutdown);
        let [known, other] =
            ["web.", "example.com."].map(|name| query(name, RecordType::A).to_vec().unwrap());
        assert_eq!(addresses(&Message::from_vec(&by_udp(server, &known).await).unwrap()).len(), 2);
        let failed = Message::from_vec(&by_udp(server, &other).await).unwrap();
        assert_eq!((failed.metadata.id, failed.metadata.response_code), (4711, ResponseCode::ServFail));
        assert_eq!(by_tcp(server, vec![other]).await.len(), 1);
    }
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_behind_is_asked_when_one_is_gone() {
    let shutdown = CancellationToken::new();
    let gone = UdpSocket::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let server = start(vec![gone, Behind::start().0], &shutdown);
    let other = query("example.com.", RecordType::A).to_vec().unwrap();
    assert_eq!(by_udp(server, &other).await, [&other[..], b"by UDP"].concat());
    shutdown.cancel();
}
