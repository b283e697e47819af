//! The engine: admits requests to slots, reads their prompts, decodes them together.
//!
//! One thread owns it and calls [`Engine::tick`] for as long as there is work. A tick is one
//! decode step over all running sequences, then one chunk of the prompt of one that joins: so a
//! long prompt delays the others by one chunk at a time. It does no I/O and knows no threads.

mod admit;
mod extras;
mod forward;
pub(crate) mod grammar;
mod kv_cache;
mod select;
mod sampler;
mod logprobs;
mod pace;
mod prefix;
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

use admit::Waiting;
use pace::Pace;
use sequence::Sequence;
use slots::{Exchange, Slots};

/// Requests that wait for a slot; the gateway sends no more than there are slots, so only a few
/// that cross a slot's end on the way ever wait.
const WAITING_MAX: usize = 256;

/// The most that finished sequences' tokens take while nothing is to be done.
const HELD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Runs one language model for many requests at once.
#[derive(Debug)]
pub struct Engine {
    forward: Forward,
    slots: Slots<Sequence>,
    waiting: VecDeque<Waiting>,
    pace: Pace,
    tokenizer: Arc<Tokenizer>,
}

/// What a tick has to say.
#[derive(Debug, Default)]
struct Said {
    news: Vec<News>,
    failures: Vec<(RequestId, RequestFailure)>,
}

impl Engine {
    pub(crate) fn new(forward: Forward, tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            slots: Slots::new(forward.slots()),
            forward,
            waiting: VecDeque::new(),
            pace: Pace::default(),
            tokenizer,
        }
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
        self.waiting.push_back(Waiting::new(request, seed));
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

    /// Whether a tick would do nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.waiting.is_empty()
    }

    /// Gives memory back that the next requests will hardly need; for when nothing is to be done.
    /// The beginnings of the newest conversations are kept.
    pub fn rest(&mut self) {
        let mut room = HELD_BYTES_MAX / self.forward.token_bytes().max(1);
        let mut free = self.slots.free();
        free.reverse();
        for slot in free {
            match room.checked_sub(self.forward.held(slot).len()) {
                Some(rest) => room = rest,
                None => self.forward.truncate(slot, 0),
            }
        }
        if let Err(error) = self.forward.shrink() {
            // Everything is as it was; the next try comes after the next work.
            tracing::warn!("memory can't be given back: {error}");
        }
    }

    /// How long ONNX Runtime has run for all ticks so far.
    #[must_use]
    pub fn ran(&self) -> Duration {
        self.forward.ran().0
    }

    /// The token that each running choice was given last, for who follows ids and not texts.
    pub fn last_tokens(&mut self) -> impl Iterator<Item = (RequestId, u32, u32)> {
        let running = self.slots.running().iter();
        running.filter_map(|sequence| {
            Some((sequence.id(), sequence.choice, sequence.last_generated()?))
        })
    }

    /// Does one decode step and one chunk of a prompt; gives what is to be said of it.
    ///
    /// Blocks for up to two forward passes. If one fails, the requests in it fail, and the engine
    /// stays usable.
    pub fn tick(&mut self) -> Vec<FromWorker> {
        let mut said = Said::default();
        self.fail_what_is_lost(&mut said);
        self.decode(&mut said);
        self.drop_failed(&mut said);
        self.let_join(&mut said);
        self.prefill(&mut said);
        self.drop_failed(&mut said);
        // Choices whose prompt was just read need no run of their own to join.
        self.let_join(&mut said);
        self.drop_failed(&mut said);
        let step = (!said.news.is_empty()).then_some(FromWorker::Step(said.news));
        let failures = said.failures.into_iter();
        let failures = failures.map(|(id, reason)| FromWorker::Failed { id, reason });
        step.into_iter().chain(failures).collect()
    }

    /// A device that could not move what the slots held has left nothing that could go on.
    fn fail_what_is_lost(&mut self, said: &mut Said) {
        if !self.forward.take_loss() {
            return;
        }
        let mut ids: Vec<_> = self.slots.running().iter().map(Sequence::id).collect();
        ids.extend(self.slots.joining().map(|(_, sequence)| sequence.id()));
        let message = "ONNX Runtime: the device failed to move what it holds".to_owned();
        let failed =
            ids.into_iter().map(|id| (id, RequestFailure::Engine { message: message.clone() }));
        said.failures.extend(failed);
        self.drop_failed(said);
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
        self.pace.stepped(self.forward.ran().1);
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

    fn prefill(&mut self, said: &mut Said) {
        let others_run = self.slots.first_behind() > 0;
        let Some((slot, sequence)) = self.slots.joining() else {
            return;
        };
        let most = self.forward.chunk();
        let chunk = if others_run { self.pace.chunk(most) } else { most };
        let prompt = &sequence.request.prompt;
        let start = self.forward.held(slot).len();
        let end = prompt.len().min(start + chunk);
        if let Err(error) = self.forward.prefill(slot, &prompt[start..end]) {
            said.failures.push((sequence.id(), (&error).into()));
            return;
        }
        if others_run {
            self.pace.read(end - start, self.forward.ran().1);
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
            Ok(update) => {
                let over = update.finish.is_some();
                said.news.push(update);
                if over {
                    self.slots.leave_joining();
                } else {
                    let exchange = self.slots.joined();
                    self.carry(exchange);
                }
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
        let exchange = self.slots.leave(slot);
        self.carry(exchange);
    }

    /// The cache follows the slots.
    fn carry(&mut self, exchange: Option<Exchange>) {
        if let Some(exchange) = exchange {
            self.forward.exchange(exchange);
        }
    }
}

/// Chooses a sequence's next token.
fn advance(
    sequence: &mut Sequence,
    logits: &mut [f32],
    tokenizer: &Tokenizer,
) -> Result<News, RequestFailure> {
    match sequence.choose(logits)? {
        Some(token) => sequence.take(token, tokenizer, Instant::now()),
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
