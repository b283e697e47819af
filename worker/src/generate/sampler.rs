//! Logits → the next token.
//!
//! Pure but for the random numbers, which come from a generator of the sequence's own: the same
//! seed and logits give the same tokens, whoever else is in the batch. What must not come up at
//! all (an end that is too early, whatever a grammar rules out) the caller has set to −∞ before.

use std::cmp::Ordering;
use std::collections::HashMap;

use hearth_shared::protocol::Sampling;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::select::{Candidate, SUMMED, best, better_first, largest, needed_from, rounded, weigh};

/// How one sequence chooses its tokens.
#[derive(Debug)]
pub(crate) struct Sampler {
    settings: Sampling,
    /// Added to the logits of these tokens.
    bias: Vec<(u32, f32)>,
    random: ChaCha8Rng,
    /// Tokens seen so far, with how often they were generated; in the prompt alone: 0.
    seen: HashMap<u32, u32>,
    /// Kept from step to step, so that a step allocates nothing.
    candidates: Vec<Candidate>,
    sums: Vec<f64>,
    distances: Vec<(f64, Candidate)>,
}

impl Sampler {
    /// A sampler for a sequence with this prompt.
    pub(crate) fn new(settings: Sampling, bias: &[(u32, f32)], seed: u64, prompt: &[u32]) -> Self {
        let remembers = remembers_prompt(&settings);
        let prompt = if remembers { prompt } else { &[] };
        Self {
            settings,
            bias: bias.to_vec(),
            random: ChaCha8Rng::seed_from_u64(seed),
            seen: prompt.iter().map(|&id| (id, 0)).collect(),
            candidates: Vec::new(),
            sums: Vec::new(),
            distances: Vec::new(),
        }
    }

    /// Chooses the next token and remembers it. `logits` is the whole vocabulary, and is changed.
    ///
    /// `None` if no logit is a number: the model's output is broken, or everything is ruled out.
    pub(crate) fn next(&mut self, logits: &mut [f32]) -> Option<u32> {
        for &(id, bias) in &self.bias {
            if let Some(logit) = logit(logits, id) {
                *logit += bias;
            }
        }
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
            let Some(logit) = logit(logits, id) else {
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

    fn draw(&mut self, logits: &mut [f32]) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, min_p, typical_p, .. } = self.settings;
        let top = largest(logits);
        if top == f32::NEG_INFINITY {
            return None;
        }
        // An infinite one would make every difference to it no number.
        let top = top.min(f32::MAX);
        let fraction = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let top_k = usize::try_from(top_k).unwrap_or(usize::MAX);
        // How many of the first candidates outlive `top_p` for certain.
        let mut sure = 0;
        let whole = if top_k > 0 && top_k < logits.len() {
            best(logits, top_k, &mut self.candidates);
            for candidate in &mut self.candidates {
                let distance = f64::from(candidate.weight.min(f32::MAX)) - f64::from(top);
                candidate.weight = rounded((distance / f64::from(temperature)).exp());
            }
            mass(&self.candidates)
        } else {
            let whole = weigh(logits, (top, temperature), &mut self.sums);
            if top_p >= 1.0 && min_p <= 0.0 && typical_p >= 1.0 {
                return pick_in_blocks(logits, &self.sums, whole * fraction);
            }
            let least = least_weight(&self.settings, whole, logits.len());
            // A little more, because sums in another order are rounded otherwise.
            let wanted = whole * f64::from(top_p) * (1.0 + 1e-9);
            let (least, sure_from) = match top_p < 1.0 {
                true => needed_from(logits, least, wanted),
                false => (least, least),
            };
            gather(logits, least, &mut self.candidates);
            sure = put_first(&mut self.candidates, |candidate| candidate.weight >= sure_from);
            whole
        };
        if top_p < 1.0 {
            let wanted = whole * f64::from(top_p);
            let weight = |candidate: &Candidate| candidate.weight;
            keep_mass(&mut self.candidates, (sure, wanted), better_first, weight);
        }
        if min_p > 0.0 {
            // The best one weighs 1, so the others' weights are relative to it already.
            self.candidates.retain(|candidate| candidate.weight >= min_p);
        }
        if typical_p < 1.0 {
            keep_typical(&mut self.candidates, f64::from(typical_p), &mut self.distances);
        }
        pick(&self.candidates, mass(&self.candidates) * fraction)
    }
}

fn logit(logits: &mut [f32], id: u32) -> Option<&mut f32> {
    usize::try_from(id).ok().and_then(|id| logits.get_mut(id))
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
    let top = largest(logits);
    if top == f32::NEG_INFINITY {
        return None;
    }
    (0_u32..).zip(logits).find(|&(_, &logit)| logit == top).map(|(id, _)| id)
}

