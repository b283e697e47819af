//! `hearth load MODEL`: loads it, and returns when it can serve.

use serde_json::json;

use super::Failure;
use super::client::Client;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The model to load
    model: String,
    /// How long to keep it unused: seconds, 5m, -1 for ever
    #[arg(long, allow_hyphen_values = true)]
    keepalive: Option<String>,
}

pub(super) async fn load(arguments: Arguments) -> Result<(), Failure> {
    let body = json!({ "model": arguments.model, "keep_alive": arguments.keepalive });
    Client::new()?.post("/api/load", &body).await?;
    Ok(())
}
