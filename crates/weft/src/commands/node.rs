//! `weft node`: the hosts of the cluster.

use super::print_list;
use crate::{cli::NodeCommand, exit::Failure, output};
use weft_agent::api::Client;

/// `weft node …`
pub async fn run(command: NodeCommand, client: &Client) -> Result<(), Failure> {
    let NodeCommand::Ls(flags) = command;
    print_list(&client.nodes().await?, flags, output::nodes, |view| view.id.as_str())
}
