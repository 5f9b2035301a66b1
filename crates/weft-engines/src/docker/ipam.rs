//! Docker's IPAM protocol: subnets and addresses, all of them claimed in the cluster's store.
//!
//! A pool's id is either the id of a pool record, for a subnet whose network is to be made on this engine
//! (`docker network create --ipam-driver weft`), or, for a copy of a network, `NETWORK/SUBNET`: then there is
//! nothing to record, the network's own record says all.

use super::{
    cluster::Cluster,
    network::address_of,
    plugin::{COPY_OF, CallError, Plugin},
    wire::{Address, AddressCall, GivenPool, ReleasePool, RequestPool},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};
use weft_model::{Network, NetworkId, Pool, Subnet};

/// The option that tells what an address is for, and its value for a gateway's.
const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

/// What a pool's id stands for.
enum Meaning {
    /// A subnet of a network that exists.
    Network(Box<Network>, Subnet),
    /// A subnet whose network is yet to be made.
    Reserved,
}

impl<C: Cluster> Plugin<C> {
    /// A subnet for a network to be made.
    pub async fn request_pool(&self, call: RequestPool) -> Result<GivenPool, CallError> {
        let asked = if call.pool.is_empty() { None } else { Some(Subnet::parse_net(&call.pool)?) };
        if let Some(id) = call.options.get(COPY_OF) {
            return self.pool_of_copy(id, asked, call.v6);
        }
        let range = match call.sub_pool.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| CallError::BadRange(text.to_owned()))?),
        };
        let (pool_id, pool) = self.cluster.create_pool(asked, range, call.v6).await?;
        Ok(GivenPool { id: pool_id, subnet: pool.subnet.net.to_string(), data: BTreeMap::new() })
    }

    fn pool_of_copy(&self, id: &str, asked: Option<IpNet>, v6: bool) -> Result<GivenPool, CallError> {
        let missing = || CallError::NothingToCopy(id.to_owned());
        let network_id: NetworkId = id.parse().map_err(|_| missing())?;
        let network = self.cluster.read(|s| s.networks.get(&network_id).cloned()).ok_or_else(missing)?;
        let fits = |net: IpNet| asked.map_or(net.addr().is_ipv6() == v6, |asked| asked == net);
        let subnet = network.subnets.iter().find(|s| fits(s.net)).ok_or_else(|| {
            let network = network.display_name().into_owned();
            match asked {
                Some(net) => CallError::OtherSubnet { network, subnet: net.to_string() },
                None => CallError::NoSubnet { network, family: if v6 { "IPv6" } else { "IPv4" } },
            }
        })?;
        let subnet = subnet.net.to_string();
        Ok(GivenPool { id: format!("{network_id}/{subnet}"), subnet, data: BTreeMap::new() })
    }

    /// The network that a subnet was for is gone, or was not made.
    pub async fn release_pool(&self, call: ReleasePool) -> Result<(), CallError> {
        if !call.pool_id.contains('/') {
            self.cluster.release_pool(&call.pool_id).await?;
        }
        Ok(())
    }

    /// An address for a gateway, to be kept free, or for an endpoint.
    pub async fn request_address(&self, call: AddressCall) -> Result<Address, CallError> {
        let wanted = match call.address.as_str() {
            "" => None,
            text => Some(address_of(text).ok_or_else(|| CallError::BadAddress(text.to_owned()))?),
        };
        let gateway = call.options.get(ADDRESS_TYPE).is_some_and(|kind| kind == GATEWAY);
        let meaning =
            self.meaning(&call.pool_id).ok_or_else(|| CallError::UnknownPool(call.pool_id.clone()))?;
        let address = match meaning {
            Meaning::Reserved => self.cluster.reserve_in_pool(&call.pool_id, wanted, gateway).await?,
            Meaning::Network(network, subnet) => match self.withheld(&network, &subnet, wanted, gateway) {
                Some(ip) => with_prefix(ip, subnet.net),
                None => self.cluster.claim_address(&network.id, subnet.net, wanted).await?,
            },
        };
        Ok(Address { address: address.to_string(), data: BTreeMap::new() })
    }

    /// The address, if it is one that no endpoint gets and that Docker asks for while it makes a copy: there is
    /// nothing to claim then.
    fn withheld(
        &self,
        network: &Network,
        subnet: &Subnet,
        wanted: Option<IpAddr>,
        gateway: bool,
    ) -> Option<IpAddr> {
        if gateway {
            // Docker insists on a gateway for every subnet; of one that has none it gets the subnet's own
            // address, which is nobody's.
            return Some(wanted.or(subnet.gateway).unwrap_or_else(|| subnet.net.network()));
        }
        let ip = wanted.filter(|ip| subnet.withheld(*ip).is_some())?;
        // Once this engine has its copy, it is a container that asks for a reserved address.
        let node = self.cluster.node();
        let has_copy = self.cluster.read(|s| {
            s.bindings.get(node).is_some_and(|bindings| bindings.values().any(|b| b.network == network.id))
        });
        (!has_copy).then_some(ip)
    }

    /// An address that is not needed any more.
    pub async fn release_address(&self, call: AddressCall) -> Result<(), CallError> {
        let Some(ip) = address_of(&call.address) else { return Ok(()) };
        if let Some(Meaning::Network(network, _)) = self.meaning(&call.pool_id) {
            self.cluster.release_address(&network.id, ip).await?;
        }
        Ok(())
    }

    fn meaning(&self, pool: &str) -> Option<Meaning> {
        let (network, net) = match pool.split_once('/') {
            Some((network, net)) => (network.parse().ok()?, net.parse().ok()?),
            None => match self.cluster.pool(pool)? {
                Pool { network: None, .. } => return Some(Meaning::Reserved),
                Pool { network: Some(network), subnet, .. } => (network, subnet.net),
            },
        };
        let network: Network = self.cluster.read(|s| s.networks.get(&network).cloned())?;
        let subnet = network.subnets.iter().find(|s| s.net == net)?.clone();
        Some(Meaning::Network(Box::new(network), subnet))
    }
}

/// The address with its subnet's prefix length, as Docker wants it.
fn with_prefix(ip: IpAddr, subnet: IpNet) -> IpNet {
    // They are of one family: then the length fits.
    IpNet::new(ip, subnet.prefix_len()).unwrap_or(subnet)
}
