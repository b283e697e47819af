//! One request's way through the fleet, the same for every dialect: find the model, get a lease,
//! send, wait for the first news, try once more if the worker was lost before there was any.
//!
//! The dialects call it with what they parsed, and write what it gives: news of one choice after
//! the other, or every choice as a whole (`choice.rs`). Dropping it at any point cancels the
//! request, frees its place and counts it as cancelled.

mod choice;
mod lookup;

use std::collections::VecDeque;
use std::sync::Arc;

use hearth_shared::protocol::{Generate, ModelKind, News, RequestFailure, Work};
use tokio::time::Instant;

use self::choice::Growing;
pub use self::choice::{Choice, ToolCall, Usage, new_call_id};
pub use self::lookup::{find_model, find_named, find_offer};
use crate::app::App;
use crate::catalog::Model;
use crate::error::ApiError;
use crate::fleet::{Loss, Replies, Reply, SendError};
use crate::keep_alive::KeepAlive;
use crate::metrics::RequestMeter;

/// What a dialect wants of a model.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The model's name as the client wrote it.
    pub model: String,
    /// The request's own `keep_alive`.
    pub keep_alive: Option<KeepAlive>,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Generation {
    replies: Replies,
    /// What was waited for before the answer began.
    early: VecDeque<News>,
    choices: u32,
    /// Choices that have not finished.
    open: u32,
    usage: Usage,
    meter: RequestMeter,
}

impl Generation {
    /// Starts a request and waits until its answer begins.
    ///
    /// Until then nothing has reached the client, so every failure can still have a status of its
    /// own, and a worker that dies is made good for once.
    ///
    /// # Errors
    /// [`ApiError`]; the request is over and counted.
    ///
    /// # Cancel safety
    /// Safe: dropping the future cancels the request.
    pub async fn start(
        app: &App,
        model: &Arc<Model>,
        keep_alive: Option<KeepAlive>,
        body: Generate,
        mut meter: RequestMeter,
    ) -> Result<Self, ApiError> {
        meter.set_model(&model.name);
        meter.check(model.can(ModelKind::Generate).map_err(ApiError::Worker))?;
        let keep_alive = app.caller.keep_alive(keep_alive);
        let choices = body.choices;
        let mut attempt = try_once(app, model, keep_alive, body.clone(), &mut meter).await;
        if matches!(attempt, Err(ApiError::Lost(Loss::WorkerGone))) {
            tracing::warn!(model = %model.name, "lost a worker before its answer began; once more");
            attempt = try_once(app, model, keep_alive, body, &mut meter).await;
        }
        let (replies, early) = meter.check(attempt)?;
        Ok(Self { replies, early, choices, open: choices, usage: Usage::default(), meter })
    }

    /// What is new of one choice; `None` once every choice has finished.
    ///
    /// # Errors
    /// [`ApiError`] if the answer breaks off; the request is counted as failed.
    ///
    /// # Cancel safety
    /// Safe: news are either returned or still there.
    pub async fn next(&mut self) -> Result<Option<News>, ApiError> {
        let news = match self.early.pop_front() {
            Some(news) => news,
            None if self.open == 0 => return Ok(None),
            None => {
                let news = next_news(&mut self.replies).await;
                self.meter.check(news)?
            }
        };
        self.meter.tokens(news.tokens);
        if let Some(finish) = &news.finish {
            self.usage.add(finish);
            self.open = self.open.saturating_sub(1);
            if self.open == 0 {
                let Usage { prompt_tokens, longest, cached_tokens, .. } = self.usage;
                self.meter.cached(cached_tokens);
                self.meter.finished(prompt_tokens, longest);
            }
        }
        Ok(Some(news))
    }

    /// The counts of the choices that have finished.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// When the request arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.meter.arrived()
    }

    /// The rest of the answer, every choice as a whole and in order.
    ///
    /// # Errors
    /// As [`Generation::next`]; what had come is lost.
    pub async fn collect(mut self) -> Result<Vec<Choice>, ApiError> {
        let mut choices: Vec<Growing> = (0..self.choices).map(|_| Growing::default()).collect();
        while let Some(news) = self.next().await? {
            let index = usize::try_from(news.choice).unwrap_or(usize::MAX);
            let choice = choices.get_mut(index).expect("the link lets only known choices through");
            choice.take(news);
        }
        let whole: Option<Vec<Choice>> = choices.into_iter().map(Growing::whole).collect();
        Ok(whole.expect("there are no more news because every choice has finished"))
    }
}

async fn try_once(
    app: &App,
    model: &Arc<Model>,
    keep_alive: Option<KeepAlive>,
    body: Generate,
    meter: &mut RequestMeter,
) -> Result<(Replies, VecDeque<News>), ApiError> {
    meter.asks();
    let lease = app.fleet.acquire(model, keep_alive).await;
    let lease =
        lease.map_err(|refusal| ApiError::Refused { model: model.name.clone(), refusal })?;
    meter.leased();
    let mut replies =
        lease.send(Work::Generate(Box::new(body))).await.map_err(|error| match error {
            SendError::Lost => ApiError::Lost(Loss::WorkerGone),
            SendError::Encode(error) => ApiError::TooLarge(error),
        })?;
    meter.sent();
    // News without a part, as when a character is not whole yet, begin no answer.
    let mut early = VecDeque::new();
    loop {
        let news = next_news(&mut replies).await?;
        let begins = !news.parts.is_empty() || news.finish.is_some();
        early.push_back(news);
        if begins {
            return Ok((replies, early));
        }
    }
}

async fn next_news(replies: &mut Replies) -> Result<News, ApiError> {
    match replies.next().await {
        Ok(Reply::News(news)) => Ok(news),
        Ok(Reply::Failed(failure)) => {
            tell(&failure);
            Err(ApiError::Worker(failure))
        }
        Ok(other) => unreachable!("the link lets no {other:?} through to a generation"),
        Err(loss) => Err(ApiError::Lost(loss)),
    }
}

/// What a template or a constraint says can repeat the prompt, which is in no log.
fn tell(failure: &RequestFailure) {
    match failure {
        RequestFailure::Engine { message } => tracing::warn!(message, "a worker failed"),
        RequestFailure::ContextOverflow { .. }
        | RequestFailure::Template { .. }
        | RequestFailure::NoTemplate
        | RequestFailure::Unsupported { .. }
        | RequestFailure::Constraint { .. }
        | RequestFailure::Invalid { .. } => tracing::debug!("a worker refused a request"),
    }
}
