//! `POST /v1/responses` and what can be asked of a response afterwards.
//!
//! A response is a chat completion in other clothes: its input's items become messages, and its
//! answer's parts become items, told one by one in a stream. It is kept for a while so that the next
//! one can continue it.

mod fields;
mod items;
mod request;
mod output;
mod object;
mod making;
pub mod background;
pub mod store;

use std::sync::Arc;

use hearth_shared::protocol::Generate;
use hyper::Response;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use self::background::{Job, Work};
pub(super) use self::fields::{COUNTED, FIELDS};
use self::making::Making;
use self::object::{End, Frame, Numbered};
use self::output::Output;
use self::request::{CountRequest, ResponseRequest};
use self::store::{JOBS_MAX, Stored};
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fields::parse_object;
use crate::generation::{Generation, find_named};
use crate::http;
use crate::known;
use crate::metrics::RequestMeter;
use crate::oneshot::{Call, find_or_only};
use crate::server::ReadBody;
use crate::stream::{self as body, Body, sse};

const LIST_MAX: usize = 100;
const LIST_DEFAULT: usize = 20;

/// Makes a response.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with events.
pub async fn create(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/v1/responses");
    let mut map = meter.check(parse_object(request_body.as_ref()))?;
    // Its room is for the next one, however long this answer takes.
    drop(request_body);
    let ignored = known::ignored_of(&map, FIELDS);
    let offer = find_named(app, &map).await;
    if let Some(recipe) = offer.as_ref().ok().and_then(Offer::recipe) {
        recipe.under_fields(&mut map, "max_output_tokens");
    }
    let request = meter.check(request::parse(&map))?;
    let ResponseRequest { ask, stream, store, background, previous, turn, body, echo } = request;
    let before = meter.check(conversation(app, previous.as_deref()))?;
    let prompt = meter.check(turn.prompt(&before))?;
    let offer = meter.check(offer)?;
    let output = Output::new(body.logprobs.is_some());
    let body = offer.laid_into(Generate { prompt, ..body });
    let model = offer.model;
    let frame = Frame::new(ask.model, echo);
    let keep = store.then(|| (app.clone(), turn.items, before));
    let response = if background {
        let place = app.responses.enter().ok_or(ApiError::BackgroundFull { limit: JOBS_MAX });
        let place = meter.check(place)?;
        let (id, job) = (frame.id.clone(), Arc::new(Job::new(&frame)));
        let (app, input, before) = keep.expect("the parser lets none through without `store`");
        let stored = Stored { response: job.response(), input, before };
        let made = (stored, Arc::clone(&job));
        app.responses.put_job(&id, app.caller.name(), made, Instant::now());
        let streamed = stream.then(|| Arc::clone(&job).streamed(0));
        let answer = job.response();
        detach(async move {
            let start = Generation::start(&app, &model, ask.keep_alive, body, meter);
            Work { job, frame, output, start, place }.run().await;
            app.responses.settle(&id);
        });
        streamed
            .map_or_else(|| http::json(&answer), |events| http::streamed(sse::CONTENT_TYPE, events))
    } else {
        let generation = Generation::start(app, &model, ask.keep_alive, body, meter).await?;
        let making = Making { generation, frame, output, keep };
        if stream {
            http::streamed(sse::CONTENT_TYPE, making.streamed())
        } else {
            http::json(&making.whole().await?)
        }
    };
    Ok(known::mark(response, ignored))
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is made in the background outlives the request; its job ends it"
)]
fn detach(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    request::parse(map).map(drop)
}

/// As [`check`], where tokens are to be counted.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_count(map: &Map<String, Value>) -> Result<(), ApiError> {
    request::parse_count(map).map(drop)
}

/// The items of everything that was said up to a response, itself included.
fn conversation(app: &App, previous: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let Some(id) = previous else { return Ok(Vec::new()) };
    let param = "previous_response_id";
    let Stored { response, input, before } = find(app, id, Some(param))?;
    if matches!(response["status"].as_str(), Some("queued" | "in_progress")) {
        let message = "that response is still being made; ask for it until it is over";
        return Err(ApiError::invalid(param, message));
    }
    let output = response["output"].as_array().cloned().unwrap_or_default();
    Ok([before, input, output].concat())
}

fn find(app: &App, id: &str, param: Option<&'static str>) -> Result<Stored, ApiError> {
    let stored = app.responses.get(id, app.caller.name(), Instant::now());
    stored.ok_or_else(|| ApiError::UnknownResponse { id: id.chars().take(80).collect(), param })
}

