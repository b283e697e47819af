//! The engine: admits requests to slots, reads their prompts, decodes them together.
//!
//! One thread owns it and calls [`Engine::tick`] for as long as there is work. A tick is one
//! decode step over all running sequences, then one chunk of the prompt of one that joins: so a
//! long prompt delays the others by one chunk at a time. It does no I/O and knows no threads.

mod forward;
mod kv_cache;
mod select;
mod sampler;
mod logprobs;
mod sequence;
mod slots;
mod stop;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FromWorker, News, RequestFailure};

use crate::prepare::Prepared;
use crate::tokenizer::Tokenizer;

pub(crate) use forward::{Forward, ForwardError};
pub(crate) use sequence::count;

use sequence::Sequence;
use slots::Slots;

/// Requests that wait for a slot; the gateway sends no more than there are slots, so only a few
/// that cross a slot's end on the way ever wait.
const WAITING_MAX: usize = 256;

/// Runs one language model for many requests at once.
#[derive(Debug)]
pub struct Engine {
    forward: Forward,
    slots: Slots<Sequence>,
    waiting: VecDeque<Waiting>,
    tokenizer: Arc<Tokenizer>,
}

/// A request of which not every choice has got a slot.
#[derive(Debug)]
struct Waiting {
    request: Arc<Prepared>,
    seed: u64,
    next_choice: u32,
}

/// What a tick has to say.
#[derive(Debug, Default)]
struct Said {
    news: Vec<News>,
    failures: Vec<(RequestId, RequestFailure)>,
}

impl Engine {
    pub(crate) fn new(forward: Forward, tokenizer: Arc<Tokenizer>) -> Self {
        Self { slots: Slots::new(forward.slots()), forward, waiting: VecDeque::new(), tokenizer }
    }

    /// Lets a tick read no more than so many tokens of a prompt. Decoding waits for them, so fewer
    /// are smoother for those who run, and more are faster for who joins.
    pub fn limit_prefill(&mut self, tokens: usize) {
        self.forward.limit_chunk(tokens);
    }

