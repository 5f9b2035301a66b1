//! `weft import`: reads what something else has defined, and proposes or makes the same networks.

use super::Each;
use crate::{
    cli::{ImportCommand, ImportFlags},
    exit::Failure,
    import::{
        Definition, NoDefinition, Proposal, Wishes, command_line, docker_classic,
        fit::{Fit, fit},
        flannel, swarm,
    },
    output,
};
use std::{
    fs,
    io::{self, Read},
    path::Path,
    process::ExitCode,
    time::Duration,
};
use weft_agent::{
    AgentError,
    api::{Client, ClientError, ErrorKind},
};
use weft_model::{Network, VniRange};
use weft_store::{Etcd, Store, StoreError, StoreOptions, StoreUrl, list_v2};

/// How long an etcd may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the cluster has.
#[derive(Default)]
struct Cluster {
    networks: Vec<Network>,
    range: Option<VniRange>,
}

/// `weft import …`
pub async fn run(command: ImportCommand, client: &Client) -> Result<ExitCode, Failure> {
    let (definition, flags) = read(command).await?;
    let cluster = match cluster(client).await {
        Ok(cluster) => Some(cluster),
        // What would be made can be told without a daemon, too.
        Err(ClientError::NoDaemon { .. }) if !flags.apply => None,
        Err(error) => return Err(error.into()),
    };
    let known = cluster.is_some();
    let cluster = cluster.unwrap_or_default();
    let fitted = definition
        .proposals
        .iter()
        .map(|proposal| (proposal, fit(proposal.clone(), &cluster.networks, cluster.range)));
    let fitted: Vec<(&Proposal, Fit)> = fitted.collect();
    if flags.apply {
        return apply(&fitted, &definition, client).await;
    }
    if !known {
        output::print("# no daemon answers: whether names and VNIs are free is not known\n")?;
    }
    output::print(&script(&fitted, &definition))?;
    Ok(ExitCode::SUCCESS)
}

async fn read(command: ImportCommand) -> Result<(Definition, ImportFlags), Failure> {
    let wishes = |flags: ImportFlags| Wishes { unencrypted: flags.unencrypted };
    Ok(match command {
        ImportCommand::DockerClassic { etcd, options, flags } => {
            let (endpoints, path) = etcd_of(&etcd)?;
            let folder =
                if path.is_empty() { String::new() } else { format!("{path}/") } + docker_classic::FOLDER;
            let keys =
                list_v2(&endpoints, &folder, PATIENCE, &all(options)?).await.map_err(AgentError::from)?;
            (docker_classic::read(&keys, wishes(flags))?, flags)
        }
        ImportCommand::Swarm { file, flags } => (swarm::read(&contents(&file)?, wishes(flags))?, flags),
        ImportCommand::Flannel { file, etcd, options, name, flags } => {
            let bytes = match (file, etcd) {
                (Some(file), _) => contents(&file)?,
                (None, Some(etcd)) => flannels_key(&etcd, &all(options)?).await?,
                (None, None) => return Err(Failure::new(ErrorKind::Invalid, "FILE or --etcd is missing")),
            };
            (flannel::read(&bytes, &name, wishes(flags))?, flags)
        }
    })
}

/// The endpoints and the path of an etcd's URL; no path is none, and not weft's own.
fn etcd_of(text: &str) -> Result<(Vec<String>, String), Failure> {
    match text.parse::<StoreUrl>() {
        Ok(StoreUrl::Etcd { endpoints, .. }) => {
            let hosts = text.trim_start_matches("etcd://");
            let path = hosts.split_once('/').map_or("", |(_, path)| path);
            Ok((endpoints, path.trim_matches('/').to_owned()))
        }
        Ok(_) => Err(Failure::new(
            ErrorKind::Invalid,
            format!("--etcd {text}: expected etcd://HOST:PORT[,…][/PATH]"),
        )),
        Err(error) => Err(Failure::new(ErrorKind::Invalid, format!("--etcd: {error}"))),
    }
}

fn all(options: Vec<StoreOptions>) -> Result<StoreOptions, Failure> {
    let joined = options.into_iter().try_fold(StoreOptions::default(), StoreOptions::and);
    joined.map_err(|e| Failure::new(ErrorKind::Invalid, format!("--opt: {e}")))
}

