//! The daemon's side of the API.

use super::{
    AttachRequest, AttachTapRequest, DetachRequest, DetachTapRequest, EndpointView, ErrorBody, ErrorKind,
    Explanation, ExposeRequest, GcRequest, Leak, NetworkSpec, NetworkView, Statistics, Status,
    UnexposeRequest,
};
use crate::{Agent, AgentError};
use axum::{
    Json, Router,
    extract::{FromRequest, Path as UrlPath, Request, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nix::unistd::{Gid, Group};
use std::{
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// The group that may use the API besides root.
const GROUP: &str = "weft";
/// Where groups stand.
const GROUPS: &str = "/etc/group";

/// Makes the API's socket, for root and the group `weft` where there is one. A socket that a daemon answers on
/// is left alone.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, AgentError> {
    let error = |e: &dyn std::fmt::Display| AgentError::file(path, e);
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(AgentError::InUse {
            what: path.display().to_string(),
            reason: "another daemon answers there; stop it, or choose another --run-dir".to_owned(),
        });
    }
    // Before the socket is made: there must be none that nobody is let into.
    let gid = group(Group::from_name(GROUP), path)?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(error(&e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| error(&e))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(|e| error(&e))?;
    nix::unistd::chown(path, None, Some(gid)).map_err(|e| error(&e))?;
    Ok(listener)
}

/// The group that the socket belongs to: root's where there is none for it.
fn group(found: nix::Result<Option<Group>>, socket: &Path) -> Result<Gid, AgentError> {
    let found = found.map_err(|e| AgentError::File {
        path: GROUPS.to_owned(),
        reason: format!("cannot look up the group {GROUP:?}, which may use {}: {e}", socket.display()),
    })?;
    Ok(found.map_or(Gid::from_raw(0), |group| group.gid))
}

/// Serves the API until `shutdown`; requests under way are answered first.
pub(crate) async fn serve(listener: UnixListener, path: PathBuf, agent: Agent, shutdown: CancellationToken) {
    let ended = axum::serve(listener, router(agent)).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = ended.await {
        tracing::error!(%error, "the API is no longer served");
    }
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "the socket could not be removed");
    }
}

fn router(agent: Agent) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/statistics", get(statistics))
        .route("/v1/nodes", get(async |State(agent): State<Agent>| Json(agent.nodes().await)))
        .route(
            "/v1/networks",
            get(async |State(agent): State<Agent>| Json(agent.networks().await)).post(create_network),
        )
        .route("/v1/networks/{reference}", get(show_network).delete(remove_network))
        .route("/v1/endpoints", get(async |State(agent): State<Agent>| Json(agent.endpoints().await)))
        .route("/v1/endpoints/{reference}", get(show_endpoint))
        .route("/v1/addresses/{ip}", get(explain_address))
        .route(
            "/v1/leaks",
            get(async |State(agent): State<Agent>| Json(agent.leaks().await)).delete(collect_garbage),
        )
        .route("/v1/attach", post(attach))
        .route("/v1/detach", post(detach))
        .route("/v1/attach-tap", post(attach_tap))
        .route("/v1/detach-tap", post(detach_tap))
        .route("/v1/expose", post(expose))
        .route("/v1/unexpose", post(unexpose))
        .route("/v1/check", post(check))
        .route("/v1/down", post(down))
        .fallback(async || {
            let error = "there is no such request: is this weft older than the daemon?".to_owned();
            refuse(&ErrorBody { error, hint: None, kind: ErrorKind::NotFound })
        })
        .with_state(agent)
}

/// Beside the reasons that the programs have.
const ABOVE_THE_RATE: &str = "broadcast or multicast above the sender's rate";

async fn status(State(agent): State<Agent>) -> Result<Json<Status>, AgentError> {
    let mut drops = agent.statistics().await?.unwrap_or_default().drops;
    drops.insert(ABOVE_THE_RATE.to_owned(), agent.0.kernel.above_the_rate().await?);
    Ok(Json(Status { drops, ..agent.status() }))
}

async fn statistics(State(agent): State<Agent>) -> Result<Json<Option<Statistics>>, AgentError> {
    agent.statistics().await.map(Json)
}

async fn create_network(
    State(agent): State<Agent>,
    Body(spec): Body<NetworkSpec>,
) -> Result<Json<NetworkView>, AgentError> {
    let network = agent.create_network(spec, None).await?;
    Ok(Json(agent.read(|s| agent.network_view(s, &network))))
}

async fn show_network(
    State(agent): State<Agent>,
    UrlPath(reference): UrlPath<String>,
) -> Result<Json<NetworkView>, AgentError> {
    let network = agent.find_network(&reference).await?;
    Ok(Json(agent.network_view(&agent.everything().await, &network)))
}

