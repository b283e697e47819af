//! `POST /v1/chat/completions`: parse, generate, answer in one piece or as a stream.

mod request;
mod response;

use futures_util::stream;
use hyper::Response;

use self::request::{ChatAsk, ChatRequest};
use self::response::Answer;
use crate::app::App;
use crate::error::ApiError;
use crate::fields::parse_object;
use crate::generation::{Generation, find_model};
use crate::http;
use crate::metrics::RequestMeter;
use crate::ollama::warm;
use crate::server::ReadBody;
use crate::stream::{self as body, Body, sse};

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with an event.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/v1/chat/completions");
    let parsed = parse_object(request_body.as_ref()).and_then(|map| request::parse(&map));
    // Its room is for the next one, however long this answer takes.
    drop(request_body);
    let request = match meter.check(parsed)? {
        ChatAsk::Generate(request) => *request,
        ChatAsk::Warm(ask) => return warm::chat(app, &ask, meter).await,
    };
    let model = meter.check(find_model(&app.catalog, &request.ask.model).await)?;
    let ChatRequest { ask, stream, include_usage, body } = request;
    let generation = Generation::start(&app.fleet, &model, ask.keep_alive, body, meter).await?;
    let answer = Answer::new(ask.model);
    if stream {
        Ok(http::streamed(sse::CONTENT_TYPE, events(generation, answer, include_usage)))
    } else {
        let (text, finish) = generation.collect().await?;
        Ok(http::json(&answer.whole(text, &finish)))
    }
}

/// The stream's body. The role comes first, the reason for the end in a chunk of its own, then the
/// usage if it was asked for.
fn events(generation: Generation, answer: Answer, include_usage: bool) -> Body {
    let start = State { generation, answer, include_usage, begun: false };
    body::parts(stream::unfold(Some(start), |state| async {
        let mut state = state?;
        let mut out = Vec::with_capacity(256);
        let goes_on = state.push_next(&mut out).await;
        Some((out.into(), goes_on.then_some(state)))
    }))
}

struct State {
    generation: Generation,
    answer: Answer,
    include_usage: bool,
    begun: bool,
}

impl State {
    /// Writes what comes next; gives whether more will.
    async fn push_next(&mut self, out: &mut Vec<u8>) -> bool {
        let piece = match self.generation.next().await {
            Ok(piece) => piece,
            Err(error) => {
                // An end without [DONE] reads as success to OpenAI's clients; this does not.
                sse::push_event(out, &error.openai_body());
                return false;
            }
        };
        if !self.begun {
            self.begun = true;
            sse::push_event(out, &self.answer.role_chunk(self.include_usage));
        }
        if !piece.text.is_empty() {
            sse::push_event(out, &self.answer.text_chunk(&piece.text, self.include_usage));
        }
        let Some(finish) = piece.finish else {
            return true;
        };
        sse::push_event(out, &self.answer.finish_chunk(&finish, self.include_usage));
        if self.include_usage {
            sse::push_event(out, &self.answer.usage_chunk(&finish));
        }
        out.extend_from_slice(sse::DONE.as_bytes());
        false
    }
}
