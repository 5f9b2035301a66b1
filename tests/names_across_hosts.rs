//! Containers find each other by name, whatever host they are on, with nothing but `docker run`; and every other name means
//! what it meant without weft.
#![allow(clippy::unwrap_used, clippy::panic)]

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use nix::sched::{CloneFlags, setns};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use weft_e2e::{
    Pair, address, eventually, fetch, field, lab, only_on, options_with_etcd, seen,
    with_the_newest_engine_too,
};
use weft_lab::{Engine, EngineVersion, NGINX_PAGE, figures};

with_the_newest_engine_too!(
    web_is_found_by_name_alias_and_id_from_both_hosts,
    other_names_mean_what_they_meant,
    an_internal_network_has_names_and_nothing_beyond,
    a_stopped_containers_name_is_gone_everywhere_within_a_second,
);

const NET: &str = "my-multi-host-net";
/// Where Docker's containers ask.
const DOCKERS: &str = "127.0.0.11:53";
/// How long an answer may take. Docker's resolver waits for its servers behind for some seconds each.
const PATIENCE: Duration = Duration::from_secs(20);
/// The address of everything outside.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// The network namespace of a container.
fn netns(engine: &Engine, container: &str) -> PathBuf {
    format!("/proc/{}/ns/net", engine.docker(&["inspect", "-f", "{{.State.Pid}}", container]).unwrap()).into()
}

/// Does something in a network namespace.
fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(namespace).unwrap();
    let enter = || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // Label by label: the lab's names have a slash, which is no letter of host names.
    let labels = name.split('.').map(str::as_bytes);
    message.add_query(Query::query(Name::from_labels(labels).unwrap(), kind));
    message
}

/// Asks as a program in the namespace would.
fn by_udp(namespace: &Path, message: &Message) -> io::Result<Message> {
    let query = message.to_vec().unwrap();
    let answer = within(namespace, || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(DOCKERS)?;
        socket.send(&query)?;
        let mut answer = vec![0; 65535];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok::<_, io::Error>(answer)
    })?;
    Ok(Message::from_vec(&answer).unwrap())
}

fn by_tcp(namespace: &Path, message: &Message) -> Message {
    let query = message.to_vec().unwrap();
    let answer = within(namespace, || {
        let mut connection = TcpStream::connect(DOCKERS).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        write_message(&mut connection, &query).unwrap();
        read_message(&mut connection).unwrap()
    });
    Message::from_vec(&answer).unwrap()
}

