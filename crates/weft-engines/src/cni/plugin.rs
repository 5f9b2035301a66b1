//! What each CNI command does, in the daemon's verbs (specification 1.1, "CNI operations").

use super::{
    config::Config,
    environment::{Call, Command},
    error::{BAD_CONFIGURATION, CniError, NOT_AVAILABLE, OF_THE_DAEMON, UNKNOWN_CONTAINER},
    result::Answer,
    version::{SUPPORTED, Version},
};
use crate::daemon::Daemon;
use serde_json::json;
use weft_agent::api::{
    AttachRequest, AttachingEngine, ClientError, DetachRequest, ErrorKind, NetworkSpec, OutsideRequest,
};
use weft_model::{Container, EndpointId, MulticastRate};

/// Does a call; what goes to standard output. `VERSION` is [`versions`].
pub async fn run(call: &Call, config: &Config, daemon: &impl Daemon) -> Result<Option<String>, CniError> {
    match call.command {
        Command::Add => add(call, config, daemon).await.map(Some),
        Command::Del => del(call, config, daemon).await.map(|()| None),
        Command::Check => check(call, config, daemon).await.map(|()| None),
        Command::Gc => collect(config, daemon).await.map(|()| None),
        Command::Status => status(daemon).await.map(|()| None),
        Command::Version => Ok(Some(versions(config.version.name()))),
    }
}

/// The answer to `VERSION`.
pub fn versions(asked_in: &str) -> String {
    let version = if asked_in.is_empty() { Version::NEWEST.name() } else { asked_in };
    json!({ "cniVersion": version, "supportedVersions": SUPPORTED }).to_string()
}

async fn add(call: &Call, config: &Config, daemon: &impl Daemon) -> Result<String, CniError> {
    ensure_network(config, daemon).await?;
    // Somebody before us leads the container out already.
    let outside = config.outside && !config.previous.as_ref().is_some_and(Answer::leads_out);
    let request = AttachRequest {
        network: config.network.clone(),
        netns: call.netns.clone(),
        addresses: match (&config.addresses[..], call.ip) {
            ([], Some(ip)) => vec![ip],
            (asked, _) => asked.to_vec(),
        },
        mac: config.mac.or(call.mac),
        interface: Some(call.interface.clone()),
        aliases: vec![],
        name: None,
        engine: AttachingEngine::Cni,
        container: Some(container(call, config)),
        outside: outside.then(|| OutsideRequest { ports: config.ports.clone() }),
    };
    let endpoint = daemon.attach(&request).await?;
    Ok(Answer::of(&endpoint, config).to_json(config.version))
}

fn container(call: &Call, config: &Config) -> Container {
    // As `weft endpoint ls` shows other engines' containers that have no name.
    let short = || call.container.chars().take(12).collect();
    Container {
        id: call.container.clone(),
        name: call.name.clone().unwrap_or_else(short),
        aliases: config.aliases.clone(),
    }
}

/// The network is made where there is none and the configuration has its subnets: on whichever host comes first.
async fn ensure_network(config: &Config, daemon: &impl Daemon) -> Result<(), CniError> {
    let missing = match daemon.network(&config.network).await {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        Err(error) => return Err(error.into()),
    };
    if config.subnets.is_empty() {
        let details =
            "make it with `weft network create`, or name its \"subnets\" in the configuration".to_owned();
        return Err(CniError { details, ..CniError::new(BAD_CONFIGURATION, missing.to_string()) });
    }
    let name = config.network.parse();
    let spec = NetworkSpec {
        name: Some(name.map_err(|e| CniError::new(BAD_CONFIGURATION, format!("network: {e}")))?),
        subnets: config.subnets.clone(),
        internal: config.internal,
        direct: config.direct,
        mtu: config.mtu,
        options: config
            .multicast_rate
            .map(|rate| (MulticastRate::OPTION.to_owned(), rate.to_string()))
            .into_iter()
            .collect(),
        ..NetworkSpec::default()
    };
    match daemon.create_network(&spec).await {
        // Another host, or another container of this one, was faster.
        Err(error) if error.kind() == ErrorKind::Conflict => {
            daemon.network(&config.network).await.map(drop).map_err(|_| error.into())
        }
        made => made.map(drop).map_err(Into::into),
    }
}

fn attachment(call: &Call, config: &Config) -> DetachRequest {
    DetachRequest {
        network: config.network.clone(),
        netns: call.netns.clone(),
        engine: AttachingEngine::Cni,
        container: Some(call.container.clone()),
        interface: Some(call.interface.clone()),
    }
}

/// What is gone already, with its network or without, is done.
async fn del(call: &Call, config: &Config, daemon: &impl Daemon) -> Result<(), CniError> {
    gone_is_done(daemon.detach(&attachment(call, config)).await)
}

fn gone_is_done(outcome: Result<(), ClientError>) -> Result<(), CniError> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

async fn check(call: &Call, config: &Config, daemon: &impl Daemon) -> Result<(), CniError> {
    let Some(previous) = &config.previous else {
        return Err(CniError::new(BAD_CONFIGURATION, "CHECK needs a prevResult to compare with"));
    };
    let endpoint = match daemon.check(&attachment(call, config)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(CniError::new(UNKNOWN_CONTAINER, error.to_string()));
        }
        found => found?,
    };
    if previous.has(&endpoint.addresses) {
        return Ok(());
    }
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let message =
        format!("{} has {}, which prevResult does not name", call.interface, addresses.join(" and "));
    Err(CniError::new(OF_THE_DAEMON + u32::from(ErrorKind::Conflict.exit_code()), message))
}

/// Removes this host's attachments of the network that are not among those that stay.
async fn collect(config: &Config, daemon: &impl Daemon) -> Result<(), CniError> {
    let network = match daemon.network(&config.network).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let this = daemon.status().await?.node.id;
    let ours = network.endpoints.iter().filter(|e| e.node == this && e.engine == AttachingEngine::Cni.name());
    let mut left: Vec<(&EndpointId, CniError)> = Vec::new();
    for endpoint in ours {
        let container = endpoint.container.as_ref().map(|container| container.id.clone());
        let stays = config
            .valid
            .iter()
            .any(|(c, i)| Some(c) == container.as_ref() && Some(i) == endpoint.interface.as_ref());
        if stays {
            continue;
        }
        let request = DetachRequest {
            network: config.network.clone(),
            netns: String::new(),
            engine: AttachingEngine::Cni,
            container,
            interface: endpoint.interface.clone(),
        };
        // One that cannot be removed does not keep the others.
        if let Err(error) = gone_is_done(daemon.detach(&request).await) {
            left.push((&endpoint.id, error));
        }
    }
    match left.into_iter().next() {
        Some((id, error)) => {
            Err(CniError { message: format!("endpoint {}: {}", id.short(), error.message), ..error })
        }
        None => Ok(()),
    }
}

/// A daemon that answers attaches containers, also while its store is away.
async fn status(daemon: &impl Daemon) -> Result<(), CniError> {
    match daemon.status().await {
        Ok(_) => Ok(()),
        Err(error) => Err(CniError { code: NOT_AVAILABLE, ..error.into() }),
    }
}
