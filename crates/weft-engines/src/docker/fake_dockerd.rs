//! A dockerd without containers: it makes and removes networks, tells of them, and calls the plugin on the way.

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::broadcast,
};
use tokio_util::sync::CancellationToken;
use weft_model::NetworkId;

/// Calls the plugin as dockerd does. Returns the status and the answer.
pub(super) async fn call(socket: &FilePath, name: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "POST /{name} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nConnection: close\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// A dockerd that makes and removes networks and calls the plugin on the way, as the real one does.
#[derive(Clone)]
pub(super) struct FakeDockerd {
    plugin: PathBuf,
    networks: Arc<Mutex<BTreeMap<String, Value>>>,
    events: broadcast::Sender<Value>,
    /// What was told so far: real ones tell the events since a given moment once more.
    told: Arc<Mutex<Vec<Value>>>,
    /// Its death: aborting the server leaves connections that stand.
    died: CancellationToken,
}

impl FakeDockerd {
    pub fn new(plugin: PathBuf) -> Self {
        Self {
            plugin,
            networks: Arc::default(),
            events: broadcast::channel(64).0,
            told: Arc::default(),
            died: CancellationToken::new(),
        }
    }

    /// Serves its API at `path` until the task is aborted.
    pub fn serve(&self, path: &FilePath) -> tokio::task::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        let app = Router::new()
            // bollard asks without a version in the path: the engine's own version is meant.
            .route("/version", get(version))
            .route("/networks", get(list))
            .route("/networks/create", post(create))
            .route("/networks/{id}", delete(remove).get(inspect))
            .route("/containers/{id}/json", get(inspect_container))
            .route("/events", get(events))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() })
    }

    pub fn names(&self) -> Vec<String> {
        let networks = self.networks.lock().unwrap();
        let mut names: Vec<_> = networks.values().map(|n| n["Name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    pub fn find(&self, name: &str) -> Option<Value> {
        self.networks.lock().unwrap().values().find(|n| n["Name"] == name).cloned()
    }

    /// `docker network create`. `Err` is what the plugin said.
    pub async fn create(&self, request: Value) -> Result<String, String> {
        let id = NetworkId::random().to_string();
        let weft = request["Driver"] == "weft";
        let ours = request["IPAM"]["Driver"] == "weft";
        let mut data = Vec::new();
        for config in request["IPAM"]["Config"].as_array().into_iter().flatten() {
            let mut gateway = config["Gateway"].as_str().unwrap_or_default().to_owned();
            if ours {
                let options = &request["IPAM"]["Options"];
                let pool =
                    json!({"AddressSpace": "weft-local", "Pool": config["Subnet"], "Options": options});
                let pool = self.call("IpamDriver.RequestPool", &pool).await?;
                let options = json!({"RequestAddressType": "com.docker.network.gateway"});
                let address = json!({"PoolID": pool["PoolID"], "Address": gateway, "Options": options});
                let address = self.call("IpamDriver.RequestAddress", &address).await?;
                address["Address"].as_str().unwrap().clone_into(&mut gateway);
            }
            let space = if ours { "weft-local" } else { "LocalDefault" };
            data.push(json!({"AddressSpace": space, "Pool": config["Subnet"], "Gateway": gateway}));
        }
        if weft {
            let options = json!({"com.docker.network.generic": request["Options"]});
            let body = json!({"NetworkID": id, "Options": options, "IPv4Data": data, "IPv6Data": []});
            self.call("NetworkDriver.CreateNetwork", &body).await?;
        }
        let mut network = request;
        network["Id"] = id.clone().into();
        self.networks.lock().unwrap().insert(id.clone(), network.clone());
        self.tell("create", &network);
        Ok(id)
    }

    /// `docker network rm`. dockerd forgets the network whatever the plugin says.
    pub async fn remove(&self, id: &str) -> Option<Result<Value, String>> {
        let network = self.networks.lock().unwrap().get(id).cloned()?;
        let answer = self.call("NetworkDriver.DeleteNetwork", &json!({"NetworkID": id})).await;
        self.networks.lock().unwrap().remove(id);
        self.tell("destroy", &network);
        Some(answer)
    }

    /// A network that dockerd lost, as after a loss of its database.
    pub fn lose(&self, name: &str) {
        self.networks.lock().unwrap().retain(|_, n| n["Name"] != name);
    }

    /// The dockerd that comes after one that died: the same database, no listeners.
    pub fn reborn(self) -> Self {
        self.died.cancel();
        Self { events: broadcast::channel(64).0, died: CancellationToken::new(), ..self }
    }

    /// Puts a container on a network, as `docker network connect` does after the plugin's calls.
    pub fn connect(&self, network: &str, container: &str, name: &str, endpoint: &str) {
        let mut networks = self.networks.lock().unwrap();
        let record = networks.get_mut(network).unwrap();
        record["Containers"][container] = json!({"Name": name, "EndpointID": endpoint});
        let record = record.clone();
        drop(networks);
        self.tell("connect", &record);
    }

    fn tell(&self, action: &str, network: &Value) {
        let attributes = json!({"name": network["Name"], "type": network["Driver"]});
        let actor = json!({"ID": network["Id"], "Attributes": attributes});
        let event = json!({"Type": "network", "Action": action, "Actor": actor});
        let mut told = self.told.lock().unwrap();
        told.push(event.clone());
        // Nobody listens before the mirror has come.
        let _ = self.events.send(event);
    }

    async fn call(&self, name: &str, body: &Value) -> Result<Value, String> {
        let (status, answer) = call(&self.plugin, name, body).await;
        assert_eq!(status, 200, "{name}: {answer}");
        match answer.get("Err").or(answer.get("Error")).and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

async fn version() -> Json<Value> {
    Json(json!({"Version": "20.10.24", "ApiVersion": "1.41"}))
}

async fn list(State(dockerd): State<FakeDockerd>) -> Json<Value> {
    Json(dockerd.networks.lock().unwrap().values().cloned().collect())
}

async fn inspect(State(dockerd): State<FakeDockerd>, Path(id): Path<String>) -> Response {
    match dockerd.networks.lock().unwrap().get(&id) {
        Some(network) => Json(network.clone()).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "no such network"),
    }
}

/// A container whose every endpoint has the alias `www`.
async fn inspect_container(State(dockerd): State<FakeDockerd>, Path(id): Path<String>) -> Response {
    let networks = dockerd.networks.lock().unwrap();
    let on = networks.values().filter_map(|n| {
        let endpoint = n["Containers"][&id]["EndpointID"].as_str()?;
        let settings = json!({"Aliases": ["www", id.get(..12).unwrap_or(&id)], "EndpointID": endpoint});
        Some((n["Name"].as_str()?.to_owned(), settings))
    });
    let on: serde_json::Map<_, _> = on.collect();
    if on.is_empty() {
        return refuse(StatusCode::NOT_FOUND, "no such container");
    }
    Json(json!({"Id": id, "NetworkSettings": {"Networks": on}})).into_response()
}

async fn create(State(dockerd): State<FakeDockerd>, Json(request): Json<Value>) -> Response {
    match dockerd.create(request).await {
        Ok(id) => (StatusCode::CREATED, Json(json!({"Id": id, "Warning": ""}))).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("remote: {error}")),
    }
}

async fn remove(State(dockerd): State<FakeDockerd>, Path(id): Path<String>) -> Response {
    match dockerd.remove(&id).await {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => refuse(StatusCode::NOT_FOUND, "no such network"),
    }
}

async fn events(State(dockerd): State<FakeDockerd>) -> Body {
    let (told, news) = {
        let told = dockerd.told.lock().unwrap();
        (told.clone(), dockerd.events.subscribe())
    };
    let news = futures::stream::unfold(news, |mut news| async { Some((news.recv().await.ok()?, news)) });
    let lines = futures::stream::iter(told).chain(news).take_until(dockerd.died.cancelled_owned());
    Body::from_stream(lines.map(|event| Ok::<_, std::io::Error>(Bytes::from(format!("{event}\n")))))
}
