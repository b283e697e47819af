//! From the queue to a slot: where a request's choices begin, and with how much of the prompt.
//!
//! A prompt is read only as far as no slot holds it already. One sequence at a time joins, so that
//! those who come after it find what it read; but short prompts that nobody has seen are read
//! together, and a prompt that is there up to its last token needs no reading: its sequence runs
//! from the next step on. So the choices of one request share the reading of its prompt.

use std::sync::Arc;
use std::time::Instant;

use super::prefix::{self, Holding, Plan};
use super::sequence::Sequence;
use super::{Engine, Said};
use crate::prepare::Prepared;

/// A request of which not every choice has got a slot.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Arc<Prepared>,
    seed: u64,
    next_choice: u32,
    /// How much of the prompt its first choice found in the cache; its own reading is no find.
    cached: usize,
}

impl Waiting {
    pub(super) fn new(request: Prepared, seed: u64) -> Self {
        Self { request: Arc::new(request), seed, next_choice: 0, cached: 0 }
    }

    /// The next choice, which has so much of the prompt already.
    fn next(&mut self, reused: usize) -> Sequence {
        let choice = self.next_choice;
        if choice == 0 {
            self.cached = reused;
        }
        self.next_choice += 1;
        let request = Arc::clone(&self.request);
        Sequence::new(request, (choice, self.seed), self.cached, Instant::now())
    }

    fn is_over(&self) -> bool {
        self.next_choice == self.request.choices
    }
}

/// Room for the answer that is made with the prompt's: slabs move once and not twice.
const ANSWER_ROOM: usize = 256;
/// A run costs about as much as so many tokens in it, before any token is read.
const RUN_TOKENS: usize = 4;

impl Engine {
    /// Gives slots to those who wait, as long as that takes no run of the model.
    pub(super) fn let_join(&mut self, said: &mut Said) {
        loop {
            let Some(waiting) = self.waiting.front() else {
                return;
            };
            let prompt = &waiting.request.prompt;
            let Some(plan) = self.plan(prompt) else {
                return;
            };
            let needs_reading = plan.reused + 1 < prompt.len();
            if needs_reading && self.slots.joining().is_some() {
                return;
            }
            let goes_on =
                needs_reading && self.read_together(said) || self.start(plan, needs_reading, said);
            if !goes_on {
                return;
            }
        }
    }

    fn plan(&self, prompt: &[u32]) -> Option<Plan> {
        let holding = |&slot: &usize| Holding { slot, tokens: self.forward.held(slot) };
        let taken = (0..self.slots.count()).filter(|&slot| !self.slots.is_free(slot));
        let taken: Vec<_> = taken.collect();
        let taken: Vec<_> = taken.iter().map(holding).collect();
        let free: Vec<_> = self.slots.free().iter().map(holding).collect();
        prefix::plan(prompt, (&free, &taken), self.forward.rewinds())
    }

    /// The first one that waits takes its slot; says whether the next one may follow at once.
    fn start(&mut self, plan: Plan, needs_reading: bool, said: &mut Said) -> bool {
        let Some(mut sequence) = self.next_waiting(plan.reused) else {
            return false;
        };
        let tokens = sequence.request.prompt.len() + sequence.answer_room(ANSWER_ROOM);
        if let Err(error) = self.forward.reserve(tokens) {
            said.failures.push((sequence.id(), (&error).into()));
            return false;
        }
        match plan.source {
            Some(source) => self.forward.copy((source, plan.slot), plan.reused),
            None => self.forward.truncate(plan.slot, plan.reused),
        }
        if needs_reading {
            let slot = self.move_up(plan.slot);
            self.slots.join(slot, sequence);
        } else if sequence.wants_nothing() {
            said.news.push(sequence.end_without_tokens(Instant::now()));
        } else {
            sequence.run_from_prompt();
            let exchange = self.slots.run(plan.slot, sequence);
            self.carry(exchange);
        }
        true
    }

