//! How large a cluster is, who is where in it, and its records.
//!
//! A host takes part in a few networks, as hosts do: host `h` in `parts` of them from `h * parts` on, round and round. The
//! endpoints of a network are spread over its hosts. All identities follow from numbers, so that two processes can mean
//! the same cluster.

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use weft_model::{
    AddressClaim, ClaimKind, Endpoint, EndpointId, MacAddr, Mtu, Network, NetworkId, Node, NodeId, Subnet,
    Vni, encode, schema,
};
use weft_store::{Outcome, Store, StoreError, Txn};

/// Transactions under way at once while the records are written.
const WRITERS: usize = 32;
/// Endpoints in one transaction: two operations each, within every store's limits.
const CHUNK: usize = 24;
/// How often one is tried, at most.
const TRIES: u32 = 5;
/// The VNI of network 0. The lab's own networks are below.
const FIRST_VNI: u32 = 100_000;
/// The first address in a network's subnet that an endpoint has: below there is room for real ones.
const FIRST_ADDRESS: u32 = 16;

/// The size of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shape {
    /// Simulated hosts.
    pub hosts: usize,
    /// Endpoints, on all networks together.
    pub endpoints: usize,
    /// Networks.
    pub networks: usize,
    /// Networks that each host takes part in.
    pub parts: usize,
}

impl Shape {
    /// Fails where the numbers do not fit together.
    pub fn check(&self) -> Result<()> {
        let Self { hosts, endpoints, networks, parts } = *self;
        if hosts == 0 || networks == 0 || parts == 0 || parts > networks {
            bail!("a cluster has hosts, networks, and hosts in some of them");
        }
        if hosts * parts < networks {
            bail!("{networks} networks need more hosts than {hosts} in {parts} each");
        }
        if (networks > 1 && endpoints / networks > 40_000) || endpoints > 10_000_000 || hosts > 60_000 {
            bail!("too large: at most 40,000 endpoints on one network of several, and 60,000 hosts");
        }
        Ok(())
    }

    /// The numbers of the networks that host `host` takes part in.
    pub fn networks_of(&self, host: usize) -> impl Iterator<Item = usize> + use<> {
        let Self { networks, parts, .. } = *self;
        (0..parts).map(move |part| (host * parts + part) % networks)
    }

    /// The numbers of the hosts that take part in network `network`.
    pub fn hosts_of(&self, network: usize) -> Vec<usize> {
        (0..self.hosts).filter(|host| self.networks_of(*host).any(|n| n == network)).collect()
    }

    /// The id of a host.
    pub fn node_id(host: usize) -> Result<NodeId> {
        id(host)?.parse().context("a node id")
    }

    /// The record of a host.
    pub fn node(host: usize) -> Result<Node> {
        Ok(Node {
            id: Self::node_id(host)?,
            name: format!("sim{host}"),
            vteps: vec![IpAddr::V4(Ipv4Addr::from(0xc612_0000 + u32::try_from(host)? + 1))],
            vxlan_port: 4789,
            underlay_mtu: Mtu::new(1500)?,
            advertise: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: 1,
            started: 0,
            routes: vec![],
            direct: None,
        })
    }

    /// The record of a network.
    pub fn network(&self, network: usize) -> Result<Network> {
        // One network alone has room for as many endpoints as there may be.
        let length = if self.networks == 1 { 8 } else { 16 };
        let net: IpNet = format!("10.{}.0.0/{length}", network % 250).parse()?;
        Ok(Network {
            id: Self::network_id(network)?,
            name: Some(format!("net{network}").parse()?),
            vni: Vni::new(FIRST_VNI + u32::try_from(network)?)?,
            subnets: vec![Subnet::new(net)],
            mtu: None,
            internal: false,
            direct: false,
            labels: std::collections::BTreeMap::new(),
            options: std::collections::BTreeMap::new(),
            address_driver: weft_model::AddressDriver::Weft,
            created_by: Self::node_id(0)?,
            created: 0,
        })
    }

    /// The id of a network.
    pub fn network_id(network: usize) -> Result<NetworkId> {
        id(network)?.parse().context("a network id")
    }

    /// Endpoint number `number` of a network, on host `host`.
    pub fn endpoint(network: usize, number: usize, host: usize) -> Result<Endpoint> {
        let ip = Ipv4Addr::from(
            (10 << 24) + (u32::try_from(network % 250)? << 16) + u32::try_from(number)? + FIRST_ADDRESS,
        );
        // A port is named by the first ten digits: they tell all endpoints of a host apart.
        let id: EndpointId = format!("{number:05x}{network:05x}{:054x}", 0).parse()?;
        Ok(Endpoint {
            network: Self::network_id(network)?,
            node: Self::node_id(host)?,
            engine: "docker".to_owned(),
            container: Some(weft_model::Container::new(
                format!("{number:032x}{network:032x}"),
                format!("web-{network}-{number}"),
            )),
            sandbox: None,
            outside: None,
            mac: MacAddr::for_address(IpAddr::V4(ip)),
            ipv4: Some(ipnet::Ipv4Net::new(ip, 16)?),
            ipv6: None,
            epoch: 1,
            created: 0,
            id,
        })
    }

