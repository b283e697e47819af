//! `hearth list`, `show`, `cp` and `rm`: the models there are, through the gateway that serves them.

use std::io::Write as _;

use serde_json::{Value, json};

use super::client::Client;
use super::ps::decimal_bytes;
use super::table::table;
use super::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    /// Print the gateway's whole answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArguments {
    /// The model to describe
    model: String,
    /// Print the gateway's whole answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CopyArguments {
    /// The model to copy
    source: String,
    /// What the copy is called
    destination: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArguments {
    /// The models to delete; loaded ones are unloaded first
    #[arg(required = true)]
    models: Vec<String>,
}

pub(super) async fn list(arguments: ListArguments) -> Result<(), Failure> {
    let answer = Client::new()?.get("/api/tags").await?;
    print(&if arguments.json { format!("{answer:#}\n") } else { listing(&answer) })
}

fn listing(answer: &Value) -> String {
    let models = answer["models"].as_array().map_or(&[][..], Vec::as_slice);
    let mut rows = vec![["NAME", "ID", "SIZE", "MODIFIED"].map(str::to_owned).to_vec()];
    let made_of = |model: &Value| text(&model["details"]["parent_model"]).to_owned();
    // A column that would be empty says nothing.
    let any_is_made = models.iter().any(|model| !made_of(model).is_empty());
    if any_is_made {
        rows[0].push("MADE OF".to_owned());
    }
    rows.extend(models.iter().map(|model| {
        let mut row = vec![
            text(&model["name"]).to_owned(),
            text(&model["digest"]).chars().take(12).collect(),
            decimal_bytes(model["size"].as_u64().unwrap_or(0)),
            // The day and the minute.
            text(&model["modified_at"]).replacen('T', " ", 1).chars().take(16).collect(),
        ];
        row.extend(any_is_made.then(|| made_of(model)));
        row
    }));
    table(&rows)
}

pub(super) async fn show(arguments: ShowArguments) -> Result<(), Failure> {
    let body = json!({ "model": arguments.model });
    let answer = Client::new()?.post("/api/show", &body).await?;
    print(&if arguments.json { format!("{answer:#}\n") } else { description(&answer) })
}

fn description(answer: &Value) -> String {
    let (details, info) = (&answer["details"], &answer["model_info"]);
    let architecture = text(&info["general.architecture"]);
    let number = |key: &str| info[format!("{architecture}.{key}")].to_string();
    let capabilities = answer["capabilities"].as_array().map_or(&[][..], Vec::as_slice);
    let capabilities: Vec<&str> = capabilities.iter().map(text).collect();
    let rows = [
        ("made of", text(&details["parent_model"]).to_owned()),
        ("system", text(&answer["system"]).lines().next().unwrap_or_default().to_owned()),
        ("format", text(&details["format"]).to_owned()),
        ("architecture", architecture.to_owned()),
        ("parameters", text(&details["parameter_size"]).to_owned()),
        ("quantization", text(&details["quantization_level"]).to_owned()),
        ("context length", number("context_length")),
        ("embedding length", number("embedding_length")),
        ("capabilities", capabilities.join(", ")),
    ];
    // What the files do not say is left out.
    let known = rows.into_iter().filter(|(_, value)| !value.is_empty() && value != "null");
    table(&known.map(|(key, value)| vec![key.to_owned(), value]).collect::<Vec<_>>())
}

pub(super) async fn copy(arguments: CopyArguments) -> Result<(), Failure> {
    let CopyArguments { source, destination } = arguments;
    let body = json!({ "source": source, "destination": destination });
    Client::new()?.stream("/api/copy", &body).await.map(drop)
}

pub(super) async fn remove(arguments: RemoveArguments) -> Result<(), Failure> {
    let mut client = Client::new()?;
    for model in arguments.models {
        client.delete("/api/delete", &json!({ "model": model })).await?;
        print(&format!("deleted {model}\n"))?;
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(Exit::Failed, format!("can't write: {error}")))
}
