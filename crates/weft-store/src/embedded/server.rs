//! The embedded store of this daemon, served to the other daemons of the cluster, by TLS and to whoever knows the token.

use super::{Embedded, listener::Listener};
use crate::{JoinToken, Store, StoreError, Txn, Watch, wire};
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{Stream, StreamExt};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use serde::Serialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How long calls in flight may take to end once the server is told to stop.
const GRACE: Duration = Duration::from_secs(2);
/// Calls and watches of one daemon at once: it has a watch for each of its networks.
const MOST_STREAMS: u32 = 16_384;

#[derive(Clone)]
struct Service {
    store: Arc<Embedded>,
    token: JoinToken,
    shutdown: CancellationToken,
}

/// Serves the store on `listener` until `shutdown`, to whoever knows the token, by TLS as [`super::Authority::server_config`] has
/// it. What is said there is in `wire.rs`.
pub async fn serve(
    listener: TcpListener,
    store: Arc<Embedded>,
    token: JoinToken,
    tls: Arc<ServerConfig>,
    shutdown: CancellationToken,
) {
    let service = Service { store, token, shutdown: shutdown.clone() };
    let calls = Router::new()
        .route("/get", post(get))
        .route("/list", post(list))
        .route("/watch", post(watch))
        .route("/commit", post(commit))
        .route("/grant", post(grant))
        .route("/keep_alive", post(keep_alive))
        .route("/revoke", post(revoke))
        .layer(DefaultBodyLimit::max(wire::MAX_LENGTH))
        .layer(middleware::from_fn_with_state(service.clone(), admit))
        .with_state(service);
    let app = Router::new().nest(wire::ROOT, calls);
    let mut listener = Listener::new(listener, tls);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .keep_alive_interval(wire::HEARTBEAT)
        .keep_alive_timeout(wire::SILENCE);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // Why a connection has ended, the client knows.
            Some(_) = connections.join_next() => continue,
            stream = listener.accept() => stream,
        };
        let service = TowerToHyperService::new(app.clone());
        connections.spawn(graceful.watch(http.serve_connection(TokioIo::new(stream), service)));
    }
    // A client that has gone silent in mid-answer must not hold the daemon's end up.
    let _overdue = tokio::time::timeout(GRACE, graceful.shutdown()).await;
}

/// Lets in who shows the token.
async fn admit(State(service): State<Service>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
    match shown {
        Some(secret) if service.token.admits(secret) => next.run(request).await,
        _ => (StatusCode::UNAUTHORIZED, "wrong join token\n").into_response(),
    }
}

async fn get(State(service): State<Service>, Json(asked): Json<wire::Key>) -> Response {
    answer(service.store.get(&asked.key).await)
}

async fn list(State(service): State<Service>, Json(asked): Json<wire::Prefix>) -> Response {
    answer(service.store.list(&asked.prefix).await)
}

async fn commit(State(service): State<Service>, Json(txn): Json<Txn>) -> Response {
    answer(service.store.commit(txn).await)
}

async fn grant(State(service): State<Service>, Json(asked): Json<wire::Ttl>) -> Response {
    answer(service.store.grant(Duration::from_millis(asked.milliseconds)).await)
}

async fn keep_alive(State(service): State<Service>, Json(asked): Json<wire::Lease>) -> Response {
    answer(service.store.keep_alive(asked.lease).await)
}

async fn revoke(State(service): State<Service>, Json(asked): Json<wire::Lease>) -> Response {
    answer(service.store.revoke(asked.lease).await)
}

async fn watch(State(service): State<Service>, Json(asked): Json<wire::WatchFrom>) -> Response {
    match service.store.watch(&asked.prefix, asked.after).await {
        Ok(watch) => {
            let lines = lines(watch).take_until(service.shutdown.cancelled_owned());
            Body::from_stream(lines).into_response()
        }
        Err(error) => answer::<()>(Err(error)),
    }
}

fn answer<T: Serialize>(result: Result<T, StoreError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(error)).into_response(),
    }
}

/// The watch as lines, to its error.
fn lines(watch: Watch) -> impl Stream<Item = Result<String, Infallible>> + Send + 'static {
    watch.map(|said| {
        let said = match said {
            Ok(batch) => wire::Line::Batch(batch.into()),
            Err(error) => wire::Line::End(error),
        };
        Ok(line(&said))
    })
}

fn line(said: &wire::Line) -> String {
    // Serialising these types cannot fail; were it ever to, the client would take the empty line for the end.
    serde_json::to_string(said).unwrap_or_default() + "\n"
}
