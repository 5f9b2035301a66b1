//! This host as a member of the cluster: its id, its record, its lease.

use crate::{
    Advertise, AgentError, AgentOptions,
    agent::Inner,
    options::DEFAULT_ADVERTISE_PORT,
    troubles::Subject,
    view::{Link, View},
};
use futures::{StreamExt, stream::BoxStream};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_kernel::{KernelError, Underlay};
use weft_model::{DirectLink, Node, NodeId, UnixSeconds, encode, schema, unix_now};
use weft_store::{LeaseKeeper, Store, Txn, replace_file};

/// How often the record is compared even when nothing seems to have changed.
const LOOK: Duration = Duration::from_secs(30);
/// New peers come in crowds: each look asks the routing table for all of them.
const CROWD: Duration = Duration::from_secs(1);
/// Events of an underlay come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// How soon the record is written again that could not be.
const AGAIN: Duration = Duration::from_secs(1);

/// The id of this node, made at the first start and kept.
pub(crate) fn load_or_create_id(state_dir: &Path) -> Result<NodeId, AgentError> {
    let path = state_dir.join("node-id");
    let error = |reason: String| AgentError::file(&path, reason);
    match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|e: weft_model::IdError| error(format!("{e}; remove the file to join as a new node"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let id = NodeId::random();
            replace_file(&path, 0o644, format!("{id}\n").as_bytes()).map_err(|e| error(e.to_string()))?;
            Ok(id)
        }
        Err(e) => Err(error(e.to_string())),
    }
}

/// Which start of this node's daemon this is, from 1. `stored`: the last one that the store knows of. It is counted in the state
/// directory as well, because `weft gc --dead-node` takes the record: a write of an earlier start that is late would look
/// like a later start's, and the daemon would take itself for a copy.
pub(crate) fn count_start(state_dir: &Path, stored: u64) -> u64 {
    let path = state_dir.join("starts");
    let counted = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|e| format!("{e}: {text:?}")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e.to_string()),
    };
    let counted = counted.unwrap_or_else(|reason: String| {
        tracing::warn!(path = %path.display(), reason, "the daemon's starts are counted from what the store knows");
        0
    });
    let start = counted.max(stored).saturating_add(1);
    if let Err(error) = replace_file(&path, 0o644, format!("{start}\n").as_bytes()) {
        // A full disk: the store knows of this start as well, unless its record is removed.
        tracing::warn!(path = %path.display(), %error, "this start of the daemon is counted in the store alone");
    }
    start
}

/// This node's record as this host is now.
pub(crate) fn describe(options: &AgentOptions, id: &NodeId, epoch: u64) -> Result<Node, AgentError> {
    let underlay = underlay(options.advertise.as_ref())?;
    let vteps = vteps(options.advertise.as_ref(), &underlay)?;
    let port = options.advertise.as_ref().map_or(DEFAULT_ADVERTISE_PORT, Advertise::port);
    Ok(Node {
        id: id.clone(),
        name: options.node_name.clone(),
        advertise: vteps.first().map(|ip| SocketAddr::new(*ip, port)),
        vteps,
        vxlan_port: options.vxlan_port,
        underlay_mtu: underlay.mtu,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch,
        started: unix_now(),
        routes: weft_kernel::host_routes()?,
        direct: None,
    })
}

fn underlay(advertise: Option<&Advertise>) -> Result<Underlay, AgentError> {
    let Some(asked) = advertise else { return Ok(Underlay::of_address(outward_address()?)?) };
    let found = match asked {
        Advertise::Interface { name, .. } => Underlay::of_interface(name),
        Advertise::Address(address) => Underlay::of_address(address.ip()),
    };
    found.map_err(|error| match error {
        KernelError::Netlink { .. } => {
            AgentError::Invalid(format!("--cluster-advertise {asked} does not fit this host: {error}"))
        }
        other => other.into(),
    })
}

/// The address that this host uses towards the world outside.
fn outward_address() -> Result<IpAddr, AgentError> {
    // Connecting a UDP socket sends nothing: it asks the routing table. The addresses are reserved for documentation
    // (RFC 5737, RFC 3849), so nothing but a default route leads to them.
    let ask = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        socket.local_addr()
    };
    let asked = ask("0.0.0.0:0", "192.0.2.1:9").or_else(|_| ask("[::]:0", "[2001:db8::1]:9"));
    asked.map(|address| address.ip()).map_err(|_| {
        AgentError::Invalid(
            "this host has no default route to tell which interface leads to the other hosts: name it with \
             --cluster-advertise, as in eth0:2375"
                .to_owned(),
        )
    })
}

