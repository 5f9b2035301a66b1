//! A name server in every sandbox of this host.
//!
//! It answers at the address that Docker's own resolver has in a container, in front of that one: so every container asks
//! it whatever its resolv.conf came from, and what weft does not know goes on to Docker's, with everything that Docker does
//! about it. A sandbox without Docker gets the host's name servers behind it. The kernel leads queries here only as long as this
//! process lives (see [`weft_kernel::resolver`]): without it, things are as they would be without weft.

use crate::{Agent, AgentError, troubles::Subject, view::View};
use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use weft_dns::{HostResolvers, Question, Resolve, Route, Sockets, Upstream, serve};
use weft_kernel::{KernelError, Namespace, resolver};
use weft_model::{Domain, Endpoint, NetworkId};
use weft_plan::names::{Asker, Meaning};

/// The engine that has a resolver of its own in every sandbox.
const DOCKER: &str = "docker";
/// Where the host's name servers stand (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Docker tells of a container's sandbox before it makes it, and then starts the container within some ten milliseconds: for so
/// long after the word of a sandbox that is not there it is tried again at once.
const YOUNG: Duration = Duration::from_secs(10);
/// How soon that is.
const SOON: Duration = Duration::from_millis(4);
/// How long a verb waits for a sandbox's name server: without it the container starts all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the name server of a sandbox has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// The networks that the sandbox is on: those joined first come first.
    networks: Vec<NetworkId>,
    /// Docker's resolver is behind; else the host's name servers.
    docker: bool,
    /// None of the networks leads out.
    internal: bool,
    /// See [`Sandbox::inode`].
    inode: Option<u64>,
}

/// The places of all sandboxes of this node's endpoints, by the path of the namespace.
fn places<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    is_internal: impl Fn(&NetworkId) -> bool,
) -> BTreeMap<String, Place> {
    let mut joined: Vec<_> = endpoints.filter_map(|e| Some((e.sandbox.as_ref()?, e))).collect();
    // The host asks whom it has always asked, and a virtual machine has its questions inside.
    joined.retain(|(sandbox, _)| !sandbox.is_host());
    joined.sort_by_key(|(_, e)| (e.created, e.id.clone()));
    let mut places = BTreeMap::<String, Place>::new();
    for (sandbox, endpoint) in joined {
        let place = places.entry(sandbox.path.clone()).or_insert_with(|| Place {
            internal: true,
            inode: sandbox.inode,
            ..Place::default()
        });
        place.networks.push(endpoint.network.clone());
        place.docker |= endpoint.engine == DOCKER;
        place.internal &= is_internal(&endpoint.network);
    }
    places
}

/// The names as they are seen from a sandbox.
struct Within {
    view: Arc<View>,
    networks: RwLock<Vec<NetworkId>>,
    domain: Domain,
}

impl Resolve for Within {
    fn resolve(&self, question: Question<'_>) -> Meaning {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        self.view.look_up(|known| {
            let asker = Asker {
                snapshot: known.snapshot(),
                names: known.names(),
                networks: &networks,
                domain: self.domain.as_str(),
            };
            match question {
                Question::Name(name) => asker.name(name),
                Question::Address(ip) => asker.address(ip),
            }
        })
    }
}

/// Docker's resolver in a sandbox.
struct InSandbox(Namespace);

impl Route for InSandbox {
    fn servers(&self) -> Vec<SocketAddr> {
        vec![resolver::SERVER]
    }

    fn udp(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        resolver::behind_by_udp(&self.0, server)
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<TcpStream> {
        resolver::behind_by_tcp(&self.0, server)
    }
}

/// Nobody: the sandbox must not reach out.
struct NoServers;

impl Route for NoServers {
    fn servers(&self) -> Vec<SocketAddr> {
        vec![]
    }

