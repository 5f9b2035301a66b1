//! What can be typed: commands and flags, close to `docker network` and `ip`. A file for each group of commands.

mod attach;
mod import;
mod lab;
mod network;

pub use attach::{AttachFlags, DetachFlags, ExposeFlags, RunFlags, RunInsideFlags};
pub use import::{ImportCommand, ImportFlags};
pub use lab::{LabCommand, StoreKind};
pub use network::{CreateFlags, NetworkCommand};

use crate::{
    commands::StoreCommand,
    config::{DaemonFlags, HostFlags, LAYERS_HELP},
    exit::EXIT_CODES,
};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use std::{net::IpAddr, path::PathBuf};

/// One private network for containers across hosts.
#[derive(Debug, Parser)]
#[command(name = "weft", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// The socket of the daemon to talk to: weft.sock in its --run-dir [default: /run/weft/weft.sock]
    #[arg(
        long,
        global = true,
        env = "WEFT_SOCKET",
        hide_env_values = true,
        value_name = "PATH",
        help_heading = "Global"
    )]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this host's daemon
    #[command(after_help = LAYERS_HELP)]
    Daemon(Box<DaemonFlags>),
    /// Networks: list, make, look at, remove
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Endpoints: the interfaces of containers on networks
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Nodes: the hosts of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Addresses: who has one, and why it is or is not free
    #[command(subcommand)]
    Address(AddressCommand),
    /// The store: check, back up, restore, and move the cluster to another one
    #[command(subcommand)]
    Store(StoreCommand),
    /// Remove records that nobody needs any more, each with its owner and the reason
    Gc(GcFlags),
    /// Put a network namespace or a virtual machine of this host on a network
    Attach(AttachFlags),
    /// Take a network namespace or a virtual machine off a network
    Detach(DetachFlags),
    /// Put this host itself on a network: an interface with an address, and the route to its subnet
    Expose(ExposeFlags),
    /// Take this host itself off a network
    Unexpose {
        /// The network: its name, id, or the beginning of its id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: String,
    },
    /// Run a command in a network namespace of its own, on networks; ends as the command does
    Run(RunFlags),
    /// Networks that something else has defined: propose the same ones, or make them
    #[command(subcommand)]
    Import(ImportCommand),
    /// See `weft run`
    #[command(hide = true)]
    RunInside(RunInsideFlags),
    /// How this host's daemon, its store, kernel and engines are
    Status {
        /// How to print it
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        format: Format,
    },
    /// A cluster on this machine, in network namespaces, to try things in
    #[command(subcommand)]
    Lab(LabCommand),
    /// Take this host out of the cluster and leave nothing of weft in its kernel
    Down(DownFlags),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// The flags of every listing.
#[derive(Args, Clone, Copy, Debug)]
pub struct ListFlags {
    /// How to print the list
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Print the ids only, in full
    #[arg(short, long, conflicts_with = "format")]
    pub quiet: bool,
}

/// The flags of every inspect.
#[derive(Args, Debug)]
pub struct InspectFlags {
    /// What to look at: names, ids, or the beginnings of ids
    #[arg(required = true, value_name = "REFERENCE", value_parser = NonEmptyStringValueParser::new())]
    pub references: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Json, value_name = "FORMAT")]
    pub format: Format,
}

/// `weft endpoint …`
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// List the endpoints: who is where
    #[command(alias = "list")]
    Ls {
        /// Only those on this network
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
        /// Show what the endpoints of this node have sent and received instead
        #[arg(long, conflicts_with = "quiet")]
        stats: bool,
        /// How.
        #[command(flatten)]
        list: ListFlags,
    },
    /// Show endpoints in full
    Inspect(InspectFlags),
}

/// `weft node …`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes; the one that answers is marked with *
    #[command(alias = "list")]
    Ls {
        /// Show what this node has sent to the others and received from them instead
        #[arg(long, conflicts_with = "quiet")]
        stats: bool,
        /// How.
        #[command(flatten)]
        list: ListFlags,
    },
}

/// `weft address …`
#[derive(Debug, Subcommand)]
pub enum AddressCommand {
    /// Tell who has an address, since when, and why it is or is not free
    Explain {
        /// The address
        #[arg(value_parser = ip)]
        ip: IpAddr,
        /// How to print it
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        format: Format,
    },
}

/// `weft gc`
#[derive(Args, Debug)]
pub struct GcFlags {
    /// Only list what there is, and whether it is safe to remove
    #[arg(long, conflicts_with = "dead_node")]
    pub dry_run: bool,
    /// A node whose lease has ended and that is off for good: remove all its records too, its addresses become free. If it lives
    /// on, cut off, two containers may have one address until it is back
    #[arg(long, value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
    pub dead_node: Vec<String>,
    /// How to print the list
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// `weft down`
#[derive(Args, Debug)]
pub struct DownFlags {
    /// Remove also the state directory: the node's id, the join token, and the embedded store if this host has it
    #[arg(long)]
    pub purge: bool,
    /// Where this host's daemon keeps its things.
    #[command(flatten)]
    pub host: HostFlags,
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

fn named_ip(text: &str) -> Result<(String, IpAddr), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() => Ok((name.to_owned(), ip(address)?)),
        _ => Err(format!("{text:?} is not NAME=IP")),
    }
}

