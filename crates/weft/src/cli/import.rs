//! `weft import …`

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use std::path::PathBuf;
use weft_model::NetworkName;
use weft_store::StoreOptions;

/// `weft import …`
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Networks of Docker up to 20.10 with --cluster-store=etcd://…: read from that etcd, by its v2 API
    DockerClassic {
        /// Docker's --cluster-store, as in `etcd://h1:2379,h2:2379/path`
        #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
        etcd: String,
        /// An option of that etcd, as Docker's --cluster-store-opt
        #[arg(long = "opt", value_name = "KEY=VALUE")]
        options: Vec<StoreOptions>,
        /// What to do.
        #[command(flatten)]
        flags: ImportFlags,
    },
    /// Networks of a swarm: what `docker network inspect $(docker network ls -q)` prints
    Swarm {
        /// The file; - is standard input
        #[arg(default_value = "-", value_name = "FILE")]
        file: PathBuf,
        /// What to do.
        #[command(flatten)]
        flags: ImportFlags,
    },
    /// The network of flannel: from its net-conf.json, or from etcd
    Flannel {
        /// The file; - is standard input
        #[arg(required_unless_present = "etcd", value_name = "FILE")]
        file: Option<PathBuf>,
        /// flannel's etcd with its prefix, as in `etcd://h1:2379/coreos.com/network` (the prefix unless given)
        #[arg(long, value_name = "URL", conflicts_with = "file", value_parser = NonEmptyStringValueParser::new())]
        etcd: Option<String>,
        /// An option of that etcd, as the daemon's --cluster-store-opt
        #[arg(long = "opt", value_name = "KEY=VALUE", requires = "etcd")]
        options: Vec<StoreOptions>,
        /// What to call it: flannel has no name for it
        #[arg(long, default_value = "flannel")]
        name: NetworkName,
        /// What to do.
        #[command(flatten)]
        flags: ImportFlags,
    },
}

/// The flags of every import.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ImportFlags {
    /// Make the networks; those that are there already are left alone. Without it the commands are printed that would
    #[arg(long)]
    pub apply: bool,
    /// Also networks whose frames were encrypted: weft carries them in clear
    #[arg(long)]
    pub unencrypted: bool,
}
