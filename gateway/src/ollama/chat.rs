//! `POST /api/chat`.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use hyper::Response;
use serde_json::{Map, Value};

use super::answer::{self, Parsed, Shape};
use super::options::{self, Options};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::messages;
use crate::server::ReadBody;
use crate::stream::Body;

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    answer::serve(app, request_body, Shape::Chat, parse).await
}

/// `None` beside the model where there is nothing to answer, only to load or unload.
fn parse(map: &Map<String, Value>) -> Result<Parsed, ApiError> {
    let fields = Fields::new(map);
    let ask = options::ask(fields)?;
    let messages = fields.array("messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Ok((ask, None));
    }
    options::refuse_what_is_not_served(fields)?;
    for (index, message) in messages.iter().enumerate() {
        if let Value::Object(message) = message {
            let path = format!("messages[{index}].images");
            options::refuse_images(Fields::new(message), &path)?;
        }
    }
    let messages = Value::Array(messages::normalise(messages)?);
    let Options { sampling, stop, max_tokens } = options::options(fields)?;
    let prompt = Prompt::Chat(Chat::new(JsonText(messages.to_string())));
    let body = Generate { sampling, stop, max_tokens, ..Generate::new(prompt) };
    Ok((ask, Some((options::stream(fields)?, body))))
}
