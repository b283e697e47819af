//! The best few of many numbers, and e to the power of many numbers, at the speed of memory.
//!
//! Pure. The sampler and the log-probabilities walk a whole vocabulary for every token; these
//! loops are written so that the compiler can take several numbers at once: fixed lanes, no
//! branches on a number, no calls. What is no number never wins and weighs nothing.

use std::cmp::Ordering;

/// A token that may be chosen, with its logit or what became of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) weight: f32,
}

/// Best first, of equals the lower id: a total order, so that a seed means the same everywhere.
pub(super) fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Numbers that are worked on at once.
const LANES: usize = 16;

/// The largest number; −∞ if there is none.
pub(super) fn largest(numbers: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = numbers.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, number);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// How many numbers are passed over together when none of them is good enough.
const BLOCK: usize = 64;

/// Puts the `count` best of `numbers` into `kept`, best first, of equals the lower ids.
pub(super) fn best(numbers: &[f32], count: usize, kept: &mut Vec<Candidate>) {
    kept.clear();
    let mut floor = f32::NEG_INFINITY;
    for (first, block) in (0_u32..).step_by(BLOCK).zip(numbers.chunks(BLOCK)) {
        if largest(block) > floor {
            let better = (first..).zip(block).filter(|&(_, &weight)| weight > floor);
            kept.extend(better.map(|(id, &weight)| Candidate { id, weight }));
        }
        if kept.len() > 2 * count + BLOCK {
            keep_best(kept, count);
            // Ids ascend, so a later number has to be better, not equal.
            floor = kept.iter().map(|candidate| candidate.weight).fold(f32::INFINITY, f32::min);
        }
    }
    keep_best(kept, count);
    kept.sort_unstable_by(better_first);
}

fn keep_best(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, better_first);
        candidates.truncate(count);
    }
}

/// Two weights: below the first nothing is needed to hold `wanted` with the heaviest, and from the
/// second on all is. They are close; if all there is does not hold it, they are `least`.
///
/// Weights are counted by their size, eight steps to a power of two, and none is moved: sorting a
/// vocabulary of which many tokens are about as likely would take as long as a layer of the model.
/// What weighs less than `least` is passed over.
pub(super) fn needed_from(weights: &[f32], least: f32, wanted: f64) -> (f32, f32) {
    /// The bits below a step; those above are exponent and step, which order positive numbers.
    const STEP_BITS: u32 = 20;
    const STEPS: u32 = 1 << (31 - STEP_BITS);
    let mut steps = [0.0_f64; STEPS as usize];
    for block in weights.chunks(BLOCK).filter(|block| largest(block) >= least) {
        for &weight in block.iter().filter(|&&weight| weight >= least) {
            steps[(weight.to_bits() >> STEP_BITS) as usize % steps.len()] += f64::from(weight);
        }
    }
    let mut mass = 0.0;
    let weight_of = |step: u32| f32::from_bits(step << STEP_BITS);
    for (step, sum) in (0..STEPS).zip(&steps).rev() {
        mass += sum;
        // Of nothing wanted the best one is left.
        if *sum > 0.0 && mass >= wanted {
            return (weight_of(step).max(least), weight_of(step + 1).max(least));
        }
    }
    (least, least)
}

/// How many weights have a sum of their own.
pub(super) const SUMMED: usize = 512;

/// Turns logits into weights relative to the `best` one, e^((logit − best) / temperature), in
/// place; `sums` gets the sum of every [`SUMMED`] of them. Returns the sum of all.
pub(super) fn weigh(
    logits: &mut [f32],
    (best, temperature): (f32, f32),
    sums: &mut Vec<f64>,
) -> f64 {
    sums.clear();
    sums.extend(logits.chunks_mut(SUMMED).map(|block| weigh_block(block, best, temperature)));
    sums.iter().sum()
}

/// As [`weigh`], a few of them: the sum alone. With the processor's wider registers, where it has
/// them: the same operations on more numbers at once, so the same bits.
fn weigh_block(block: &mut [f32], best: f32, temperature: f32) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(block: &mut [f32], best: f32, temperature: f32) -> f64 {
            weigh_in_lanes(block, best, temperature)
        }
        if is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "the compiler can't know the processor")]
            // SAFETY: it has just said that it has the instructions.
            return unsafe { wide(block, best, temperature) };
        }
    }
    weigh_in_lanes(block, best, temperature)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "it has to be compiled where the registers are")]
fn weigh_in_lanes(block: &mut [f32], best: f32, temperature: f32) -> f64 {
    for logit in &mut *block {
        *logit = exp_of_negative((finite(*logit) - best) / temperature);
    }
    sum(block)
}

/// The natural logarithm of the sum of e^number, the `largest` of which is known and finite.
pub(super) fn log_sum_exp(numbers: &[f32], largest: f32) -> f64 {
    let mut whole = 0.0;
    let mut weights = [0.0; SUMMED];
    for block in numbers.chunks(SUMMED) {
        let weights = &mut weights[..block.len()];
        weights.copy_from_slice(block);
        // Divided by one, a number is itself.
        whole += weigh_block(weights, largest, 1.0);
    }
    f64::from(largest) + whole.ln()
}

/// +∞ would make every difference to it no number; `f32::min` would make a number of none.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as `weigh_in_lanes`")]
fn finite(number: f32) -> f32 {
    if number > f32::MAX { f32::MAX } else { number }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as `weigh_in_lanes`")]
fn sum(numbers: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = numbers.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane += number;
        }
    }
    lanes.iter().chain(rest).map(|&number| f64::from(number)).sum()
}

