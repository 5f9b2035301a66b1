//! `weft gc`: records that nobody needs.

use crate::{
    cli::{Format, GcFlags},
    exit::Failure,
    output,
};
use weft_agent::api::{Client, GcRequest};

/// `weft gc`
pub async fn run(flags: GcFlags, client: &Client) -> Result<(), Failure> {
    let leaks = if flags.dry_run {
        client.leaks().await?
    } else {
        client.collect_garbage(&GcRequest { dead_nodes: flags.dead_node }).await?
    };
    output::print(&match flags.format {
        Format::Table => output::leaks(&leaks),
        Format::Json => output::json(&leaks)?,
    })
}
