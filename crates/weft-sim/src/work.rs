//! What people and engines ask of the daemons: networks made and removed, containers that come, live a while and go.
//!
//! They do not know what the daemons know. An answer that does not come (the daemon was killed, or they lost patience) is
//! no answer, and they go on as an engine does: what it was not told of, it does not have.

use crate::{Owner, cluster::Cluster, host::Host, ledger::Stage};
use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use weft_agent::{Agent, AgentError, EndpointSpec, api::NetworkSpec};
use weft_model::{Container, EndpointId, Network, NetworkId, Sandbox, Subnet};

/// How long even the patient wait for an answer.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often an engine asks for a removal before it gives up and leaves the rest to the daemon.
const TRIES: usize = 4;

impl Cluster {
    /// Asks a daemon. `None`: there is no answer, and nobody knows what was done.
    pub(crate) async fn ask<R, F>(
        &self,
        host: &Host,
        what: &str,
        ask: impl FnOnce(Agent) -> F,
    ) -> Option<Result<R, AgentError>>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, AgentError>> + Send + 'static,
    {
        let agent = host.agent()?;
        let (sender, answer) = oneshot::channel();
        let asked = ask(agent);
        let abort = self.tasks.spawn_as(Owner::Host(host.number), async move {
            // Whoever asked may have gone.
            drop(sender.send(asked.await));
        });
        let patience = if self.chance.one_in(12) { self.chance.millis(1..2000) } else { PATIENCE };
        let answer = timeout(patience, answer).await;
        let words = match &answer {
            Ok(Ok(Ok(_))) => "done".to_owned(),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "no answer: the daemon is gone".to_owned(),
            Err(_) => "no answer: given up".to_owned(),
        };
        self.trace.say(host.name(), format_args!("{what}: {words}"));
        if answer.is_err() {
            abort();
        }
        answer.ok()?.ok()
    }

    /// Somebody makes a network.
    pub async fn make_network(self: Arc<Self>, host: Arc<Host>) {
        let name = ["red", "green", "blue"][self.chance.below(3)];
        let mut spec = NetworkSpec { name: name.parse().ok(), ..NetworkSpec::default() };
        if !self.chance.one_in(4) {
            let net = format!("10.{}.0.0/28", self.chance.below(3) + 1);
            spec.subnets = net.parse().ok().map(Subnet::new).into_iter().collect();
        }
        spec.ipv6 = self.chance.one_in(4);
        spec.engine_addresses = self.chance.one_in(4);
        let what = format!("make network {name}");
        let made = self.ask(&host, &what, async move |agent| agent.create_network(spec, None).await).await;
        if let Some(Ok(network)) = made {
            self.ledger.network_made(&network);
        }
    }

    /// Somebody removes a network, or goes on with a removal that was begun.
    pub async fn remove_network(&self, host: &Host, id: NetworkId) {
        self.ledger.network_leaving(&id);
        let what = format!("remove network {}", id.short());
        self.ask(host, &what, async move |agent| agent.remove_network(&id).await).await;
    }

    /// A network that `host` knows.
    pub fn any_network(&self, host: &Host) -> Option<Network> {
        let networks: Vec<_> = host.agent()?.read(|s| s.networks.values().cloned().collect());
        self.chance.pick(&networks).cloned()
    }

    fn some_address(&self, network: &Network) -> Option<IpAddr> {
        let first = network.subnets.first()?.net.addr();
        match first {
            IpAddr::V4(v4) => {
                let low = u32::try_from(self.chance.below(5)).unwrap_or(0) + 2;
                Some(IpAddr::V4((u32::from(v4) + low).into()))
            }
            IpAddr::V6(_) => None,
        }
    }

    /// A namespace is attached to a network, as by `weft attach`; it lives a while, or to the end.
    pub async fn attach(self: Arc<Self>, host: Arc<Host>, network: Network) {
        let (Some(node), id) = (host.node(), EndpointId::random()) else { return };
        let wanted = if self.chance.one_in(4) { self.some_address(&network) } else { None };
        host.make_sandbox(&id);
        self.ledger.asked(&id, host.number, node, network.id.clone());
        let spec = spec(&host, &id, &network, "netns", wanted.into_iter().collect());
        let what = format!("attach {} to {} {wanted:?}", id.short(), network.display_name());
        let answer = self.ask(&host, &what, async move |agent| agent.create_endpoint(spec).await).await;
        let Some(Ok(endpoint)) = answer else {
            self.ledger.leaving(&id);
            host.end_sandbox(&id);
            return;
        };
        self.trace.say(
            host.name(),
            format_args!("{} has {:?}", id.short(), endpoint.addresses().collect::<Vec<_>>()),
        );
        self.ledger.lives(&endpoint);
        if self.chance.one_in(2) {
            return;
        }
        sleep(self.chance.millis(500..30_000)).await;
        self.ledger.leaving(&id);
        if self.chance.one_in(2) {
            self.remove(&host, &network.id, &id, TRIES).await;
        }
        host.end_sandbox(&id);
    }

