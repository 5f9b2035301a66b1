//! Changes of the store made of bytes: few nodes, networks and endpoints, so that records meet, contradict each other and
//! come and go; values as odd as the records' types allow, and ids in a record that its key does not have.

use crate::promises;
use std::{collections::BTreeMap, net::IpAddr};
use weft_model::{
    AddressClaim, AddressDriver, Binding, Change, ClaimKind, Container, Endpoint, HostRoute, MacAddr, Mtu,
    Network, Node, Outside, Pool, PortProtocol, PublishedPort, Sandbox, Subnet, Tap, Vni, encode, schema,
};

const NETS: [&str; 12] = [
    "10.9.0.0/24",
    "10.9.0.5/24",
    "10.0.0.0/8",
    "10.9.0.0/30",
    "10.9.0.1/31",
    "10.9.0.1/32",
    "0.0.0.0/0",
    "255.255.255.0/24",
    "fd00:9::/64",
    "::/0",
    "fd00:9::1/128",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124",
];
const ADDRESSES: [&str; 12] = [
    "10.9.0.1",
    "10.9.0.2",
    "10.9.0.3",
    "10.9.0.254",
    "10.9.0.255",
    "0.0.0.0",
    "255.255.255.255",
    "192.0.2.1",
    "fd00:9::1",
    "fd00:9::2",
    "::",
    "ff02::1",
];

