//! A real Consul for one test: a single server with its data in a folder of its own, on loopback ports of its
//! own, ended with the test.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use crate::conformance::soon;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use weft_lab::free_port;
use weft_store::{Consul, ConsulOptions, Tls, probe};

pub const TIMEOUT: Duration = Duration::from_secs(5);
pub const PREFIX: &str = "weft/test";
/// The token that may do everything, where the server wants one.
pub const MASTER: &str = "5f3ad8a6-2f35-4b1a-9d2c-6a1f7d3c0e11";

pub struct Server {
    folder: tempfile::TempDir,
    /// HTTP, gossip, raft.
    ports: [u16; 3],
    process: Option<Child>,
    pub options: ConsulOptions,
    pub store: Arc<Consul>,
}

/// The Consul to test with: `WEFT_CONSUL`, or the one in `PATH`.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WEFT_CONSUL") {
        return path.into();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join("consul")).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("CANNOT RUN: no consul: set WEFT_CONSUL to its binary or put it in PATH (cargo xtask tools fetches one)")
    })
}

/// A server that anybody may use over HTTP.
pub async fn server() -> Option<Server> {
    Some(Server::start_new(ConsulOptions::default(), |_| json!({})).await)
}

/// A server that wants a token; the store has [`MASTER`].
pub async fn guarded() -> Server {
    let options = ConsulOptions { token: Some(MASTER.to_owned()), tls: None };
    let acl = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": MASTER}}});
    Server::start_new(options, |_| acl).await
}

/// A server that speaks HTTPS and wants a certificate of the same CA from its clients.
pub async fn encrypted(ca: &Authority) -> Server {
    let tls = Tls { ca: Some(ca.certificate()), identity: Some(ca.issue("client")) };
    let options = ConsulOptions { token: None, tls: Some(tls) };
    let (certificate, key) = ca.issue("127.0.0.1");
    Server::start_new(options, |folder| {
        let write = |name: &str, pem: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, pem).unwrap();
            path.display().to_string()
        };
        json!({
            "ca_file": write("ca.pem", &ca.certificate()),
            "cert_file": write("server.pem", &certificate),
            "key_file": write("server.key", &key),
            "verify_incoming_https": true,
        })
    })
    .await
}

/// Three servers, the first with a store that knows them all.
pub async fn cluster() -> [Server; 3] {
    let ports = [(); 3].map(|()| [free_port(), free_port(), free_port()]);
    let gossip = ports.map(|[_, gossip, _]| format!("127.0.0.1:{gossip}"));
    let mut servers = [0, 1, 2].map(|i| {
        let more = json!({
            "node_name": format!("t{i}"), "bootstrap_expect": 3, "retry_join": gossip.clone(),
            // By default it waits for 30 s when the others are not up yet.
            "retry_interval": "1s",
        });
        Server::new(ports[i], ConsulOptions::default(), |_| more)
    });
    let endpoints: Vec<_> = servers.iter().map(Server::endpoint).collect();
    servers[0].store =
        Arc::new(Consul::connect(&endpoints, PREFIX, TIMEOUT, &ConsulOptions::default()).unwrap());
    for server in &mut servers {
        server.spawn();
    }
    for server in &mut servers {
        server.wait_until_up().await;
    }
    servers
}

impl Server {
    async fn start_new(options: ConsulOptions, more: impl FnOnce(&Path) -> Value) -> Self {
        let mut server = Self::new([free_port(), free_port(), free_port()], options, more);
        server.start().await;
        server
    }

    fn new(ports: [u16; 3], options: ConsulOptions, more: impl FnOnce(&Path) -> Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let http = i32::from(ports[0]);
        let (plain, encrypted) = if options.tls.is_some() { (-1, http) } else { (http, -1) };
        let mut config = json!({
            "server": true,
            "bootstrap_expect": 1,
            "node_name": "t",
            "data_dir": folder.path().join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {
                "http": plain, "https": encrypted, "serf_lan": ports[1], "server": ports[2],
                "dns": -1, "grpc": -1, "serf_wan": -1,
            },
            // A short time to elect a leader.
            "performance": {"raft_multiplier": 1},
            "disable_update_check": true,
        });
        for (name, value) in more(folder.path()).as_object().unwrap() {
            config[name] = value.clone();
        }
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let endpoint = format!("127.0.0.1:{}", ports[0]);
        let store = Arc::new(Consul::connect(&[endpoint], PREFIX, TIMEOUT, &options).unwrap());
        Self { folder, ports, process: None, options, store }
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// A client of its own, as another daemon would have.
    pub fn connect(&self) -> Arc<Consul> {
        Arc::new(Consul::connect(&[self.endpoint()], PREFIX, TIMEOUT, &self.options).unwrap())
    }

    pub async fn start(&mut self) {
        self.spawn();
        self.wait_until_up().await;
    }

    fn spawn(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new(binary())
            .args(["agent", "-config-file"])
            .arg(self.folder.path().join("config.json"))
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Until it knows a leader: without one nobody gets an answer.
    async fn wait_until_up(&mut self) {
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
        assert!(up, "consul ended: {}", log());
    }

    /// Whether it leads the others.
    pub async fn leads(&self) -> bool {
        self.ask("GET", "status/leader", json!(null)).await == json!(format!("127.0.0.1:{}", self.ports[2]))
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // An error means that it has ended already.
            let _ended = child.kill();
            let _status = child.wait();
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.process.is_none()
    }

    /// Removes what it has on disk. It must be stopped.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none());
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    pub fn signal(&self, signal: &str) {
        weft_lab::signal(self.process.as_ref().unwrap().id(), signal).unwrap();
    }

    /// A request that weft has no part in; the answer's body.
    pub async fn raw(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Vec<u8> {
        let method = method.parse().unwrap();
        let request = reqwest::Client::new()
            .request(method, format!("http://{}/v1/{path}", self.endpoint()))
            .header("X-Consul-Token", MASTER)
            .body(body);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap().to_vec();
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        body
    }

    /// The same with JSON.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        serde_json::from_slice(&self.raw(method, path, body.to_string()).await).unwrap()
    }

    /// Ends all sessions, as an operator would by hand.
    pub async fn destroy_sessions(&self) {
        for session in self.ask("GET", "session/list", json!(null)).await.as_array().unwrap() {
            let path = format!("session/destroy/{}", session["ID"].as_str().unwrap());
            assert_eq!(self.ask("PUT", &path, json!(null)).await, json!(true));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A certificate authority for one test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Authorities of different names: with the same, only a signature would be wrong.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A certificate for a host or an address, and its key, PEM.
    pub fn issue(&self, subject: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([subject.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, subject);
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        (certificate.into_bytes(), key.serialize_pem().into_bytes())
    }
}
