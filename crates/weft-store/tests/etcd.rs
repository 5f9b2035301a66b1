//! A real etcd, one for each test: the conformance suite, failover, prefixes and a server that stands still.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod conformance;

use async_trait::async_trait;
use conformance::{Subject, done, failure, soon};
use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use weft_model::Revision;
use weft_store::{Etcd, Store, StoreError, Txn, probe};

const TIMEOUT: Duration = Duration::from_secs(5);

struct Server {
    folder: tempfile::TempDir,
    binary: PathBuf,
    ports: [u16; 2],
    process: Option<Child>,
    store: Arc<Etcd>,
}

/// The etcd to test with: `WEFT_ETCD`, or the one in `PATH`.
fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WEFT_ETCD") {
        return Some(path.into());
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join("etcd")).find(|file| file.is_file());
    if found.is_none() {
        let message = "CANNOT RUN: no etcd: set WEFT_ETCD to its binary or put it in PATH";
        println!("{message}");
        assert!(std::env::var_os("CI").is_none(), "{message}");
    }
    found
}

async fn server() -> Option<Server> {
    let binary = binary()?;
    let folder = tempfile::tempdir().unwrap();
    // Both are held until both are known, so that they differ.
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap().port());
    drop(listeners);
    let endpoint = format!("127.0.0.1:{}", ports[0]);
    let store = Arc::new(Etcd::connect(&[endpoint], "weft/test", TIMEOUT).await.unwrap());
    let mut server = Server { folder, binary, ports, process: None, store };
    server.start().await;
    Some(server)
}

impl Server {
    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    async fn start(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new(&self.binary)
            .args(["--name", "t", "--initial-cluster", &format!("t={peer}"), "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            // A short time to elect a leader; it also sets the shortest lease to 1 s.
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        let up = soon(async {
            while probe(&*self.store).await.is_err() {
                if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            true
        })
        .await;
        let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(up, "etcd ended: {}", log());
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // An error means that it has ended already.
            let _ended = child.kill();
            let _status = child.wait();
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

#[async_trait]
impl Subject for Server {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn forget_history(&self) {
        let mut client = etcd_client::Client::connect([self.endpoint()], None).await.unwrap();
        let now = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(now, None).await.unwrap();
    }

    async fn restart(&mut self) {
        self.stop();
        self.start().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

conformance!(server);
conformance_of_servers!(server);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_stand_below_the_prefix_and_other_prefixes_are_not_seen() {
    let Some(server) = server().await else { return };
    let other = Etcd::connect(&[server.endpoint()], "weft/test2", TIMEOUT).await.unwrap();
    done(&*server.store, Txn::new().put("a", b"1".to_vec())).await;
    done(&other, Txn::new().put("a", b"2".to_vec())).await;
    assert_eq!(server.store.list("").await.unwrap().records.len(), 1);
    let mut client = etcd_client::Client::connect([server.endpoint()], None).await.unwrap();
    let raw = client.get("weft/test/a", None).await.unwrap();
    assert_eq!(raw.kvs()[0].value(), b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over() {
    let Some(server) = server().await else { return };
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let endpoints = [dead, server.endpoint()];
    let reader = Etcd::connect(&endpoints, "weft/test", TIMEOUT).await.unwrap();
    probe(&reader).await.unwrap();
    // A transaction as well: what was never sent may be sent elsewhere.
    let writer = Etcd::connect(&endpoints, "weft/test", TIMEOUT).await.unwrap();
    done(&writer, Txn::new().put("a", b"1".to_vec())).await;
    let watcher = Etcd::connect(&endpoints, "weft/test", TIMEOUT).await.unwrap();
    let mut watch = watcher.watch("", Revision(1)).await.unwrap();
    assert_eq!(conformance::next(&mut watch).await.changes, [conformance::put("a", "1")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_accepts_and_stays_silent_is_passed_over() {
    let Some(server) = server().await else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = [silent.local_addr().unwrap().to_string(), server.endpoint()];
    let store = Etcd::connect(&endpoints, "weft/test", Duration::from_secs(2)).await.unwrap();
    probe(&store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_unreachable_and_its_watch_ends() {
    let Some(server) = server().await else { return };
    let watch = server.store.watch("", Revision(1)).await.unwrap();
    server.signal("-STOP");
    let error = probe(&*server.store).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&server.endpoint()), "{error}");
    let error = failure(Ok(watch)).await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    server.signal("-CONT");
    soon(async {
        while probe(&*server.store).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_wants_a_user_denies() {
    let Some(server) = server().await else { return };
    let mut client = etcd_client::Client::connect([server.endpoint()], None).await.unwrap();
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let error = probe(&*server.store).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    let error = failure(server.store.watch("", Revision(1)).await).await;
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}
