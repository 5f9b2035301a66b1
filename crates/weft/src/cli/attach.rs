//! What is put on a network without an engine: `weft attach`, `weft detach`.

use super::{Format, ip};
use clap::{Args, builder::NonEmptyStringValueParser};
use std::{net::IpAddr, path::PathBuf};
use weft_model::MacAddr;

/// `weft attach`
#[derive(Args, Debug)]
pub struct AttachFlags {
    /// The network: its name, id, or the beginning of its id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The network namespace: a path, or a name that `ip netns` knows (/run/netns/NAME)
    #[arg(long, value_name = "PATH")]
    pub netns: PathBuf,
    /// The address; once for IPv4, once for IPv6 [default: free ones]
    #[arg(long, value_parser = ip)]
    pub ip: Vec<IpAddr>,
    /// The MAC address [default: made from the address]
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// The name of the interface [default: the first free ethN]
    #[arg(long)]
    pub interface: Option<String>,
    /// What to call it in listings [default: the last part of the namespace's path]
    #[arg(long)]
    pub name: Option<String>,
    /// How to print the endpoint
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// `weft detach`
#[derive(Args, Debug)]
pub struct DetachFlags {
    /// The network: its name, id, or the beginning of its id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The network namespace: a path, or a name that `ip netns` knows (/run/netns/NAME)
    #[arg(long, value_name = "PATH")]
    pub netns: PathBuf,
}
