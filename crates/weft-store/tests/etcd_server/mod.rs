//! Real etcd servers for tests, alone or as a cluster, in clear text or with TLS, with users or without.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]
#![allow(dead_code, reason = "each target uses its part")]

pub mod certificates;
pub mod proxy;

use crate::conformance::{Subject, soon};
use async_trait::async_trait;
use certificates::Certificates;
use etcd_client::{Client, ConnectOptions, Permission, PermissionType};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use weft_lab::free_port;
use weft_store::{Etcd, Store, StoreOptions};

pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Where the records of every test stand.
pub const PREFIX: &str = "weft/test";
/// The user of a server with users: it has a role on the prefix and nothing else.
pub const USER: &str = "ann";
pub const PASSWORD: &str = "only for tests";
const ROOT: (&str, &str) = ("root", "only for tests as well");

/// The etcd to test with: `WEFT_ETCD`, or the one in `PATH`.
pub fn binary() -> Option<PathBuf> {
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

/// One etcd process, and where it keeps its things. Dropping it kills it.
pub struct Member {
    pub folder: tempfile::TempDir,
    pub name: String,
    binary: PathBuf,
    scheme: &'static str,
    ports: [u16; 2],
    /// Further arguments.
    pub arguments: Vec<String>,
    process: Option<Child>,
}

impl Member {
    pub fn new(binary: &Path, name: &str, tls: Option<&Certificates>) -> Self {
        let ports = [free_port(), free_port()];
        let mut member = Self {
            folder: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            binary: binary.to_owned(),
            scheme: if tls.is_some() { "https" } else { "http" },
            ports,
            arguments: vec![],
            process: None,
        };
        if let Some(tls) = tls {
            for (flag, file) in
                [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")]
            {
                member.arguments.extend([flag.to_owned(), tls.path(file)]);
            }
            member.arguments.push("--client-cert-auth".to_owned());
        }
        member
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Its part of `--initial-cluster`.
    pub fn peer(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.ports[1])
    }

    /// Starts it on the data that it has; `cluster` is the `--initial-cluster`.
    pub fn start(&mut self, cluster: &str) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let client = format!("{}://{}", self.scheme, self.endpoint());
        let peer = format!("http://127.0.0.1:{}", self.ports[1]);
        let child = Command::new(&self.binary)
            .args(["--name", &self.name, "--initial-cluster", cluster, "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--bcrypt-cost", "4"])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Waits until `ready`, and fails at once if the process ends before.
    pub async fn until<F: Future<Output = bool>>(&mut self, ready: impl Fn() -> F) {
        let up = soon(async {
            while !ready().await {
                if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            true
        })
        .await;
        assert!(up, "etcd ended: {}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Kills it, as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            // An error means that it has ended already.
            let _ended = child.kill();
            let _status = child.wait();
        }
    }

    pub fn signal(&self, signal: &str) {
        weft_lab::signal(self.process.as_ref().unwrap().id(), signal).unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a server is to have.
#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// TLS, with certificates for clients.
    pub tls: bool,
    /// A user and a password for it, and this `--auth-token`.
    pub auth: Option<&'static str>,
}

/// Tokens that expire after a second however they are used; those of the kind "simple" live on while they are.
pub const SHORT_TOKENS: &str = "jwt,sign-method=HS256,priv-key=FOLDER/jwt.key,ttl=1s";

/// An etcd of one member, and a store on it.
pub struct Server {
    pub member: Member,
    pub certificates: Option<Certificates>,
    pub store: Arc<Etcd>,
    kind: Kind,
}

impl Server {
    /// Starts one. `None`: there is no etcd on this machine.
    pub async fn new(kind: Kind) -> Option<Self> {
        let binary = binary()?;
        let certificates = kind.tls.then(Certificates::new);
        let mut member = Member::new(&binary, "t", certificates.as_ref());
        // A short time to elect a leader; it also sets the shortest lease to 1 s.
        member
            .arguments
            .extend(["--heartbeat-interval", "20", "--election-timeout", "200"].map(str::to_owned));
        std::fs::write(member.folder.path().join("jwt.key"), "a key for tests").unwrap();
        if let Some(token) = kind.auth {
            let token = token.replace("FOLDER", &member.folder.path().display().to_string());
            member.arguments.extend(["--auth-token".to_owned(), token]);
        }
        std::fs::write(member.folder.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        let options = options(&member, certificates.as_ref(), kind);
        let store = Etcd::connect_with(&[member.endpoint()], PREFIX, TIMEOUT, &options).await.unwrap();
        let mut server = Self { member, certificates, store: Arc::new(store), kind };
        // Its users are none yet.
        server.start_as(Kind { auth: None, ..kind }).await;
        if kind.auth.is_some() {
            server.enable_users().await;
        }
        Some(server)
    }

    /// What a daemon would be told with `--cluster-store-opt`.
    pub fn options(&self) -> StoreOptions {
        options(&self.member, self.certificates.as_ref(), self.kind)
    }

    pub fn endpoint(&self) -> String {
        self.member.endpoint()
    }

    /// A store on it with these options.
    pub async fn connect(&self, options: &str) -> Arc<Etcd> {
        let options = if options.is_empty() { StoreOptions::default() } else { options.parse().unwrap() };
        Arc::new(Etcd::connect_with(&[self.endpoint()], PREFIX, TIMEOUT, &options).await.unwrap())
    }

    pub async fn start(&mut self) {
        self.start_as(self.kind).await;
    }

    async fn start_as(&mut self, kind: Kind) {
        let cluster = self.member.peer();
        self.member.start(&cluster);
        let (endpoint, tls) = (self.endpoint(), self.certificates.as_ref().map(Certificates::raw));
        self.member
            .until(|| async {
                match raw(&endpoint, tls.clone(), kind.auth.is_some()).await {
                    Ok(mut client) => client.get("x", None).await.is_ok(),
                    Err(_) => false,
                }
            })
            .await;
    }

    /// A client with every right.
    pub async fn raw(&self) -> Client {
        let tls = self.certificates.as_ref().map(Certificates::raw);
        raw(&self.endpoint(), tls, self.kind.auth.is_some()).await.unwrap()
    }

    async fn enable_users(&self) {
        let mut client =
            raw(&self.endpoint(), self.certificates.as_ref().map(Certificates::raw), false).await.unwrap();
        client.user_add(ROOT.0, ROOT.1, None).await.unwrap();
        client.user_grant_role(ROOT.0, "root").await.unwrap();
        client.role_add("weft").await.unwrap();
        let all = Permission::new(PermissionType::Readwrite, format!("{PREFIX}/")).with_prefix();
        client.role_grant_permission("weft", all).await.unwrap();
        client.user_add(USER, PASSWORD, None).await.unwrap();
        client.user_grant_role(USER, "weft").await.unwrap();
        client.auth_enable().await.unwrap();
    }
}

fn options(member: &Member, certificates: Option<&Certificates>, kind: Kind) -> StoreOptions {
    let mut options = vec![];
    if let Some(certificates) = certificates {
        options.push(certificates.options("client"));
    }
    if kind.auth.is_some() {
        let file = member.folder.path().join("password");
        options.push(format!("kv.user={USER},kv.passwordfile={}", file.display()));
    }
    if options.is_empty() { StoreOptions::default() } else { options.join(",").parse().unwrap() }
}

async fn raw(
    endpoint: &str,
    tls: Option<etcd_client::TlsOptions>,
    as_root: bool,
) -> Result<Client, etcd_client::Error> {
    let mut options = ConnectOptions::new();
    if let Some(tls) = tls {
        options = options.with_tls(tls);
    }
    if as_root {
        options = options.with_user(ROOT.0, ROOT.1).with_auto_token_refresh(true);
    }
    // As large as etcd-client's client with all it holds.
    Box::pin(Client::connect([endpoint], Some(options))).await
}

#[async_trait]
impl Subject for Server {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn forget_history(&self) {
        let mut client = self.raw().await;
        let now = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(now, None).await.unwrap();
    }

    async fn restart(&mut self) {
        self.member.kill();
        self.start().await;
    }
}
