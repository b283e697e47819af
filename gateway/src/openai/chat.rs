//! `POST /v1/chat/completions`: parse, generate, answer in one piece or as a stream.

mod request;
mod response;

pub(super) use self::response::token_logprobs;
mod fields;
mod chunks;

use futures_util::stream;
use hyper::Response;
use serde_json::{Map, Value};

use self::chunks::Chunks;
pub(super) use self::fields::FIELDS;
use self::request::{ChatAsk, ChatRequest};
use self::response::Answer;
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fields::parse_object;
use crate::generation::{Generation, find_named};
use crate::http;
use crate::known;
use crate::metrics::RequestMeter;
use crate::ollama::warm;
use crate::openai::usage::{UsageTold, count};
use crate::server::ReadBody;
use crate::stream::{self as body, Body, sse};

const ENDPOINT: &str = "/v1/chat/completions";

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with an event.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start(ENDPOINT);
    let mut map = meter.check(parse_object(request_body.as_ref()))?;
    // Its room is for the next one, however long this answer takes.
    drop(request_body);
    let ignored = known::ignored_of(&map, FIELDS);
    let offer = find_named(app, &map).await;
    if let Some(recipe) = offer.as_ref().ok().and_then(Offer::recipe) {
        recipe.under_fields(&mut map, "max_completion_tokens");
    }
    let parsed = request::parse(&map);
    let request = match meter.check(parsed)? {
        ChatAsk::Generate(request) => *request,
        ChatAsk::Warm(ask) => {
            return Ok(known::mark(warm::chat(app, &ask, meter).await?, ignored));
        }
    };
    let offer = meter.check(offer)?;
    let ChatRequest { ask, stream, usage, calls, body } = request;
    let (choices, with_logprobs) = (body.choices, body.logprobs.is_some());
    let body = offer.laid_into(body);
    let counted = match usage {
        UsageTold::Always if stream => {
            let counted = count(app, &offer.model, ask.keep_alive, &body.prompt, ENDPOINT).await;
            meter.check(counted)?
        }
        _ => 0,
    };
    let generation = Generation::start(app, &offer.model, ask.keep_alive, body, meter).await?;
    let answer = Answer::new(ask.model, calls);
    let response = if stream {
        let chunks = Chunks::new(answer, choices, with_logprobs).telling(usage, counted);
        http::streamed(sse::CONTENT_TYPE, events(generation, chunks))
    } else {
        let choices = generation.collect().await?;
        http::json(&answer.whole(choices, with_logprobs))
    };
    Ok(known::mark(response, ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    request::parse(map).map(drop)
}

/// The stream's body.
fn events(generation: Generation, chunks: Chunks) -> Body {
    body::parts(stream::unfold(Some((generation, chunks)), |state| async {
        let (mut generation, mut chunks) = state?;
        let mut out = Vec::with_capacity(256);
        let goes_on = match generation.next().await {
            Ok(Some(news)) => {
                chunks.push(&mut out, news);
                true
            }
            Ok(None) => {
                chunks.end(&mut out, generation.usage());
                false
            }
            Err(error) => {
                // An end without [DONE] reads as success to OpenAI's clients; this does not.
                sse::push_event(&mut out, &error.openai_body());
                false
            }
        };
        Some((out.into(), goes_on.then_some((generation, chunks))))
    }))
}
