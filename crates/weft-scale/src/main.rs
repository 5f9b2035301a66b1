//! `weft-scale`: writes the records of a large cluster, or plays its hosts. `cargo xtask scale` runs it.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::{path::PathBuf, time::Duration};
use weft_scale::{Door, Process, Run, Shape, measure, populate};
use weft_store::{JoinToken, StoreUrl};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Cluster {
    /// The store, as --cluster-store of a daemon
    #[arg(long)]
    store: StoreUrl,
    /// The token for the embedded store of a daemon
    #[arg(long)]
    join_token_file: Option<PathBuf>,
    /// Simulated hosts
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    /// Endpoints on all networks together
    #[arg(long, default_value_t = 100_000)]
    endpoints: usize,
    /// Networks
    #[arg(long, default_value_t = 500)]
    networks: usize,
    /// Networks that a host takes part in
    #[arg(long, default_value_t = 10)]
    parts: usize,
}

#[derive(Subcommand)]
enum Command {
    /// Write the networks and endpoints
    Populate {
        /// Write the hosts as well: nobody will play them
        #[arg(long)]
        nodes: bool,
    },
    /// Play the hosts, and report
    Run(Flags),
}

#[derive(Args)]
struct Flags {
    /// Seconds at rest
    #[arg(long, default_value_t = 20)]
    rest: u64,
    /// Changes one by one
    #[arg(long, default_value_t = 200)]
    single: usize,
    /// Changes a second in the storm
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds that the storm lasts
    #[arg(long, default_value_t = 20)]
    storm: u64,
    /// Seconds that anything may take
    #[arg(long, default_value_t = 600)]
    patience: u64,
    /// A process to watch, as in etcd=123
    #[arg(long)]
    watch: Vec<String>,
    /// The device that leads to the store
    #[arg(long, default_value = "lo")]
    device: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,weft_scale=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Cli { cluster, command } = Cli::parse();
    let Cluster { store, join_token_file, hosts, endpoints, networks, parts } = cluster;
    let shape = Shape { hosts, endpoints, networks, parts };
    let token = match &join_token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Some(text.trim().parse::<JoinToken>().with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    let dir = tempfile::tempdir()?;
    let door = Door { url: store, token, dir: dir.path().to_owned() };
    match command {
        Command::Populate { nodes } => populate(door.open().await?.as_ref(), &shape, nodes).await,
        Command::Run(flags) => {
            shape.check()?;
            let run = Run {
                shape,
                door,
                rest: Duration::from_secs(flags.rest),
                single: flags.single,
                rate: flags.rate,
                storm: Duration::from_secs(flags.storm),
                patience: Duration::from_secs(flags.patience),
                watch: flags.watch.iter().map(|text| watched(text)).collect::<Result<_>>()?,
                device: flags.device,
            };
            println!("{}", serde_json::to_string_pretty(&measure(&run).await?)?);
            Ok(())
        }
    }
}

/// `NAME=PID`.
fn watched(text: &str) -> Result<(String, Process)> {
    let (name, pid) = text.split_once('=').with_context(|| format!("{text:?} is not NAME=PID"))?;
    Ok((name.to_owned(), Process(pid.parse().with_context(|| pid.to_owned())?)))
}
