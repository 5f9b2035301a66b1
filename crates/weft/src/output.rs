//! What people read: tables with columns as docker's, values as ip writes them; and JSON for programs.

use crate::exit::Failure;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{
    fmt::Display,
    io::{self, Write},
};
use weft_agent::api::{EndpointView, ErrorKind, Explanation, Leak, NetworkView, NodeView, Status, Traffic};
use weft_model::{UnixSeconds, utc};

/// Writes to stdout. A reader that has seen enough (`weft network ls | head -1`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ErrorKind::Internal, format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// A value as JSON, indented, with a newline at its end.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("cannot write JSON: {e}")))?;
    Ok(text + "\n")
}

/// `weft network ls`
pub fn networks(networks: &[NetworkView]) -> String {
    let rows = networks.iter().map(|view| {
        let network = &view.network;
        [
            network.id.short(),
            network.display_name().into_owned(),
            network.vni.to_string(),
            list(network.subnets.iter().map(|s| s.net)),
            or_dash(view.effective_mtu.or(network.mtu)),
            view.endpoints.len().to_string(),
        ]
    });
    table(["NETWORK ID", "NAME", "VNI", "SUBNETS", "MTU", "ENDPOINTS"], rows)
}

/// `weft endpoint ls`
pub fn endpoints(endpoints: &[EndpointView]) -> String {
    let rows = endpoints.iter().map(|view| {
        [
            view.id.short(),
            view.network_name.clone(),
            or_dash(view.container.as_ref().map(|c| &c.name)),
            list(&view.addresses),
            view.mac.to_string(),
            view.node_name.clone(),
            or_dash(view.vtep),
        ]
    });
    table(["ENDPOINT ID", "NETWORK", "CONTAINER", "ADDRESS", "MAC", "NODE", "VTEP"], rows)
}

/// `weft node ls`
pub fn nodes(nodes: &[NodeView]) -> String {
    let rows = nodes.iter().map(|view| {
        [
            format!("{}{}", view.id.short(), if view.this { " *" } else { "" }),
            view.name.clone(),
            state(view).to_owned(),
            list(&view.vteps),
            view.vxlan_port.to_string(),
            view.underlay_mtu.to_string(),
            view.endpoints.to_string(),
            view.version.clone(),
            direct(view),
        ]
    });
    table(["NODE ID", "NAME", "STATE", "VTEP", "PORT", "MTU", "ENDPOINTS", "VERSION", "DIRECT"], rows)
}

/// Whether it has its lease, and if not, whether it is seen.
fn state(view: &NodeView) -> &'static str {
    match view {
        NodeView { alive: true, .. } => "alive",
        NodeView { absent: true, .. } => "absent",
        NodeView { .. } => "no lease",
    }
}

/// Whether packets of direct networks have no outer headers, or why they have.
fn direct(view: &NodeView) -> String {
    match &view.not_direct {
        Some(reason) => format!("no: {reason}"),
        None if view.direct => "yes".to_owned(),
        None => "-".to_owned(),
    }
}

/// `weft address explain`
pub fn explanations(found: &[Explanation]) -> String {
    let rows = found.iter().map(|e| {
        let free = if e.free { "free" } else { "not free" };
        [e.network_name.clone(), e.address.to_string(), free.to_owned(), e.reason.clone()]
    });
    table(["NETWORK", "ADDRESS", "STATE", "WHY"], rows)
}

/// `weft gc`
pub fn leaks(leaks: &[Leak]) -> String {
    let rows = leaks.iter().map(|leak| {
        let safe = if leak.safe { "yes" } else { "no" };
        [
            leak.what.clone(),
            leak.node_name.clone(),
            or_dash(leak.since.map(utc)),
            safe.to_owned(),
            leak.reason.clone(),
        ]
    });
    table(["WHAT", "NODE", "SINCE", "SAFE", "WHY"], rows)
}

