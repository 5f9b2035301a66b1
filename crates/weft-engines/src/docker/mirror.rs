//! The mirror: every named network of the cluster has a copy on this host's Docker engine.
//!
//! It compares ([`super::compare`]) whenever the engine reports a change of its networks, whenever the cluster's
//! networks change, and every [`INTERVAL`]; an event only says "look", so none can mislead it. It also tells the
//! cluster which container an endpoint belongs to, and removes what a killed dockerd left ([`super::leak`]).

use super::{
    DockerOptions,
    cluster::Cluster,
    compare::{Action, EngineNetwork, compare},
    driver::ENGINE,
    engine::{ApiError, Engine, EngineEndpoint, GATEWAY_BRIDGE},
    leak::{GRACE, Known, Leak, Suspicions, suspects},
    plugin::Calls,
};
use bollard::models::EventMessage;
use futures::{Stream, StreamExt as _};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::Path,
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use weft_agent::{AgentError, api::EngineStatus};
use weft_model::{Binding, ClaimKind, Container, EndpointId, NetworkId, NetworkName, unix_now};

/// How often everything is compared although nothing was heard.
const INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait before the engine is tried again. It has no way to tell us that it is there.
const RETRY: Duration = Duration::from_secs(1);

/// Networks of one name that were made within so many seconds on two hosts were made at once: neither could know of the
/// other, and hosts' clocks differ.
const AT_ONCE: u64 = 30;

/// Events of the engine that are looked at together.
const BATCH: usize = 256;

/// Keeps one engine in step with the cluster.
pub(super) struct Mirror<C> {
    cluster: C,
    calls: Arc<Calls>,
    options: DockerOptions,
    /// The path of the engine's socket.
    api: String,
    version: Option<String>,
    /// The engine's ids of networks whose end it has told.
    destroyed: BTreeSet<String>,
    /// Since when bound networks are missing in the engine's list.
    missing: BTreeMap<String, std::time::Instant>,
    /// What was wrong at the last comparison. Each is logged once.
    problems: BTreeSet<String>,
}

/// What the mirror has to look at next.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    /// Compare the networks.
    networks: bool,
    /// The engine's ids of networks that it has removed.
    destroyed: BTreeSet<String>,
    /// See which containers are on these networks of the engine.
    containers: BTreeSet<String>,
    /// See what dockerd has forgotten.
    leaks: bool,
}

impl<C: Cluster> Mirror<C> {
    pub fn new(cluster: C, calls: Arc<Calls>, options: DockerOptions, api: String) -> Self {
        Self {
            cluster,
            calls,
            options,
            api,
            version: None,
            destroyed: BTreeSet::new(),
            missing: BTreeMap::new(),
            problems: BTreeSet::new(),
        }
    }

