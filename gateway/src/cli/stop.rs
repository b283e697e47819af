//! `hearth stop MODEL`: asks for what Ollama's own command asks for.

use serde_json::json;

use super::Failure;
use super::client::Client;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The model to unload; requests in flight finish first
    model: String,
}

pub(super) async fn stop(arguments: Arguments) -> Result<(), Failure> {
    let body = json!({ "model": arguments.model, "prompt": "", "keep_alive": 0 });
    Client::new()?.post("/api/generate", &body).await?;
    Ok(())
}