    fn udp(&self, _: SocketAddr) -> io::Result<UdpSocket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn tcp(&self, _: SocketAddr) -> io::Result<TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A running name server.
struct Running {
    namespace: Namespace,
    place: Place,
    names: Arc<Within>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts one in the sandbox at `path`. Blocks for a moment.
    fn start(
        path: &str,
        place: &Place,
        view: &Arc<View>,
        domain: &Domain,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, KernelError> {
        let resolver::Front { namespace, udp, tcp, redirect } = resolver::open(path, place.inode)?;
        let names = Arc::new(Within {
            view: Arc::clone(view),
            networks: RwLock::new(place.networks.clone()),
            domain: domain.clone(),
        });
        let route: Arc<dyn Route> = match place {
            Place { docker: true, .. } => Arc::new(InSandbox(namespace.clone())),
            Place { internal: true, .. } => Arc::new(NoServers),
            _ => Arc::new(HostResolvers::new(RESOLV_CONF)),
        };
        let end = CancellationToken::new();
        let serving = serve(Sockets { udp, tcp }, Arc::clone(&names) as _, Upstream::new(route), end.clone());
        let path = path.to_owned();
        let task = runtime.spawn(async move {
            if let Err(error) = serving.await {
                tracing::warn!(sandbox = path, %error, "the sandbox's name server has ended and is started again");
            }
            drop(redirect);
        });
        Ok(Self { namespace, place: place.clone(), names, end, task })
    }

    /// Takes over what has changed of its place; `false`: it has to be started anew.
    fn follows(&mut self, path: &str, place: &Place) -> bool {
        let here = || Namespace::open(path).and_then(|now| now.is_same(&self.namespace)).unwrap_or(false);
        let same_behind = |place: &Place| (place.docker, place.internal && !place.docker);
        if self.task.is_finished() || same_behind(&self.place) != same_behind(place) || !here() {
            return false;
        }
        if self.place != *place {
            self.names.networks.write().unwrap_or_else(PoisonError::into_inner).clone_from(&place.networks);
            self.place = place.clone();
        }
        true
    }

    async fn stop(self) {
        self.end.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "a name server did not end well");
        }
    }
}

/// Keeps a name server in every sandbox until `shutdown`, and tells through `done` how many changes of this node's endpoints it has
/// followed.
pub(crate) async fn keep(
    agent: Agent,
    domain: Domain,
    done: watch::Sender<u64>,
    shutdown: CancellationToken,
) {
    let view = Arc::clone(&agent.0.view);
    let mut own = view.own();
    let (mut running, mut wanted) = (BTreeMap::<String, Running>::new(), BTreeMap::new());
    let (mut missing, mut look) = (BTreeMap::<String, Instant>::new(), true);
    loop {
        let mut changes = None;
        if look {
            own.mark_unchanged();
            (wanted, changes) = view.look_up(|known| {
                let internal = |id: &NetworkId| known.snapshot().networks.get(id).is_some_and(|n| n.internal);
                (places(known.own(), internal), Some(known.own_changes()))
            });
            for (path, mut resolver) in std::mem::take(&mut running) {
                if wanted.get(&path).is_some_and(|place| resolver.follows(&path, place)) {
                    running.insert(path, resolver);
                } else {
                    resolver.stop().await;
                }
            }
            missing.retain(|path, _| wanted.contains_key(path));
        }
        let mut trouble = None;
        for (path, place) in &wanted {
            if running.contains_key(path) {
                continue;
            }
            match start(path, place, &view, &domain).await {
                Ok(resolver) => {
                    running.insert(path.clone(), resolver);
                    missing.remove(path);
                }
                Err(error) => {
                    let since = missing.entry(path.clone()).or_insert_with(Instant::now);
                    // One that is not there will not be asked.
                    if since.elapsed() > YOUNG && Path::new(path).exists() {
                        trouble = Some(format!("no names in the sandbox {path}: {error}"));
                    }
                }
            }
        }
        if agent.0.troubles.set(Subject::Names, trouble.clone())
            && let Some(trouble) = trouble
        {
            tracing::warn!(trouble, "a sandbox has no name server");
        }
        if let Some(changes) = changes {
            done.send_replace(changes);
        }
        let young = missing.values().any(|since| since.elapsed() < YOUNG);
        let rest = if young { SOON } else { agent.0.options.reconcile_interval };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            _ = own.changed() => look = true,
            () = tokio::time::sleep(rest) => look = !young,
        }
    }
    for (_, resolver) in running {
        resolver.stop().await;
    }
}

async fn start(path: &str, place: &Place, view: &Arc<View>, domain: &Domain) -> Result<Running, AgentError> {
    let (path, place, view, domain) = (path.to_owned(), place.clone(), Arc::clone(view), domain.clone());
    let runtime = tokio::runtime::Handle::current();
    let started =
        tokio::task::spawn_blocking(move || Running::start(&path, &place, &view, &domain, &runtime));
    match started.await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(AgentError::Invalid(format!("the work was not done: {error}"))),
    }
}

impl Agent {
    /// Waits until the sandboxes of this node's endpoints as they are now have their name servers: a container may ask as
    /// soon as it starts.
    pub(crate) async fn names_are_served(&self) {
        let Some(mut done) = self.0.names_served.as_ref().map(watch::Sender::subscribe) else { return };
        let changes = self.0.view.look_up(crate::known::Known::own_changes);
        // An error inside: the daemon ends.
        if tokio::time::timeout(PATIENCE, done.wait_for(|done| *done >= changes)).await.is_err() {
            tracing::warn!("a container may start before its name server");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{EndpointId, MacAddr, NodeId, Sandbox};

    fn endpoint(network: &NetworkId, engine: &str, path: Option<&str>, created: u64) -> Endpoint {
        Endpoint {
            id: EndpointId::random(),
            network: network.clone(),
            node: NodeId::random(),
            engine: engine.to_owned(),
            container: None,
            sandbox: path
                .map(|path| Sandbox { configured_by_engine: true, ..Sandbox::namespace(path, "eth0") }),
            outside: None,
            mac: MacAddr::ZERO,
            ipv4: None,
            ipv6: None,
            epoch: 1,
            created,
        }
    }

    #[test]
    fn a_sandbox_is_a_place_with_its_networks_in_the_order_in_which_they_were_joined() {
        let [blue, red] = [NetworkId::random(), NetworkId::random()];
        let endpoints = [
            endpoint(&red, "docker", Some("/run/docker/netns/a"), 7),
            endpoint(&blue, "docker", Some("/run/docker/netns/a"), 5),
            endpoint(&blue, "cni", Some("/run/netns/b"), 6),
            endpoint(&red, "netns", None, 1),
            endpoint(&red, "host", Some(Sandbox::HOST), 1),
        ];
        let places = places(endpoints.iter(), |network| *network == blue);
        let place = |networks: &[&NetworkId], docker, internal| Place {
            networks: networks.iter().map(|id| (*id).clone()).collect(),
            docker,
            internal,
            inode: None,
        };
        let expected = BTreeMap::from([
            ("/run/docker/netns/a".to_owned(), place(&[&blue, &red], true, false)),
            ("/run/netns/b".to_owned(), place(&[&blue], false, true)),
        ]);
        assert_eq!(places, expected);
    }
}