    /// Queues a request; its choices get the next free slots in order.
    ///
    /// # Errors
    /// [`RequestFailure::Invalid`] if far more requests wait than a gateway would send.
    pub fn admit(&mut self, request: Prepared) -> Result<(), RequestFailure> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(RequestFailure::Invalid {
                message: format!("{WAITING_MAX} requests wait for a slot already"),
            });
        }
        let seed = request.sampling.seed.unwrap_or_else(drawn_seed);
        self.waiting.push_back(Waiting { request: Arc::new(request), seed, next_choice: 0 });
        Ok(())
    }

    /// Drops a request, wherever its choices stand; nothing more is said of it. An unknown one is
    /// no error.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|waiting| waiting.request.id != id);
        if self.slots.joining().is_some_and(|(_, sequence)| sequence.id() == id) {
            self.slots.leave_joining();
        }
        while let Some(slot) = self.slots.running().iter().position(|other| other.id() == id) {
            self.leave(slot);
        }
    }

    /// How long ONNX Runtime's runs took since the load: the rest of a tick is the engine's own.
    #[must_use]
    pub fn time_in_runtime(&self) -> Duration {
        self.forward.time_in_runtime()
    }

    /// Whether a tick would do nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.waiting.is_empty()
    }

    /// The token that each running choice was given last, for who follows ids and not texts.
    pub fn last_tokens(&mut self) -> impl Iterator<Item = (RequestId, u32, u32)> {
        self.slots.running().iter().map(|sequence| (sequence.id(), sequence.choice, sequence.last))
    }

    /// Does one decode step and one chunk of a prompt; gives what is to be said of it.
    ///
    /// Blocks for up to two forward passes. If one fails, the requests in it fail, and the engine
    /// stays usable.
    pub fn tick(&mut self) -> Vec<FromWorker> {
        let mut said = Said::default();
        self.decode(&mut said);
        self.drop_failed(&mut said);
        self.let_one_join();
        self.prefill(&mut said);
        self.drop_failed(&mut said);
        let step = (!said.news.is_empty()).then_some(FromWorker::Step(said.news));
        let failures = said.failures.into_iter();
        let failures = failures.map(|(id, reason)| FromWorker::Failed { id, reason });
        step.into_iter().chain(failures).collect()
    }

    fn decode(&mut self, said: &mut Said) {
        let tokens: Vec<_> = self.slots.running().iter().map(|sequence| sequence.last).collect();
        if tokens.is_empty() {
            return;
        }
        if let Err(error) = self.forward.decode(&tokens) {
            let failed =
                self.slots.running().iter().map(|sequence| (sequence.id(), (&error).into()));
            said.failures.extend(failed);
            return;
        }
        // From the last one down: who leaves is replaced by one that had its turn.
        for slot in (0..tokens.len()).rev() {
            let sequence = &mut self.slots.running()[slot];
            match advance(sequence, self.forward.logits(slot), &self.tokenizer) {
                Ok(update) => {
                    let over = update.finish.is_some();
                    said.news.push(update);
                    if over {
                        self.leave(slot);
                    }
                }
                Err(failure) => said.failures.push((sequence.id(), failure)),
            }
        }
    }

    fn let_one_join(&mut self) {
        if !self.slots.can_join() {
            return;
        }
        let Some(waiting) = self.waiting.front_mut() else {
            return;
        };
        let Waiting { request, seed, next_choice } = waiting;
        let choice = *next_choice;
        *next_choice += 1;
        let sequence = Sequence::new(Arc::clone(request), choice, *seed, Instant::now());
        if *next_choice == request.choices {
            self.waiting.pop_front();
        }
        let slot = self.slots.join(sequence);
        self.forward.clear(slot);
    }

    fn prefill(&mut self, said: &mut Said) {
        let Some((slot, sequence)) = self.slots.joining() else {
            return;
        };
        let prompt = &sequence.request.prompt;
        let start = self.forward.length(slot);
        let end = prompt.len().min(start + self.forward.chunk());
        if let Err(error) = self.forward.prefill(slot, &prompt[start..end]) {
            said.failures.push((sequence.id(), (&error).into()));
            return;
        }
        if end < prompt.len() {
            return;
        }
        let update = if sequence.wants_nothing() {
            Ok(sequence.end_without_tokens(Instant::now()))
        } else {
            advance(sequence, self.forward.logits(0), &self.tokenizer)
        };
        match update {
            Ok(update) if update.finish.is_none() => {
                said.news.push(update);
                if let Some(step) = self.slots.joined() {
                    self.forward.apply(step);
                }
            }
            Ok(update) => {
                said.news.push(update);
                self.slots.leave_joining();
            }
            Err(failure) => said.failures.push((sequence.id(), failure)),
        }
    }

    /// A request fails as a whole: its other choices go too, and it is told once, at the end.
    fn drop_failed(&mut self, said: &mut Said) {
        let mut seen = Vec::new();
        said.failures.retain(|(id, _)| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        for &id in &seen {
            self.cancel(id);
        }
        said.news.retain(|news| !seen.contains(&news.id));
    }

    /// A running sequence leaves, and the last one takes its slot.
    fn leave(&mut self, slot: usize) {
        if let Some(step) = self.slots.leave(slot) {
            self.forward.apply(step);
        }
    }
}

/// Chooses a sequence's next token.
fn advance(
    sequence: &mut Sequence,
    logits: &mut [f32],
    tokenizer: &Tokenizer,
) -> Result<News, RequestFailure> {
    match sequence.choose(logits) {
        Some(token) => Ok(sequence.take(token, tokenizer, Instant::now())),
        None => Err(RequestFailure::Engine {
            message: "the model gave no number for any token".to_owned(),
        }),
    }
}

impl From<&ForwardError> for RequestFailure {
    fn from(error: &ForwardError) -> Self {
        Self::Engine { message: error.to_string() }
    }
}

/// A seed for a request that brings none.
fn drawn_seed() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        // Without randomness from the system answers repeat themselves, which is no reason to
        // give none.
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests;
