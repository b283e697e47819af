//! `POST /api/generate`: one prompt, with the model's template around it unless it is raw.

use hearth_shared::protocol::{JsonText, Prompt};
use hyper::Response;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Shape};
use super::options::{self, Options};
use super::warm;
use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::fleet::GenerateBody;
use crate::generation::{Ask, Generation, find_model};
use crate::metrics::RequestMeter;
use crate::stream::Body;

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub async fn serve(app: &App, request_body: &[u8]) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/api/generate");
    let parsed = parse_object(request_body).and_then(|map| parse(&map));
    let (ask, (stream, body)) = match meter.check(parsed)? {
        (ask, Some(request)) => (ask, request),
        (ask, None) => return warm::generate(app, &ask, meter).await,
    };
    let model = meter.check(find_model(&app.catalog, &ask.model).await)?;
    let generation = Generation::start(&app.fleet, &model, ask.keep_alive, body, meter).await?;
    let answer = Answer::new(Shape::Generate, ask.model, generation);
    if stream { Ok(answer.streamed()) } else { answer.whole().await }
}

type Request = (bool, GenerateBody);

/// `None` beside the model where there is nothing to answer, only to load or unload.
fn parse(map: &Map<String, Value>) -> Result<(Ask, Option<Request>), ApiError> {
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
        Prompt::Text(text.to_owned())
    } else {
        let system = fields.text("system")?.filter(|system| !system.is_empty());
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        messages.push(json!({ "role": "user", "content": text }));
        Prompt::Chat { messages: JsonText(Value::Array(messages).to_string()), tools: None }
    };
    let Options { sampling, stop, max_tokens } = options::options(fields)?;
    let body = GenerateBody { prompt, sampling, stop, max_tokens };
    Ok((ask, Some((options::stream(fields)?, body))))
}
