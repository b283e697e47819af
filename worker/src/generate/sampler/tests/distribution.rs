//! Every rule against its definition: the exact probabilities, computed the plain way in f64, and
//! a chi-square test of many draws.

use super::*;

/// More tokens than a block of any loop holds, most of them unlikely, some as likely as others.
fn logits() -> Vec<f32> {
    let mut logits: Vec<f32> =
        (0_u16..1200).map(|id| f32::from(id * 7 % 97) / 40.0 - 9.0).collect();
    for (id, logit) in [(3, 1.0), (70, 2.5), (500, 2.0), (501, 2.0), (777, 0.5), (1100, 1.5)] {
        logits[id] = logit;
    }
    logits[0] = f32::NEG_INFINITY;
    logits[1] = f32::NAN;
    logits
}

/// The definitions, one after the other, without a thought for speed.
fn exact(settings: Sampling, bias: &[(u32, f32)], seen: &[(usize, u32)]) -> Vec<f64> {
    let mut logits: Vec<f64> = logits().iter().map(|&logit| f64::from(logit)).collect();
    for &(id, bias) in bias {
        logits[usize::try_from(id).unwrap()] += f64::from(bias);
    }
    for &(id, count) in seen {
        let penalty = f64::from(settings.repetition_penalty);
        let logit = logits[id];
        logits[id] = if logit > 0.0 { logit / penalty } else { logit * penalty };
        if count > 0 {
            let frequency = f64::from(settings.frequency_penalty) * f64::from(count);
            logits[id] -= f64::from(settings.presence_penalty) + frequency;
        }
    }
    let weight = |logit: &f64| (logit / f64::from(settings.temperature)).exp();
    let mut shares: Vec<f64> = logits.iter().map(weight).collect();
    shares.iter_mut().filter(|share| share.is_nan()).for_each(|share| *share = 0.0);
    normalise(&mut shares);
    if settings.top_k > 0 {
        let best = sorted_by(&shares, |share| -share);
        keep(&mut shares, &best[..usize::try_from(settings.top_k).unwrap()]);
    }
    if settings.top_p < 1.0 {
        let best = sorted_by(&shares, |share| -share);
        let enough = reaching(&shares, &best, f64::from(settings.top_p));
        keep(&mut shares, &best[..enough]);
    }
    if settings.min_p > 0.0 {
        let most = shares.iter().copied().fold(0.0, f64::max);
        let least = most * f64::from(settings.min_p);
        shares.iter_mut().filter(|share| **share < least).for_each(|share| *share = 0.0);
        normalise(&mut shares);
    }
    if settings.typical_p < 1.0 {
        let entropy: f64 =
            shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum();
        let nearest = sorted_by(&shares, |share| (-share.ln() - entropy).abs());
        let enough = reaching(&shares, &nearest, f64::from(settings.typical_p));
        keep(&mut shares, &nearest[..enough]);
    }
    shares
}

fn normalise(shares: &mut [f64]) {
    let whole: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= whole);
}

fn sorted_by(shares: &[f64], key: impl Fn(f64) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|&a, &b| key(shares[a]).total_cmp(&key(shares[b])));
    order
}

fn reaching(shares: &[f64], order: &[usize], wanted: f64) -> usize {
    let mut mass = 0.0;
    let last = order.iter().position(|&id| {
        mass += shares[id];
        mass >= wanted
    });
    last.map_or(order.len(), |last| last + 1)
}

fn keep(shares: &mut [f64], kept: &[usize]) {
    for id in (0..shares.len()).filter(|id| !kept.contains(id)) {
        shares[id] = 0.0;
    }
    normalise(shares);
}

/// What chi-square exceeds once in a thousand seeds, by Wilson and Hilferty's approximation.
fn critical(degrees: usize) -> f64 {
    let degrees = degrees as f64;
    let spread = 2.0 / (9.0 * degrees);
    degrees * (1.0 - spread + 3.0902 * spread.sqrt()).powi(3)
}

