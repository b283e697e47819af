//! The engine: admits requests to slots, reads their prompts, decodes them together.
//!
//! One thread owns it and calls [`Engine::tick`] for as long as there is work. A tick is one
//! decode step over all running sequences, then one chunk of the prompt of one that joins: so a
//! long prompt delays the others by one chunk at a time. It does no I/O and knows no threads.

mod forward;
pub(crate) mod grammar;
mod kv_cache;
mod sampler;
mod sequence;
mod slots;
mod stop;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FromWorker, News, RequestFailure};

use crate::prepare::Prepared;
use crate::tokenizer::Tokenizer;

pub(crate) use forward::{Forward, ForwardError};
pub(crate) use sequence::count;

use sequence::{Sequence, Vocabulary};
use slots::Slots;

/// Requests that wait for a slot; the gateway sends no more than there are slots, so only a few
/// that cross a slot's end on the way ever wait.
const WAITING_MAX: usize = 256;

/// Runs one language model for many requests at once.
#[derive(Debug)]
pub struct Engine {
    forward: Forward,
    slots: Slots<Sequence>,
    waiting: VecDeque<Prepared>,
    tokenizer: Arc<Tokenizer>,
    ends: Vec<u32>,
}

impl Engine {
    pub(crate) fn new(forward: Forward, tokenizer: Arc<Tokenizer>, ends: Vec<u32>) -> Self {
        Self {
            slots: Slots::new(forward.slots()),
            forward,
            waiting: VecDeque::new(),
            tokenizer,
            ends,
        }
    }

    /// Lets a tick read no more than so many tokens of a prompt. Decoding waits for them, so fewer
    /// are smoother for those who run, and more are faster for who joins.
    pub fn limit_prefill(&mut self, tokens: usize) {
        self.forward.limit_chunk(tokens);
    }

    /// Queues a request; it gets the next free slot in order.
    ///
    /// # Errors
    /// [`RequestFailure::Invalid`] if far more requests wait than a gateway would send.
    pub fn admit(&mut self, request: Prepared) -> Result<(), RequestFailure> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(RequestFailure::Invalid {
                message: format!("{WAITING_MAX} requests wait for a slot already"),
            });
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Drops a request, wherever it stands; nothing more is said of it. An unknown one is no error.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|request| request.id != id);
        if self.slots.joining().is_some_and(|(_, sequence)| sequence.id == id) {
            self.slots.leave_joining();
        }
        if let Some(slot) = self.slots.running().iter().position(|sequence| sequence.id == id) {
            self.leave(slot);
        }
    }

    /// Whether a tick would do nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.waiting.is_empty()
    }

    /// The token that each running sequence was given last, for who follows ids and not texts.
    pub fn last_tokens(&mut self) -> impl Iterator<Item = (RequestId, u32)> {
        self.slots.running().iter().map(|sequence| (sequence.id, sequence.last))
    }

    /// Does one decode step and one chunk of a prompt; gives what is to be said of it.
    ///
    /// Blocks for up to two forward passes. If one fails, the sequences in it fail, and the engine
    /// stays usable.
    pub fn tick(&mut self) -> Vec<FromWorker> {
        let mut news = Vec::new();
        let mut failures = Vec::new();
        self.decode(&mut news, &mut failures);
        if self.slots.can_join()
            && let Some(request) = self.waiting.pop_front()
        {
            let sequence = Sequence::new(request, drawn_seed(), Instant::now());
            let slot = self.slots.join(sequence);
            self.forward.clear(slot);
        }
        self.prefill(&mut news, &mut failures);
        let step = (!news.is_empty()).then_some(FromWorker::Step(news));
        step.into_iter().chain(failures).collect()
    }

    fn decode(&mut self, news: &mut Vec<News>, failures: &mut Vec<FromWorker>) {
        let tokens: Vec<_> = self.slots.running().iter().map(|sequence| sequence.last).collect();
        if tokens.is_empty() {
            return;
        }
        if let Err(error) = self.forward.decode(&tokens) {
            for slot in (0..tokens.len()).rev() {
                let id = self.leave(slot);
                failures.push(failed(id, &error));
            }
            return;
        }
        // From the last one down: who leaves is replaced by one that had its turn.
        for slot in (0..tokens.len()).rev() {
            let sequence = &mut self.slots.running()[slot];
            let vocabulary = Vocabulary { tokenizer: &self.tokenizer, ends: &self.ends };
            match advance(sequence, self.forward.logits(slot), vocabulary) {
                Ok(update) => {
                    let over = update.finish.is_some();
                    news.push(update);
                    if over {
                        self.leave(slot);
                    }
                }
                Err(failure) => {
                    failures.push(failure);
                    self.leave(slot);
                }
            }
        }
    }

    fn prefill(&mut self, news: &mut Vec<News>, failures: &mut Vec<FromWorker>) {
        let Some((slot, sequence)) = self.slots.joining() else {
            return;
        };
        let start = self.forward.length(slot);
        let end = sequence.prompt.len().min(start + self.forward.chunk());
        if let Err(error) = self.forward.prefill(slot, &sequence.prompt[start..end]) {
            failures.push(failed(sequence.id, &error));
            self.slots.leave_joining();
            return;
        }
        if end < sequence.prompt.len() {
            return;
        }
        let vocabulary = Vocabulary { tokenizer: &self.tokenizer, ends: &self.ends };
        let update = if sequence.wants_nothing() {
            Ok(sequence.end_without_tokens(Instant::now()))
        } else {
            advance(sequence, self.forward.logits(0), vocabulary)
        };
        match update {
            Ok(update) if update.finish.is_none() => {
                news.push(update);
                if let Some(step) = self.slots.joined() {
                    self.forward.apply(step);
                }
            }
            Ok(update) => {
                news.push(update);
                self.slots.leave_joining();
            }
            Err(failure) => {
                failures.push(failure);
                self.slots.leave_joining();
            }
        }
    }

    /// A running sequence leaves, and the last one takes its slot.
    fn leave(&mut self, slot: usize) -> RequestId {
        let (sequence, step) = self.slots.leave(slot);
        if let Some(step) = step {
            self.forward.apply(step);
        }
        sequence.id
    }
}

/// Chooses a sequence's next token.
fn advance(
    sequence: &mut Sequence,
    logits: &mut [f32],
    vocabulary: Vocabulary<'_>,
) -> Result<News, FromWorker> {
    match sequence.sampler.next(logits) {
        Some(token) => Ok(sequence.take(token, vocabulary, Instant::now())),
        None => Err(FromWorker::Failed {
            id: sequence.id,
            reason: RequestFailure::Engine {
                message: "the model gave no number for any token".to_owned(),
            },
        }),
    }
}

fn failed(id: RequestId, error: &ForwardError) -> FromWorker {
    FromWorker::Failed { id, reason: RequestFailure::Engine { message: error.to_string() } }
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
