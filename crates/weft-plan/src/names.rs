//! Which endpoint a name means.
//!
//! A container answers to its name, its aliases and its short id, on every network that it is on, whatever engine runs it and
//! wherever; others on the same networks can ask, and nobody else. The names come from the records that the data path comes
//! from, so that a name never means an endpoint which frames do not reach.

use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};
use weft_model::{Endpoint, EndpointId, Network, NetworkId, Snapshot};

/// How many digits of its id a container answers to, as Docker's do.
const SHORT_ID: usize = 12;

/// Who has which name, network by network. Names are kept in small letters (RFC 4343: case does not count).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<NetworkId, HashMap<Box<str>, Holders>>);

/// Who has one name, in the order of ids: one, almost always.
type Holders = SmallVec<[EndpointId; 1]>;

/// Whom a name or an address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Endpoints with these addresses, of both families, in the order of their ids.
    Addresses(Vec<IpAddr>),
    /// The endpoint of that name.
    Name(String),
    /// Nobody, and nobody but weft could know.
    Nobody,
    /// None of weft's business.
    Unknown,
}

impl Names {
    /// The names of all endpoints.
    pub fn of<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Self {
        let mut names = Self::default();
        endpoints.into_iter().for_each(|endpoint| names.insert(endpoint));
        names
    }

    /// Adds an endpoint's names.
    pub fn insert(&mut self, endpoint: &Endpoint) {
        let network = self.0.entry(endpoint.network.clone()).or_default();
        for name in names_of(endpoint) {
            let holders = network.entry(name.into()).or_default();
            if let Err(at) = holders.binary_search(&endpoint.id) {
                holders.insert(at, endpoint.id.clone());
            }
        }
        if network.is_empty() {
            self.0.remove(&endpoint.network);
        }
    }

    /// Removes an endpoint's names: it must be as it was inserted.
    pub fn remove(&mut self, endpoint: &Endpoint) {
        let Some(network) = self.0.get_mut(&endpoint.network) else { return };
        for name in names_of(endpoint) {
            if let Some(holders) = network.get_mut(name.as_str()) {
                if let Ok(at) = holders.binary_search(&endpoint.id) {
                    holders.remove(at);
                }
                if holders.is_empty() {
                    network.remove(name.as_str());
                }
            }
        }
        if network.is_empty() {
            self.0.remove(&endpoint.network);
        }
    }

    /// Replaces all names on a network by those of `endpoints`.
    pub fn replace<'a>(&mut self, network: &NetworkId, endpoints: impl IntoIterator<Item = &'a Endpoint>) {
        self.0.remove(network);
        endpoints.into_iter().for_each(|endpoint| self.insert(endpoint));
    }

    fn holders(&self, network: &NetworkId, name: &str) -> Option<&Holders> {
        self.0.get(network)?.get(name)
    }
}

/// What an endpoint answers to, in small letters.
fn names_of(endpoint: &Endpoint) -> BTreeSet<String> {
    let Some(container) = &endpoint.container else { return BTreeSet::new() };
    let short = container.id.get(..SHORT_ID).filter(|id| id.bytes().all(|b| b.is_ascii_hexdigit()));
    let names = std::iter::once(container.name.as_str()).chain(container.aliases.iter().map(String::as_str));
    names.chain(short).filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect()
}

/// Who asks, of what is known.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The records.
    pub snapshot: &'a Snapshot,
    /// Their names.
    pub names: &'a Names,
    /// The networks that the asker is on: the first that knows a name answers.
    pub networks: &'a [NetworkId],
    /// The domain that all of weft's names end with if written in full: `weft`.
    pub domain: &'a str,
}

impl Asker<'_> {
    /// Whom a name means: `web`, `web.blue` or `web.blue.weft` for the container web on network blue. Without the dot at its
    /// end, in any case.
    pub fn name(&self, name: &str) -> Meaning {
        let name = name.to_ascii_lowercase();
        if let Some(found) = self.short_name(&name) {
            return Meaning::Addresses(found);
        }
        let Some(rest) = without_suffix(&name, self.domain) else { return Meaning::Unknown };
        self.short_name(rest).map_or(Meaning::Nobody, Meaning::Addresses)
    }

    /// Whom an address means: the full name of the endpoint that has it. Of addresses outside the asker's networks weft
    /// knows nothing.
    pub fn address(&self, ip: IpAddr) -> Meaning {
        let inside = |network: &&Network| network.subnets.iter().any(|s| s.net.contains(&ip));
        let mut networks = self.networks().filter(inside).peekable();
        if networks.peek().is_none() {
            return Meaning::Unknown;
        }
        let named = networks.find_map(|network| {
            let endpoint = self.snapshot.endpoint_at(&network.id, ip);
            let endpoint = endpoint.filter(|e| !self.snapshot.absent.contains(&e.node))?;
            Some(format!("{}.{}.{}", endpoint.display_name(), network.display_name(), self.domain))
        });
        named.map_or(Meaning::Nobody, Meaning::Name)
    }

    fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.iter().filter_map(|id| self.snapshot.networks.get(id))
    }

    /// The addresses of `NAME` on any network, or of `NAME.NETWORK` on that one. Names may have dots themselves.
    fn short_name(&self, name: &str) -> Option<Vec<IpAddr>> {
        let plain = self.networks.iter().find_map(|network| self.on(network, name));
        plain.or_else(|| {
            self.networks().find_map(|network| {
                let of = network.display_name().to_ascii_lowercase();
                self.on(&network.id, without_suffix(name, &of)?)
            })
        })
    }

    /// The addresses of those who answer to a name on a network. Who is on a host that is alive goes before who is not, and who is
    /// on an absent one answers to nothing: what a host that has died has left is in the records until the operator says that it
    /// is dead.
    fn on(&self, network: &NetworkId, name: &str) -> Option<Vec<IpAddr>> {
        let holders = self.names.holders(network, name)?;
        let all = holders.iter().filter_map(|id| self.snapshot.endpoint(network, id));
        let all: Vec<_> = all.filter(|e| !self.snapshot.absent.contains(&e.node)).collect();
        let alive: Vec<_> =
            all.iter().copied().filter(|e| self.snapshot.alive.contains_key(&e.node)).collect();
        let these = if alive.is_empty() { all } else { alive };
        (!these.is_empty()).then(|| these.into_iter().flat_map(Endpoint::addresses).collect())
    }
}

/// `a.b` without `.b`.
fn without_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}
