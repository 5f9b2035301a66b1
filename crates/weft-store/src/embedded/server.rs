//! The embedded store of this daemon, served to the other daemons of the cluster, by TLS and to whoever knows the token.

use super::{Embedded, listener::Listener};
use crate::{Batch, JoinToken, Store, StoreError, Txn, Watch, wire};
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{Stream, StreamExt, stream};
use rustls::ServerConfig;
use serde::Serialize;
use std::{convert::Infallible, io, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long calls in flight may take to end once the server is told to stop.
const GRACE: Duration = Duration::from_secs(2);

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
) -> io::Result<()> {
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
    let server = axum::serve(Listener::new(listener, tls)?, app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    // A client that has gone silent in mid-answer must not hold the daemon's end up.
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = overdue => Ok(()),
    }
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

/// The watch as lines, with heartbeats, the first at once so that the client knows that the watch stands.
fn lines(watch: Watch) -> impl Stream<Item = Result<String, Infallible>> + Send + 'static {
    let first = stream::iter([Ok(line(&wire::Line::Alive))]);
    let rest = stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        let said = match tokio::time::timeout(wire::HEARTBEAT, watch.next()).await {
            Err(_) => (wire::Line::Alive, Some(watch)),
            Ok(Some(Ok(batch))) => (batch_line(batch), Some(watch)),
            Ok(Some(Err(error))) => (wire::Line::End(error), None),
            Ok(None) => return None,
        };
        Some((Ok(line(&said.0)), said.1))
    });
    first.chain(rest)
}

fn batch_line(batch: Batch) -> wire::Line {
    wire::Line::Batch(batch.into())
}

fn line(said: &wire::Line) -> String {
    // Serialising these types cannot fail; were it ever to, the client would take the empty line for the end.
    serde_json::to_string(said).unwrap_or_default() + "\n"
}
