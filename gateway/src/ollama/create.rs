//! `POST /api/create`: a model from a file that was uploaded, from another model, or from a path on
//! this machine.
//!
//! Models here are their files and nothing else, so what Ollama would keep beside them (a prompt of
//! its own, other parameters) is refused by name: requests can carry all of it.

use std::path::{Path, PathBuf};

use hyper::Response;
use serde_json::{Value, json};

use super::{blobs, manage, options, pull};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::generation::find_model;
use crate::server::ReadBody;
use crate::stream::Body;

/// What changes nothing about a model here, with the values that ask for nothing.
const REFUSED: [&str; 8] = [
    "adapters",
    "messages",
    "modelfile",
    "parameters",
    "quantization",
    "quantize",
    "system",
    "template",
];

/// Serves one request.
///
/// # Errors
/// [`ApiError`]
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let map = parse_object(request_body.as_ref())?;
    drop(request_body);
    let fields = Fields::new(&map);
    let ask = options::ask(fields)?;
    let streamed = options::stream(fields)?;
    let name = manage::new_name("model", &ask.model)?;
    for refused in REFUSED {
        fields.refuse(refused, &[json!(""), json!([]), json!({})])?;
    }
    match (uploaded(fields)?, fields.text("from")?.filter(|from| !from.is_empty())) {
        (Some(digest), None) => {
            let blob = blobs::place(app, digest).await?;
            manage::adopt(app, blob.clone(), name).await?;
            // The model has it now; under its digest nobody needs it any more.
            drop(tokio::fs::remove_file(blob).await);
        }
        (None, Some(from)) => manage::adopt(app, source(app, from).await?, name).await?,
        (Some(_), Some(_)) | (None, None) => {
            let message = "say either what the model is made `from`, or which uploaded `files`";
            return Err(ApiError::invalid("from", message));
        }
    }
    Ok(pull::done(streamed))
}

/// The digest of the one file that a model is made of.
fn uploaded(fields: Fields<'_>) -> Result<Option<&str>, ApiError> {
    let wrong = || {
        let message = "`files` must hold one GGUF file as {\"name.gguf\": \"sha256:…\"}; other \
                       formats are not converted";
        ApiError::invalid("files", message)
    };
    match fields.get("files") {
        None => Ok(None),
        Some(Value::Object(files)) if files.is_empty() => Ok(None),
        Some(Value::Object(files)) => {
            let mut files = files.iter();
            match (files.next(), files.next()) {
                (Some((name, Value::String(digest))), None) if name.ends_with(".gguf") => {
                    Ok(Some(digest))
                }
                _ => Err(wrong()),
            }
        }
        Some(_) => Err(wrong()),
    }
}

async fn source(app: &App, from: &str) -> Result<PathBuf, ApiError> {
    if Path::new(from).is_absolute() {
        app.caller.check_may_name_paths()?;
        return Ok(PathBuf::from(from));
    }
    Ok(find_model(app, from).await?.path.clone())
}
