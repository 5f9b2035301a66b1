//! `weft node`: the hosts of the cluster.

use super::{counted, print_list, statistics};
use crate::{cli::NodeCommand, exit::Failure, output};
use weft_agent::api::Client;

/// `weft node …`
pub async fn run(command: NodeCommand, client: &Client) -> Result<(), Failure> {
    let NodeCommand::Ls { stats, list } = command;
    let nodes = client.nodes().await?;
    if stats {
        let traffic = statistics(client).await?.nodes;
        let counted = counted(nodes, |view| traffic.get(&view.id).copied());
        return print_list(&counted, list, output::node_traffic, |counted| &counted.of.id);
    }
    print_list(&nodes, list, output::nodes, |view| &view.id)
}
