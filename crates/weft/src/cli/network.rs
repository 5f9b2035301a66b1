//! `weft network …`

use super::{InspectFlags, ListFlags, ip, key_value, named_ip};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use ipnet::IpNet;
use std::net::IpAddr;
use weft_model::{Mtu, NetworkName, Subnet, Vni};

/// `weft network …`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// List the networks
    #[command(alias = "list")]
    Ls(ListFlags),
    /// Make a network, on every host at once, and print its id
    Create(Box<CreateFlags>),
    /// Show networks in full
    Inspect(InspectFlags),
    /// Remove networks that have no endpoints
    #[command(alias = "remove")]
    Rm {
        /// The networks: names, ids, or the beginnings of ids
        #[arg(required = true, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
        references: Vec<String>,
    },
}

/// `weft network create`
#[derive(Args, Debug)]
pub struct CreateFlags {
    /// The name, unique in the cluster
    pub name: NetworkName,
    /// A subnet, as in `10.9.0.0/24` or `fd00:9::/64`; may be given several times [default: a free /24 chosen by weft]
    #[arg(long, value_parser = Subnet::parse_net, value_delimiter = ',')]
    pub subnet: Vec<IpNet>,
    /// The gateway of the subnet that holds it [default: the subnet's first address]
    #[arg(long, value_parser = ip, value_delimiter = ',', value_name = "IP")]
    pub gateway: Vec<IpAddr>,
    /// Choose addresses only from this part of the subnet that holds it
    #[arg(long, value_parser = Subnet::parse_net, value_delimiter = ',', value_name = "SUBNET")]
    pub ip_range: Vec<IpNet>,
    /// An address never to be given to an endpoint
    #[arg(long, value_parser = named_ip, value_delimiter = ',', value_name = "NAME=IP")]
    pub aux_address: Vec<(String, IpAddr)>,
    /// Add an IPv6 subnet, a random private /64 unless --subnet gives one
    #[arg(long)]
    pub ipv6: bool,
    /// Make a network without a way out
    #[arg(long)]
    pub internal: bool,
    /// A label
    #[arg(long, value_parser = key_value, value_name = "KEY=VALUE")]
    pub label: Vec<(String, String)>,
    /// A driver option; com.docker.network.driver.mtu and weft.vni mean the same as --mtu and --vni;
    /// weft.direct=true leaves the outer headers out between hosts on one link;
    /// weft.multicast-rate is how many broadcast and multicast frames a second an endpoint may send to other hosts
    /// [default: 10000; 0: no limit]
    #[arg(short = 'o', long = "opt", value_parser = key_value, value_name = "KEY=VALUE")]
    pub options: Vec<(String, String)>,
    /// The MTU inside [default: what the path between the hosts carries, less the tunnel's headers]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<Mtu>,
    /// The VXLAN identifier [default: a free one of the cluster's range]
    #[arg(long, value_name = "VNI")]
    pub vni: Option<Vni>,
}
