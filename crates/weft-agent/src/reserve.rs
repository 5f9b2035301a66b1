//! The addresses that this host holds ahead, so that containers start while the store is away.
//!
//! On every network that has an endpoint here, a few addresses are claimed in the store for this node
//! ([`weft_plan::Reserving`]). To every other host they are taken. When the last endpoint has gone they are kept for
//! a while: a container that was stopped may be started again. Networks that this host does not follow are no affair of the
//! reserve's; those that it needs no longer it ceases to follow here.

use crate::{Agent, AgentError, followed::KEPT, view::Seen};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use weft_model::{AddressClaim, ClaimKind, Network, NetworkId, NodeId, Revision, encode, schema};
use weft_plan::{Reserving, reserved};
use weft_store::{Outcome, StoreError, Txn};

/// Changes are gathered for this long.
const SETTLE: Duration = Duration::from_millis(500);
/// A look may go through all claims of the networks here; after it, a rest of this many times as long as it took.
const REST_FACTOR: u32 = 50;

/// How long a host that lives takes to give back what it holds ahead, at most.
const GIVING_BACK: Duration = Duration::from_secs(3);

/// Keeps the reserve until `shutdown`.
pub(crate) async fn keep(agent: Agent, shutdown: CancellationToken) {
    let (mut seen, mut link) = (agent.0.view.seen(), agent.0.view.link());
    let (mut networks, mut nodes) = (agent.0.view.networks(), agent.0.view.nodes());
    let mut last_used: BTreeMap<NetworkId, Instant> = BTreeMap::new();
    // How far each network's members were when all was as it should be there, and nothing else has changed since.
    let mut settled: BTreeMap<NetworkId, Revision> = BTreeMap::new();
    loop {
        let mut rest = SETTLE;
        let mut wait = KEPT;
        // Of the cluster, only what networks and how many nodes there are counts here: leases come and go all the time where
        // there are thousands. An error: the view, which has the other ends, has gone.
        if networks.has_changed().unwrap_or(true) || nodes.has_changed().unwrap_or(true) {
            settled.clear();
        }
        networks.mark_unchanged();
        nodes.mark_unchanged();
        let looked_at = seen.borrow().members().clone();
        if !agent.0.outbox.is_away() {
            let before = std::mem::take(&mut settled);
            let is_settled = |id: &NetworkId| before.get(id).is_some_and(|at| looked_at.get(id) == Some(at));
            match agent.settle_reserve(is_settled, &mut last_used, &mut rest).await {
                Ok(true) => settled.clone_from(&looked_at),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the addresses held ahead are not as they should be; trying again");
                    wait = GIVING_BACK;
                }
            }
        }
        if agent.has_asked() {
            wait = GIVING_BACK;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            news = seen.wait_for(|seen| *seen.members() != looked_at) => if news.is_err() { return },
            _ = networks.changed() => settled.clear(),
            _ = nodes.changed() => settled.clear(),
            // An outage in which nobody changed anything ends without news.
            _ = link.changed() => settled.clear(),
            () = tokio::time::sleep(wait) => settled.clear(),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

impl Agent {
    /// Looks once, and does what has to be done; `false`: nothing can be said yet, or somebody else was faster. `is_settled`: all
    /// is as it should be on a network, since nothing has changed there. `rest`: how long to rest then.
    async fn settle_reserve(
        &self,
        is_settled: impl Fn(&NetworkId) -> bool,
        last_used: &mut BTreeMap<NetworkId, Instant>,
        rest: &mut Duration,
    ) -> Result<bool, AgentError> {
        let reserving = self.0.reserving.lock().await;
        // Before the store has listed its records, a network that is not known may be there all the same.
        if !*reserving || !self.0.view.is_listed() {
            return Ok(false);
        }
        let now = Instant::now();
        let followed = self.0.view.followed.all();
        let (changes, needed, exist) = self.0.view.look_up(|known| {
            let s = known.snapshot();
            last_used.extend(known.own_networks().into_iter().map(|network| (network.clone(), now)));
            last_used.retain(|id, used| s.networks.contains_key(id) && now - *used < KEPT);
            let (no_claims, none_of_ours, nobody) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let (mut changes, mut needed) = (Vec::new(), BTreeSet::new());
            for id in &followed {
                let own = known.claimed(id);
                let in_use = last_used.contains_key(id);
                let tells_groups = s.groups.get(id).is_some_and(|all| all.contains_key(&self.0.node));
                if in_use || tells_groups || own.is_some() {
                    needed.insert(id.clone());
                }
                if is_settled(id) || !in_use && own.is_none() {
                    continue;
                }
                let Some(network) = s.networks.get(id) else { continue };
                let reserving = Reserving {
                    network,
                    claims: s.addresses.get(id).unwrap_or(&no_claims),
                    own: own.unwrap_or(&none_of_ours),
                    wanted: s.wanted.get(id).unwrap_or(&nobody),
                    node: &self.0.node,
                    nodes: s.nodes.len(),
                    in_use,
                };
                changes.extend(network.subnets.iter().map(|subnet| (id.clone(), reserving.change(subnet))));
            }
            let exist = followed.iter().filter(|id| s.networks.contains_key(*id)).cloned().collect();
            (changes, needed, exist)
        });
        *rest = SETTLE.max(now.elapsed() * REST_FACTOR);
        self.0.view.followed.give_up(&needed, &exist, KEPT)?;
        self.withdraw_requests().await?;
        // Another is held ahead in its place.
        for key in self.0.outbox.unsettled() {
            self.release_reserved(key).await?;
        }
        let mut all_claimed = true;
        for (network, change) in changes {
            all_claimed &= self.claim_ahead(&network, &change.claim).await?;
            for ip in change.release {
                self.release_reserved(schema::address_key(&network, ip)).await?;
            }
        }
        Ok(all_claimed)
    }

    /// Claims addresses, all or none. None, `false`: somebody else was faster, or the network goes. The next look sees it.
    async fn claim_ahead(&self, network: &NetworkId, addresses: &[IpAddr]) -> Result<bool, AgentError> {
        if addresses.is_empty() {
            return Ok(true);
        }
        let claim = encode(&self.new_claim(ClaimKind::Reserved, None));
        let txn = Txn::new().present(schema::network_key(network)).absent(schema::removing_key(network));
        let txn = addresses
            .iter()
            .map(|ip| schema::address_key(network, *ip))
            .fold(txn, |txn, key| txn.absent(&key).put(key, claim.clone()));
        Ok(matches!(self.0.store.commit(txn).await?, Outcome::Committed(_)))
    }

    /// Whether any request for an address is of this node.
    fn has_asked(&self) -> bool {
        self.read(|s| s.wanted.values().flat_map(BTreeMap::values).any(|node| *node == self.0.node))
    }

    /// Withdraws the requests of this node's that nobody waits for: of a daemon that was killed, of a verb that was given up.
    async fn withdraw_requests(&self) -> Result<(), AgentError> {
        let forgotten: Vec<_> = self.read(|s| {
            let all =
                s.wanted.iter().flat_map(|(network, all)| all.iter().map(move |(ip, n)| (network, ip, n)));
            let ours = all.filter(|(_, _, node)| **node == self.0.node);
            ours.map(|(network, ip, _)| schema::wanted_key(network, *ip)).collect()
        });
        for key in forgotten {
            if !self.0.asking.contains(&key) {
                self.0.store.commit(Txn::new().delete(key)).await?;
            }
        }
        Ok(())
    }

    /// Gives up a claim of this node's, if it is held ahead still.
    async fn release_reserved(&self, key: String) -> Result<(), AgentError> {
        let Some(record) = self.0.store.get(&key).await? else { return Ok(()) };
        let claim = serde_json::from_slice::<AddressClaim>(&record.value);
        if claim.is_ok_and(|c| c.kind == ClaimKind::Reserved && c.node == self.0.node) {
            self.0.store.commit(Txn::new().unchanged(&key, record.modified).delete(key)).await?;
        }
        Ok(())
    }

    /// Gives up everything that this node holds ahead, for good.
    pub(crate) async fn give_up_reserve(&self) -> Result<(), AgentError> {
        let mut reserving = self.0.reserving.lock().await;
        *reserving = false;
        let held: Vec<_> = self.read(|s| {
            let all = s.addresses.iter().flat_map(|(n, claims)| claims.iter().map(move |(ip, c)| (n, ip, c)));
            let ours = all.filter(|(_, _, c)| c.kind == ClaimKind::Reserved && c.node == self.0.node);
            ours.map(|(network, ip, _)| schema::address_key(network, *ip)).collect()
        });
        for key in held {
            self.release_reserved(key).await?;
        }
        Ok(())
    }

    /// Asks whoever holds `ip` ahead to give it up, and waits a moment. Where nobody does, or does not answer, nothing comes
    /// of it.
    pub(crate) async fn ask_for(&self, network: &NetworkId, ip: IpAddr) -> Result<(), AgentError> {
        let held_elsewhere = || self.held_ahead_by(network, ip).is_some_and(|node| node != self.0.node);
        if self.0.outbox.is_away() || !held_elsewhere() {
            return Ok(());
        }
        let key = schema::wanted_key(network, ip);
        let _asking = self.0.asking.begin(&key);
        self.commit(Txn::new().put(&key, encode(&self.0.node))).await?;
        let (mut seen, until) = (self.0.view.seen(), Instant::now() + GIVING_BACK);
        while held_elsewhere() {
            if tokio::time::timeout_at(until, seen.changed()).await.is_err() {
                self.commit(Txn::new().present(&key).delete(&key)).await?;
                break;
            }
        }
        Ok(())
    }

    /// The node that holds an address ahead, if one does.
    pub(crate) fn held_ahead_by(&self, network: &NetworkId, ip: IpAddr) -> Option<NodeId> {
        self.read(|s| {
            let claim = s.addresses.get(network)?.get(&ip)?;
            (claim.kind == ClaimKind::Reserved).then(|| claim.node.clone())
        })
    }

    /// With the claim of an address, the request for it goes, if there was one: see [`Agent::ask_for`].
    pub(crate) fn with_request_met(&self, txn: Txn, network: &NetworkId, ip: IpAddr) -> Txn {
        if self.read(|s| s.wanted.get(network).is_some_and(|wanted| wanted.contains_key(&ip))) {
            txn.delete(schema::wanted_key(network, ip))
        } else {
            txn
        }
    }

    /// An address that this node holds ahead: `wanted`, or the lowest of those in `subnet` that it has held longest. What
    /// was given back a moment ago comes last: whoever had it may ask for it again, as a container with a fixed address
    /// does when its host has rebooted.
    pub(crate) fn reserved(
        &self,
        network: &Network,
        subnet: IpNet,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, AgentError> {
        let found = self.0.view.look_up(|known| {
            let subnet = network.subnets.iter().find(|s| s.net == subnet)?;
            let claims = known.snapshot().addresses.get(&network.id)?;
            let held = reserved(known.claimed(&network.id)?, subnet);
            // Whoever is asking the store for one may have it by now; and so may whoever an earlier daemon gave one to.
            let is_gone = |ip: &IpAddr| {
                let key = schema::address_key(&network.id, *ip);
                self.0.outbox.is_asking(&key) || self.0.outbox.spent.contains(&key)
            };
            let fits = held.filter(|ip| wanted.is_none_or(|wanted| wanted == *ip) && !is_gone(ip));
            fits.min_by_key(|ip| claims.get(ip).map(|claim| claim.since))
        });
        found.ok_or_else(|| {
            let what =
                wanted.map_or_else(|| format!("no address of {subnet} is"), |ip| format!("{ip} is not"));
            AgentError::Store(StoreError::Unreachable {
                store: self.0.store.address(),
                reason: format!(
                    "it is away, and {what} reserved for this host on network {:?}",
                    network.display_name()
                ),
            })
        })
    }

    /// The same of a family, with its subnet's prefix length.
    pub(crate) fn reserved_of_family(&self, network: &Network, v4: bool) -> Result<IpNet, AgentError> {
        let subnets = network.subnets.iter().filter(|s| s.net.addr().is_ipv4() == v4);
        let mut outcome = None;
        for subnet in subnets {
            match self.reserved(network, subnet.net, None) {
                Ok(ip) => return Ok(crate::addresses::with_prefix(ip, subnet.net)),
                Err(error) => outcome = Some(error),
            }
        }
        Err(outcome.unwrap_or_else(|| AgentError::NoSuchNetwork(network.id.to_string())))
    }
}

/// Waits for hosts, this one among them, to give back what they hold ahead on a network that is full: they do when they see
/// it fill up.
pub(crate) struct Patience {
    until: Instant,
    /// News since the network was last found full.
    seen: watch::Receiver<Seen>,
    looked_again: bool,
}

impl Patience {
    /// From before the first look on: news that come between a look and the wait are not missed.
    pub(crate) fn new(agent: &Agent) -> Self {
        Self { until: Instant::now() + GIVING_BACK, seen: agent.0.view.seen(), looked_again: false }
    }

    /// Waits for news, if addresses are held ahead. `false`: there is nothing to wait for, or not any longer.
    pub(crate) async fn for_the_reserves(&mut self, agent: &Agent, network: &NetworkId) -> bool {
        let held_ahead = agent.read(|s| {
            let mut claims = s.addresses.get(network).into_iter().flat_map(BTreeMap::values);
            claims.any(|c| c.kind == ClaimKind::Reserved)
        });
        if !held_ahead {
            // The last of it may have been given back since the look that found the network full.
            let news = self.seen.has_changed().unwrap_or(false);
            return news && !std::mem::replace(&mut self.looked_again, true);
        }
        tokio::time::timeout_at(self.until, self.seen.changed()).await.is_ok()
    }
}
