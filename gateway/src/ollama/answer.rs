//! `/api/chat` and `/api/generate` once they are parsed: lines of JSON, the last with durations and
//! counts.
//!
//! The two differ in how they are asked and in one field of the answer, so they share the rest.

mod line;

use futures_util::stream;
use hearth_shared::protocol::{Generate, Part, RequestFailure};
use hyper::Response;
use serde_json::{Map, Value};

use self::line::{End, Said, line};
use super::{fields, warm};
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fields::parse_object;
use crate::generation::{Ask, Choice, Generation, ToolCall, find_named, new_call_id};
use crate::http;
use crate::known::{self, Known};
use crate::metrics::RequestMeter;
use crate::server::ReadBody;
use crate::stream::{self as body, Body, ndjson};

/// Which field carries the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// `message: {role, content}`
    Chat,
    /// `response`
    Generate,
}

impl Shape {
    fn endpoint(self) -> &'static str {
        match self {
            Self::Chat => "/api/chat",
            Self::Generate => "/api/generate",
        }
    }

    fn fields(self) -> &'static [Known] {
        match self {
            Self::Chat => fields::CHAT,
            Self::Generate => fields::GENERATE,
        }
    }
}

/// The model, and whether to stream which answer; none where there is nothing to answer, only to
/// load or unload.
pub(super) type Parsed = (Ask, Option<Request>);

/// A request for an answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) stream: bool,
    /// It insists on thoughts before the answer.
    pub(super) must_think: bool,
    pub(super) body: Generate,
}

/// Serves one request of either.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub(super) async fn serve(
    app: &App,
    request_body: ReadBody,
    shape: Shape,
    parse: impl FnOnce(&Map<String, Value>) -> Result<Parsed, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start(shape.endpoint());
    let mut map = meter.check(parse_object(request_body.as_ref()))?;
    // Its room is for the next one, however long this answer takes.
    drop(request_body);
    let ignored = fields::ignored_of(&map, shape.fields());
    let offer = find_named(app, &map).await;
    if let Some(recipe) = offer.as_ref().ok().and_then(Offer::recipe) {
        recipe.under_options(&mut map);
    }
    let (ask, request) = meter.check(parse(&map))?;
    let Some(Request { stream, must_think, body }) = request else {
        let response = match shape {
            Shape::Chat => warm::chat(app, &ask, meter).await?,
            Shape::Generate => warm::generate(app, &ask, meter).await?,
        };
        return Ok(known::mark(response, ignored));
    };
    let offer = meter.check(offer)?;
    if must_think {
        let can = thinks(app, &offer).await;
        meter.check(can)?;
    }
    let body = offer.laid_into(body);
    let num_ctx = body.context_max;
    let generation = Generation::start(app, &offer.model, ask.keep_alive, body, meter).await;
    let generation = generation.map_err(|error| by_num_ctx(error, num_ctx))?;
    let answer = Answer { shape, model: ask.model, generation, call: None };
    let response = if stream { answer.streamed() } else { answer.whole().await? };
    Ok(known::mark(response, ignored))
}

/// A model that can't think must not be taken for one that had nothing to think about.
async fn thinks(app: &App, offer: &Offer) -> Result<(), ApiError> {
    let description = app.shelf.describe_offer(offer).await;
    if description.capabilities(offer.model.facts.kind).contains(&"thinking") {
        return Ok(());
    }
    let message = format!("\"{}\" does not support thinking; leave `think` out", offer.name);
    Err(ApiError::invalid("think", message))
}

/// A context that is too short because the request wants it so is the request's affair.
fn by_num_ctx(error: ApiError, num_ctx: Option<u32>) -> ApiError {
    match (&error, num_ctx) {
        (
            ApiError::Worker(RequestFailure::ContextOverflow { prompt_tokens, context_length }),
            Some(num_ctx),
        ) if *context_length == num_ctx => {
            let message = format!(
                "the prompt has {prompt_tokens} tokens, but `num_ctx` allows {num_ctx}, answer \
                 included, and nothing is ever cut off; make one longer or the other shorter"
            );
            ApiError::invalid("options.num_ctx", message)
        }
        _ => error,
    }
}

/// One answer on its way out.
struct Answer {
    shape: Shape,
    model: String,
    generation: Generation,
    /// A call whose arguments still come: Ollama tells calls as a whole.
    call: Option<ToolCall>,
}

impl Answer {
    /// Everything in one object.
    ///
    /// # Errors
    /// [`ApiError`] if the answer breaks off.
    async fn whole(self) -> Result<Response<Body>, ApiError> {
        let Self { shape, model, generation, call: _ } = self;
        let arrived = generation.arrived();
        let mut choices = generation.collect().await?;
        let Choice { text, reasoning, tool_calls, logprobs, context, finish } =
            choices.pop().expect("one was asked for");
        let said = Said { text, thinking: reasoning, tool_calls, logprobs };
        let end = End::new(&finish, context, arrived.elapsed());
        Ok(http::json(&line(shape, &model, &said, Some(end))))
    }

    /// A line for each part; a failure in the middle is a line of its own, and the last.
    fn streamed(self) -> Response<Body> {
        let lines = stream::unfold(Some(self), |answer| async {
            let mut answer = answer?;
            let (bytes, goes_on) = answer.next_lines().await;
            Some((bytes.into(), goes_on.then_some(answer)))
        });
        http::streamed(ndjson::CONTENT_TYPE, body::parts(lines))
    }

    async fn next_lines(&mut self) -> (Vec<u8>, bool) {
        let news = match self.generation.next().await {
            Ok(Some(news)) => news,
            Ok(None) => return (Vec::new(), false),
            Err(error) => return (ndjson::line(&error.ollama_body()), false),
        };
        let mut said = Said { logprobs: news.logprobs, ..Said::default() };
        for part in news.parts {
            self.take(part, &mut said);
        }
        let mut out = Vec::new();
        if news.finish.is_some() {
            said.tool_calls.extend(self.call.take());
        }
        if !said.is_nothing() {
            out = ndjson::line(&line(self.shape, &self.model, &said, None));
        }
        let Some(finish) = news.finish else {
            return (out, true);
        };
        let end = End::new(&finish, news.context, self.generation.arrived().elapsed());
        out.extend(ndjson::line(&line(self.shape, &self.model, &Said::default(), Some(end))));
        (out, false)
    }

    fn take(&mut self, part: Part, said: &mut Said) {
        match part {
            Part::Text(text) => said.text.push_str(&text),
            Part::Reasoning(text) => said.thinking.push_str(&text),
            Part::ToolCall { index: _, name } => {
                let begun = ToolCall { id: new_call_id(), name, arguments: String::new() };
                said.tool_calls.extend(self.call.replace(begun));
            }
            Part::ToolArguments { index: _, json } => {
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(&json);
                }
            }
        }
    }
}
