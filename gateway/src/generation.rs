//! One request's way through the fleet, the same for every dialect: find the model, get a lease,
//! send, wait for the first news, try once more if the worker was lost before there was any.
//!
//! The dialects call it with what they parsed, and write what it gives. Dropping it at any point
//! cancels the request, frees its place and counts it as cancelled.

use std::sync::Arc;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{Finish, Generate, News, Part, Work};
use tokio::time::Instant;

use crate::catalog::{Catalog, Model};
use crate::error::ApiError;
use crate::fleet::{Fleet, Loss, Replies, Reply, SendError};
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
    /// The first news, which was waited for before the answer began.
    first: Option<News>,
    meter: RequestMeter,
}

/// A part of an answer.
#[derive(Debug)]
pub struct Piece {
    /// New text; may be empty.
    pub text: String,
    /// Set on the last part.
    pub finish: Option<Finish>,
}

/// Looks a model up by what a client wrote.
///
/// # Errors
/// [`ApiError::UnknownModel`], with the names there are; [`ApiError::Catalog`] if nobody knows.
pub async fn find_model(catalog: &Catalog, written: &str) -> Result<Arc<Model>, ApiError> {
    let parsed = written.parse::<ModelName>().ok();
    if let Some(name) = &parsed
        && let Some(model) = catalog.find(name).await?
    {
        return Ok(model);
    }
    let models = catalog.models().await?;
    let names: Vec<&str> = models.keys().take(8).map(ModelName::as_str).collect();
    let base = parsed.and_then(|name| models.get(&name.base().parse().ok()?));
    let hint = if let Some(base) = base {
        base.variants_hint()
    } else if names.is_empty() {
        format!("there are no models yet; put one into {}", catalog.root().display())
    } else {
        format!("there is {}", names.join(", "))
    };
    let name = written.chars().take(hearth_shared::ids::MODEL_NAME_BYTES_MAX).collect();
    Err(ApiError::UnknownModel { name, hint })
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
        fleet: &Fleet,
        model: &Arc<Model>,
        keep_alive: Option<KeepAlive>,
        body: Generate,
        mut meter: RequestMeter,
    ) -> Result<Self, ApiError> {
        meter.set_model(&model.name);
        let mut attempt = try_once(fleet, model, keep_alive, body.clone(), &mut meter).await;
        if matches!(attempt, Err(ApiError::Lost(Loss::WorkerGone))) {
            tracing::warn!(model = %model.name, "lost a worker before its answer began; once more");
            attempt = try_once(fleet, model, keep_alive, body, &mut meter).await;
        }
        match attempt {
            Ok((replies, first)) => Ok(Self { replies, first: Some(first), meter }),
            Err(error) => meter.check(Err(error)),
        }
    }

    /// The next part of the answer. After the one with `finish` there is none to ask for.
    ///
    /// # Errors
    /// [`ApiError`] if the answer breaks off; the request is counted as failed.
    pub async fn next(&mut self) -> Result<Piece, ApiError> {
        let news = match self.first.take() {
            Some(news) => Ok(news),
            None => next_news(&mut self.replies).await,
        };
        match news {
            Ok(News { parts, tokens, finish, .. }) => {
                self.meter.tokens(tokens);
                if let Some(finish) = &finish {
                    self.meter.finished(finish.prompt_tokens, finish.completion_tokens);
                }
                let texts = parts.into_iter().filter_map(|part| match part {
                    Part::Text(text) => Some(text),
                    Part::Reasoning(_) | Part::ToolCall { .. } | Part::ToolArguments { .. } => None,
                });
                Ok(Piece { text: texts.collect(), finish })
            }
            Err(error) => self.meter.check(Err(error)),
        }
    }

    /// When the request arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.meter.arrived()
    }

    /// The rest of the answer, all at once.
    ///
    /// # Errors
    /// As [`Generation::next`]; what had come is lost.
    pub async fn collect(mut self) -> Result<(String, Finish), ApiError> {
        let mut text = String::new();
        loop {
            let piece = self.next().await?;
            text.push_str(&piece.text);
            if let Some(finish) = piece.finish {
                return Ok((text, finish));
            }
        }
    }
}

async fn try_once(
    fleet: &Fleet,
    model: &Arc<Model>,
    keep_alive: Option<KeepAlive>,
    body: Generate,
    meter: &mut RequestMeter,
) -> Result<(Replies, News), ApiError> {
    let lease = fleet.acquire(model, keep_alive).await;
    let lease =
        lease.map_err(|refusal| ApiError::Refused { model: model.name.clone(), refusal })?;
    meter.leased();
    let mut replies = lease.send(Work::Generate(body)).await.map_err(|error| match error {
        SendError::Lost => ApiError::Lost(Loss::WorkerGone),
        SendError::Encode(error) => ApiError::TooLarge(error),
    })?;
    // News without text, as when a character is not whole yet, begin no answer.
    let mut tokens = 0;
    loop {
        let mut news = next_news(&mut replies).await?;
        tokens += news.tokens;
        if !news.parts.is_empty() || news.finish.is_some() {
            news.tokens = tokens;
            return Ok((replies, news));
        }
    }
}

async fn next_news(replies: &mut Replies) -> Result<News, ApiError> {
    match replies.next().await {
        Ok(Reply::News(news)) => Ok(news),
        Ok(Reply::Failed(failure)) => {
            tracing::info!(?failure, "a worker refused a request or failed on it");
            Err(ApiError::Worker(failure))
        }
        Ok(other) => unreachable!("the link lets no {other:?} through to a generation"),
        Err(loss) => Err(ApiError::Lost(loss)),
    }
}