/// A weight below which no candidate can outlive `top_p` and `min_p`.
///
/// All that weighs less than (1 − top_p) of the whole, spread over the vocabulary, weighs less
/// than that share together; so the others hold what `top_p` asks for.
fn least_weight(settings: &Sampling, whole: f64, vocabulary: usize) -> f32 {
    let outside = (1.0 - f64::from(settings.top_p)).max(0.0);
    // A little less, because the whole is rounded.
    let share = 0.99 * outside * whole / vocabulary as f64;
    settings.min_p.max(rounded(share))
}

fn gather(weights: &[f32], least: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    for (first, block) in (0_u32..).step_by(64).zip(weights.chunks(64)) {
        if largest(block) >= least {
            let kept = (first..).zip(block).filter(|&(_, &weight)| weight >= least && weight > 0.0);
            candidates.extend(kept.map(|(id, &weight)| Candidate { id, weight }));
        }
    }
}

/// How many of the best are sorted before it is looked whether they hold enough of the mass.
const FIRST_SORTED: usize = 128;

/// Puts those that `belong` before the others, and counts them.
fn put_first(candidates: &mut [Candidate], belong: impl Fn(&Candidate) -> bool) -> usize {
    let mut count = 0;
    for index in 0..candidates.len() {
        if belong(&candidates[index]) {
            candidates.swap(index, count);
            count += 1;
        }
    }
    count
}

/// Keeps the fewest first of `order` that weigh `wanted` together; at least one, or all. The `sure`
/// first candidates are known to be among them.
fn keep_mass<T>(
    candidates: &mut Vec<T>,
    (sure, wanted): (usize, f64),
    order: impl Fn(&T, &T) -> Ordering,
    weight: impl Fn(&T) -> f32,
) {
    let mut sorted = sure;
    let mut mass: f64 = candidates[..sure].iter().map(|sure| f64::from(weight(sure))).sum();
    while sorted < candidates.len() {
        // A vocabulary is long and its best few usually hold nearly all: sort no more than needed.
        let next = (sorted.max(FIRST_SORTED / 8) * 8).min(candidates.len());
        let rest = &mut candidates[sorted..];
        if next - sorted < rest.len() {
            rest.select_nth_unstable_by(next - sorted, &order);
        }
        rest[..next - sorted].sort_unstable_by(&order);
        for index in sorted..next {
            mass += f64::from(weight(&candidates[index]));
            if mass >= wanted {
                candidates.truncate(index + 1);
                return;
            }
        }
        sorted = next;
    }
}

/// Keeps the fewest candidates whose surprise is nearest to the expected one and that hold the
/// share `typical_p` of the weight; at least one.
fn keep_typical(
    candidates: &mut Vec<Candidate>,
    typical_p: f64,
    distances: &mut Vec<(f64, Candidate)>,
) {
    let whole = mass(candidates);
    distances.clear();
    // What weighs nothing would be of infinite surprise, and spoil the expected one.
    for &candidate in candidates.iter().filter(|candidate| candidate.weight > 0.0) {
        distances.push((-(f64::from(candidate.weight) / whole).ln(), candidate));
    }
    let share = |surprise: f64, weight: f32| f64::from(weight) / whole * surprise;
    let expected: f64 =
        distances.iter().map(|(surprise, candidate)| share(*surprise, candidate.weight)).sum();
    for (distance, _) in &mut *distances {
        *distance = (*distance - expected).abs();
    }
    let nearest = |a: &(f64, Candidate), b: &(f64, Candidate)| {
        a.0.total_cmp(&b.0).then_with(|| better_first(&a.1, &b.1))
    };
    keep_mass(distances, (0, whole * typical_p), nearest, |(_, candidate)| candidate.weight);
    candidates.clear();
    candidates.extend(distances.iter().map(|(_, candidate)| *candidate));
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// The candidate in which the weight `at`, from the first one's begin on, is reached.
fn pick(candidates: &[Candidate], at: f64) -> Option<u32> {
    let mut left = at;
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return Some(candidate.id);
        }
    }
    // Rounding can leave a crumb over.
    candidates.last().map(|candidate| candidate.id)
}

/// As [`pick`], over a whole vocabulary whose blocks' sums are known.
fn pick_in_blocks(weights: &[f32], sums: &[f64], at: f64) -> Option<u32> {
    let mut left = at;
    let mut found = None;
    let blocks = (0_u32..).step_by(SUMMED).zip(weights.chunks(SUMMED)).zip(sums);
    for (block, &sum) in blocks {
        if sum > 0.0 {
            found = Some(block);
            if left < sum {
                break;
            }
        }
        left -= sum;
    }
    let (first, block) = found?;
    let mut last = None;
    for (id, &weight) in (first..).zip(block).filter(|&(_, &weight)| weight > 0.0) {
        last = Some(id);
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    // Rounding can leave a crumb over; the last one takes it.
    last
}

#[cfg(test)]
mod tests;
