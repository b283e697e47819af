//! `/api/chat` and `/api/generate` once they are parsed: lines of JSON, the last with durations and
//! counts.
//!
//! The two differ in how they are asked and in one field of the answer, so they share the rest.

use std::time::Duration;

use futures_util::stream;
use hearth_shared::protocol::{Finish, Generate, Part};
use hyper::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{date, warm};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::parse_object;
use crate::generation::{Ask, Generation, find_model};
use crate::http;
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
}

/// The model, and whether to stream which answer; none where there is nothing to answer, only to
/// load or unload.
pub(super) type Parsed = (Ask, Option<(bool, Generate)>);

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
    let parsed = parse_object(request_body.as_ref()).and_then(|map| parse(&map));
    // Its room is for the next one, however long this answer takes.
    drop(request_body);
    let (ask, (stream, body)) = match (meter.check(parsed)?, shape) {
        ((ask, Some(request)), _) => (ask, request),
        ((ask, None), Shape::Chat) => return warm::chat(app, &ask, meter).await,
        ((ask, None), Shape::Generate) => return warm::generate(app, &ask, meter).await,
    };
    let model = meter.check(find_model(app, &ask.model).await)?;
    let generation = Generation::start(app, &model, ask.keep_alive, body, meter).await?;
    let answer = Answer { shape, model: ask.model, generation };
    if stream { Ok(answer.streamed()) } else { answer.whole().await }
}

#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    done: bool,
    #[serde(flatten)]
    end: Option<End>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

/// What the last line has on top. Durations are in nanoseconds.
#[derive(Serialize)]
struct End {
    done_reason: &'static str,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u32,
    prompt_eval_duration: u64,
    eval_count: u32,
    eval_duration: u64,
}

impl End {
    /// What is neither prompt nor answer was spent waiting for a worker.
    fn new(finish: &Finish, total: Duration) -> Self {
        let total_duration = u64::try_from(total.as_nanos()).unwrap_or(u64::MAX);
        let prompt_eval_duration = finish.prefill_us.saturating_mul(1000);
        let eval_duration = finish.decode_us.saturating_mul(1000);
        Self {
            done_reason: finish.reason.as_str(),
            total_duration,
            load_duration: total_duration
                .saturating_sub(prompt_eval_duration)
                .saturating_sub(eval_duration),
            prompt_eval_count: finish.prompt_tokens,
            prompt_eval_duration,
            eval_count: finish.completion_tokens,
            eval_duration,
        }
    }
}

/// One answer on its way out.
struct Answer {
    shape: Shape,
    model: String,
    generation: Generation,
}

impl Answer {
    /// Everything in one object.
    ///
    /// # Errors
    /// [`ApiError`] if the answer breaks off.
    async fn whole(self) -> Result<Response<Body>, ApiError> {
        let Self { shape, model, generation } = self;
        let arrived = generation.arrived();
        let mut choices = generation.collect().await?;
        let choice = choices.pop().expect("one was asked for");
        let end = End::new(&choice.finish, arrived.elapsed());
        Ok(http::json(&line(shape, &model, &choice.text, Some(end))))
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
        let mut out = Vec::new();
        for part in news.parts {
            if let Part::Text(text) = part {
                out.extend(ndjson::line(&line(self.shape, &self.model, &text, None)));
            }
        }
        let Some(finish) = news.finish else {
            return (out, true);
        };
        let end = End::new(&finish, self.generation.arrived().elapsed());
        out.extend(ndjson::line(&line(self.shape, &self.model, "", Some(end))));
        (out, false)
    }
}

fn line<'a>(shape: Shape, model: &'a str, text: &'a str, end: Option<End>) -> Line<'a> {
    let (message, response) = match shape {
        Shape::Chat => (Some(Message { role: "assistant", content: text }), None),
        Shape::Generate => (None, Some(text)),
    };
    let created_at = date(jiff::Timestamp::now());
    Line { model, created_at, message, response, done: end.is_some(), end }
}