    /// A container as Docker runs one: its IPAM call, its endpoint, its sandbox, and the same backwards.
    pub async fn run_container(self: Arc<Self>, host: Arc<Host>, network: Network) {
        let (Some(node), id) = (host.node(), EndpointId::random()) else { return };
        let Some(subnet) = network.subnets.first().map(|s| s.net) else { return };
        let wanted = if self.chance.one_in(4) { self.some_address(&network) } else { None };
        let (of, what) = (network.id.clone(), format!("claim on {} {wanted:?}", network.display_name()));
        let claimed =
            self.ask(&host, &what, async move |agent| agent.claim_address(&of, subnet, wanted).await).await;
        let Some(Ok(net)) = claimed else { return };
        self.ledger.in_hand(&network.id, net.addr(), host.number, &node);
        self.ledger.asked(&id, host.number, node, network.id.clone());
        let spec = spec(&host, &id, &network, "docker", vec![net.addr()]);
        let what = format!("create {} on {} with {}", id.short(), network.display_name(), net.addr());
        let answer = self.ask(&host, &what, async move |agent| agent.create_endpoint(spec).await).await;
        if let Some(Ok(endpoint)) = answer {
            host.make_sandbox(&id);
            self.ledger.lives(&endpoint);
            let sandbox = sandbox(&host, &id);
            let (of, endpoint) = (network.id.clone(), id.clone());
            let what = format!("join {}", id.short());
            let joined = self
                .ask(&host, &what, async move |agent| agent.join_endpoint(&of, &endpoint, sandbox).await)
                .await;
            if matches!(joined, Some(Ok(_))) && self.chance.one_in(2) {
                return;
            }
            sleep(self.chance.millis(500..30_000)).await;
            self.ledger.leaving(&id);
            let (of, endpoint) = (network.id.clone(), id.clone());
            let what = format!("leave {}", id.short());
            self.ask(&host, &what, async move |agent| agent.leave_endpoint(&of, &endpoint).await).await;
            host.end_sandbox(&id);
        }
        self.ledger.leaving(&id);
        self.remove(&host, &network.id, &id, 1).await;
        self.ledger.given_back(&network.id, net.addr(), host.number);
        let (of, what) = (network.id.clone(), format!("release {}", net.addr()));
        self.ask(&host, &what, async move |agent| agent.release_address(&of, net.addr()).await).await;
    }

    async fn remove(&self, host: &Host, network: &NetworkId, id: &EndpointId, tries: usize) {
        for _ in 0..tries {
            let (network, endpoint) = (network.clone(), id.clone());
            let what = format!("remove {}", id.short());
            let asked =
                self.ask(host, &what, async move |agent| agent.remove_endpoint(&network, &endpoint).await);
            if let Some(Ok(())) = asked.await {
                return;
            }
            sleep(self.chance.millis(200..2000)).await;
        }
    }

    /// The engine of a host gives back what it does not know (see `weft-engines`, `docker/leak.rs`). To be called when it
    /// has nothing under way.
    pub async fn sweep(&self, host: &Host) {
        let Some(agent) = host.agent() else { return };
        let node = agent.node().clone();
        let (endpoints, addresses) = agent.read(|s| {
            let ours = s.all_endpoints().filter(|e| e.node == node && e.engine == "docker");
            let endpoints: Vec<_> = ours.map(|e| (e.network.clone(), e.id.clone())).collect();
            let claims =
                s.addresses.iter().flat_map(|(network, claims)| claims.iter().map(move |c| (network, c)));
            let unused = claims.filter(|(_, (_, c))| {
                c.node == node && c.kind == weft_model::ClaimKind::Ipam && c.endpoint.is_none()
            });
            (endpoints, unused.map(|(network, (ip, _))| (network.clone(), *ip)).collect::<Vec<_>>())
        });
        for (network, id) in endpoints {
            let known = self.ledger.book().containers.get(&id).is_some_and(|c| c.stage == Stage::Lives);
            if !known {
                self.remove(host, &network, &id, 1).await;
            }
        }
        for (network, ip) in addresses {
            let what = format!("give back {ip}, which no container has");
            self.ask(host, &what, async move |agent| agent.release_address(&network, ip).await).await;
        }
    }

    /// An operator declares `node` dead, on `host`.
    pub async fn declare_dead(&self, host: &Host, node: weft_model::NodeId) {
        self.ledger.book().doomed.insert(node.clone());
        let what = format!("gc --dead-node {}", node.short());
        self.ask(host, &what, async move |agent| agent.collect_garbage(&[node.to_string()]).await).await;
    }

    /// An operator has removed what is safe to remove.
    pub async fn collect(&self, host: &Host) {
        self.ask(host, "gc", async move |agent| agent.collect_garbage(&[]).await).await;
    }
}

fn sandbox(host: &Host, id: &EndpointId) -> Sandbox {
    let path = host.sandbox(id).display().to_string();
    Sandbox::namespace(path, "eth0")
}

fn spec(
    host: &Host,
    id: &EndpointId,
    network: &Network,
    engine: &str,
    addresses: Vec<IpAddr>,
) -> EndpointSpec {
    let engine_moves = engine == "docker";
    EndpointSpec {
        id: id.clone(),
        network: network.id.clone(),
        engine: engine.to_owned(),
        container: Some(Container::new(id.to_string(), format!("c-{}", id.short()))),
        outside: None,
        sandbox: (!engine_moves).then(|| sandbox(host, id)),
        mac: None,
        addresses,
        allocate: !engine_moves,
    }
}