fn read_message(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    connection.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    connection.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(connection: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    connection.write_all(&[&length, message].concat())
}

fn told(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// What a container is told of a name; the code where it is an error.
fn ask(namespace: &Path, name: &str, kind: RecordType) -> Result<Vec<String>, String> {
    let answer = by_udp(namespace, &query(name, kind)).map_err(|e| e.to_string())?;
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(told(&answer)),
        code => Err(code.to_string()),
    }
}

fn start(engine: &Engine, name: &str, more: &[&str], image: &[&str]) {
    let net = format!("--net={NET}");
    engine.docker(&[&["run", "-d", "--name", name, &net], more, image].concat()).unwrap();
}

const SLEEP: [&str; 3] = ["box", "sleep", "3600"];

fn web_is_found_by_name_alias_and_id_from_both_hosts(version: EngineVersion) {
    let Some(mut pair) = Pair::up_on_one_path("names", version) else { return };
    pair.network(NET, &[]);
    // As it stands in the README: nothing about names is said to Docker.
    start(pair.a(), "web", &["--network-alias=site"], &["nginx"]);
    start(pair.b(), "client", &[], &SLEEP);
    start(pair.b(), "web2", &["--network-alias=site"], &["nginx"]);
    let id = pair.a().docker(&["inspect", "-f", "{{.Id}}", "web"]).unwrap();
    let web = address(pair.a(), "web", NET);
    let both: BTreeSet<String> = [web.clone(), address(pair.b(), "web2", NET)].into();
    eventually("web to have its name on B", Duration::from_secs(5), || {
        fetch(pair.b(), "client", "http://web").map(drop)
    });
    // Its first act is to ask: the name server has to be there before the container is.
    for engine in [pair.a(), pair.b()] {
        for _ in 0..5 {
            let net = format!("--net={NET}");
            let page = engine.docker(&["run", "--rm", &net, "box", "wget", "-qO-", "http://web"]).unwrap();
            assert_eq!(page, NGINX_PAGE.trim_end());
        }
    }
    let client = netns(pair.b(), "client");
    for name in ["web", "WEB", &id[..12], &format!("web.{NET}"), &format!("web.{NET}.weft"), "web.weft"] {
        assert_eq!(ask(&client, name, RecordType::A), Ok(vec![web.clone()]), "{name}");
    }
    assert_eq!(ask(&client, "web", RecordType::AAAA), Ok(vec![]));
    let reverse: Vec<&str> = web.rsplit('.').collect();
    let reverse = format!("{}.in-addr.arpa", reverse.join("."));
    assert_eq!(ask(&client, &reverse, RecordType::PTR), Ok(vec![format!("web.{NET}.weft.")]));
    assert_eq!(ask(&client, "nobody.weft", RecordType::A), Err("Non-Existent Domain".to_owned()));

    // Two answer to one alias, in rotation, from wherever it is asked.
    start(pair.a(), "near", &[], &SLEEP);
    for namespace in [&client, &netns(pair.a(), "near")] {
        let first = || ask(namespace, "site", RecordType::A).unwrap().swap_remove(0);
        eventually("the alias", Duration::from_secs(5), || {
            let got: BTreeSet<_> = ask(namespace, "site", RecordType::A)?.into_iter().collect();
            seen(got == both, got)
        });
        assert_eq!(BTreeSet::from([first(), first()]), both);
    }
    let over_tcp: BTreeSet<_> = told(&by_tcp(&client, &query("site", RecordType::A))).into_iter().collect();
    assert_eq!(over_tcp, both);

    // The other direction; and a container that joins while it runs.
    let near = netns(pair.a(), "near");
    assert_eq!(ask(&near, "client", RecordType::A), Ok(vec![address(pair.b(), "client", NET)]));
    pair.b().docker(&["run", "-d", "--name=late", "box", "sleep", "3600"]).unwrap();
    pair.b().docker(&["network", "connect", "--alias=tardy", NET, "late"]).unwrap();
    let late = vec![address(pair.b(), "late", NET)];
    eventually("the name of one that joined", Duration::from_secs(5), || {
        let got = ask(&near, "tardy", RecordType::A)?;
        seen(got == late, got)
    });
    assert_eq!(ask(&netns(pair.b(), "late"), "web", RecordType::A), Ok(vec![web.clone()]));
    pair.b().docker(&["network", "disconnect", NET, "late"]).unwrap();
    eventually("the name of one that left to go", Duration::from_secs(5), || {
        let got = ask(&near, "tardy", RecordType::A);
        seen(got.is_err(), got)
    });

    // A killed daemon takes the far names along and nothing else; when it is back, so are they.
    pair.daemon_mut("h2").unwrap().kill().unwrap();
    let client_address = vec![address(pair.b(), "client", NET)];
    eventually("Docker's own resolver to answer", Duration::from_secs(5), || {
        let got = ask(&client, "client", RecordType::A)?;
        seen(got == client_address, got)
    });
    pair.daemon_mut("h2").unwrap().start().unwrap();
    eventually("the names to be back", Duration::from_secs(5), || {
        let got = ask(&client, "web", RecordType::A)?;
        seen(got == [web.clone()], got)
    });
    // Without the store they are as they were.
    pair.kill_store().unwrap();
    for name in ["web", "site", "client"] {
        assert!(!ask(&client, name, RecordType::A).unwrap().is_empty(), "{name}");
    }
    pair.start_store().unwrap();
}

/// A name server on a host, in front of everything: it knows all names, and is asked by TCP for the long answer of `big.example`.
struct Outside {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Outside {
    /// On port 53 of `at`, in a host's namespace.
    fn start(namespace: &Path, at: IpAddr) -> Self {
        let at = SocketAddr::new(at, 53);
        let (udp, tcp) = within(namespace, || (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()));
        let ending = Arc::new(AtomicBool::new(false));
        udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (end_udp, end_tcp) = (Arc::clone(&ending), Arc::clone(&ending));
        let by_udp = move || {
            let mut query = vec![0; 4096];
            while !end_udp.load(SeqCst) {
                if let Ok((length, from)) = udp.recv_from(&mut query) {
                    let _gone = udp.send_to(&Self::answer(&query[..length], false), from);
                }
            }
        };
        let by_tcp = move || {
            while !end_tcp.load(SeqCst) {
                // Looked at often enough for a test.
                thread::sleep(Duration::from_millis(20));
                let Ok((mut connection, _)) = tcp.accept() else { continue };
                connection.set_nonblocking(false).unwrap();
                if let Ok(query) = read_message(&mut connection) {
                    write_message(&mut connection, &Self::answer(&query, true)).unwrap();
                }
            }
        };
        Self { ending, threads: vec![thread::spawn(by_udp), thread::spawn(by_tcp)] }
    }

    fn answer(query: &[u8], whole: bool) -> Vec<u8> {
        let query = Message::from_vec(query).unwrap();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_queries(query.queries.clone());
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(1400).set_dnssec_ok(asked.flags().dnssec_ok);
            answer.set_edns(edns);
        }
        let name = query.queries[0].name().clone();
        let big = name.to_ascii().starts_with("big.");
        answer.metadata.truncation = big && !whole;
        if query.queries[0].query_type() == RecordType::A && !answer.metadata.truncation {
            let count = if big { 100 } else { 1 };
            answer
                .add_answers((0..count).map(|_| Record::from_rdata(name.clone(), 60, RData::A(A(OUTSIDE)))));
        }
        answer.to_vec().unwrap()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.ending.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            // It has failed the test already if it has failed.
            let _ended = thread.join();
        }
    }
}

