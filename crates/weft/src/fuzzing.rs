//! What people write for weft, read as the command reads it, for `weft-fuzz` alone. Each function panics when what it
//! is about does not hold.

#![allow(clippy::missing_panics_doc)] // A panic is how a fuzzer is told.

use crate::{
    cli::{Cli, Command, NetworkCommand},
    commands,
    config::{DaemonConfig, DaemonFlags, HostConfig, HostFlags, Layers, Seconds, Switch, UdpPort},
    import,
};
use clap::Parser as _;
use weft_agent::api::NetworkSpec;
use weft_model::Subnet;

/// The daemon's settings in a file with this text, or what is wrong with it.
pub fn config_file(text: &str) -> Result<String, String> {
    let none = |_: &str| None;
    let layers = Layers::of_text(text, &none).map_err(|e| e.to_string())?;
    let host = HostConfig::resolve(&HostFlags::default(), &layers).map_err(|e| e.to_string())?;
    let config =
        DaemonConfig::resolve(&DaemonFlags::default(), &layers, "host").map_err(|e| e.to_string())?;
    assert_eq!(config.agent.state_dir, host.state_dir);
    assert_ne!(config.agent.vxlan_port, 0);
    assert!(!config.agent.lease_ttl.is_zero() && !config.agent.reconcile_interval.is_zero());
    Ok(format!("{config:?}"))
}

/// A command line without the program's name. The network that it is to make, if it is about one; what is asked of a
/// daemon is something that a daemon may do.
pub fn command_line(arguments: &[&str]) -> Result<Option<NetworkSpec>, String> {
    let cli = Cli::try_parse_from(std::iter::once(&"weft").chain(arguments)).map_err(|e| e.to_string())?;
    let Command::Network(NetworkCommand::Create(flags)) = cli.command else { return Ok(None) };
    let spec = commands::network::spec(*flags).map_err(|failure| failure.text())?;
    assert!(spec.subnets.is_empty() || Subnet::validate_all(&spec.subnets).is_ok(), "{spec:?}");
    Ok(Some(spec))
}

/// A definition of networks by something else: what is proposed, each as a command line and as the daemon is asked for it.
pub fn import(kind: &str, definition: &[u8]) -> Vec<(String, NetworkSpec)> {
    let wishes = import::Wishes { unencrypted: definition.len().is_multiple_of(2) };
    let read = match kind {
        "swarm" => import::swarm::read(definition, wishes),
        "flannel" => "net".parse().map_or_else(
            |_| Ok(import::Definition::default()),
            |name| import::flannel::read(definition, &name, wishes),
        ),
        "classic" => {
            let text = String::from_utf8_lossy(definition);
            let keys: Vec<_> = text.lines().filter_map(|line| line.split_once(' ')).collect();
            let keys: Vec<_> = keys.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            import::docker_classic::read(&keys, wishes)
        }
        _ => return Vec::new(),
    };
    let proposals = read.map(|definition| definition.proposals).unwrap_or_default();
    proposals.into_iter().map(|p| (import::command_line(&p.spec), p.spec)).collect()
}

/// A value of one of the settings that only the command has: seconds, a port, a switch. How many it could be.
pub fn value(text: &str) -> usize {
    let read = [
        text.parse::<Seconds>().is_ok_and(|s| s.0.as_secs() > 0),
        text.parse::<UdpPort>().is_ok_and(|p| p.0 > 0),
        text.parse::<Switch>().is_ok(),
    ];
    read.into_iter().filter(|is| *is).count()
}
