//! `POST /api/generate`: one prompt, with the model's template around it unless it is raw.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use hyper::Response;
use serde_json::{Map, Value, json};

use super::answer::{self, Parsed, Shape};
use super::options::{self, Options};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::server::ReadBody;
use crate::stream::Body;

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    answer::serve(app, request_body, Shape::Generate, parse).await
}

/// `None` beside the model where there is nothing to answer, only to load or unload.
fn parse(map: &Map<String, Value>) -> Result<Parsed, ApiError> {
    let fields = Fields::new(map);
    let ask = options::ask(fields)?;
    let text = fields.text("prompt")?.unwrap_or("");
    if text.is_empty() {
        return Ok((ask, None));
    }
    options::refuse_what_is_not_served(fields)?;
    options::refuse_images(fields, "images")?;
    fields.refuse("suffix", &[json!("")])?;
    fields.refuse("template", &[json!("")])?;
    fields.refuse("context", &[json!([])])?;
    let prompt = if fields.flag("raw")?.unwrap_or(false) {
        Prompt::raw(text)
    } else {
        let system = fields.text("system")?.filter(|system| !system.is_empty());
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        messages.push(json!({ "role": "user", "content": text }));
        Prompt::Chat(Chat::new(JsonText(Value::Array(messages).to_string())))
    };
    let Options { sampling, stop, max_tokens } = options::options(fields)?;
    let body = Generate { sampling, stop, max_tokens, ..Generate::new(prompt) };
    Ok((ask, Some((options::stream(fields)?, body))))
}