/// The VTEP addresses: the one given, or the interface's first of each family, IPv4 preferred.
fn vteps(advertise: Option<&Advertise>, underlay: &Underlay) -> Result<Vec<IpAddr>, AgentError> {
    if let Some(Advertise::Address(address)) = advertise {
        return Ok(vec![address.ip()]);
    }
    let first = |v4| underlay.addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
    let vteps: Vec<_> = first(true).into_iter().chain(first(false)).collect();
    if vteps.is_empty() {
        return Err(AgentError::Invalid(format!(
            "interface {} has no address that other hosts could reach: give it one, or choose another with \
             --cluster-advertise",
            underlay.interface
        )));
    }
    Ok(vteps)
}

/// Keeps this node's record and lease in the store until `shutdown`; the record follows the host's addresses,
/// MTU and routes.
pub(crate) async fn keep(inner: Arc<Inner>, shutdown: CancellationToken) {
    let lease = LeaseKeeper::spawn(
        Arc::clone(&inner.store),
        schema::alive_key(&inner.node),
        encode(&inner.epoch),
        inner.options.lease_ttl,
        shutdown.clone(),
    );
    let mut underlay = inner
        .machine
        .changes()
        .inspect_err(|error| tracing::warn!(%error, "changes of this host's addresses are seen late"))
        .ok();
    take_addresses(&inner);
    look(&inner).await;
    let (mut link, mut nodes) = (inner.view.link(), inner.view.nodes());
    let mut held = inner.view.this().vteps.into_iter().collect();
    let (mut published, mut due, mut wait) = (false, true, LOOK);
    let mut crowd: Option<Instant> = None;
    loop {
        if due {
            wait = if publish(&inner, &mut published).await { LOOK } else { AGAIN };
        }
        due = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            event = changed(underlay.as_mut()) => {
                if let Err(error) = event {
                    tracing::warn!(%error, "changes of this host's addresses are seen late from now on");
                    underlay = None;
                }
                tokio::time::sleep(SETTLE).await;
                look_around(&inner, &mut held).await
            }
            // A new peer may be behind a narrower path. Where a whole cluster starts, they come in crowds.
            _ = nodes.changed(), if crowd.is_none() => {
                crowd = Some(Instant::now() + CROWD);
                false
            }
            () = until(crowd) => {
                crowd = None;
                nodes.mark_unchanged();
                look_around(&inner, &mut held).await || !inner.view.this_is_stored()
            }
            _ = link.changed() => true,
            () = tokio::time::sleep(wait) => {
                look_around(&inner, &mut held).await;
                true
            }
        };
    }
    drop(lease);
}

/// Waits for a moment; for ever if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn changed(
    underlay: Option<&mut BoxStream<'static, Result<(), KernelError>>>,
) -> Result<(), KernelError> {
    let Some(underlay) = underlay else { return std::future::pending().await };
    match underlay.next().await {
        Some(change) => change,
        None => std::future::pending().await,
    }
}

/// Takes in what has changed on this host, and says whether anything has; tells the store first when the host has lost a VTEP
/// address: the connections to it were most likely made from there. `held`: the VTEP addresses that the host had at the last
/// look. (Others come and go with every container.)
async fn look_around(inner: &Inner, held: &mut BTreeSet<IpAddr>) -> bool {
    let now = inner
        .machine
        .addresses()
        .inspect_err(|error| tracing::warn!(%error, "this host's addresses cannot be read"))
        .unwrap_or_else(|_| held.clone());
    if held.difference(&now).next().is_some() {
        inner.store.address_lost().await;
    }
    let differed = look(inner).await;
    *held = inner.view.this().vteps.into_iter().filter(|vtep| now.contains(vtep)).collect();
    differed
}

