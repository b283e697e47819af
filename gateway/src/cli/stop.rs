//! `hearth stop MODEL`: unloads it, and returns when its memory is back.

use serde_json::json;

use super::Failure;
use super::client::Client;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The model to unload; requests in flight finish first
    model: String,
    /// Do not wait for requests in flight: end them
    #[arg(long)]
    force: bool,
}

pub(super) async fn stop(arguments: Arguments) -> Result<(), Failure> {
    let body = json!({ "model": arguments.model, "force": arguments.force, "wait": true });
    Client::new()?.post("/api/unload", &body).await?;
    Ok(())
}
