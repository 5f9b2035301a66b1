//! A cluster of fifty hosts converges, and follows changes, on both stores. Its figures are told; no speed is asserted.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use weft_lab::{Tools, cannot_run, figures, free_port};
use weft_scale::{Door, Process, Run, Shape, measure, populate};
use weft_store::{
    Embedded, JoinToken,
    embedded::{Authority, serve},
};

const SHAPE: Shape = Shape { hosts: 50, endpoints: 2_000, networks: 20, parts: 4 };

async fn converges(name: &str, door: Door) {
    populate(door.open().await.unwrap().as_ref(), &SHAPE, false).await.unwrap();
    let run = Run {
        shape: SHAPE,
        door,
        rest: Duration::from_secs(1),
        single: 20,
        rate: 100,
        storm: Duration::from_secs(2),
        patience: Duration::from_mins(1),
        watch: vec![("hosts".to_owned(), Process::this())],
        device: "lo".to_owned(),
    };
    // It compares every kernel with the planner's oracle in the end.
    let report = measure(&run).await.unwrap();
    assert_eq!(report.single.reach.count, 20 * 9, "each change at each other host of its network");
    assert_eq!(report.storm.reach.count, 200 * 9);
    // A start costs a host what it follows, however many others start at the same time: less than one look at everything.
    let listed = report.start.calls.records / SHAPE.hosts as u64;
    let everything = 2 * SHAPE.endpoints as u64;
    assert!(listed < everything, "{listed} records for each host, of {everything}");
    figures(
        "scale",
        &format!(
            "{name}: 50 hosts with 2,000 endpoints up in {:.1} s; a change is everywhere in {:.0} ms (p99), at {:.0} \
             changes a second in {:.0} ms",
            report.convergence_s, report.single.reach.p99_ms, report.storm_rate, report.storm.reach.p99_ms
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_hosts_converge_on_an_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(dir.path().join("store.redb")).await.unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("weft://{}", listener.local_addr().unwrap()).parse().unwrap();
    let authority = Arc::new(Authority::load_or_create(&dir.path().join(Authority::FILE)).unwrap());
    let (token, shutdown) = (JoinToken::random(authority.pin()).unwrap(), CancellationToken::new());
    let tls = authority.server_config(None).unwrap();
    let server = tokio::spawn(serve(listener, store, token.clone(), tls, shutdown.clone()));
    converges("embedded", Door { url, token: Some(token), dir: dir.path().to_owned() }).await;
    shutdown.cancel();
    server.await.unwrap();
}

/// An etcd that is killed on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn etcd(program: &Path, dir: &Path) -> (Server, String) {
    let [client, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
    let child = Command::new(program)
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Server(child), client.replace("http", "etcd"))
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_hosts_converge_on_etcd() {
    let given = std::env::var_os("WEFT_ETCD").map(std::path::PathBuf::from);
    let program = match given.map_or_else(|| Tools::from_env().etcd(), Ok) {
        Ok(program) => program,
        Err(error) => return cannot_run("fifty_hosts_converge_on_etcd", &error),
    };
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = etcd(&program, dir.path());
    let door = Door { url: format!("{url}/scale").parse().unwrap(), token: None, dir: dir.path().to_owned() };
    let up = async {
        while weft_store::probe(door.open().await.unwrap().as_ref()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), up).await.unwrap();
    converges("etcd", door).await;
}
