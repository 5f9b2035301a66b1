//! `weft lab …`

use super::Format;
use clap::{Subcommand, ValueEnum};

/// `weft lab …`
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Make a lab: a network namespace and a daemon for each host, containers on one network
    Up {
        /// How many hosts
        #[arg(long, default_value_t = 2)]
        hosts: usize,
        /// The lab's name
        #[arg(long, default_value = "lab")]
        name: String,
        /// How many container-like namespaces on each host
        #[arg(long, default_value_t = 1)]
        containers: usize,
        /// The store: the first host's own, or a server on the switch
        #[arg(long, value_enum, default_value_t)]
        store: StoreKind,
    },
    /// Remove a lab and all it made
    Down {
        /// The lab's name
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// Run a command on a host (h1) or in one of its containers (h1/c1)
    Exec {
        /// The lab's name
        #[arg(long, default_value = "lab")]
        name: String,
        /// Where: h1, or h1/c1
        target: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// List the labs of this machine
    #[command(alias = "list")]
    Ls {
        /// How to print the list
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        format: Format,
    },
}

/// `weft lab up --store`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// The first host's daemon serves its embedded store to the others
    #[default]
    Embedded,
    /// A real etcd
    Etcd,
    /// A real Consul
    Consul,
}