    /// All endpoints.
    pub fn all_endpoints(&self) -> Result<Vec<Endpoint>> {
        let hosts: Vec<_> = (0..self.networks).map(|network| self.hosts_of(network)).collect();
        let one = |number: usize| {
            let (network, of_network) = (number % self.networks, number / self.networks);
            let on = &hosts[network];
            let host = on.get(of_network % on.len().max(1)).context("a network without hosts")?;
            Self::endpoint(network, of_network, *host)
        };
        (0..self.endpoints).map(one).collect()
    }
}

/// The id of something that has a number. As those of real things do, two differ in their first digits: looking one up would
/// take longer than it takes anybody else.
fn id(number: usize) -> Result<String> {
    // An odd factor: no two numbers become one.
    let first = u32::try_from(number)?.wrapping_mul(0x9e37_79b1);
    Ok(format!("{first:08x}{:056x}", 0))
}

/// What an endpoint is in the store: its record, and the claims of its addresses.
pub(crate) fn records_of(endpoint: &Endpoint) -> Vec<(String, Vec<u8>)> {
    let claim = AddressClaim {
        kind: ClaimKind::Endpoint,
        node: endpoint.node.clone(),
        endpoint: Some(endpoint.id.clone()),
        since: 0,
    };
    let claims = endpoint.addresses().map(|ip| (schema::address_key(&endpoint.network, ip), encode(&claim)));
    claims.chain([(schema::key_of_endpoint(endpoint), encode(endpoint))]).collect()
}

/// Writes the networks and the endpoints of a cluster. Its hosts write themselves, unless `nodes` says that nobody will play
/// them.
pub async fn populate(store: &dyn Store, shape: &Shape, nodes: bool) -> Result<()> {
    shape.check()?;
    let mut records = Vec::new();
    for host in 0..if nodes { shape.hosts } else { 0 } {
        let node = Shape::node(host)?;
        records.push((schema::node_key(&node.id), encode(&node)));
    }
    for number in 0..shape.networks {
        let network = shape.network(number)?;
        records.extend(network.name.iter().map(|name| (schema::name_key(name), encode(&network.id))));
        records.push((schema::vni_key(network.vni), encode(&network.id)));
        records.push((schema::network_key(&network.id), encode(&network)));
    }
    write(store, &records).await?;
    let endpoints = shape.all_endpoints()?;
    let records: Vec<_> = endpoints.iter().flat_map(records_of).collect();
    write(store, &records).await
}

async fn write(store: &dyn Store, records: &[(String, Vec<u8>)]) -> Result<()> {
    let most = store.limits().operations.min(2 * CHUNK);
    let chunks = stream::iter(records.chunks(most)).map(|chunk| async move {
        let txn = chunk.iter().fold(Txn::new(), |txn, (key, value)| txn.put(key, value.clone()));
        commit(store, txn).await
    });
    chunks.buffer_unordered(WRITERS).try_collect::<Vec<()>>().await.map(drop)
}

/// Writes it. A machine that plays a thousand hosts may be late for its own connection: then there is another.
pub(crate) async fn commit(store: &dyn Store, txn: Txn) -> Result<()> {
    let mut tries = 1..TRIES;
    loop {
        match store.commit(txn.clone()).await {
            Ok(Outcome::Committed(_)) => return Ok(()),
            Ok(Outcome::Refused(_)) => bail!("a write without a condition was refused"),
            Err(StoreError::Unreachable { .. }) if tries.next().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_on_a_host_that_takes_part_in_its_network() {
        let shape = Shape { hosts: 7, endpoints: 60, networks: 6, parts: 2 };
        shape.check().unwrap();
        let endpoints = shape.all_endpoints().unwrap();
        assert_eq!(endpoints.len(), 60);
        for endpoint in endpoints {
            let on = |host: usize| Shape::node_id(host).unwrap() == endpoint.node;
            let host = (0..shape.hosts).find(|host| on(*host)).unwrap();
            let network = |n: usize| Shape::network_id(n).unwrap() == endpoint.network;
            assert!(shape.networks_of(host).any(network));
        }
    }

    #[test]
    fn numbers_that_do_not_fit_together_are_refused() {
        assert!(Shape { hosts: 1, endpoints: 1, networks: 10, parts: 1 }.check().is_err());
        assert!(Shape { hosts: 2, endpoints: 90_000, networks: 2, parts: 1 }.check().is_err());
        Shape { hosts: 1, endpoints: 100_000, networks: 1, parts: 1 }.check().unwrap();
    }
}