/// Draws with a fixed seed, every time from the same state, and compares.
fn check(settings: Sampling, bias: &[(u32, f32)], (prompt, answer): (&[u32], &[u32])) {
    const DRAWS: u32 = 8_000;
    let mut sampler = Sampler::new(settings, bias, 42, prompt);
    for &id in answer {
        let mut only = vec![f32::NEG_INFINITY; 1200];
        only[usize::try_from(id).unwrap()] = 0.0;
        assert_eq!(sampler.next(&mut only), Some(id));
    }
    let seen = sampler.seen.clone();
    let mut counts = vec![0_u32; 1200];
    for _ in 0..DRAWS {
        let id = sampler.next(&mut logits()).unwrap();
        counts[usize::try_from(id).unwrap()] += 1;
        sampler.seen.clone_from(&seen);
    }
    let by_definition: Vec<_> = prompt
        .iter()
        .chain(answer)
        .map(|&id| {
            let count = answer.iter().filter(|&&other| other == id).count();
            (usize::try_from(id).unwrap(), u32::try_from(count).unwrap())
        })
        .collect();
    let mut by_definition = by_definition;
    by_definition.sort_unstable();
    by_definition.dedup();
    let expected = exact(settings, bias, &by_definition);
    // Tokens that are too rare for the test count together.
    let (mut chi_square, mut bins, mut rare) = (0.0, 0, (0.0, 0.0));
    let mut bin = |expected: f64, found: f64| {
        chi_square += (found - expected).powi(2) / expected;
        bins += 1;
    };
    for (&share, &count) in expected.iter().zip(&counts) {
        let (share, count) = (share * f64::from(DRAWS), f64::from(count));
        if share == 0.0 {
            assert_eq!(count, 0.0, "a token was drawn that is ruled out: {settings:?}");
        } else if share < 8.0 {
            rare = (rare.0 + share, rare.1 + count);
        } else {
            bin(share, count);
        }
    }
    if rare.0 >= 8.0 {
        bin(rare.0, rare.1);
    } else {
        assert!(rare.1 <= 40.0, "{rare:?}: {settings:?}");
    }
    assert!(bins > 1, "nothing to compare: {settings:?}");
    assert!(chi_square < critical(bins - 1), "{chi_square} in {bins} bins: {settings:?}");
}

const NOBODY: (&[u32], &[u32]) = (&[], &[]);

#[test]
fn temperature_draws_as_defined() {
    for temperature in [0.3, 0.7, 1.0, 1.7, 5.0] {
        check(Sampling { temperature, ..Sampling::NEUTRAL }, &[], NOBODY);
    }
}

#[test]
fn top_k_draws_as_defined() {
    for top_k in [2, 5, 6, 100, 1200] {
        check(Sampling { top_k, temperature: 1.5, ..Sampling::NEUTRAL }, &[], NOBODY);
    }
}

#[test]
fn top_p_draws_as_defined() {
    for top_p in [0.5, 0.8, 0.95, 0.999] {
        check(Sampling { top_p, temperature: 1.3, ..Sampling::NEUTRAL }, &[], NOBODY);
        check(Sampling { top_p, top_k: 50, ..Sampling::NEUTRAL }, &[], NOBODY);
    }
}

#[test]
fn min_p_draws_as_defined() {
    for min_p in [0.01, 0.1, 0.4] {
        check(Sampling { min_p, temperature: 1.5, ..Sampling::NEUTRAL }, &[], NOBODY);
        check(Sampling { min_p, top_p: 0.9, ..Sampling::NEUTRAL }, &[], NOBODY);
    }
}

#[test]
fn typical_p_draws_as_defined() {
    for typical_p in [0.3, 0.6, 0.95] {
        check(Sampling { typical_p, ..Sampling::NEUTRAL }, &[], NOBODY);
        check(
            Sampling { typical_p, top_k: 20, temperature: 2.0, ..Sampling::NEUTRAL },
            &[],
            NOBODY,
        );
    }
}

#[test]
fn penalties_draw_as_defined() {
    let seen: (&[u32], &[u32]) = (&[70, 3, 3, 900], &[500, 500, 777, 70]);
    let off = Sampling::NEUTRAL;
    check(Sampling { repetition_penalty: 1.3, ..off }, &[], seen);
    check(Sampling { presence_penalty: 0.8, ..off }, &[], (&[], seen.1));
    check(Sampling { frequency_penalty: 0.6, ..off }, &[], (&[], seen.1));
    let all = Sampling {
        repetition_penalty: 0.8,
        presence_penalty: -0.5,
        frequency_penalty: 0.4,
        temperature: 0.8,
        top_p: 0.97,
        ..off
    };
    check(all, &[], seen);
}

#[test]
fn bias_draws_as_defined() {
    let bias = [(70, -100.0), (2, 11.0), (500, 0.7), (0, 100.0)];
    check(Sampling::NEUTRAL, &bias, NOBODY);
    check(Sampling { top_k: 3, ..Sampling::NEUTRAL }, &bias, NOBODY);
    check(Sampling { repetition_penalty: 2.0, ..Sampling::NEUTRAL }, &bias, (&[2, 70], &[]));
}
