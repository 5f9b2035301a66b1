use super::*;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::UnixListener, task::JoinHandle};
use weft_model::{EndpointId, MacAddr, Mtu, NodeId, Revision};

/// A daemon that answers everything with one prepared answer and writes down what it was asked.
struct FakeDaemon {
    client: Client,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    server: JoinHandle<()>,
    _folder: TempDir,
}

type Prepared = (StatusCode, String, Arc<Mutex<Vec<(String, String)>>>);

impl FakeDaemon {
    fn answering(status: u16, body: impl Serialize) -> Self {
        Self::answering_text(status, serde_json::to_string(&body).unwrap())
    }

    fn answering_text(status: u16, body: String) -> Self {
        async fn answer(State((status, body, asked)): State<Prepared>, request: Request) -> Response {
            let line = format!("{} {}", request.method(), request.uri());
            let sent = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
            asked.lock().unwrap().push((line, String::from_utf8(sent.to_vec()).unwrap()));
            (status, Body::from(body)).into_response()
        }
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("weft.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::default();
        let state: Prepared = (StatusCode::from_u16(status).unwrap(), body, Arc::clone(&asked));
        let router = Router::new().fallback(answer).with_state(state);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { client: Client::new(socket), asked, server, _folder: folder }
    }

    fn asked(&self) -> (String, String) {
        self.asked.lock().unwrap().pop().unwrap()
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn node() -> NodeView {
    NodeView {
        id: NodeId::random(),
        name: "h1".to_owned(),
        this: true,
        alive: true,
        absent: false,
        vteps: vec!["192.0.2.1".parse().unwrap()],
        vxlan_port: 4789,
        underlay_mtu: Mtu::new(1500).unwrap(),
        advertise: None,
        version: "0.1.0".to_owned(),
        endpoints: 1,
        started: 1,
        direct: false,
        not_direct: Some("it is on another link".to_owned()),
    }
}

fn endpoint() -> EndpointView {
    EndpointView {
        id: EndpointId::random(),
        network: weft_model::NetworkId::random(),
        network_name: "net".to_owned(),
        node: NodeId::random(),
        node_name: "h1".to_owned(),
        vtep: None,
        engine: "netns".to_owned(),
        container: None,
        mac: MacAddr::for_device(1),
        addresses: vec!["10.0.0.2/24".parse().unwrap()],
        sandbox: None,
        interface: None,
        outside: None,
        name_server: None,
        created: 1,
    }
}

#[tokio::test]
async fn each_call_asks_for_what_the_api_names() {
    let nothing = FakeDaemon::answering_text(204, String::new());
    nothing.client.remove_network("my net/1").await.unwrap();
    assert_eq!(nothing.asked().0, "DELETE /v1/networks/my%20net%2F1");
    nothing.client.down().await.unwrap();
    assert_eq!(nothing.asked().0, "POST /v1/down");
    let (network, netns) = ("n".to_owned(), "/run/netns/blue".to_owned());
    let request = DetachRequest { network, netns, ..DetachRequest::default() };
    nothing.client.detach(&request).await.unwrap();
    let (line, body) = nothing.asked();
    assert_eq!(line, "POST /v1/detach");
    assert_eq!(serde_json::from_str::<DetachRequest>(&body).unwrap(), request);

    let none = FakeDaemon::answering(200, Vec::<NodeView>::new());
    assert!(none.client.networks().await.unwrap().is_empty());
    assert_eq!(none.asked().0, "GET /v1/networks");
    assert!(none.client.endpoints().await.unwrap().is_empty());
    assert_eq!(none.asked().0, "GET /v1/endpoints");
}

#[tokio::test]
async fn answers_arrive_as_they_were_sent() {
    let view = endpoint();
    let daemon = FakeDaemon::answering(200, &view);
    assert_eq!(daemon.client.endpoint("abc").await.unwrap(), view);
    assert_eq!(daemon.asked().0, "GET /v1/endpoints/abc");
    let request = AttachRequest {
        network: "n".to_owned(),
        netns: "/run/netns/blue".to_owned(),
        addresses: vec!["10.0.0.2".parse().unwrap()],
        ..AttachRequest::default()
    };
    assert_eq!(daemon.client.attach(&request).await.unwrap(), view);
    assert_eq!(serde_json::from_str::<AttachRequest>(&daemon.asked().1).unwrap(), request);

    let nodes = vec![node()];
    assert_eq!(FakeDaemon::answering(200, &nodes).client.nodes().await.unwrap(), nodes);

    let status = Status {
        version: "0.1.0".to_owned(),
        node: node(),
        store: super::super::StoreStatus {
            address: "local".to_owned(),
            connected: true,
            error: None,
            revision: Revision(3),
            applied: Revision(2),
            join_token_file: None,
        },
        vni_range: "4096-16777215".to_owned(),
        networks: 0,
        nodes: 1,
        nodes_alive: 1,
        endpoints: 0,
        multicast: String::new(),
        datapath: "ebpf".to_owned(),
        drops: std::collections::BTreeMap::new(),
        kernel_objects: 0,
        problems: vec![],
        drift_repaired: [("fdb".to_owned(), 2)].into(),
        engines: vec![],
    };
    assert_eq!(FakeDaemon::answering(200, &status).client.status().await.unwrap(), status);
}

#[tokio::test]
async fn networks_are_made_and_read_back() {
    let network = serde_json::json!({
        "id": "a".repeat(64), "name": "net", "vni": 4096, "subnets": [{"net": "10.0.0.0/24",
        "gateway": "10.0.0.1", "range": null}], "mtu": null, "created_by": "b".repeat(64), "created": 1,
        "effective_mtu": 1450, "endpoints": [],
    });
    let daemon = FakeDaemon::answering(200, &network);
    let spec = NetworkSpec { name: Some("net".parse().unwrap()), internal: true, ..NetworkSpec::default() };
    let made = daemon.client.create_network(&spec).await.unwrap();
    assert_eq!(made.effective_mtu, Some(Mtu::new(1450).unwrap()));
    let (line, body) = daemon.asked();
    assert_eq!(line, "POST /v1/networks");
    assert_eq!(serde_json::from_str::<NetworkSpec>(&body).unwrap(), spec);
    assert_eq!(daemon.client.network("net").await.unwrap(), made);
    assert_eq!(daemon.asked().0, "GET /v1/networks/net");
}

#[tokio::test]
async fn an_error_keeps_the_daemons_words_hint_and_kind() {
    let body = ErrorBody {
        error: "network \"net\" has 1 endpoint: web".to_owned(),
        hint: Some("stop it first".to_owned()),
        kind: ErrorKind::Conflict,
    };
    let error = FakeDaemon::answering(409, &body).client.remove_network("net").await.unwrap_err();
    assert_eq!(error.to_string(), body.error);
    assert_eq!(error.hint(), Some("stop it first"));
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn what_is_no_answer_of_wefts_is_a_protocol_error() {
    for (status, body) in [(404, "not found"), (200, "<html>")] {
        let daemon = FakeDaemon::answering_text(status, body.to_owned());
        let error = daemon.client.status().await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Protocol { request, .. } if request == "GET /v1/status"),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_by_its_socket() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("weft.sock");
    let missing = Client::new(socket.clone()).status().await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("no weft daemon answers at {}: there is no such socket", socket.display())
    );
    assert_eq!(missing.kind(), ErrorKind::Unavailable);
    assert!(missing.hint().unwrap().contains("weft daemon"));

    // A socket whose daemon was killed: the file stays, nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let dead = Client::new(socket).status().await.unwrap_err();
    assert!(dead.to_string().ends_with("nobody listens"), "{dead}");
}

#[tokio::test]
async fn a_daemon_that_hangs_up_or_never_answers_does_not_hang_the_command() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("weft.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let mut request = [0; 4];
        first.read_exact(&mut request).await.unwrap();
        drop(first);
        // Keeps the second connection open for as long as the test runs.
        let second = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(second);
    });
    let mut client = Client::new(socket);
    assert!(matches!(client.status().await, Err(ClientError::Protocol { .. })));
    client.patience = Duration::from_millis(50);
    let error = client.status().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::NoDaemon { reason, .. } if reason.contains("no answer")),
        "{error}"
    );
    server.abort();
}

#[test]
fn a_socket_of_somebody_elses_says_who_may_use_it() {
    let client = Client::new(PathBuf::from("/run/weft/weft.sock"));
    let error = client.not_connected(&io::Error::from(io::ErrorKind::PermissionDenied));
    assert_eq!(error.to_string(), "permission denied on the daemon's socket /run/weft/weft.sock");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint().unwrap().contains("group weft"));
}