/// What is left of the input: every choice takes a byte of it, and zero when there is none.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    fn yes(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| value(self))
    }

    fn some<T>(&mut self, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.byte() % 3).map(|_| value(self)).collect()
    }

    /// One of three ids: `aaaaaaaaaaaa`, which is this node's, `bbbbbbbbbbbb`, `cccccccccccc`.
    fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self) -> T {
        self.of(&["a", "b", "c"]).repeat(12).parse().expect("an id")
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self, all: &[&str]) -> T {
        self.of(all).parse().expect("one of a list")
    }

    fn number(&mut self) -> u64 {
        self.of(&[0, 1, 2, u64::MAX])
    }

    fn ip(&mut self) -> IpAddr {
        self.parsed(&ADDRESSES)
    }

    fn vni(&mut self) -> Vni {
        Vni::new(self.of(&[1, 4096, Vni::MAX])).expect("a VNI")
    }

    fn mtu(&mut self) -> Mtu {
        Mtu::new(self.of(&[68, 117, 1280, 1500, 65535])).expect("an MTU")
    }

    fn text(&mut self) -> String {
        self.of(&["", "a", "docker", "netns", "/run/netns/x", "\u{1}\n"]).to_owned()
    }

    fn subnet(&mut self) -> Subnet {
        Subnet {
            net: self.parsed(&NETS),
            gateway: self.maybe(Self::ip),
            range: self.maybe(|c| c.parsed(&NETS)),
            reserved: self.some(|c| (c.text(), c.ip())).into_iter().collect(),
        }
    }

    fn node(&mut self) -> Node {
        Node {
            id: self.id(),
            name: self.text(),
            vteps: self.some(Self::ip),
            vxlan_port: self.of(&[0, 4789, 65535]),
            underlay_mtu: self.mtu(),
            advertise: None,
            version: self.text(),
            epoch: self.number(),
            started: self.number(),
            routes: self.some(|c| HostRoute { destination: c.parsed(&NETS), device: c.text() }),
            direct: None,
        }
    }

    fn network(&mut self) -> Network {
        Network {
            id: self.id(),
            name: self.maybe(|c| c.parsed(&["blue", "red"])),
            vni: self.vni(),
            subnets: self.some(Self::subnet),
            mtu: self.maybe(Self::mtu),
            internal: self.yes(),
            direct: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            address_driver: self.maybe(Self::id).map_or(AddressDriver::Weft, AddressDriver::Engine),
            created_by: self.id(),
            created: self.number(),
        }
    }

    fn outside(&mut self) -> Outside {
        let ports = self.maybe(|c| PublishedPort {
            protocol: PortProtocol::Tcp,
            host_ip: c.maybe(|c| c.parsed(&["0.0.0.0", "192.0.2.1", "::1"])),
            host_port: c.of(&[0, 1, 8080, 65535]),
            container_port: c.of(&[0, 1, 8080, 65535]),
            count: c.of(&[0, 1, 3, 65535]),
        });
        Outside {
            id: self.id(),
            interface: self.text(),
            ipv4: self.parsed(&["172.16.0.2/20", "172.16.0.3/20", "0.0.0.0/0", "255.255.255.255/32"]),
            ipv6: self.maybe(|c| c.parsed(&["fd12::2/64", "::/0", "::1/128"])),
            ports: ports.into_iter().collect(),
        }
    }

    fn endpoint(&mut self) -> Endpoint {
        Endpoint {
            id: self.id(),
            network: self.id(),
            node: self.id(),
            engine: self.text(),
            container: self.maybe(|c| Container::new(c.text(), c.text())),
            sandbox: self.maybe(|c| Sandbox {
                path: c.text(),
                interface: c.text(),
                configured_by_engine: c.yes(),
                inode: c.maybe(|_| 7),
                tap: c.maybe(|_| Tap::default()),
            }),
            outside: self.maybe(Self::outside),
            mac: MacAddr(self.of(&[
                [0; 6],
                [0xff; 6],
                [2, 0, 0, 0, 0, 1],
                [2, 0, 0, 0, 0, 2],
                [1, 0, 0, 0, 0, 0],
            ])),
            ipv4: self.maybe(|c| c.parsed(&["10.9.0.2/24", "10.9.0.3/24", "10.9.0.255/32", "0.0.0.0/0"])),
            ipv6: self.maybe(|c| c.parsed(&["fd00:9::2/64", "fd00:9::3/64", "::/0", "fe80::1/128"])),
            epoch: self.number(),
            created: self.number(),
        }
    }

    fn claim(&mut self) -> AddressClaim {
        AddressClaim {
            kind: self.of(&[ClaimKind::Ipam, ClaimKind::Endpoint, ClaimKind::Reserved]),
            node: self.id(),
            endpoint: self.maybe(Self::id),
            since: self.number(),
        }
    }

    /// A key and what a record there may be.
    fn record(&mut self) -> (String, Vec<u8>) {
        match self.byte() % 12 {
            0 | 1 => (schema::node_key(&self.id()), encode(&self.node())),
            2 | 3 => (schema::network_key(&self.id()), encode(&self.network())),
            4..7 => (schema::endpoint_key(&self.id(), &self.id()), encode(&self.endpoint())),
            7 => (schema::address_key(&self.id(), self.ip()), encode(&self.claim())),
            8 => (schema::alive_key(&self.id()), encode(&self.number())),
            9 => (schema::binding_key(&self.id(), &self.text()), {
                encode(&Binding { network: self.id(), mirrored: self.yes() })
            }),
            10 => {
                let (subnet, node) = (self.subnet(), self.id());
                let pool = Pool { subnet, node, network: self.maybe(Self::id), since: self.number() };
                (schema::pool_key(&self.text()), encode(&pool))
            }
            _ => match self.byte() % 4 {
                0 => (schema::vni_key(self.vni()), encode(&self.id::<weft_model::NetworkId>())),
                1 => (schema::wanted_key(&self.id(), self.ip()), encode(&self.id::<weft_model::NodeId>())),
                2 => {
                    let memberships =
                        schema::Memberships { groups: self.maybe(Self::ip).into_iter().collect() };
                    (schema::groups_key(&self.id(), &self.id()), encode(&memberships))
                }
                _ => (
                    schema::name_key(&self.parsed(&["blue", "red"])),
                    encode(&self.id::<weft_model::NetworkId>()),
                ),
            },
        }
    }
}

pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mut store = BTreeMap::new();
    let mut changes = Vec::new();
    while !choices.0.is_empty() && changes.len() < 64 {
        let (key, value) = choices.record();
        // One in four goes again, one in sixteen is spoilt.
        let value = match choices.byte() % 16 {
            0..4 => None,
            4 => Some(b"{".to_vec()),
            _ => Some(value),
        };
        match &value {
            Some(value) => drop(store.insert(key.clone(), value.clone())),
            None => drop(store.remove(&key)),
        }
        changes.push(Change { key, value });
    }
    promises::hold_after(&changes, store);
}