    /// Brings what a free slot holds right behind those who run. Whoever joins there need not move
    /// with its whole prompt once that is read, while all others wait.
    fn move_up(&mut self, slot: usize) -> usize {
        let first = self.slots.first_behind();
        let exchange = self.slots.exchange_free(slot, first);
        self.carry(exchange);
        first
    }

    /// Reads the prompts of the first few that wait in one run, if that is faster than one by one,
    /// reused beginnings counted; says whether it did.
    ///
    /// Their last tokens are left to the next decode step: the logits of a padded row's end are
    /// not to be had from every graph.
    fn read_together(&mut self, said: &mut Said) -> bool {
        if !self.forward.reads_together() || self.slots.joining().is_some() {
            return false;
        }
        let count = self.worth_together();
        if count < 2 {
            return false;
        }
        let first = self.slots.first_behind();
        for slot in first..first + count {
            self.make_spare(slot);
        }
        let sequences: Vec<_> = (0..count).filter_map(|_| self.next_waiting(0)).collect();
        let prompts = sequences.iter().map(|sequence| all_but_last(&sequence.request.prompt));
        let prompts: Vec<_> = prompts.collect();
        if let Err(error) = self.forward.prefill_together(first, &prompts) {
            let failed = sequences.iter().map(|sequence| (sequence.id(), (&error).into()));
            said.failures.extend(failed);
            return true;
        }
        for (slot, mut sequence) in (first..).zip(sequences) {
            sequence.run_from_prompt();
            let exchange = self.slots.run(slot, sequence);
            self.carry(exchange);
        }
        true
    }

    /// How many of the first that wait are read faster together; fewer than two if none are.
    fn worth_together(&self) -> usize {
        if !self.forward.rewinds() {
            // What a padded row would write behind its end would slide its window.
            return 0;
        }
        let first = self.slots.first_behind();
        let room = self.slots.count() - first;
        let most = self.forward.chunk();
        let most = if first > 0 { self.pace.chunk(most) } else { most };
        let (mut longest, mut one_by_one) = (0, 0);
        let (mut best, mut best_saved) = (0, 0);
        let mut before: Vec<&[u32]> = Vec::new();
        for index in 0..room.min(self.waiting.len()) {
            let waiting = &self.waiting[index];
            let prompt = &waiting.request.prompt;
            if waiting.request.choices > 1 || waiting.request.tokens_max == 0 || prompt.len() < 2 {
                break;
            }
            let Some(plan) = self.plan(prompt) else {
                break;
            };
            longest = longest.max(prompt.len() - 1);
            // One by one, each would find what those before it read.
            let shared = before.iter().map(|other| prefix::common(prompt, other)).max();
            one_by_one += prompt.len() - 1 - plan.reused.max(shared.unwrap_or(0)) + RUN_TOKENS;
            before.push(prompt);
            let together = longest * (index + 1) + RUN_TOKENS;
            if longest * (index + 1) > most {
                break;
            }
            if one_by_one > together + best_saved {
                best_saved = one_by_one - together;
                best = index + 1;
            }
        }
        best
    }

    /// Sees to it that a free slot holds nothing that is worth more than what others hold.
    fn make_spare(&mut self, slot: usize) {
        let free = self.slots.free();
        let is_empty = |slot: usize| self.forward.held(slot).is_empty();
        if is_empty(slot) {
            return;
        }
        let spare = free.iter().copied().find(|&other| other > slot && is_empty(other));
        let spare = spare.or_else(|| free.into_iter().find(|&other| other >= slot));
        if let Some(spare) = spare.filter(|&spare| spare != slot) {
            let exchange = self.slots.exchange_free(slot, spare);
            self.carry(exchange);
        }
    }

    fn next_waiting(&mut self, reused: usize) -> Option<Sequence> {
        let waiting = self.waiting.front_mut()?;
        let sequence = waiting.next(reused);
        if waiting.is_over() {
            self.waiting.pop_front();
        }
        Some(sequence)
    }
}

fn all_but_last(prompt: &[u32]) -> &[u32] {
    &prompt[..prompt.len().saturating_sub(1)]
}