/// Something and what it has sent and received.
#[derive(Serialize)]
pub struct Counted<T> {
    /// An endpoint of this node, or another node.
    #[serde(flatten)]
    pub of: T,
    /// What it has sent and received; of a node: what this one has sent to it and received from it.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// `weft endpoint ls --stats`
pub fn endpoint_traffic(endpoints: &[Counted<EndpointView>]) -> String {
    let rows = endpoints.iter().map(|Counted { of, traffic }| {
        let [tx_packets, tx_bytes, rx_packets, rx_bytes] = numbers(traffic);
        let container = or_dash(of.container.as_ref().map(|c| &c.name));
        let (network, addresses) = (of.network_name.clone(), list(&of.addresses));
        [of.id.short(), network, container, addresses, tx_packets, tx_bytes, rx_packets, rx_bytes]
    });
    let head = [
        "ENDPOINT ID",
        "NETWORK",
        "CONTAINER",
        "ADDRESS",
        "TX PACKETS",
        "TX BYTES",
        "RX PACKETS",
        "RX BYTES",
    ];
    table(head, rows)
}

/// `weft node ls --stats`
pub fn node_traffic(nodes: &[Counted<NodeView>]) -> String {
    let rows = nodes.iter().map(|Counted { of, traffic }| {
        let [tx_packets, tx_bytes, rx_packets, rx_bytes] = numbers(traffic);
        let (name, vteps) = (of.name.clone(), list(&of.vteps));
        [of.id.short(), name, vteps, tx_packets, tx_bytes, rx_packets, rx_bytes]
    });
    table(["NODE ID", "NAME", "VTEP", "TX PACKETS", "TX BYTES", "RX PACKETS", "RX BYTES"], rows)
}

fn numbers(traffic: &Traffic) -> [String; 4] {
    [traffic.tx_packets, traffic.tx_bytes, traffic.rx_packets, traffic.rx_bytes].map(|n| n.to_string())
}

/// `weft network inspect --format table`
pub fn network(view: &NetworkView) -> String {
    let network = &view.network;
    let mut facts = Facts::default();
    facts.add("network", format!("{} ({})", network.display_name(), network.id));
    facts.add("VNI", network.vni);
    for subnet in &network.subnets {
        let gateway = subnet.gateway.map_or(String::new(), |ip| format!(", gateway {ip}"));
        let range = subnet.range.map_or(String::new(), |net| format!(", addresses from {net}"));
        facts.add("subnet", format!("{}{gateway}{range}", subnet.net));
        for (name, ip) in &subnet.reserved {
            facts.add("reserved", format!("{ip} as {name}"));
        }
    }
    facts.add("MTU", or_dash(view.effective_mtu.or(network.mtu)));
    if network.internal {
        facts.add("internal", "yes");
    }
    if network.direct {
        facts.add("direct", "yes, to the hosts of which `weft node ls` says so");
    }
    for (key, value) in &network.labels {
        facts.add("label", format!("{key}={value}"));
    }
    for (key, value) in &network.options {
        facts.add("option", format!("{key}={value}"));
    }
    for view in &view.endpoints {
        let name = view.container.as_ref().map_or_else(|| view.id.short(), |c| c.name.clone());
        facts.add("endpoint", format!("{name} {} on {}", list(&view.addresses), view.node_name));
    }
    facts.text()
}

/// `weft endpoint inspect --format table`
pub fn endpoint(view: &EndpointView) -> String {
    let mut facts = Facts::default();
    facts.add("endpoint", &view.id);
    facts.add("network", format!("{} ({})", view.network_name, view.network.short()));
    if let Some(container) = &view.container {
        facts.add("container", format!("{} ({})", container.name, container.id));
    }
    facts.add("engine", &view.engine);
    facts.add("address", list(&view.addresses));
    facts.add("MAC", view.mac);
    let vtep = view.vtep.map_or(String::new(), |ip| format!(", VTEP {ip}"));
    facts.add("node", format!("{} ({}){vtep}", view.node_name, view.node.short()));
    if let Some(sandbox) = &view.sandbox {
        let interface = view.interface.as_ref().map_or(String::new(), |name| format!(" as {name}"));
        facts.add("sandbox", format!("{sandbox}{interface}"));
    } else if let Some(interface) = &view.interface {
        facts.add("interface", format!("{interface} of the host"));
    }
    if let Some(outside) = &view.outside {
        let addresses: Vec<_> = outside.addresses().collect();
        facts.add("way out", format!("{} as {}", list(&addresses), outside.interface));
        for port in &outside.ports {
            facts.add("port", port);
        }
    }
    facts.text()
}

/// `weft status`; `now` by this host's clock.
pub fn status(status: &Status, now: UnixSeconds) -> String {
    let (node, store) = (&status.node, &status.store);
    let mut facts = Facts::default();
    facts.add("node", format!("{} ({}), up {}", node.name, node.id.short(), age(now, node.started)));
    facts.add("version", &status.version);
    facts.add(
        "VTEP",
        format!("{}, UDP port {}, underlay MTU {}", list(&node.vteps), node.vxlan_port, node.underlay_mtu),
    );
    let link = match (store.connected, &store.error) {
        (true, _) => "connected".to_owned(),
        (false, Some(reason)) => format!("NOT CONNECTED: {reason}"),
        (false, None) => "NOT CONNECTED".to_owned(),
    };
    facts.add("store", format!("{}, {link}", store.address));
    facts.add("revision", format!("{}, this host's kernel reflects {}", store.revision, store.applied));
    if let Some(file) = &store.join_token_file {
        facts.add("join token", file);
    }
    facts.add(
        "cluster",
        format!(
            "{} ({} alive), {}; {} on the networks here",
            counted(status.nodes, "node"),
            status.nodes_alive,
            counted(status.networks, "network"),
            counted(status.endpoints, "endpoint")
        ),
    );
    facts.add("data path", &status.datapath);
    facts.add("direct", direct(node));
    facts.add("multicast", &status.multicast);
    let drops: Vec<_> = status.drops.iter().filter(|(_, n)| **n > 0).collect();
    if !drops.is_empty() {
        let reasons = drops.iter().map(|(reason, n)| format!("{n} frames ({reason})"));
        facts.add("drops", reasons.collect::<Vec<_>>().join(", "));
    }
    facts.add("kernel", counted(status.kernel_objects, "object"));
    let drift: u64 = status.drift_repaired.values().sum();
    let kinds = status.drift_repaired.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| format!("{kind} {n}"));
    let kinds: Vec<_> = kinds.collect();
    facts.add(
        "drift",
        if drift == 0 { "none".to_owned() } else { format!("{drift} repaired ({})", kinds.join(", ")) },
    );
    for engine in &status.engines {
        let version = engine.version.as_ref().map_or(String::new(), |v| format!(" {v}"));
        let link = if engine.connected { "connected" } else { "NOT CONNECTED" };
        facts.add("engine", format!("{}{version} at {}, {link}", engine.engine, engine.address));
        for problem in &engine.problems {
            facts.add("problem", format!("{}: {problem}", engine.engine));
        }
    }
    for problem in &status.problems {
        facts.add("problem", problem);
    }
    facts.text()
}

/// Columns, three blanks apart, no lines: what `docker network ls` prints.
pub fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty().set_header(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    trimmed(&table)
}

/// Names and values, a pair on each line.
#[derive(Default)]
struct Facts(Vec<[String; 2]>);

impl Facts {
    fn add(&mut self, name: &str, value: impl Display) {
        self.0.push([name.to_owned(), value.to_string()]);
    }

    fn text(self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty().add_rows(self.0);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        trimmed(&table)
    }
}

/// The table without the blanks at the ends of its lines.
fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

fn list(values: impl IntoIterator<Item = impl Display>) -> String {
    let values: Vec<String> = values.into_iter().map(|v| v.to_string()).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(",") }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// How long ago, in the one unit that tells enough.
fn age(now: UnixSeconds, then: UnixSeconds) -> String {
    let seconds = now.saturating_sub(then);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