    /// Follows the engine, as often as it comes and goes.
    pub async fn run(mut self) -> Infallible {
        loop {
            let Err(error) = self.follow().await;
            if self.version.take().is_some() {
                tracing::warn!(api = self.options.api, %error, "the Docker engine is away");
            }
            // A host without Docker is not a host with a problem; one whose engine does not answer is.
            let silent = Path::new(&self.api).exists();
            self.problems = silent.then(|| format!("Docker does not answer: {error}")).into_iter().collect();
            self.tell(false);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Follows the engine until it goes.
    async fn follow(&mut self) -> Result<Infallible, ApiError> {
        let mut changed = self.cluster.networks_changed();
        // Events from before the first look are seen twice rather than missed; they come in whole seconds.
        let since = unix_now().saturating_sub(1);
        let engine = Engine::connect(&self.api, &self.options.name).await?;
        tracing::info!(api = self.options.api, version = engine.version, "met the Docker engine");
        self.version = Some(engine.version.clone());
        let mut events = pin!(events(&engine, since));
        let mut standing = Vec::new();
        if let Err(error) = engine.ensure_gateway_bridge().await {
            match error {
                ApiError::Refused(why) => standing.push(format!("{GATEWAY_BRIDGE} could not be made: {why}")),
                away @ ApiError::Away(_) => return Err(away),
            }
        }

        let mut suspicions = Suspicions::default();
        let mut look = Look { networks: true, leaks: true, ..Look::default() };
        loop {
            self.destroyed.append(&mut look.destroyed);
            if look.networks {
                self.compare(&engine, &standing).await?;
            }
            for network in std::mem::take(&mut look.containers) {
                let endpoints = engine.endpoints(&network).await?.unwrap_or_default();
                self.name_containers(&engine, &endpoints).await?;
            }
            if look.leaks {
                self.find_leaks(&engine, &mut suspicions).await?;
            }
            // A suspect is looked at again as soon as it may be called a leak, and so is a host too busy to tell.
            let soon = !suspicions.is_empty() || !self.missing.is_empty() || !self.calls.idle();
            let next = Instant::now() + if soon { GRACE } else { INTERVAL };
            look = self.wait(&mut events, &mut changed, next).await?;
        }
    }

    /// Waits for something to look at.
    async fn wait(
        &self,
        events: &mut (impl Stream<Item = Vec<Result<EventMessage, ApiError>>> + Unpin),
        changed: &mut tokio::sync::watch::Receiver<u64>,
        next: Instant,
    ) -> Result<Look, ApiError> {
        let mut look = Look::default();
        tokio::select! {
            batch = events.next() => {
                let gone = || ApiError::Refused("it has ended its stream of events".to_owned());
                for event in batch.ok_or_else(gone)? {
                    look.heed(event?, &self.options.name, !self.problems.is_empty());
                }
            }
            // The agent's end ends this task too: an error here has nobody to tell.
            _ = changed.changed() => look.networks = true,
            () = tokio::time::sleep_until(next) => {
                look.networks = true;
                look.leaks = true;
            }
        }
        Ok(look)
    }

    /// Compares the cluster's networks with the engine's and does what follows.
    async fn compare(&mut self, engine: &Engine, standing: &[String]) -> Result<(), ApiError> {
        let mut problems: BTreeSet<String> = standing.iter().cloned().collect();
        // The engine's list first: a network that is made in between is then known to the cluster and missing in
        // the list, which `compare` takes for one that is being made.
        let listed = engine.networks().await?;
        for action in self.actions(&listed) {
            if let Err(problem) = self.act(engine, action).await? {
                problems.insert(problem);
            }
        }
        problems.extend(self.calls.refusals(|id| self.cluster.read(|s| s.networks.contains_key(id))));
        for problem in problems.difference(&self.problems) {
            tracing::warn!(engine = ENGINE, "{problem}");
        }
        self.problems = problems;
        self.tell(true);
        Ok(())
    }

    fn actions(&mut self, listed: &[EngineNetwork]) -> Vec<Action> {
        let Self { cluster, options, destroyed, missing, .. } = self;
        let nothing = BTreeMap::new();
        cluster.read(|s| {
            let bindings = s.bindings.get(cluster.node()).unwrap_or(&nothing);
            let vanished = vanished(bindings, listed, destroyed, missing, std::time::Instant::now());
            compare(&s.networks, bindings, listed, &vanished, &options.name)
        })
    }

    /// Does one action. The inner error is a problem for the operator to know of.
    async fn act(&self, engine: &Engine, action: Action) -> Result<Result<(), String>, ApiError> {
        let outcome = match action {
            Action::Report(problem) => return Ok(Err(problem)),
            Action::Remove { engine_network, name } => {
                tracing::info!(network = name, "removing Docker's copy of a network that is gone");
                return match engine.remove(&engine_network).await {
                    Ok(()) => Ok(self.cluster.unbind(&engine_network).await.map_err(|e| e.to_string())),
                    Err(ApiError::Refused(why)) => Ok(Err(format!(
                        "Docker's copy of network {name:?}, which is gone, cannot be removed: {why}"
                    ))),
                    Err(away) => Err(away),
                };
            }
            Action::Create { network } => return self.create(engine, &network).await,
            Action::Unbind { engine_network } => self.cluster.unbind(&engine_network).await,
            Action::Bind { engine_network, network } => {
                self.cluster.bind(&engine_network, &network, true).await
            }
            Action::Name { network, name, details } => match name.parse::<NetworkName>() {
                Ok(name) => match self.cluster.name_network(&network, name.clone(), details).await {
                    Err(taken @ AgentError::NameTaken { .. }) => match self.superseded(&network, &name) {
                        Some(engine_network) => return self.supersede(engine, &engine_network, &name).await,
                        None => Err(taken),
                    },
                    other => other,
                },
                Err(error) => return Ok(Err(format!("a network of Docker's stays on this host: {error}"))),
            },
        };
        Ok(outcome.map_err(|error| match error {
            AgentError::NameTaken { .. } => {
                format!("name clash: {error}; the one made on this Docker engine stays on this host")
            }
            other => other.to_string(),
        }))
    }

    /// The engine's id of a network whose name was given to another one in the same moment, if nothing uses it yet: made
    /// on two hosts at once it is to be one network, and whoever made it here means that one too.
    fn superseded(&self, id: &NetworkId, name: &NetworkName) -> Option<String> {
        self.cluster.read(|s| {
            let network = s.networks.get(id)?;
            let other = s.networks.values().find(|n| n.name.as_ref() == Some(name))?;
            let at_once = network.created.abs_diff(other.created) <= AT_ONCE;
            let is_used = s.endpoints.get(id).is_some_and(|endpoints| !endpoints.is_empty());
            let bindings = s.bindings.get(self.cluster.node())?;
            let (engine_network, _) = bindings.iter().find(|(_, b)| b.network == *id)?;
            (at_once && !is_used).then(|| engine_network.clone())
        })
    }

    /// Removes a network of the engine's to make room for the copy of the one that has its name.
    async fn supersede(
        &self,
        engine: &Engine,
        engine_network: &str,
        name: &NetworkName,
    ) -> Result<Result<(), String>, ApiError> {
        tracing::warn!(
            network = name.as_str(),
            "another host made a network of this name in the same moment: that one holds, and the one made here, which \
             nothing uses yet, becomes a copy of it"
        );
        match engine.remove(engine_network).await {
            Ok(()) => Ok(Ok(())),
            Err(ApiError::Refused(why)) => Ok(Err(format!(
                "name clash: network {:?} was made on two hosts at once: {why}",
                name.as_str()
            ))),
            Err(away) => Err(away),
        }
    }

    async fn create(&self, engine: &Engine, id: &NetworkId) -> Result<Result<(), String>, ApiError> {
        let Some(network) = self.cluster.read(|s| s.networks.get(id).cloned()) else { return Ok(Ok(())) };
        let copying = self.calls.copying(id.clone());
        let outcome = engine.create_copy(&network).await;
        drop(copying);
        match outcome {
            Ok(()) => {
                tracing::info!(network = &*network.display_name(), "Docker has a copy of the network");
                Ok(Ok(()))
            }
            // Removed everywhere in the meantime: there is nothing to copy any more.
            Err(ApiError::Refused(_)) if !self.cluster.read(|s| s.networks.contains_key(id)) => Ok(Ok(())),
            Err(ApiError::Refused(why)) => {
                Ok(Err(format!("Docker cannot make a copy of network {:?}: {why}", network.display_name())))
            }
            Err(away) => Err(away),
        }
    }

    /// Tells the cluster whose the endpoints of a network are, and what they answer to.
    async fn name_containers(&self, engine: &Engine, endpoints: &[EngineEndpoint]) -> Result<(), ApiError> {
        for endpoint in endpoints {
            let (Some(container), Ok(id)) = (&endpoint.container, endpoint.id.parse::<EndpointId>()) else {
                continue;
            };
            let network = self.cluster.read(|s| {
                let found = s.endpoints.values().find_map(|endpoints| endpoints.get(&id))?;
                // Aliases are an endpoint's for life.
                let known = found
                    .container
                    .as_ref()
                    .is_some_and(|c| c.id == container.id && c.name == container.name);
                (!known).then(|| found.network.clone())
            });
            let Some(network) = network else { continue };
            let mut aliases = engine.aliases(&container.id, &endpoint.id).await?;
            aliases.retain(|alias| *alias != container.name && !container.id.starts_with(alias.as_str()));
            let container = Container { aliases, ..container.clone() };
            if let Err(error) = self.cluster.set_container(&network, &id, container.clone()).await {
                tracing::warn!(container = container.name, %error, "an endpoint's container could not be noted");
            }
        }
        Ok(())
    }

    /// Looks for what dockerd has forgotten, and removes what it forgot long enough ago.
    async fn find_leaks(&self, engine: &Engine, suspicions: &mut Suspicions) -> Result<(), ApiError> {
        if !self.calls.idle() {
            suspicions.clear();
            return Ok(());
        }
        let networks = engine.networks().await?;
        let mut known =
            Known { networks: networks.into_iter().map(|n| n.id).collect(), endpoints: BTreeSet::new() };
        for network in self.networks_in_use() {
            let endpoints = engine.endpoints(&network).await?.unwrap_or_default();
            self.name_containers(engine, &endpoints).await?;
            known.endpoints.extend(endpoints.into_iter().map(|e| e.id));
        }
        let found = self.cluster.read(|s| suspects(s, self.cluster.node(), &known));
        if !self.calls.idle() {
            suspicions.clear();
            return Ok(());
        }
        for leak in suspicions.look(std::time::Instant::now(), found) {
            tracing::info!(?leak, "removing what Docker has forgotten");
            if let Err(error) = self.remove_leak(&leak).await {
                tracing::warn!(?leak, %error, "what Docker has forgotten could not be removed");
            }
        }
        Ok(())
    }

    /// The engine's ids of networks on which this node has endpoints of Docker's.
    fn networks_in_use(&self) -> Vec<String> {
        let node = self.cluster.node();
        self.cluster.read(|s| {
            let ours = |network: &NetworkId| {
                let endpoints = s.endpoints_on(network);
                endpoints.into_iter().any(|e| e.node == *node && e.engine == ENGINE)
            };
            let bindings = s.bindings.get(node).into_iter().flatten();
            bindings.filter(|(_, b)| ours(&b.network)).map(|(id, _)| id.clone()).collect()
        })
    }

    async fn remove_leak(&self, leak: &Leak) -> Result<(), AgentError> {
        match leak {
            Leak::Endpoint(network, id) => {
                let claims = self.cluster.read(|s| {
                    let claims = s.addresses.get(network).into_iter().flatten();
                    let of_it =
                        claims.filter(|(_, c)| c.kind == ClaimKind::Ipam && c.endpoint.as_ref() == Some(id));
                    of_it.map(|(ip, _)| *ip).collect::<Vec<_>>()
                });
                self.cluster.remove_endpoint(network, id).await?;
                // An address from an IPAM call is given back by one, which will not come any more.
                for ip in claims {
                    self.cluster.release_address(network, ip).await?;
                }
                Ok(())
            }
            Leak::Address(network, ip) => self.cluster.release_address(network, *ip).await,
            Leak::Network(network) => self.cluster.remove_network(network).await,
            Leak::Pool(pool) => self.cluster.release_pool(pool).await,
        }
    }

    fn tell(&self, connected: bool) {
        self.cluster.set_engine_status(EngineStatus {
            engine: ENGINE.to_owned(),
            address: self.options.api.clone(),
            connected,
            version: self.version.clone(),
            problems: self.problems.iter().cloned().collect(),
        });
    }
}

impl Look {
    /// What follows from an event. `troubled`: there are problems that any change may have solved.
    fn heed(&mut self, event: EventMessage, driver: &str, troubled: bool) {
        let actor = event.actor.unwrap_or_default();
        let attributes = actor.attributes.unwrap_or_default();
        let ours = attributes.get("type").is_some_and(|kind| kind == driver);
        match (event.action.as_deref(), actor.id) {
            // Also of others' networks: one of them may have had a name that the mirror waits for.
            (Some("create" | "remove"), _) => self.networks |= ours || troubled,
            (Some("destroy"), network) => {
                self.networks |= ours || troubled;
                self.destroyed.extend(network.filter(|_| ours));
            }
            (Some("connect"), Some(network)) if ours => {
                self.containers.insert(network);
            }
            (Some("disconnect"), _) if ours => self.networks |= troubled,
            _ => {}
        }
    }
}

/// Whether an event is one to look at something for: see [`super::fuzzing`].
pub(super) fn heeds(event: EventMessage) -> bool {
    let mut look = Look::default();
    look.heed(event, "weft", false);
    look.networks || !look.destroyed.is_empty() || !look.containers.is_empty()
}

/// Which bound networks the engine does not have any more: it has told so, or does not list them for [`GRACE`].
/// Keeps what it goes by in `destroyed` and `missing`, for as long as there are bindings it matters for.
fn vanished(
    bindings: &BTreeMap<String, Binding>,
    listed: &[EngineNetwork],
    destroyed: &mut BTreeSet<String>,
    missing: &mut BTreeMap<String, std::time::Instant>,
    now: std::time::Instant,
) -> BTreeSet<String> {
    let before = std::mem::take(missing);
    for id in bindings.keys().filter(|id| listed.iter().all(|n| n.id != **id)) {
        missing.insert(id.clone(), before.get(id).copied().unwrap_or(now));
    }
    destroyed.retain(|id| bindings.contains_key(id));
    let long_missing = |since: std::time::Instant| now.saturating_duration_since(since) >= GRACE;
    let gone = missing.iter().filter(|(id, since)| destroyed.contains(*id) || long_missing(**since));
    gone.map(|(id, _)| id.clone()).collect()
}

fn events(
    engine: &Engine,
    since: weft_model::UnixSeconds,
) -> impl Stream<Item = Vec<Result<EventMessage, ApiError>>> + use<> {
    engine.events(since).map(|event| event.map_err(ApiError::from)).ready_chunks(BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, kind: &str) -> EventMessage {
        serde_json::from_value(serde_json::json!({
            "Type": "network", "Action": action, "scope": "local", "time": 1,
            "Actor": {"ID": "e1", "Attributes": {"name": "blue", "type": kind, "container": "c1"}},
        }))
        .unwrap()
    }

    fn heeded(action: &str, kind: &str, troubled: bool) -> Look {
        let mut look = Look::default();
        look.heed(event(action, kind), "weft", troubled);
        look
    }

    #[test]
    fn a_network_has_vanished_when_the_engine_says_so_or_does_not_list_it_for_long() {
        let binding = Binding { network: NetworkId::random(), mirrored: true };
        let bindings = BTreeMap::from([("e1".to_owned(), binding)]);
        let (mut destroyed, mut missing, start) =
            (BTreeSet::new(), BTreeMap::new(), std::time::Instant::now());
        let gone = BTreeSet::from(["e1".to_owned()]);
        let mut look = |destroyed: &mut _, at| vanished(&bindings, &[], destroyed, &mut missing, at);
        assert_eq!(look(&mut destroyed, start), BTreeSet::new());
        assert_eq!(look(&mut destroyed, start + GRACE), gone);

        destroyed.extend(["e1".to_owned(), "another".to_owned()]);
        let mut missing = BTreeMap::new();
        assert_eq!(vanished(&bindings, &[], &mut destroyed, &mut missing, start), gone);
        assert_eq!(destroyed, gone, "what is not bound is not remembered");
        let listed = [EngineNetwork { id: "e1".to_owned(), ..EngineNetwork::default() }];
        assert_eq!(vanished(&bindings, &listed, &mut destroyed, &mut missing, start), BTreeSet::new());
        assert!(missing.is_empty());
    }

    #[test]
    fn events_say_where_to_look() {
        for action in ["create", "destroy"] {
            assert!(heeded(action, "weft", false).networks, "{action}");
            assert!(!heeded(action, "bridge", false).networks, "{action} of a bridge concerns nobody");
            assert!(heeded(action, "bridge", true).networks, "{action} of a bridge may end a name clash");
        }
        let connect = heeded("connect", "weft", false);
        assert_eq!(connect.containers, BTreeSet::from(["e1".to_owned()]));
        assert!(!connect.networks);
        assert_eq!(heeded("destroy", "weft", false).destroyed, BTreeSet::from(["e1".to_owned()]));
        assert!(heeded("disconnect", "weft", true).networks, "a copy in use may be free now");
        assert_eq!(heeded("connect", "bridge", true), Look::default());
    }
}