fn other_names_mean_what_they_meant(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("othernames", version) else { return };
    pair.network(NET, &[]);
    let host = pair.host("h1").unwrap();
    let _outside = Outside::start(&host.namespace.path(), host.address);
    let dns = format!("--dns={}", host.address);
    start(pair.a(), "asker", &[&dns], &SLEEP);
    start(pair.a(), "neighbour", &[], &SLEEP);
    pair.a().docker(&["network", "create", "local-net"]).unwrap();
    pair.a().docker(&["run", "-d", "--name=elsewhere", "--net=local-net", "box", "sleep", "3600"]).unwrap();
    pair.a().docker(&["network", "connect", "local-net", "asker"]).unwrap();
    let asker = netns(pair.a(), "asker");

    let neighbour = vec![address(pair.a(), "neighbour", NET)];
    eventually("the neighbour's name", Duration::from_secs(5), || {
        let got = ask(&asker, "neighbour", RecordType::A)?;
        seen(got == neighbour, got)
    });
    // Names on Docker's own networks are Docker's.
    let elsewhere = field(pair.a(), "elsewhere", "local-net", "IPAddress");
    assert_eq!(ask(&asker, "elsewhere", RecordType::A), Ok(vec![elsewhere]));
    // Everything else goes where the user said.
    assert_eq!(ask(&asker, "example.com", RecordType::A), Ok(vec![OUTSIDE.to_string()]));
    let mut with_edns = query("example.com", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    with_edns.set_edns(edns);
    let answer = by_udp(&asker, &with_edns).unwrap();
    assert!(answer.edns.is_some() && told(&answer) == [OUTSIDE.to_string()], "{answer}");
    // What does not fit into a datagram is cut, and whole over TCP.
    let big = query("big.example", RecordType::A);
    let cut = by_udp(&asker, &big).unwrap();
    assert!(cut.metadata.truncation || cut.answers.len() == 100, "{cut}");
    assert_eq!(by_tcp(&asker, &big).answers.len(), 100);
}

fn an_internal_network_has_names_and_nothing_beyond(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("innernames", version) else { return };
    pair.network(NET, &["--internal"]);
    start(pair.a(), "web", &[], &["nginx"]);
    start(pair.b(), "client", &[], &SLEEP);
    eventually("web's page", Duration::from_secs(5), || {
        let page = fetch(pair.b(), "client", "http://web")?;
        seen(page == NGINX_PAGE.trim_end(), page)
    });
    let beyond = ask(&netns(pair.b(), "client"), "example.com", RecordType::A);
    assert!(beyond.as_ref().map_or(true, Vec::is_empty), "{beyond:?}");
}

fn a_stopped_containers_name_is_gone_everywhere_within_a_second(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("gonenames", version) else { return };
    pair.network(NET, &[]);
    start(pair.a(), "near", &[], &SLEEP);
    start(pair.b(), "far", &[], &SLEEP);
    let askers = [netns(pair.a(), "near"), netns(pair.b(), "far")];
    let everywhere = |what: &str, there: bool| {
        for asker in &askers {
            eventually(what, Duration::from_secs(5), || {
                let got = ask(asker, "web.weft", RecordType::A);
                seen(got.is_ok() == there, got)
            });
        }
    };
    let mut longest = (Duration::ZERO, Duration::ZERO);
    for _ in 0..3 {
        start(pair.a(), "web", &[], &SLEEP);
        let begin = Instant::now();
        everywhere("the name to be there", true);
        longest.0 = longest.0.max(begin.elapsed());
        pair.a().docker(&["kill", "web"]).unwrap();
        let begin = Instant::now();
        everywhere("the name to be gone", false);
        longest.1 = longest.1.max(begin.elapsed());
        pair.a().docker(&["rm", "web"]).unwrap();
    }
    figures(
        &format!("a name on two hosts, Docker {version}"),
        &format!(
            "there {} ms after docker run, gone {} ms after docker kill, the longest of 3",
            longest.0.as_millis(),
            longest.1.as_millis()
        ),
    );
    assert!(longest.1 < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn any_namespace_asks_and_is_found() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("nsnames") else { return };
    let Some(mut lab) = lab(options) else { return };
    let [near, far] = ["h1/c1", "h2/c1"].map(|name| lab.container(name).unwrap().clone());
    let path = near.namespace.path();
    let find = || {
        let got = ask(&path, &format!("{}/{}", far.host, far.name), RecordType::A)?;
        seen(got == [far.ip().unwrap()], got)
    };
    eventually("the far one's name", Duration::from_secs(5), find);
    // A killed daemon leaves nothing behind that would lead queries astray.
    lab.daemon_mut("h1").unwrap().kill().unwrap();
    let refused = ask(&path, "anything", RecordType::A).unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    lab.daemon_mut("h1").unwrap().start().unwrap();
    eventually("the far one's name again", Duration::from_secs(5), find);
    let daemon = lab.daemon("h1").unwrap().clone();
    lab.containers[0].detach(&daemon, "lab").unwrap();
    eventually("the name server's end", Duration::from_secs(5), || {
        let got = ask(&path, "anything", RecordType::A).unwrap_err();
        seen(got.contains("refused"), got)
    });
}
