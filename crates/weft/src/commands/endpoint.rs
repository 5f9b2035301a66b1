//! `weft endpoint`: who is where.

use super::{Each, counted, print_inspected, print_list, statistics};
use crate::{cli::EndpointCommand, exit::Failure, output};
use std::process::ExitCode;
use weft_agent::api::Client;

/// `weft endpoint …`
pub async fn run(command: EndpointCommand, client: &Client) -> Result<ExitCode, Failure> {
    match command {
        EndpointCommand::Ls { network, stats, list } => {
            let endpoints = match network {
                // Asked of the network, so that one that does not exist is an error and not an empty list.
                Some(reference) => client.network(&reference).await?.endpoints,
                None => client.endpoints().await?,
            };
            if stats {
                let traffic = statistics(client).await?.endpoints;
                let counted = counted(endpoints, |view| traffic.get(&view.id).copied());
                print_list(&counted, list, output::endpoint_traffic, |counted| &counted.of.id)?;
                return Ok(ExitCode::SUCCESS);
            }
            print_list(&endpoints, list, output::endpoints, |view| &view.id)?;
            Ok(ExitCode::SUCCESS)
        }
        EndpointCommand::Inspect(flags) => {
            let (mut each, mut found) = (Each::default(), Vec::new());
            for reference in &flags.references {
                found.extend(each.take(client.endpoint(reference).await));
            }
            print_inspected(&found, flags.format, output::endpoint)?;
            Ok(each.code())
        }
    }
}
