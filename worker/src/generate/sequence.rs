//! One answer on its way: what it has generated, and when it is over.

use std::sync::Arc;
use std::time::Instant;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Finish, FinishReason, News, RequestFailure};

use super::grammar::{Grammar, Progress, Walk};
use super::logprobs::Logprobs;
use super::sampler::Sampler;
use super::stop::{Passed, StopTexts};
use crate::answer::Reader;
use crate::prepare::Prepared;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::pieces::Pieces;

/// A choice of a request that has a slot.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) request: Arc<Prepared>,
    pub(crate) choice: u32,
    /// The token that the next decode step is given.
    pub(crate) last: u32,
    /// How many of the prompt's tokens were in a cache already.
    cached: usize,
    sampler: Sampler,
    logprobs: Option<Logprobs>,
    pieces: Pieces,
    stop: StopTexts,
    reader: Reader,
    walk: Option<Walk>,
    generated: u32,
    /// Which tokens these are, where they are to be told.
    told: Option<Vec<u32>>,
    /// How many of the generated tokens were thoughts.
    thought: u32,
    admitted: Instant,
    first_token: Option<Instant>,
}

impl Sequence {
    /// `seed` is the request's; every choice makes its own of it. `cached` tokens of the prompt
    /// were found.
    pub(crate) fn new(
        request: Arc<Prepared>,
        (choice, seed): (u32, u64),
        cached: usize,
        now: Instant,
    ) -> Self {
        let seed = seed.wrapping_add(u64::from(choice));
        Self {
            choice,
            last: 0,
            cached,
            sampler: Sampler::new(request.sampling, &request.logit_bias, seed, &request.prompt),
            logprobs: request.logprobs.map(Logprobs::new),
            pieces: Pieces::default(),
            stop: StopTexts::new(request.stop.clone()),
            reader: Reader::new(request.reading.clone()),
            walk: request.grammar.as_ref().map(Grammar::begin),
            generated: 0,
            told: request.tells_context.then(Vec::new),
            thought: 0,
            admitted: now,
            first_token: None,
            request,
        }
    }

    pub(crate) fn id(&self) -> RequestId {
        self.request.id
    }

    /// The token that was given last; none before the first.
    pub(crate) fn last_generated(&self) -> Option<u32> {
        (self.generated > 0).then_some(self.last)
    }

    /// How many tokens the answer may take, at most `most`.
    pub(crate) fn answer_room(&self, most: usize) -> usize {
        usize::try_from(self.request.tokens_max).map_or(most, |tokens| tokens.min(most))
    }

    /// All of the prompt but its last token is in the cache: the next decode step takes that one.
    pub(crate) fn run_from_prompt(&mut self) {
        self.last = self.request.prompt.last().copied().unwrap_or_default();
    }

