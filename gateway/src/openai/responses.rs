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
pub mod store;

use futures_util::stream;
use hearth_shared::protocol::{FinishReason, Generate};
use hyper::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

pub(super) use self::fields::FIELDS;
use self::object::{End, Frame, Numbered};
use self::output::Output;
use self::request::{ResponseRequest, Turn};
use self::store::Stored;
use super::known;
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::generation::{Generation, find_named};
use crate::http;
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
    let unknown = known::unknown(&map, FIELDS);
    let offer = find_named(app, &map).await;
    if let Some(recipe) = offer.as_ref().ok().and_then(Offer::recipe) {
        recipe.under_fields(&mut map, "max_output_tokens");
    }
    let parsed = request::parse(&map);
    let ResponseRequest { ask, stream, store, previous, turn, body, echo } = meter.check(parsed)?;
    let before = meter.check(conversation(app, previous.as_deref()))?;
    let prompt = meter.check(turn.prompt(&before))?;
    let offer = meter.check(offer)?;
    let output = Output::new(body.logprobs.is_some());
    let body = offer.laid_into(Generate { prompt, ..body });
    let generation = Generation::start(app, &offer.model, ask.keep_alive, body, meter).await?;
    let frame = Frame::new(ask.model, echo);
    let keep = store.then(|| (app.clone(), turn.items, before));
    let making = Making { generation, frame, output, keep };
    let response = if stream {
        http::streamed(sse::CONTENT_TYPE, making.streamed())
    } else {
        http::json(&making.whole().await?)
    };
    Ok(known::mark(response, unknown))
}

/// The items of everything that was said up to a response, itself included.
fn conversation(app: &App, previous: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let Some(id) = previous else { return Ok(Vec::new()) };
    let Stored { response, input, before } = find(app, id, Some("previous_response_id"))?;
    let output = response["output"].as_array().cloned().unwrap_or_default();
    Ok([before, input, output].concat())
}

fn find(app: &App, id: &str, param: Option<&'static str>) -> Result<Stored, ApiError> {
    let stored = app.responses.get(id, app.caller.name(), Instant::now());
    stored.ok_or_else(|| ApiError::UnknownResponse { id: id.chars().take(80).collect(), param })
}

/// A response on its way.
struct Making {
    generation: Generation,
    frame: Frame,
    output: Output,
    /// Where it is kept, with what it came from; `None` if it is not.
    keep: Option<(App, Vec<Value>, Vec<Value>)>,
}

impl Making {
    async fn whole(mut self) -> Result<Value, ApiError> {
        let (mut events, mut end) = (Vec::new(), End::Completed);
        while let Some(news) = self.generation.next().await? {
            end = news.finish.map_or(end, |finish| how(finish.reason));
            self.output.push(news, &mut events);
            events.clear();
        }
        Ok(self.finish(end, &mut events))
    }

    /// The response as it is at its end, and kept.
    fn finish(&mut self, end: End, events: &mut output::Events) -> Value {
        let items = self.output.end(end.status(), events);
        let response = self.frame.finished(end, &items, self.generation.usage());
        if let Some((app, input, before)) = self.keep.take() {
            let stored = Stored { response: response.clone(), input, before };
            app.responses.put(&self.frame.id, app.caller.name(), stored, Instant::now());
        }
        response
    }

    fn streamed(self) -> Body {
        let writing = Writing { making: self, numbered: Numbered::default(), end: None };
        body::parts(stream::unfold(Some(writing), |writing| async {
            let mut writing = writing?;
            let mut out = Vec::with_capacity(512);
            let goes_on = writing.push_next(&mut out).await;
            Some((out.into(), goes_on.then_some(writing)))
        }))
    }
}

fn how(reason: FinishReason) -> End {
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls => End::Completed,
        FinishReason::Length => End::Incomplete,
    }
}

/// A response that is written as it comes.
struct Writing {
    making: Making,
    numbered: Numbered,
    /// `None` until the first events were written.
    end: Option<End>,
}

impl Writing {
    /// Writes what comes next; gives whether more will.
    async fn push_next(&mut self, out: &mut Vec<u8>) -> bool {
        if self.end.is_none() {
            self.end = Some(End::Completed);
            for name in ["response.created", "response.in_progress"] {
                let response = self.making.frame.in_progress();
                self.numbered.push(out, name, json!({ "response": response }));
            }
        }
        let mut events = Vec::new();
        match self.making.generation.next().await {
            Ok(Some(news)) => {
                if let Some(finish) = news.finish {
                    self.end = Some(how(finish.reason));
                }
                self.making.output.push(news, &mut events);
                self.push_all(out, events);
                true
            }
            Ok(None) => {
                let end = self.end.unwrap_or(End::Completed);
                let response = self.making.finish(end, &mut events);
                self.push_all(out, events);
                let name = match end {
                    End::Completed => "response.completed",
                    End::Incomplete => "response.incomplete",
                };
                self.numbered.push(out, name, json!({ "response": response }));
                false
            }
            Err(error) => {
                let items = self.making.output.end("incomplete", &mut events);
                self.push_all(out, events);
                self.numbered.push_failure(out, &self.making.frame, &items, &error);
                false
            }
        }
    }

    fn push_all(&mut self, out: &mut Vec<u8>, events: output::Events) {
        for (name, rest) in events {
            self.numbered.push(out, name, rest);
        }
    }
}

/// A response that is kept.
///
/// # Errors
/// [`ApiError::UnknownResponse`], and [`ApiError::Invalid`] where it is to be streamed again.
pub fn get(app: &App, id: &str, query: Option<&str>) -> Result<Response<Body>, ApiError> {
    if value_of(query, "stream").is_some_and(|stream| stream == "true") {
        let message = "a response that is there is not streamed again; leave out `stream`";
        return Err(ApiError::invalid("stream", message));
    }
    Ok(http::json(&find(app, id, None)?.response))
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

/// Ends a response that is being made in the background. None is, so it only tells what there is.
///
/// # Errors
/// [`ApiError::UnknownResponse`].
pub fn cancel(app: &App, id: &str) -> Result<Response<Body>, ApiError> {
    get(app, id, None)
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
    let parsed = parse_object(request_body.as_ref()).and_then(|map| {
        let fields = Fields::new(&map);
        fields.refuse("conversation", &[])?;
        let model = fields.text("model")?.map(str::to_owned);
        let previous = fields.text("previous_response_id")?.map(str::to_owned);
        Ok((model, previous, fields.keep_alive()?, Turn::read(fields)?))
    });
    drop(request_body);
    let (model, previous, keep_alive, turn) = meter.check(parsed)?;
    let before = meter.check(conversation(app, previous.as_deref()))?;
    let prompt = meter.check(turn.prompt(&before))?;
    let model = meter.check(find_or_only(app, model.as_deref()).await)?;
    let tokens = Call::new(app, model, keep_alive, meter).tokenize(prompt).await?;
    let count = tokens.len();
    Ok(http::json(&json!({ "object": "response.input_tokens", "input_tokens": count })))
}