/// Compares this node's record with the host as it is now. Whether it differed.
async fn look(inner: &Inner) -> bool {
    let known = inner.view.this();
    let described = inner.machine.describe(&inner.options, &inner.node, inner.epoch);
    let node = match described.and_then(|node| same_family(&known, node)) {
        Ok(node) => {
            let paths = paths(inner, &node);
            let narrowest = paths.values().map(|path| path.mtu).min();
            Ok(Node {
                started: started(inner, &known, &node.vteps),
                underlay_mtu: narrowest.map_or(node.underlay_mtu, |path| path.min(node.underlay_mtu)),
                direct: direct_link(inner, &known, &node, &paths).await,
                ..node
            })
        }
        Err(error) => Err(error),
    };
    let trouble = node.as_ref().err().map(|error| match known.vteps.first() {
        Some(vtep) => format!("{error}; to the other hosts this one stays at {vtep}"),
        None => error.to_string(),
    });
    let news = inner.troubles.set(Subject::Underlay, trouble);
    match node {
        Ok(node) if node != known => {
            tracing::info!(vteps = ?node.vteps, mtu = %node.underlay_mtu, "this host's addresses or routes changed");
            let direct = node.direct != known.direct;
            inner.view.set_this(node);
            if direct {
                // What this host says that it takes, its kernel takes by then. An error: the daemon ends.
                let writes = inner.view.writes();
                let _ = inner.reconciled.clone().wait_for(|r| r.writes >= writes).await;
            }
            true
        }
        // An interface that is down for a moment takes nothing away: the last known record stays.
        Err(error) if news => {
            tracing::warn!(%error, "this host's underlay cannot be read; it stays as last known");
            false
        }
        Ok(_) | Err(_) => false,
    }
}

/// When this node took its VTEP addresses. One that it has taken anew was another's until then. The same address is taken
/// back from a node that does not live: that one had it for a while.
fn started(inner: &Inner, known: &Node, vteps: &[IpAddr]) -> UnixSeconds {
    let anew = known.vteps != vteps;
    inner.view.read(|s| {
        let peers = s.nodes.values().filter(|peer| peer.id != known.id);
        started_after(known, vteps, peers.filter(|peer| anew || !s.alive.contains_key(&peer.id)))
    })
}

/// The same over these `others`: later than that of each that has one of the addresses (see [`weft_plan::displaced`]).
fn started_after<'a>(known: &Node, vteps: &[IpAddr], others: impl Iterator<Item = &'a Node>) -> UnixSeconds {
    let rank = |node: &Node| (node.started, node.id.clone());
    let rivals = others.filter(|other| other.vteps.iter().any(|vtep| vteps.contains(vtep)));
    let before = rivals.filter(|other| rank(other) > rank(known)).map(|other| other.started);
    before.max().map_or(known.started, |before| before.saturating_add(1))
}

/// Takes this node's addresses from whichever node had them before this start.
fn take_addresses(inner: &Inner) {
    let known = inner.view.this();
    let started = inner.view.read(|s| {
        let others = s.nodes.values().filter(|other| other.id != known.id);
        started_after(&known, &known.vteps, others)
    });
    if started != known.started {
        inner.view.set_this(Node { started, ..known });
    }
}

/// Refuses to go over to IPv6 because the IPv4 address has gone: the other hosts would not follow, and while a lease is
/// renewed it is away for a moment only.
fn same_family(known: &Node, node: Node) -> Result<Node, AgentError> {
    match (known.vteps.first(), node.vteps.first()) {
        (Some(IpAddr::V4(lost)), Some(IpAddr::V6(_))) => Err(AgentError::Invalid(format!(
            "this host's interface for --cluster-advertise has no IPv4 address any more; it had {lost} (if IPv6 is \
             to carry the tunnels from now on, start the daemon again)"
        ))),
        _ => Ok(node),
    }
}

/// The ways from this node to its peers, by their VTEP addresses, as its routes know them.
fn paths(inner: &Inner, this: &Node) -> BTreeMap<IpAddr, weft_kernel::Path> {
    let Some(ours) = this.vteps.first() else { return BTreeMap::new() };
    let vteps: Vec<_> = inner.view.read(|s| {
        let peers = s.nodes.values().filter(|peer| peer.id != this.id);
        peers.filter_map(|peer| peer.vtep_like(*ours)).collect()
    });
    vteps.into_iter().filter_map(|vtep| Some((vtep, inner.machine.path(vtep)?))).collect()
}

/// Where this host takes packets of direct networks.
async fn direct_link(
    inner: &Inner,
    known: &Node,
    now: &Node,
    paths: &BTreeMap<IpAddr, weft_kernel::Path>,
) -> Option<DirectLink> {
    let link = match inner.kernel.direct_link(*now.vteps.first()?).await {
        Ok(link) => link?,
        Err(error) => {
            tracing::warn!(%error, "the link to the other hosts cannot be read; it stays as last known");
            return known.direct.clone();
        }
    };
    let routed = paths.iter().filter(|(vtep, path)| path.gateway && link.prefix.contains(*vtep));
    let routed = routed.map(|(vtep, _)| *vtep).collect();
    Some(DirectLink { routed, ..link })
}

