//! `weft address`: every address accounted for.

use crate::{
    cli::{AddressCommand, Format},
    exit::Failure,
    output,
};
use weft_agent::api::Client;

/// `weft address …`
pub async fn run(command: AddressCommand, client: &Client) -> Result<(), Failure> {
    let AddressCommand::Explain { ip, format } = command;
    let found = client.explain_address(ip).await?;
    output::print(&match format {
        Format::Table => output::explanations(&found),
        Format::Json => output::json(&found)?,
    })
}