/// A response that is kept, as it is, or as the events that tell of it: those after number
/// `starting_after`, where that is said.
///
/// # Errors
/// [`ApiError::UnknownResponse`], and [`ApiError::Invalid`] for a wrong `stream` or
/// `starting_after`.
pub fn get(app: &App, id: &str, query: Option<&str>) -> Result<Response<Body>, ApiError> {
    let kept = find(app, id, None)?;
    match value_of(query, "stream").as_deref() {
        None | Some("false") => return Ok(http::json(&kept.response)),
        Some("true") => {}
        Some(_) => return Err(ApiError::invalid("stream", "`stream` must be true or false")),
    }
    let first = match value_of(query, "starting_after") {
        None => 0,
        Some(number) => match number.parse::<usize>() {
            Ok(number) => number.saturating_add(1),
            Err(_no_number) => {
                let message = "`starting_after` must be the number of an event";
                return Err(ApiError::invalid("starting_after", message));
            }
        },
    };
    let body = match app.responses.job(id, app.caller.name(), Instant::now()) {
        Some(job) => job.streamed(first),
        None => body::whole(retold(&kept.response, first)),
    };
    Ok(http::streamed(sse::CONTENT_TYPE, body))
}

/// The events of a response that was not made in the background, from number `first` on.
fn retold(response: &Value, first: usize) -> Vec<u8> {
    let begun = object::in_progress(response);
    let mut events: output::Events = Vec::new();
    for name in ["response.created", "response.in_progress"] {
        events.push((name, json!({ "response": begun })));
    }
    let items = response["output"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.extend(Output::retold(items));
    let end = if response["status"] == "completed" { End::Completed } else { End::Incomplete };
    events.push((end.event(), json!({ "response": response })));
    let (mut out, mut numbered) = (Vec::new(), Numbered::default());
    for (place, (name, rest)) in events.into_iter().enumerate() {
        numbered.push(&mut out, name, rest);
        if place < first {
            out.clear();
        }
    }
    out
}

/// Forgets a response.
///
/// # Errors
/// [`ApiError::UnknownResponse`].
pub fn delete(app: &App, id: &str) -> Result<Response<Body>, ApiError> {
    find(app, id, None)?;
    app.responses.delete(id, app.caller.name(), Instant::now());
    Ok(http::json(&json!({ "id": id, "object": "response", "deleted": true })))
}

/// Ends a response that is being made in the background. Of any other it only tells what it is.
///
/// # Errors
/// [`ApiError::UnknownResponse`].
pub async fn cancel(app: &App, id: &str) -> Result<Response<Body>, ApiError> {
    let kept = find(app, id, None)?;
    let Some(job) = app.responses.job(id, app.caller.name(), Instant::now()) else {
        return Ok(http::json(&kept.response));
    };
    job.cancel();
    job.ended().await;
    Ok(http::json(&job.response()))
}

/// What a response was an answer to.
///
/// # Errors
/// [`ApiError::UnknownResponse`], and [`ApiError::Invalid`] for a wrong `limit`, `order` or `after`.
pub fn input_items(app: &App, id: &str, query: Option<&str>) -> Result<Response<Body>, ApiError> {
    let mut items = find(app, id, None)?.input;
    match value_of(query, "order").as_deref() {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return Err(ApiError::invalid("order", "`order` must be asc or desc")),
    }
    let limit = match value_of(query, "limit") {
        None => LIST_DEFAULT,
        Some(text) => match text.parse() {
            Ok(limit) if (1..=LIST_MAX).contains(&limit) => limit,
            Ok(_) | Err(_) => {
                let message = format!("`limit` must be between 1 and {LIST_MAX}");
                return Err(ApiError::invalid("limit", message));
            }
        },
    };
    if let Some(after) = value_of(query, "after") {
        let Some(place) = items.iter().position(|item| item["id"] == *after) else {
            return Err(ApiError::invalid("after", "`after` is no item of this response"));
        };
        items.drain(..=place);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&Value>| item.map(|item| item["id"].clone());
    Ok(http::json(&json!({
        "object": "list",
        "first_id": id_of(items.first()),
        "last_id": id_of(items.last()),
        "has_more": has_more,
        "data": items,
    })))
}

/// A parameter of a query.
fn value_of(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// How many tokens a response would read.
///
/// # Errors
/// [`ApiError`]
pub async fn input_tokens(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/v1/responses/input_tokens");
    let parsed = known::read(request_body.as_ref(), COUNTED, request::parse_count);
    drop(request_body);
    let (request, ignored) = meter.check(parsed)?;
    let CountRequest { model, previous, keep_alive, turn } = request;
    let before = meter.check(conversation(app, previous.as_deref()))?;
    let prompt = meter.check(turn.prompt(&before))?;
    let offer = meter.check(find_or_only(app, model.as_deref()).await)?;
    let prompt = offer.laid_around(prompt);
    let tokens = Call::new(app, offer.model, keep_alive, meter).tokenize(prompt).await?;
    let count = tokens.len();
    let answer = http::json(&json!({ "object": "response.input_tokens", "input_tokens": count }));
    Ok(known::mark(answer, ignored))
}
