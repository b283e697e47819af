//! `POST /v1/completions`: prompts go on as they are, without a chat template.
//!
//! Several prompts are several requests to the model: as a whole they run side by side, a few at a
//! time; in a stream one after the other, so that none piles up behind another's reader.

mod fields;
mod request;
mod response;

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hearth_shared::protocol::{Generate, News, Prompt};
use hyper::Response;
use serde_json::{Map, Value};

pub(super) use self::fields::FIELDS;
use self::request::{CompletionAsk, CompletionRequest};
use self::response::Answer;
use super::usage::{UsageTold, count};
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fields::parse_object;
use crate::generation::{Ask, Choice, Generation, Usage, find_named};
use crate::http;
use crate::known;
use crate::metrics::RequestMeter;
use crate::ollama::warm;
use crate::oneshot::Call;
use crate::server::ReadBody;
use crate::stream::{self as body, Body, sse};

const ENDPOINT: &str = "/v1/completions";
/// Prompts of one request that are with the model at once.
const PROMPTS_AT_ONCE: usize = 8;

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
        recipe.under_fields(&mut map, "max_tokens");
    }
    let parsed = request::parse(&map);
    let request = match meter.check(parsed)? {
        CompletionAsk::Generate(request) => *request,
        CompletionAsk::Warm(ask) => {
            return Ok(known::mark(warm::generate(app, &ask, meter).await?, ignored));
        }
    };
    let offer = meter.check(offer)?;
    let asker = Asker { app: app.clone(), offer, ask: request.ask.clone(), echo: request.echo };
    let response = if request.stream {
        streamed(asker, request, meter).await?
    } else {
        whole(&asker, request, meter).await?
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

/// Who sends each prompt to the model.
struct Asker {
    app: App,
    offer: Offer,
    ask: Ask,
    echo: bool,
}

impl Asker {
    async fn start(&self, body: Generate, meter: RequestMeter) -> Result<Generation, ApiError> {
        let (model, body) = (&self.offer.model, self.offer.laid_into(body));
        Generation::start(&self.app, model, self.ask.keep_alive, body, meter).await
    }

    /// The prompt as text, if it is to be echoed; tokens have to be spelled by the model.
    async fn echoed(&self, prompt: &Prompt) -> Result<String, ApiError> {
        match prompt {
            Prompt::Text { text, .. } if self.echo => Ok(text.clone()),
            Prompt::Tokens(tokens) if self.echo => {
                let meter = RequestMeter::start(ENDPOINT);
                let model = Arc::clone(&self.offer.model);
                let call = Call::new(&self.app, model, self.ask.keep_alive, meter);
                call.detokenize(tokens.clone()).await
            }
            Prompt::Text { .. } | Prompt::Tokens(_) | Prompt::Chat(_) | Prompt::Infill { .. } => {
                Ok(String::new())
            }
        }
    }

    /// How many tokens the prompt has, if every chunk is to tell.
    async fn counted(&self, prompt: &Prompt, usage: UsageTold) -> Result<u32, ApiError> {
        match usage {
            UsageTold::Always => {
                count(&self.app, &self.offer.model, self.ask.keep_alive, prompt, ENDPOINT).await
            }
            UsageTold::Never | UsageTold::AtEnd => Ok(0),
        }
    }

    async fn answer(
        &self,
        body: Generate,
        meter: RequestMeter,
    ) -> Result<(String, Vec<Choice>), ApiError> {
        let echoed = self.echoed(&body.prompt).await?;
        Ok((echoed, self.start(body, meter).await?.collect().await?))
    }
}

async fn whole(
    asker: &Asker,
    request: CompletionRequest,
    meter: RequestMeter,
) -> Result<Response<Body>, ApiError> {
    let mut meter = Some(meter);
    let asked = request.bodies.into_iter().map(|body| {
        let meter = meter.take().unwrap_or_else(|| RequestMeter::start(ENDPOINT));
        asker.answer(body, meter)
    });
    let asked: Vec<_> = asked.collect();
    let answers: Vec<(String, Vec<Choice>)> =
        stream::iter(asked).buffered(PROMPTS_AT_ONCE).try_collect().await?;
    let answer = Answer::new(asker.ask.model.clone(), request.with_logprobs);
    let (mut counts, mut choices) = (Usage::default(), Vec::new());
    for (echoed, given) in answers {
        counts.join(Usage::of(&given));
        let kept = usize::try_from(request.kept).unwrap_or(usize::MAX);
        for choice in response::best(given, kept) {
            let index = u32::try_from(choices.len()).unwrap_or(u32::MAX);
            choices.push(answer.choice(index, &echoed, choice));
        }
    }
    Ok(http::json(&answer.whole(&choices, counts)))
}

async fn streamed(
    asker: Asker,
    request: CompletionRequest,
    meter: RequestMeter,
) -> Result<Response<Body>, ApiError> {
    let mut waiting = VecDeque::from(request.bodies);
    let first = waiting.pop_front().expect("there is at least one prompt");
    let echoed = asker.echoed(&first.prompt).await?;
    let usage = request.usage;
    let counted = asker.counted(&first.prompt, usage).await?;
    let generation = asker.start(first, meter).await?;
    let answer = Answer::new(asker.ask.model.clone(), request.with_logprobs);
    let choices = request.kept;
    let counts = Usage::default();
    let running = Running::new(generation, &echoed, (0, choices), counted);
    let chunks = Chunks { asker, waiting, answer, choices, usage, counts, running };
    let events = stream::unfold(Some(chunks), |chunks| async {
        let mut chunks = chunks?;
        let mut out = Vec::with_capacity(256);
        let goes_on = chunks.push_next(&mut out).await.unwrap_or_else(|error| {
            // An end without [DONE] reads as success to OpenAI's clients; this does not.
            sse::push_event(&mut out, &error.openai_body_for("prompt"));
            false
        });
        Some((out.into(), goes_on.then_some(chunks)))
    });
    Ok(http::streamed(sse::CONTENT_TYPE, body::parts(events)))
}

/// A stream of answers to one prompt after the other.
struct Chunks {
    asker: Asker,
    waiting: VecDeque<Generate>,
    answer: Answer,
    choices: u32,
    usage: UsageTold,
    /// Of the prompts that are answered.
    counts: Usage,
    running: Running,
}

/// The prompt that is being answered.
struct Running {
    generation: Generation,
    /// The index of its first choice in the whole answer.
    first: u32,
    /// What is still to be echoed of each choice, and where in its text the next token begins.
    choices: Vec<(String, usize)>,
    /// The counts so far, if they are wanted.
    so_far: Usage,
}

impl Running {
    /// `indices` are that of its first choice and how many there are.
    fn new(generation: Generation, echoed: &str, indices: (u32, u32), prompt_tokens: u32) -> Self {
        let (first, choices) = indices;
        let choices = (0..choices).map(|_| (echoed.to_owned(), 0)).collect();
        let so_far = Usage { prompt_tokens, ..Usage::default() };
        Self { generation, first, choices, so_far }
    }
}

impl Chunks {
    /// Writes what comes next; gives whether more will.
    async fn push_next(&mut self, out: &mut Vec<u8>) -> Result<bool, ApiError> {
        if let Some(news) = self.running.generation.next().await? {
            self.push(out, news);
            return Ok(true);
        }
        self.counts.join(self.running.generation.usage());
        let Some(body) = self.waiting.pop_front() else {
            if self.usage != UsageTold::Never {
                sse::push_event(out, &self.answer.usage_chunk(self.counts));
            }
            out.extend_from_slice(sse::DONE.as_bytes());
            return Ok(false);
        };
        let echoed = self.asker.echoed(&body.prompt).await?;
        let counted = self.asker.counted(&body.prompt, self.usage).await?;
        let generation = self.asker.start(body, RequestMeter::start(ENDPOINT)).await?;
        let first = self.running.first + self.choices;
        self.running = Running::new(generation, &echoed, (first, self.choices), counted);
        Ok(true)
    }

    fn push(&mut self, out: &mut Vec<u8>, news: News) {
        let said = &mut self.running.so_far.completion_tokens;
        *said = said.saturating_add(news.tokens);
        let place = usize::try_from(news.choice).unwrap_or(usize::MAX);
        let choice = self.running.choices.get_mut(place);
        let (echoed, offset) = choice.expect("the link lets only known choices through");
        let echoed = std::mem::take(echoed);
        let piece = self.answer.piece(self.running.first + news.choice, &echoed, news, offset);
        if !piece.is_empty() {
            let mut so_far = self.counts;
            so_far.join(self.running.so_far);
            sse::push_event(out, &self.answer.chunk(&[piece], self.usage.in_chunk(so_far)));
        }
    }
}
