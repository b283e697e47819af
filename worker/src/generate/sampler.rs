//! Logits → the next token.
//!
//! Pure but for the random numbers, which come from a generator of the sequence's own: the same
//! seed and logits give the same tokens, whoever else is in the batch.

use std::collections::HashMap;

use hearth_shared::protocol::Sampling;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How one sequence chooses its tokens.
#[derive(Debug)]
pub(crate) struct Sampler {
    settings: Sampling,
    random: ChaCha8Rng,
    /// Tokens seen so far, with how often they were generated; in the prompt alone: 0.
    seen: HashMap<u32, u32>,
    /// Kept from step to step, so that a step allocates nothing.
    candidates: Vec<Candidate>,
}

/// A token that may be chosen: its logit, later its probability before normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    weight: f32,
}

impl Sampler {
    /// A sampler for a sequence with this prompt; `drawn_seed` serves where the request has none.
    pub(crate) fn new(settings: Sampling, drawn_seed: u64, prompt: &[u32]) -> Self {
        let remembers = remembers_prompt(&settings);
        let prompt = if remembers { prompt } else { &[] };
        Self {
            settings,
            random: ChaCha8Rng::seed_from_u64(settings.seed.unwrap_or(drawn_seed)),
            seen: prompt.iter().map(|&id| (id, 0)).collect(),
            candidates: Vec::new(),
        }
    }

    /// Chooses the next token and remembers it. `logits` is the whole vocabulary, and is changed.
    ///
    /// `None` if no logit is a number: the model's output is broken.
    pub(crate) fn next(&mut self, logits: &mut [f32]) -> Option<u32> {
        self.penalise(logits);
        let id = if self.settings.temperature > 0.0 { self.draw(logits) } else { greedy(logits) }?;
        if remembers_answer(&self.settings) {
            *self.seen.entry(id).or_insert(0) += 1;
        }
        Some(id)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } =
            self.settings;
        for (&id, &count) in &self.seen {
            let Some(logit) = usize::try_from(id).ok().and_then(|id| logits.get_mut(id)) else {
                continue;
            };
            if *logit > 0.0 {
                *logit /= repetition_penalty;
            } else {
                *logit *= repetition_penalty;
            }
            if count > 0 {
                // Counts are far below 2^24, where `f32` still holds every integer.
                *logit -= presence_penalty + frequency_penalty * count as f32;
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        self.candidates.clear();
        for (id, &logit) in (0_u32..).zip(logits) {
            if logit > f32::NEG_INFINITY {
                // An infinite one would make every difference to it no number.
                let weight = logit.min(f32::MAX);
                self.candidates.push(Candidate { id, weight });
            }
        }
        let weights = self.candidates.iter().map(|candidate| candidate.weight);
        let best = weights.fold(f32::MIN, f32::max);
        let top_k = usize::try_from(top_k).unwrap_or(usize::MAX);
        if top_k > 0 {
            keep_best(&mut self.candidates, top_k);
        }
        for candidate in &mut self.candidates {
            candidate.weight = ((candidate.weight - best) / temperature).exp();
        }
        if top_p < 1.0 {
            keep_mass(&mut self.candidates, top_p);
        }
        if min_p > 0.0 {
            // The best one weighs 1, so the others' weights are relative to it already.
            self.candidates.retain(|candidate| candidate.weight >= min_p);
        }
        let fraction = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        pick(&self.candidates, fraction)
    }
}

/// Prompts are remembered only for the one rule that looks at them: they may be long.
fn remembers_prompt(settings: &Sampling) -> bool {
    settings.repetition_penalty != 1.0
}

fn remembers_answer(settings: &Sampling) -> bool {
    remembers_prompt(settings)
        || settings.presence_penalty != 0.0
        || settings.frequency_penalty != 0.0
}

/// The best token, of equals the one with the lowest id.
fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut best_logit = f32::NEG_INFINITY;
    for (id, &logit) in (0_u32..).zip(logits) {
        if logit > best_logit {
            best = Some(id);
            best_logit = logit;
        }
    }
    best
}

/// Best first, of equals the lower id: a total order, so that a seed means the same everywhere.
fn better_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

fn keep_best(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, better_first);
        candidates.truncate(count);
    }
}

/// How many of the best are sorted before it is looked whether they hold enough of the mass.
const FIRST_SORTED: usize = 128;

/// Keeps the fewest best candidates that hold the share `top_p` of the whole weight; at least one.
fn keep_mass(candidates: &mut Vec<Candidate>, top_p: f32) {
    let whole: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let wanted = whole * f64::from(top_p);
    let mut sorted = 0;
    let mut mass = 0.0;
    while sorted < candidates.len() {
        // A vocabulary is long and its best few usually hold nearly all: sort no more than needed.
        let next = (sorted.max(FIRST_SORTED / 8) * 8).min(candidates.len());
        let rest = &mut candidates[sorted..];
        if next - sorted < rest.len() {
            rest.select_nth_unstable_by(next - sorted, better_first);
        }
        rest[..next - sorted].sort_unstable_by(better_first);
        for index in sorted..next {
            mass += f64::from(candidates[index].weight);
            if mass >= wanted {
                candidates.truncate(index + 1);
                return;
            }
        }
        sorted = next;
    }
}

/// The candidate at `fraction` (0 to 1, exclusive) of the whole weight.
fn pick(candidates: &[Candidate], fraction: f64) -> Option<u32> {
    let whole: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let mut left = whole * fraction;
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return Some(candidate.id);
        }
    }
    // Rounding can leave a crumb over.
    candidates.last().map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests;