async fn remove_network(
    State(agent): State<Agent>,
    UrlPath(reference): UrlPath<String>,
) -> Result<StatusCode, AgentError> {
    let network = agent.find_network(&reference).await?;
    agent.remove_network(&network.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn show_endpoint(
    State(agent): State<Agent>,
    UrlPath(reference): UrlPath<String>,
) -> Result<Json<EndpointView>, AgentError> {
    let missing = || AgentError::NoSuchEndpoint(reference.clone());
    let mut matches = agent.endpoints().await.into_iter().filter(|e| {
        e.container.as_ref().is_some_and(|c| c.name == reference) || e.id.starts_with(&reference)
    });
    match (matches.next(), matches.next()) {
        (Some(endpoint), None) if !reference.is_empty() => Ok(Json(endpoint)),
        (Some(_), Some(_)) => Err(AgentError::Invalid(format!(
            "more than one endpoint is called {reference:?}: give its id, from `weft endpoint ls`"
        ))),
        _ => Err(missing()),
    }
}

async fn explain_address(
    State(agent): State<Agent>,
    UrlPath(text): UrlPath<String>,
) -> Result<Json<Vec<Explanation>>, AgentError> {
    let ip: IpAddr =
        text.parse().map_err(|_| AgentError::Invalid(format!("{text:?} is not an IP address")))?;
    let found = weft_plan::explain(&agent.everything().await, ip);
    if found.is_empty() {
        return Err(AgentError::Invalid(format!("no network has a subnet that holds {ip}")));
    }
    Ok(Json(found))
}

async fn collect_garbage(
    State(agent): State<Agent>,
    Body(request): Body<GcRequest>,
) -> Result<Json<Vec<Leak>>, AgentError> {
    agent.collect_garbage(&request.dead_nodes).await.map(Json)
}

async fn attach(
    State(agent): State<Agent>,
    Body(request): Body<AttachRequest>,
) -> Result<Json<EndpointView>, AgentError> {
    let endpoint = agent.attach(request).await?;
    Ok(Json(agent.read(|s| agent.endpoint_view(s, &endpoint))))
}

async fn detach(
    State(agent): State<Agent>,
    Body(request): Body<DetachRequest>,
) -> Result<StatusCode, AgentError> {
    agent.detach(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn attach_tap(
    State(agent): State<Agent>,
    Body(request): Body<AttachTapRequest>,
) -> Result<Json<EndpointView>, AgentError> {
    let endpoint = agent.attach_tap(request).await?;
    Ok(Json(agent.read(|s| agent.endpoint_view(s, &endpoint))))
}

async fn detach_tap(
    State(agent): State<Agent>,
    Body(request): Body<DetachTapRequest>,
) -> Result<StatusCode, AgentError> {
    agent.detach_tap(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn expose(
    State(agent): State<Agent>,
    Body(request): Body<ExposeRequest>,
) -> Result<Json<EndpointView>, AgentError> {
    let endpoint = agent.expose(request).await?;
    Ok(Json(agent.read(|s| agent.endpoint_view(s, &endpoint))))
}

async fn unexpose(
    State(agent): State<Agent>,
    Body(request): Body<UnexposeRequest>,
) -> Result<StatusCode, AgentError> {
    agent.unexpose(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn check(
    State(agent): State<Agent>,
    Body(request): Body<DetachRequest>,
) -> Result<Json<EndpointView>, AgentError> {
    let endpoint = agent.check(request).await?;
    Ok(Json(agent.read(|s| agent.endpoint_view(s, &endpoint))))
}

async fn down(State(agent): State<Agent>) -> Result<StatusCode, AgentError> {
    agent.leave().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A JSON body; one that is none is refused in the API's own words.
struct Body<T>(T);

impl<T, S> FromRequest<S> for Body<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
    S: Send + Sync,
{
    type Rejection = AgentError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AgentError> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(AgentError::Invalid(format!("the request cannot be read: {rejection}"))),
        }
    }
}

impl IntoResponse for AgentError {
    fn into_response(self) -> Response {
        refuse(&self.to_body())
    }
}

fn refuse(body: &ErrorBody) -> Response {
    let status = StatusCode::from_u16(body.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body.clone())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn a_group_that_cannot_be_looked_up_is_named_with_its_file() {
        let socket = Path::new("/run/weft/weft.sock");
        let message = group(Err(Errno::ENOENT), socket).unwrap_err().to_string();
        assert!(message.contains("/etc/group") && message.contains("\"weft\""), "{message}");
        assert_eq!(group(Ok(None), socket).unwrap(), Gid::from_raw(0));
    }
}