/// How long the peers get to hear that this host takes no packets without outer headers any more, before it takes none. Those
/// that do not follow the store at the time go on sending them until they do.
const HEARD: Duration = Duration::from_secs(2);

/// Takes back that this host takes packets of direct networks, and gives the peers time to hear it.
pub(crate) async fn take_nothing_directly(
    store: &dyn Store,
    view: &View,
    connected: bool,
) -> Result<(), AgentError> {
    let node = Node { direct: None, ..view.this() };
    view.set_this(node.clone());
    if !connected {
        tracing::warn!(
            "the peers cannot be told that this host takes no packets without outer headers any more: what they send so \
             is lost until the store is back"
        );
        return Ok(());
    }
    write(store, &node).await?;
    tracing::info!("the peers have been told to send nothing without outer headers to this host");
    tokio::time::sleep(HEARD).await;
    Ok(())
}

/// Writes the record if the store has another one. `false`: it could not. `published`: this daemon has done so before; a
/// record of a later start is then not its own.
async fn publish(inner: &Inner, published: &mut bool) -> bool {
    if *inner.view.link().borrow() != Link::Up {
        return true;
    }
    let node = inner.view.this();
    let outcome = match inner.store.get(&schema::node_key(&node.id)).await {
        Ok(Some(record)) if record.value == encode(&node) => Ok(()),
        Ok(Some(record)) if *published && is_later(&record.value, node.epoch) => {
            another_has_this_id(inner, &record.value);
            return true;
        }
        Ok(_) => write(inner.store.as_ref(), &node).await,
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => {
            *published = true;
            inner.troubles.set(Subject::Identity, None);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "this node's record could not be read or written; trying again");
            false
        }
    }
}

fn is_later(record: &[u8], epoch: u64) -> bool {
    serde_json::from_slice::<Node>(record).is_ok_and(|node| node.epoch > epoch)
}

/// Two daemons that write one record in turn would drive every host of the cluster in circles: the later one has it.
fn another_has_this_id(inner: &Inner, record: &[u8]) {
    let other = serde_json::from_slice::<Node>(record)
        .map_or_else(|_| "another host".to_owned(), |node| format!("host {} at {:?}", node.name, node.vteps));
    let trouble = format!(
        "{other} has taken this node's id {}, as when a state directory is copied with a machine: frames for this host's \
         containers go there. Remove the file node-id in the state directory of one of the two and start its daemon again",
        inner.node.short()
    );
    if inner.troubles.set(Subject::Identity, Some(trouble.clone())) {
        tracing::error!("{trouble}");
    }
}

/// Writes a node's record. Only the node itself does, so there is nobody to race with.
pub(crate) async fn write(store: &dyn Store, node: &Node) -> Result<(), AgentError> {
    store.commit(Txn::new().put(schema::node_key(&node.id), encode(node))).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_plan::displaced;

    #[test]
    fn starts_are_counted_on_the_host_whatever_the_store_has_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let starts = [0, 1, 0, 0, 9, 3].map(|stored| count_start(dir.path(), stored));
        assert_eq!(starts, [1, 2, 3, 4, 10, 11]);
        std::fs::write(dir.path().join("starts"), "seven").unwrap();
        assert_eq!([7, 0].map(|stored| count_start(dir.path(), stored)), [8, 9]);
    }

    #[test]
    fn whoever_takes_an_address_has_it_from_then_on_although_the_others_clock_was_ahead() {
        let before = Node { started: 700, ..crate::tests::cluster::node(1) };
        let known = Node { id: NodeId::random(), started: 7, ..before.clone() };
        let elsewhere = Node { vteps: vec!["192.0.2.200".parse().unwrap()], started: 900, ..before.clone() };
        let started = started_after(&known, &known.vteps, [&before, &elsewhere].into_iter());
        assert_eq!(started, 701);
        let now = Node { started, ..known };
        assert_eq!(started_after(&now, &now.vteps, [&before].into_iter()), 701);
        let mut snapshot = weft_model::Snapshot::default();
        snapshot.nodes.extend([&before, &now].map(|node| (node.id.clone(), node.clone())));
        let lost = displaced(&snapshot);
        assert_eq!(lost.values().collect::<BTreeSet<_>>(), BTreeSet::from([&now.id]));
    }
}