/// `KEY=VALUE`; a lone `KEY` has an empty value, as with docker.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err(format!("{text:?} is not KEY=VALUE")),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_promised_is_in_the_help_of_its_command() {
        for (path, words) in [
            (
                "",
                "daemon network endpoint node address store gc attach detach expose unexpose run import status lab down completions version --socket Exit codes: 6  unreachable",
            ),
            ("network", "ls create inspect rm"),
            ("network ls", "--format --quiet"),
            (
                "network create",
                "--subnet --gateway --ip-range --aux-address --ipv6 --internal --label -o --mtu --vni",
            ),
            ("network inspect", "--format"),
            ("endpoint", "ls inspect"),
            ("endpoint ls", "--network --stats --format"),
            ("endpoint inspect", "--format"),
            ("address explain", "IP --format"),
            ("gc", "--dry-run --dead-node --format"),
            ("store", "check backup restore copy"),
            ("store check", "--opt --join-token-file --state-dir --format"),
            ("store backup", "--store --opt --join-token-file --state-dir"),
            ("store restore", "--to --force --opt --join-token-file --state-dir"),
            ("store copy", "FROM TO --from-opt --to-opt --join-token-file --to-join-token-file --give-up"),
            ("node ls", "--stats --format"),
            ("attach", "--netns --tap --tap-user --ip --mac --interface --name --alias --format"),
            ("detach", "--netns --tap"),
            ("expose", "--name --alias --ip --interface --format"),
            ("unexpose", "NETWORK"),
            ("import", "docker-classic swarm flannel"),
            ("import docker-classic", "--etcd --opt --apply --unencrypted"),
            ("import swarm", "FILE --apply --unencrypted"),
            ("import flannel", "FILE --etcd --opt --name --apply --unencrypted"),
            ("run", "--net --name --alias --ip COMMAND"),
            ("status", "--format"),
            ("lab", "up down exec ls"),
            ("lab up", "--hosts --name --containers"),
            ("lab ls", "--format"),
            ("down", "--purge --overlay-netns --state-dir --run-dir --config"),
            ("completions", "bash zsh fish"),
            (
                "daemon",
                "--cluster-store --cluster-store-opt kv.cacertfile --cluster-advertise --join-token --join-token-file --node-name --state-dir \
                 --run-dir --overlay-netns --datapath --vxlan-port --gateway-subnet --vni-range --dns-domain --no-dns --reconcile-interval --lease-ttl \
                 --docker-socket --docker-plugin-socket --no-docker --store-timeout --log --config WEFT_ \
                 /etc/weft/weft.toml",
            ),
        ] {
            let mut command = Cli::command();
            command.build();
            let mut found = &mut command;
            for name in path.split_whitespace() {
                found = found.find_subcommand_mut(name).unwrap();
            }
            let help = found.render_long_help().to_string();
            for word in words.split_whitespace() {
                assert!(help.contains(word), "weft {path} --help should mention {word}:\n{help}");
            }
        }
    }

    #[test]
    fn a_network_is_made_the_way_docker_makes_one() {
        let line = "weft network create --subnet 10.9.0.0/24,fd00:9::/64 --gateway 10.9.0.254 --aux-address r=10.9.0.7 \
                    --label a=b=c --label lone -o weft.vni=5000 --opt x=y --ipv6 --internal net";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Network(NetworkCommand::Create(flags)) = cli.command else {
            panic!("{:?}", cli.command)
        };
        assert_eq!(flags.name.as_str(), "net");
        assert_eq!(flags.subnet.len(), 2);
        assert_eq!(flags.aux_address, [("r".to_owned(), "10.9.0.7".parse().unwrap())]);
        assert_eq!(flags.label, [("a".to_owned(), "b=c".to_owned()), ("lone".to_owned(), String::new())]);
        assert_eq!(flags.options[1], ("x".to_owned(), "y".to_owned()));
        assert!(flags.ipv6 && flags.internal);
    }

    #[test]
    fn what_follows_the_target_belongs_to_the_command_in_the_lab() {
        let cli = Cli::try_parse_from("weft lab exec h1/c1 -- ping -c 1 10.0.0.3".split(' ')).unwrap();
        let Command::Lab(LabCommand::Exec { target, command, name }) = cli.command else {
            panic!("{:?}", cli.command)
        };
        assert_eq!((target.as_str(), name.as_str()), ("h1/c1", "lab"));
        assert_eq!(command, ["ping", "-c", "1", "10.0.0.3"]);
    }

    #[test]
    fn one_thing_at_a_time_is_attached_and_a_namespace_has_no_tap_user() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("weft attach net --netns blue").is_ok());
        assert!(parse("weft attach net --tap tap0 --tap-user libvirt-qemu").is_ok());
        for line in ["weft attach net", "weft attach net --netns blue --tap tap0", "weft detach net"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("weft attach net --netns blue --tap-user libvirt-qemu").is_err());
        assert!(parse("weft attach net --tap tap0 --interface eth0").is_err());
    }

    #[test]
    fn what_follows_the_networks_belongs_to_the_command_that_is_run() {
        let line = "weft run --net a --net b --ip 10.9.0.7 --name web -- httpd -f --name x";
        let Command::Run(flags) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!() };
        assert_eq!(flags.networks, ["a", "b"]);
        assert_eq!(flags.name.as_deref(), Some("web"));
        assert_eq!(flags.command, ["httpd", "-f", "--name", "x"]);
        assert!(Cli::try_parse_from(["weft", "run", "--net", "a"]).is_err());
    }

    #[test]
    fn the_socket_may_be_named_before_or_after_the_command() {
        for line in ["weft --socket /s status", "weft status --socket /s"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.socket, Some("/s".into()), "{line}");
        }
    }
}
