//! Queries of a namespace come to the sockets in it as long as these are held, and not a moment longer.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{Netns, can_run, run};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, UdpSocket},
    time::Duration,
};
use weft_kernel::{Namespace, resolver};

const PATIENCE: Duration = Duration::from_secs(10);

/// A socket of a program in the namespace that asks its name server.
fn asker(namespace: &Namespace) -> UdpSocket {
    namespace
        .run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(resolver::SERVER).unwrap();
            socket
        })
        .unwrap()
}

fn receive(socket: &UdpSocket) -> io::Result<(String, std::net::SocketAddr)> {
    let mut bytes = [0; 100];
    let (length, from) = socket.recv_from(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes[..length]).into_owned(), from))
}

#[test]
fn queries_come_to_the_sockets_and_the_answers_go_back() {
    let netns = Netns::new("r");
    let front = resolver::open(netns.namespace.path(), None).unwrap();
    front.udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let asker = asker(&netns.namespace);
    asker.send(b"who is web?").unwrap();
    let (query, from) = receive(&front.udp).unwrap();
    assert_eq!(query, "who is web?");
    front.udp.send_to(b"10.9.0.2", from).unwrap();
    assert_eq!(receive(&asker).unwrap(), ("10.9.0.2".to_owned(), resolver::SERVER));

    let mut asking = netns.namespace.run(|| TcpStream::connect(resolver::SERVER)).unwrap().unwrap();
    let (mut answering, _) = front.tcp.accept().unwrap();
    asking.write_all(b"?").unwrap();
    let mut byte = [0];
    answering.read_exact(&mut byte).unwrap();
    answering.write_all(b"!").unwrap();
    asking.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
}

#[test]
fn the_server_behind_is_reached_past_the_sockets() {
    let netns = Netns::new("b");
    let front = resolver::open(netns.namespace.path(), None).unwrap();
    // Here no Docker translates the address: the server behind is at it.
    let behind = netns.namespace.run(|| UdpSocket::bind(resolver::SERVER)).unwrap().unwrap();
    behind.set_read_timeout(Some(PATIENCE)).unwrap();
    let passed_on = resolver::behind_by_udp(&netns.namespace, resolver::SERVER).unwrap();
    passed_on.send(b"who is example.com?").unwrap();
    assert_eq!(receive(&behind).unwrap().0, "who is example.com?");
    front.udp.set_nonblocking(true).unwrap();
    assert_eq!(receive(&front.udp).unwrap_err().kind(), ErrorKind::WouldBlock);
    let refused = resolver::behind_by_tcp(&netns.namespace, resolver::SERVER).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn when_the_sockets_go_so_does_every_trace() {
    if !can_run("nft") {
        return;
    }
    let netns = Netns::new("g");
    let rules = || run(&format!("ip netns exec {} nft list ruleset", netns.name));
    let front = resolver::open(netns.namespace.path(), None).unwrap();
    assert!(rules().contains("dport 53"), "{}", rules());
    drop(front);
    assert_eq!(rules().trim(), "");
    let asker = asker(&netns.namespace);
    asker.send(b"who is web?").unwrap();
    assert_eq!(receive(&asker).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