    /// Whether no token is wanted: only the prompt was to be read.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.request.tokens_max == 0
    }

    /// The news of a sequence that [wants nothing](Self::wants_nothing).
    pub(crate) fn end_without_tokens(&mut self, now: Instant) -> News {
        self.news("", 0, Some(FinishReason::Length), now)
    }

    /// Chooses the next token; `None` if there is none to choose. The logits are changed.
    ///
    /// # Errors
    /// [`RequestFailure::Constraint`]: the answer's grammar is too complex at this place.
    pub(crate) fn choose(&mut self, logits: &mut [f32]) -> Result<Option<u32>, RequestFailure> {
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.observe(logits);
        }
        if let Some(walk) = &mut self.walk {
            walk.constrain(logits)?;
        }
        self.rule_out(logits);
        Ok(self.sampler.next(logits))
    }

    /// Sets to −∞ what must not come next, whatever the sampler would like.
    fn rule_out(&self, logits: &mut [f32]) {
        if self.generated >= self.request.tokens_min {
            return;
        }
        let ends = &self.request.ends;
        // A grammar may leave nothing but the end; then the answer is as long as it can be.
        let goes_on = self.walk.is_none()
            || (0_u32..)
                .zip(&*logits)
                .any(|(id, &logit)| logit > f32::NEG_INFINITY && !ends.contains(&id));
        if !goes_on {
            return;
        }
        for &end in ends {
            if let Some(logit) = usize::try_from(end).ok().and_then(|end| logits.get_mut(end)) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// Takes the token that was chosen; the news say whether it was the last one.
    ///
    /// # Errors
    /// [`RequestFailure::Constraint`]: the answer's grammar is too complex after it.
    pub(crate) fn take(
        &mut self,
        token: u32,
        tokenizer: &Tokenizer,
        now: Instant,
    ) -> Result<News, RequestFailure> {
        self.last = token;
        self.generated += 1;
        if let Some(told) = &mut self.told {
            told.push(token);
        }
        self.first_token.get_or_insert(now);
        let progress = match &mut self.walk {
            Some(walk) => walk.take(token)?,
            None => Progress::GoesOn,
        };
        let mut news = self.read(token, progress, tokenizer, now);
        news.logprobs.extend(self.logprobs.as_mut().map(|known| known.of(token, tokenizer)));
        Ok(news)
    }

    fn read(
        &mut self,
        token: u32,
        progress: Progress,
        tokenizer: &Tokenizer,
        now: Instant,
    ) -> News {
        if self.request.ends.contains(&token) {
            let (text, _) = self.rest(tokenizer);
            return self.news(&text, 1, Some(FinishReason::Stop), now);
        }
        let piece = self.pieces.push(tokenizer, token);
        let full = self.generated >= self.request.tokens_max;
        match self.pass(piece) {
            Passed::Stopped(text) => self.news(&text, 1, Some(FinishReason::Stop), now),
            Passed::Text(text) if progress == Progress::GoesOn && !full => {
                self.news(&text, 1, None, now)
            }
            Passed::Text(text) => {
                let (rest, stopped) = self.rest(tokenizer);
                let complete = stopped || progress == Progress::Complete;
                let reason = if complete { FinishReason::Stop } else { FinishReason::Length };
                self.news(&(text + &rest), 1, Some(reason), now)
            }
        }
    }

    /// The text of the least tokens is looked at by no stop text, not even by the end of one.
    fn pass(&mut self, piece: String) -> Passed {
        if self.generated <= self.request.tokens_min {
            return Passed::Text(piece);
        }
        self.stop.push(&piece)
    }

    /// What was held back, and whether a stop text came up in it after all.
    fn rest(&mut self, tokenizer: &Tokenizer) -> (String, bool) {
        let piece = std::mem::take(&mut self.pieces).finish(tokenizer);
        match self.pass(piece) {
            Passed::Stopped(text) => (text, true),
            Passed::Text(text) => (text + &std::mem::take(&mut self.stop).finish(), false),
        }
    }

    fn news(&mut self, text: &str, tokens: u32, end: Option<FinishReason>, now: Instant) -> News {
        let was_thinking = self.reader.is_thinking();
        let mut parts = self.reader.push(text);
        if was_thinking || self.reader.is_thinking() {
            self.thought += tokens;
        }
        let end = end.or(self.reader.is_over().then_some(FinishReason::Stop));
        if end.is_some() {
            parts.extend(self.reader.finish());
        }
        News {
            id: self.id(),
            choice: self.choice,
            parts,
            tokens,
            logprobs: Vec::new(),
            context: if end.is_some() { self.context() } else { Vec::new() },
            finish: end.map(|reason| self.finish(reason, now)),
        }
    }

    /// Everything that stands in the sequence now, if it is to be told.
    fn context(&self) -> Vec<u32> {
        let told = self.told.as_ref();
        told.map_or_else(Vec::new, |told| [&self.request.prompt[..], told].concat())
    }

    fn finish(&self, reason: FinishReason, now: Instant) -> Finish {
        let first_token = self.first_token.unwrap_or(now);
        let calls = reason == FinishReason::Stop && self.reader.has_calls();
        Finish {
            reason: if calls { FinishReason::ToolCalls } else { reason },
            prompt_tokens: count(self.request.prompt.len()),
            cached_tokens: count(self.cached),
            completion_tokens: self.generated,
            reasoning_tokens: self.thought,
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
