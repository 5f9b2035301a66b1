//! `weft status`: how this host's daemon, its store, kernel and engines are.

use crate::{cli::Format, exit::Failure, output};
use weft_agent::api::Client;

/// `weft status`
pub async fn run(format: Format, client: &Client) -> Result<(), Failure> {
    let status = client.status().await?;
    output::print(&match format {
        Format::Table => output::status(&status, weft_model::unix_now()),
        Format::Json => output::json(&status)?,
    })
}