async fn flannels_key(url: &str, options: &StoreOptions) -> Result<Vec<u8>, Failure> {
    let (endpoints, path) = etcd_of(url)?;
    let path = if path.is_empty() { flannel::PREFIX.to_owned() } else { path };
    // flannel writes its keys with a slash before them; other tools, which fill them in, without.
    for prefix in [format!("/{path}"), path.clone()] {
        let look = async {
            let etcd = Etcd::connect_with(&endpoints, &prefix, PATIENCE, options).await?;
            etcd.get(flannel::KEY).await
        };
        let record = look.await.map_err(|error: StoreError| Failure::from(AgentError::from(error)))?;
        if let Some(record) = record {
            return Ok(record.value);
        }
    }
    Err(Failure::new(ErrorKind::NotFound, format!("etcd has no key /{path}/{}", flannel::KEY))
        .hint("give flannel's --etcd-prefix as the path of --etcd"))
}

fn contents(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let outcome = if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    outcome.map_err(|e| {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Internal,
        };
        Failure::new(kind, format!("{}: {e}", file.display()))
    })
}

async fn cluster(client: &Client) -> Result<Cluster, ClientError> {
    let networks = client.networks().await?.into_iter().map(|view| view.network).collect();
    Ok(Cluster { networks, range: client.status().await?.vni_range.parse().ok() })
}

/// The commands that make the networks, and what there is to say, as comments of a shell script.
fn script(fitted: &[(&Proposal, Fit)], definition: &Definition) -> String {
    let mut lines = Vec::new();
    for (asked, fit) in fitted {
        match fit {
            Fit::Make(proposal) => {
                lines.extend(proposal.notes.iter().map(|note| format!("# {}: {note}", name(proposal))));
                lines.push(command_line(&proposal.spec));
            }
            Fit::There => lines.push(format!("# {}: it is there already", name(asked))),
            Fit::Other(differences) => lines.push(format!("# {}: {}", name(asked), other(differences))),
        }
    }
    lines.extend(left(definition).map(|line| format!("# {line}")));
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

async fn apply(
    fitted: &[(&Proposal, Fit)],
    definition: &Definition,
    client: &Client,
) -> Result<ExitCode, Failure> {
    let mut each = Each::default();
    for (asked, fit) in fitted {
        match fit {
            Fit::Make(proposal) => {
                if let Some(made) = each.take(client.create_network(&proposal.spec).await) {
                    let notes = proposal.notes.iter().map(|note| format!("  {note}\n"));
                    let text = format!("{}: made, {}\n", name(proposal), made.network.id);
                    output::print(&(text + &notes.collect::<String>()))?;
                }
            }
            Fit::There => output::print(&format!("{}: it is there already\n", name(asked)))?,
            Fit::Other(differences) => {
                let message = format!("{}: {}", name(asked), other(differences));
                let failure = Failure::new(ErrorKind::Conflict, message)
                    .hint("remove or rename one of the two; nothing was changed on it");
                each.take::<()>(Err(failure));
            }
        }
    }
    let left: String = left(definition).flat_map(|line| [line, "\n".to_owned()]).collect();
    output::print(&left)?;
    Ok(each.code())
}

fn name(proposal: &Proposal) -> &str {
    proposal.spec.name.as_ref().map_or("", weft_model::NetworkName::as_str)
}

fn other(differences: &str) -> String {
    format!("the cluster has another network of that name ({differences})")
}

/// A name that is somebody else's may hold anything: it must not end the comment that it is in.
fn left(definition: &Definition) -> impl Iterator<Item = String> {
    let line = |left: &crate::import::Left| format!("{}: left out: {}", left.name, left.reason);
    definition.left.iter().map(line).map(|line| line.replace(['\n', '\r'], " "))
}

impl From<NoDefinition> for Failure {
    fn from(error: NoDefinition) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcds_url_without_a_path_has_none() {
        let endpoints = vec!["h1:2379".to_owned(), "h2:2379".to_owned()];
        assert_eq!(etcd_of("etcd://h1:2379,h2:2379").unwrap(), (endpoints.clone(), String::new()));
        assert_eq!(etcd_of("etcd://h1:2379,h2:2379/a/b/").unwrap(), (endpoints, "a/b".to_owned()));
        for bad in ["consul://h:8500", "h:2379", "etcd://h"] {
            let failure = etcd_of(bad).unwrap_err();
            assert!(failure.message.starts_with("--etcd"), "{failure}");
        }
    }

    #[test]
    fn a_proposal_is_a_script_that_a_shell_can_run() {
        let swarm = include_bytes!("../import/testdata/docker-26.1-swarm.json");
        let definition = swarm::read(swarm, Wishes::default()).unwrap();
        let fitted: Vec<_> = definition.proposals.iter().map(|p| (p, fit(p.clone(), &[], None))).collect();
        let script = script(&fitted, &definition);
        for line in script.lines() {
            assert!(line.starts_with("# ") || line.starts_with("weft network create "), "{line}");
        }
        assert!(script.contains("# secret: left out: its frames are encrypted"), "{script}");
    }
}