/// The nearest `f32`.
#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
pub(super) fn rounded(number: f64) -> f32 {
    number as f32
}

/// Below this, e^x is smaller than every normal number and counts as zero.
const LEAST_EXPONENT: f32 = -87.0;

/// e^x for x ≤ 0, within two units in the last place; 0 for what is no number.
///
/// The libraries' function is a call for each number; this one compiles to a loop over lanes.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    // 1.5 · 2^23: adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // The usual minimax polynomial for (e^r − 1 − r) / r² on half a binary logarithm each way.
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let counts = x > LEAST_EXPONENT;
    let x = if counts { x } else { LEAST_EXPONENT };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let r = x - power * LN_2_HIGH - power * LN_2_LOW;
    let series = POLYNOMIAL.iter().fold(0.0, |sum, coefficient| sum * r + coefficient);
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let value = (series * r * r + r + 1.0) * scale;
    if counts { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without order, some of them equal.
    fn numbers(count: u32) -> Vec<f32> {
        (0..count).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 100.0).collect()
    }

    #[test]
    fn the_largest_is_found_wherever_it_stands() {
        for count in [1, 15, 16, 17, 100] {
            for place in 0..count {
                let mut numbers = vec![-3.0; count];
                numbers[place] = 1.0;
                numbers[(place + 1) % count] = if count > 1 { f32::NAN } else { 1.0 };
                assert_eq!(largest(&numbers), 1.0, "{place} of {count}");
            }
        }
        assert_eq!(largest(&[f32::NAN]), f32::NEG_INFINITY);
    }

    #[test]
    fn the_best_are_those_that_sorting_everything_gives() {
        let mut kept = Vec::new();
        for count in [1, 2, 63, 64, 65, 1000, 5000] {
            let mut numbers = numbers(count);
            numbers[0] = f32::NAN;
            let mut sorted: Vec<_> = (0..).zip(&numbers).skip(1).collect();
            sorted.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
            for wanted in [1, 2, 40, 300, 10_000] {
                best(&numbers, wanted, &mut kept);
                let found: Vec<_> = kept.iter().map(|candidate| candidate.id).collect();
                let expected: Vec<u32> = sorted.iter().take(wanted).map(|(id, _)| *id).collect();
                assert_eq!(found, expected, "{wanted} of {count}");
            }
        }
    }

    #[test]
    fn powers_of_e_agree_with_the_libraries() {
        for step in 0..870_000 {
            let x = -(step as f32) / 10_000.0;
            let (found, expected) = (exp_of_negative(x), f64::from(x).exp());
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(error < 2.4e-7, "e^{x}: {found} {expected}");
        }
        for nothing in [-87.5, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp_of_negative(nothing), 0.0);
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
    }

    #[test]
    fn the_last_that_is_needed_is_that_of_sorting_everything() {
        for (count, wanted) in [(1, 0.5), (100, 0.01), (1000, 0.5), (5000, 0.9), (5000, 0.999)] {
            let weights: Vec<f32> =
                numbers(count).iter().map(|number| (-number / 40.0).exp()).collect();
            let whole: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let mut sorted = weights.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let mut mass = 0.0;
            let last = *sorted
                .iter()
                .find(|&&weight| {
                    mass += f64::from(weight);
                    mass >= whole * wanted
                })
                .unwrap();
            let (from, sure) = needed_from(&weights, 0.0, whole * wanted);
            assert!(from <= last && last < sure, "{count} {wanted}: {from} {last} {sure}");
            assert!(sure <= from * 1.126, "{count} {wanted}: {from} {sure}");
        }
        // What is passed over can't be needed, and what can't be reached needs all.
        assert_eq!(needed_from(&[0.5, 0.25, 0.125], 0.2, 0.8), (0.2, 0.2));
        assert_eq!(needed_from(&[f32::NAN, 0.0, 1.0], 0.0, 2.0), (0.0, 0.0));
        assert_eq!(needed_from(&[0.5, 1.0], 0.0, 0.0), (1.0, 1.125));
    }

    #[test]
    fn wide_registers_change_no_bit() {
        let logits: Vec<f32> = numbers(512).into_iter().map(|x| 3.0 - x / 9.0).collect();
        let (mut wide, mut plain) = (logits.clone(), logits);
        let sums = [weigh_block(&mut wide, 3.0, 0.7), weigh_in_lanes(&mut plain, 3.0, 0.7)];
        assert_eq!(sums[0].to_bits(), sums[1].to_bits());
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&wide), bits(&plain));
    }

    #[test]
    fn weights_and_their_sums_are_those_of_the_definition() {
        let logits: Vec<f32> = numbers(1300).into_iter().map(|number| number / 50.0).collect();
        let top = largest(&logits);
        let expected: Vec<f64> =
            logits.iter().map(|&l| ((f64::from(l) - f64::from(top)) / 0.7).exp()).collect();
        let (mut weights, mut sums) = (logits.clone(), Vec::new());
        let whole = weigh(&mut weights, (top, 0.7), &mut sums);
        assert_eq!(sums.len(), 3);
        assert!((whole / expected.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        assert!((sums[1] / expected[512..1024].iter().sum::<f64>() - 1.0).abs() < 1e-6);
        for (&weight, expected) in weights.iter().zip(expected) {
            assert!((f64::from(weight) - expected).abs() <= expected * 1e-5, "{weight} {expected}");
        }
        let exact: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        assert!((log_sum_exp(&logits, top) - exact.ln()).abs() < 1e-6);
    }
}
