//! What is put on a network without an engine: `weft attach`, `detach`, `expose`, `unexpose`, `run`.

use super::{Format, ip};
use clap::{ArgGroup, Args, builder::NonEmptyStringValueParser};
use std::{ffi::OsString, net::IpAddr, path::PathBuf};
use weft_model::MacAddr;

/// `weft attach`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true).args(["netns", "tap"])))]
pub struct AttachFlags {
    /// The network: its name, id, or the beginning of its id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The network namespace: a path, or a name that `ip netns` knows (/run/netns/NAME)
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// A tap device of this host, for a virtual machine; it is made if it is not there. The machine's own interface gets the
    /// address and the MAC address that are printed
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub tap: Option<String>,
    /// The user that may open the tap device if weft makes it: a name or a number [default: root alone]
    #[arg(long, value_name = "USER", conflicts_with = "netns")]
    pub tap_user: Option<String>,
    /// The address; once for IPv4, once for IPv6 [default: free ones]
    #[arg(long, value_parser = ip)]
    pub ip: Vec<IpAddr>,
    /// The MAC address [default: made from the address]
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// The name of the interface [default: the first free ethN]
    #[arg(long, conflicts_with = "tap")]
    pub interface: Option<String>,
    /// What to call it in listings [default: the last part of the namespace's path, or the tap device's name]
    #[arg(long)]
    pub name: Option<String>,
    /// What else it is called on this network; may be given several times
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub alias: Vec<String>,
    /// How to print the endpoint
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// `weft detach`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true).args(["netns", "tap"])))]
pub struct DetachFlags {
    /// The network: its name, id, or the beginning of its id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The network namespace: a path, or a name that `ip netns` knows (/run/netns/NAME)
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// The tap device; it is removed if weft made it
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub tap: Option<String>,
}

/// `weft expose`
#[derive(Args, Debug)]
pub struct ExposeFlags {
    /// The network: its name, id, or the beginning of its id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// What this host is called on the network [default: its node's name]
    #[arg(long)]
    pub name: Option<String>,
    /// What else it is called there; may be given several times
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub alias: Vec<String>,
    /// The address; once for IPv4, once for IPv6 [default: free ones]
    #[arg(long, value_parser = ip)]
    pub ip: Vec<IpAddr>,
    /// The name of the interface [default: the first free weftN]
    #[arg(long)]
    pub interface: Option<String>,
    /// How to print the endpoint
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// `weft run`
#[derive(Args, Debug)]
pub struct RunFlags {
    /// A network to be on: its name, id, or the beginning of its id; several make eth0, eth1, …
    #[arg(long = "net", required = true, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub networks: Vec<String>,
    /// What to call it on the networks [default: the command's name]
    #[arg(long)]
    pub name: Option<String>,
    /// What else it is called there; may be given several times
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub alias: Vec<String>,
    /// An address, on the network whose subnet holds it; may be given several times [default: free ones]
    #[arg(long, value_parser = ip)]
    pub ip: Vec<IpAddr>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The part of `weft run` that becomes the command: not for people.
#[derive(Args, Debug)]
pub struct RunInsideFlags {
    /// The descriptor that tells when all is ready.
    pub ready: i32,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}
