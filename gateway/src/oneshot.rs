//! Work whose answer comes as a whole: vectors, scores, tokens, text.
//!
//! The sister of `generation`: the endpoints that do not generate call it with what they parsed and
//! get everything or an error. Nothing has reached the client while it works, so a worker that is
//! lost at any point is made good for once, unseen. Dropping a call cancels the request, frees its
//! place and counts it as cancelled.

use std::sync::Arc;
use std::time::Duration;

use hearth_shared::protocol::{Embed, ModelKind, Prompt, RequestFailure, Rerank, Token, Work};

use crate::app::App;
use crate::catalog::{Model, Offer};
use crate::error::ApiError;
use crate::fleet::{Loss, Replies, Reply, SendError};
use crate::generation::find_offer;
use crate::keep_alive::KeepAlive;
use crate::metrics::RequestMeter;

/// The model that a client names, or the only one there is if it names none: llama.cpp and TEI serve
/// one model each, and their clients have no field to name it in.
///
/// # Errors
/// As [`find_offer`], and [`ApiError::Invalid`] if there is a choice.
pub async fn find_or_only(app: &App, written: Option<&str>) -> Result<Offer, ApiError> {
    if let Some(written) = written.filter(|written| !written.is_empty()) {
        return find_offer(app, written).await;
    }
    match &app.models().await?[..] {
        [only] => find_offer(app, only.name.as_str()).await,
        _ => {
            let message = "`model` is missing: say which model to use; only where there is just \
                           one may it be left out";
            Err(ApiError::invalid("model", message))
        }
    }
}

/// One request to one model, on its way.
#[derive(Debug)]
pub struct Call<'a> {
    app: &'a App,
    model: Arc<Model>,
    keep_alive: Option<KeepAlive>,
    meter: RequestMeter,
    waited: Duration,
}

/// What an encoder made of some inputs, one for each and in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded<T> {
    /// A vector or a score for each input.
    pub items: Vec<T>,
    /// Tokens read for them, special ones included.
    pub prompt_tokens: u32,
    /// How long there was no worker to do it.
    pub waited: Duration,
}

impl<T> Encoded<T> {
    const NOTHING: Self = Self { items: Vec::new(), prompt_tokens: 0, waited: Duration::ZERO };
}

impl<'a> Call<'a> {
    /// A call of a model that is in the catalogue.
    #[must_use]
    pub fn new(
        app: &'a App,
        model: Arc<Model>,
        keep_alive: Option<KeepAlive>,
        mut meter: RequestMeter,
    ) -> Self {
        meter.set_model(&model.name);
        let keep_alive = app.caller.keep_alive(keep_alive);
        Self { app, model, keep_alive, meter, waited: Duration::ZERO }
    }

    /// Texts → vectors.
    ///
    /// # Errors
    /// [`ApiError`]; the request is over and counted.
    pub async fn embed(mut self, body: Embed) -> Result<Encoded<Vec<f32>>, ApiError> {
        self.meter.check(self.model.can(ModelKind::Embed).map_err(ApiError::Worker))?;
        let wanted = body.inputs.len();
        let replies = self.tried(Work::Embed(body)).await?;
        let batches = replies.into_iter().map(|reply| match reply {
            Reply::Embeddings { first, vectors, prompt_tokens, last } => {
                Batch { first, items: vectors, prompt_tokens, last }
            }
            other => unreachable!("the link lets no {other:?} through to an embedding"),
        });
        self.close(join(batches, wanted))
    }

    /// A query and documents → the model's own scores, not squashed into any range.
    ///
    /// # Errors
    /// [`ApiError`]; the request is over and counted.
    pub async fn rerank(mut self, body: Rerank) -> Result<Encoded<f32>, ApiError> {
        self.meter.check(self.model.can(ModelKind::Rerank).map_err(ApiError::Worker))?;
        let wanted = body.documents.len();
        let replies = self.tried(Work::Rerank(body)).await?;
        let batches = replies.into_iter().map(|reply| match reply {
            Reply::Scores { first, scores, prompt_tokens, last } => {
                Batch { first, items: scores, prompt_tokens, last }
            }
            other => unreachable!("the link lets no {other:?} through to a reranking"),
        });
        self.close(join(batches, wanted))
    }

    /// A prompt → its tokens.
    ///
    /// # Errors
    /// [`ApiError`]; the request is over and counted.
    pub async fn tokenize(mut self, prompt: Prompt) -> Result<Vec<Token>, ApiError> {
        let mut replies = self.tried(Work::Tokenize(prompt)).await?;
        self.meter.finished(0, 0);
        match replies.pop() {
            Some(Reply::Tokens(tokens)) => Ok(tokens),
            other => unreachable!("the link lets no {other:?} through to a tokenization"),
        }
    }

