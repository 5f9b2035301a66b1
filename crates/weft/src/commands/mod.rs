//! The commands: a file for each noun.

mod address;
mod attach;
mod completions;
mod down;
mod endpoint;
mod gc;
mod import;
mod lab;
pub(crate) mod network;
mod node;
mod run;
mod status;
mod store;
mod version;

pub use store::StoreCommand;

use crate::{
    cli::{Cli, Command, Format, ListFlags},
    config::{self, DaemonConfig, Layers},
    daemon,
    exit::Failure,
    output::{self, Counted},
};
use serde::Serialize;
use std::{path::PathBuf, process::ExitCode};
use weft_agent::api::{Client, ErrorKind, Statistics, Traffic};

/// Does what was typed.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let client = Client::new(cli.socket.clone().unwrap_or_else(|| PathBuf::from(config::DEFAULT_SOCKET)));
    match cli.command {
        Command::Daemon(flags) => {
            let layers = Layers::read(flags.host.config.as_deref(), &variable)?;
            let config = DaemonConfig::resolve(&flags, &layers, &host_name()?)?;
            wait_for(daemon::run(config))
        }
        Command::Network(command) => return wait_for(network::run(command, &client)),
        Command::Endpoint(command) => return wait_for(endpoint::run(command, &client)),
        Command::Node(command) => wait_for(node::run(command, &client)),
        Command::Address(command) => wait_for(address::run(command, &client)),
        Command::Store(command) => wait_for(store::run(command, cli.socket)),
        Command::Gc(flags) => wait_for(gc::run(flags, &client)),
        Command::Attach(flags) => wait_for(attach::attach(flags, &client)),
        Command::Detach(flags) => wait_for(attach::detach(flags, &client)),
        Command::Expose(flags) => wait_for(attach::expose(flags, &client)),
        Command::Unexpose { network } => wait_for(attach::unexpose(network, &client)),
        Command::Import(command) => return wait_for(import::run(command, &client)),
        // Not in a runtime: they fork, and end as the command does.
        Command::Run(flags) => return run::run(&flags, &client),
        Command::RunInside(flags) => return run::inside(&flags),
        Command::Status { format } => wait_for(status::run(format, &client)),
        // Not in a runtime: a lab runs commands and waits for them.
        Command::Lab(command) => return lab::run(command),
        Command::Down(flags) => wait_for(down::run(flags, cli.socket)),
        Command::Completions { shell } => completions::run(shell),
        Command::Version => version::run(),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn wait_for<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("cannot start threads: {e}")))?;
    runtime.block_on(command)
}

/// A variable of the environment. One that is not UTF-8 cannot be any setting's value and counts as absent.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn host_name() -> Result<String, Failure> {
    let name = nix::unistd::gethostname()
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("this host's name: {e}")))?;
    name.into_string().map_err(|name| {
        Failure::new(ErrorKind::Invalid, format!("this host's name {} is not UTF-8", name.display()))
            .hint("name this node with --node-name")
    })
}

/// Says so early when the command needs the superuser, rather than by whatever fails first.
fn require_root(command: &str) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(ErrorKind::Denied, format!("weft {command} must run as root"))
        .hint("it makes network devices and namespaces"))
}

/// What this host's programs have carried.
async fn statistics(client: &Client) -> Result<Statistics, Failure> {
    let uncounted = || {
        Failure::new(
            ErrorKind::Unsupported,
            "this host's frames take the kernel's path, which does not count them",
        )
        .hint("`weft status` tells why; `ip -s link` in the overlay namespace tells what its devices carried")
    };
    client.statistics().await?.ok_or_else(uncounted)
}

/// Those that were counted, with what they have sent and received.
fn counted<T>(views: Vec<T>, traffic: impl Fn(&T) -> Option<Traffic>) -> Vec<Counted<T>> {
    let views = views.into_iter();
    views.filter_map(|of| traffic(&of).map(|traffic| Counted { of, traffic })).collect()
}

/// Prints a list as asked for.
fn print_list<T: Serialize, I: std::fmt::Display>(
    items: &[T],
    flags: ListFlags,
    table: impl Fn(&[T]) -> String,
    id: impl Fn(&T) -> &I,
) -> Result<(), Failure> {
    output::print(&match flags {
        ListFlags { quiet: true, .. } => items.iter().map(|item| id(item).to_string() + "\n").collect(),
        ListFlags { format: Format::Table, .. } => table(items),
        ListFlags { format: Format::Json, .. } => output::json(&items)?,
    })
}

/// Prints what was looked up: JSON as one array, as docker does; for people one block after the other.
fn print_inspected<T: Serialize>(
    items: &[T],
    format: Format,
    block: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    output::print(&match format {
        Format::Table => items.iter().map(block).collect::<Vec<_>>().join("\n"),
        Format::Json => output::json(&items)?,
    })
}

/// For a command that takes several references: goes on after one that failed, and ends with the first failure's
/// code. Each failure is told where it happens.
#[derive(Default)]
struct Each {
    first: Option<ExitCode>,
}

impl Each {
    /// The value, or the failure told.
    fn take<T>(&mut self, result: Result<T, impl Into<Failure>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(failure) => {
                let code = failure.into().report();
                self.first.get_or_insert(code);
                None
            }
        }
    }

    /// How it ended.
    fn code(self) -> ExitCode {
        self.first.unwrap_or(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_does_not_keep_the_next_from_being_done() {
        let mut each = Each::default();
        assert_eq!(
            each.take(Err::<u8, _>(Failure::new(ErrorKind::NotFound, "there is no network \"a\""))),
            None
        );
        assert_eq!(each.take(Ok::<_, Failure>(7)), Some(7));
        assert_eq!(
            each.take(Err::<u8, _>(Failure::new(ErrorKind::Conflict, "network \"b\" is in use"))),
            None
        );
        assert_eq!(each.code(), ExitCode::from(3));
        assert_eq!(Each::default().code(), ExitCode::SUCCESS);
    }
}
