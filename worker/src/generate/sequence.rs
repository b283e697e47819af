//! One request on its way: what it has generated, and when it is over.

use std::time::Instant;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Finish, FinishReason, News, Part};

use super::sampler::Sampler;
use super::stop::{Passed, StopTexts};
use crate::prepare::Prepared;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::pieces::Pieces;

/// A request that has a slot.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) prompt: Vec<u32>,
    /// The token that the next decode step is given.
    pub(crate) last: u32,
    pub(crate) sampler: Sampler,
    pieces: Pieces,
    stop: StopTexts,
    /// The most tokens to generate.
    limit: u32,
    generated: u32,
    admitted: Instant,
    first_token: Option<Instant>,
}

/// What a sequence's text and end are decided by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vocabulary<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// Tokens that end a sequence.
    pub(crate) ends: &'a [u32],
}

impl Sequence {
    pub(crate) fn new(request: Prepared, drawn_seed: u64, now: Instant) -> Self {
        Self {
            id: request.id,
            last: 0,
            sampler: Sampler::new(request.sampling, drawn_seed, &request.prompt),
            prompt: request.prompt,
            pieces: Pieces::default(),
            stop: StopTexts::new(request.stop),
            limit: request.tokens_max,
            generated: 0,
            admitted: now,
            first_token: None,
        }
    }

    /// Whether no token is wanted: only the prompt was to be read.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.limit == 0
    }

    /// The news of a sequence that [wants nothing](Self::wants_nothing).
    pub(crate) fn end_without_tokens(&mut self, now: Instant) -> News {
        self.news(String::new(), 0, Some((FinishReason::Length, now)))
    }

    /// Takes the token that was chosen; the news say whether it was the last one.
    pub(crate) fn take(&mut self, token: u32, vocabulary: Vocabulary<'_>, now: Instant) -> News {
        self.last = token;
        self.generated += 1;
        self.first_token.get_or_insert(now);
        let tokenizer = vocabulary.tokenizer;
        if vocabulary.ends.contains(&token) {
            let (text, _) = self.rest(tokenizer);
            return self.news(text, 1, Some((FinishReason::Stop, now)));
        }
        let piece = self.pieces.push(tokenizer, token);
        match self.stop.push(&piece) {
            Passed::Stopped(text) => self.news(text, 1, Some((FinishReason::Stop, now))),
            Passed::Text(text) if self.generated < self.limit => self.news(text, 1, None),
            Passed::Text(text) => {
                let (rest, stopped) = self.rest(tokenizer);
                let reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
                self.news(text + &rest, 1, Some((reason, now)))
            }
        }
    }

    /// What was held back, and whether a stop text came up in it after all.
    fn rest(&mut self, tokenizer: &Tokenizer) -> (String, bool) {
        let piece = std::mem::take(&mut self.pieces).finish(tokenizer);
        match self.stop.push(&piece) {
            Passed::Stopped(text) => (text, true),
            Passed::Text(text) => (text + &std::mem::take(&mut self.stop).finish(), false),
        }
    }

    fn news(&self, text: String, tokens: u32, end: Option<(FinishReason, Instant)>) -> News {
        News {
            id: self.id,
            choice: 0,
            parts: if text.is_empty() { Vec::new() } else { vec![Part::Text(text)] },
            tokens,
            logprobs: Vec::new(),
            finish: end.map(|(reason, now)| self.finish(reason, now)),
        }
    }

    fn finish(&self, reason: FinishReason, now: Instant) -> Finish {
        let first_token = self.first_token.unwrap_or(now);
        Finish {
            reason,
            prompt_tokens: count(self.prompt.len()),
            cached_tokens: 0,
            completion_tokens: self.generated,
            reasoning_tokens: 0,
            prefill_us: micros(self.admitted, first_token),
            decode_us: micros(first_token, now),
        }
    }
}

/// A number of tokens as the protocol spells it.
pub(crate) fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