    /// Tokens → what they spell.
    ///
    /// # Errors
    /// [`ApiError`]; the request is over and counted.
    pub async fn detokenize(mut self, tokens: Vec<u32>) -> Result<String, ApiError> {
        let mut replies = self.tried(Work::Detokenize(tokens)).await?;
        self.meter.finished(0, 0);
        match replies.pop() {
            Some(Reply::Text(text)) => Ok(text),
            other => unreachable!("the link lets no {other:?} through to a detokenization"),
        }
    }

    fn close<T>(mut self, joined: Result<Encoded<T>, ApiError>) -> Result<Encoded<T>, ApiError> {
        let encoded = Encoded { waited: self.waited, ..self.meter.check(joined)? };
        self.meter.finished(encoded.prompt_tokens, 0);
        Ok(encoded)
    }

    /// All replies to the work; from the beginning once more if the worker is lost.
    async fn tried(&mut self, work: Work) -> Result<Vec<Reply>, ApiError> {
        let mut attempt = self.attempt(work.clone()).await;
        if matches!(attempt, Err(ApiError::Lost(Loss::WorkerGone))) {
            tracing::warn!(model = %self.model.name, "lost a worker before its answer; once more");
            attempt = self.attempt(work).await;
        }
        self.meter.check(attempt)
    }

    async fn attempt(&mut self, work: Work) -> Result<Vec<Reply>, ApiError> {
        let mut replies = self.send(work).await?;
        let mut all = Vec::new();
        loop {
            let reply = next(&mut replies).await?;
            let goes_on = matches!(
                reply,
                Reply::Embeddings { last: false, .. } | Reply::Scores { last: false, .. }
            );
            all.push(reply);
            if !goes_on {
                return Ok(all);
            }
        }
    }

    async fn send(&mut self, work: Work) -> Result<Replies, ApiError> {
        self.meter.asks();
        let lease = self.app.fleet.acquire(&self.model, self.keep_alive).await;
        let refused = |refusal| ApiError::Refused { model: self.model.name.clone(), refusal };
        let lease = lease.map_err(refused)?;
        self.meter.leased();
        self.waited = self.meter.arrived().elapsed();
        let replies = lease.send(work).await.map_err(|error| match error {
            SendError::Lost => ApiError::Lost(Loss::WorkerGone),
            SendError::Encode(error) => ApiError::TooLarge(error),
        })?;
        self.meter.sent();
        Ok(replies)
    }
}

/// What one reply holds of an encoder's answer.
struct Batch<T> {
    first: u32,
    items: Vec<T>,
    prompt_tokens: u32,
    last: bool,
}

fn join<T>(batches: impl Iterator<Item = Batch<T>>, wanted: usize) -> Result<Encoded<T>, ApiError> {
    let mut encoded = Encoded::NOTHING;
    for batch in batches {
        take(&mut encoded, batch, wanted)?;
    }
    Ok(encoded)
}

/// A worker is not trusted to count: what is missing or too much would be told of a wrong input.
fn take<T>(encoded: &mut Encoded<T>, batch: Batch<T>, wanted: usize) -> Result<(), ApiError> {
    let have = encoded.items.len();
    let begins = usize::try_from(batch.first).is_ok_and(|first| first == have);
    let after = have + batch.items.len();
    if !begins || after > wanted || (batch.last && after != wanted) {
        let message = format!(
            "the worker answered for inputs {} to {after} after {have} of {wanted}",
            batch.first
        );
        tracing::error!("{message}");
        return Err(ApiError::Worker(RequestFailure::Engine { message }));
    }
    encoded.items.extend(batch.items);
    encoded.prompt_tokens = encoded.prompt_tokens.saturating_add(batch.prompt_tokens);
    Ok(())
}

async fn next(replies: &mut Replies) -> Result<Reply, ApiError> {
    match replies.next().await {
        Ok(Reply::Failed(failure)) => {
            tracing::info!(?failure, "a worker refused a request or failed on it");
            Err(ApiError::Worker(failure))
        }
        Ok(reply) => Ok(reply),
        Err(loss) => Err(ApiError::Lost(loss)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: u32, items: &[i32], last: bool) -> Batch<i32> {
        Batch { first, items: items.to_vec(), prompt_tokens: 2, last }
    }

    #[test]
    fn batches_join_in_their_order() {
        let mut encoded = Encoded::NOTHING;
        take(&mut encoded, batch(0, &[5, 6], false), 3).unwrap();
        take(&mut encoded, batch(2, &[7], true), 3).unwrap();
        assert_eq!((encoded.items, encoded.prompt_tokens), (vec![5, 6, 7], 4));
    }

    #[test]
    fn an_answer_with_a_gap_or_too_much_is_none() {
        for (wrong, wanted) in
            [(batch(1, &[5], true), 2), (batch(0, &[5], true), 2), (batch(0, &[5, 6, 7], false), 2)]
        {
            let mut encoded = Encoded::NOTHING;
            let error = take(&mut encoded, wrong, wanted).unwrap_err();
            assert_eq!(error.status(), 500);
            assert_eq!(encoded.items, [0; 0]);
        }
    }
}
