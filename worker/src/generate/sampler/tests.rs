use super::*;

mod distribution;

fn sampler(settings: Sampling) -> Sampler {
    Sampler::new(settings, &[], 7, &[])
}

fn greedy_settings() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

/// Which tokens come up at all in many draws, with their counts.
fn counts(settings: Sampling, logits: &[f32], draws: u32) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    let mut sampler = sampler(settings);
    for _ in 0..draws {
        let id = sampler.next(&mut logits.to_vec()).unwrap();
        counts[usize::try_from(id).unwrap()] += 1;
    }
    counts
}

fn support(settings: Sampling, logits: &[f32]) -> Vec<usize> {
    let counts = counts(settings, logits, 4000);
    (0..logits.len()).filter(|&id| counts[id] > 0).collect()
}

#[test]
fn greedy_takes_the_best_and_of_equals_the_first() {
    let mut sampler = sampler(greedy_settings());
    assert_eq!(sampler.next(&mut [0.1, 3.0, 3.0, -1.0]), Some(1));
    assert_eq!(sampler.next(&mut [f32::NAN, f32::NEG_INFINITY, -5.0]), Some(2));
    assert_eq!(sampler.next(&mut [f32::NAN, f32::NEG_INFINITY]), None);
}

#[test]
fn penalties_change_logits_as_documented() {
    let settings = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        temperature: 0.0,
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(settings, &[], 0, &[0, 1]);
    // Token 0 is in the prompt only; 2 is generated twice, and 3 never seen.
    for _ in 0..2 {
        assert_eq!(sampler.next(&mut [0.0, 0.0, 100.0, 0.0]), Some(2));
    }
    let mut logits = [4.0, -4.0, 4.0, 4.0];
    assert_eq!(sampler.next(&mut logits), Some(3));
    assert_eq!(logits, [2.0, -8.0, 2.0 - 0.5 - 0.5, 4.0]);
}

#[test]
fn presence_and_frequency_leave_the_prompt_alone() {
    let settings = Sampling {
        presence_penalty: 1.0,
        frequency_penalty: 1.0,
        temperature: 0.0,
        ..Sampling::default()
    };
    let mut logits = [1.0, 0.5];
    assert_eq!(Sampler::new(settings, &[], 0, &[0]).next(&mut logits), Some(0));
    assert_eq!(logits, [1.0, 0.5]);
}

#[test]
fn top_k_keeps_that_many() {
    let settings = Sampling { top_k: 2, ..Sampling::default() };
    assert_eq!(support(settings, &[1.0, 1.2, 0.9, 1.1]), [1, 3]);
    // Of equals the lower ids stay, so that the count is exact.
    assert_eq!(support(settings, &[1.0, 1.0, 1.0, 1.0]), [0, 1]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it() {
    let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
    let with = |top_p| Sampling { top_p, ..Sampling::default() };
    assert_eq!(support(with(0.45), &logits), [0]);
    assert_eq!(support(with(0.6), &logits), [0, 1]);
    assert_eq!(support(with(0.85), &logits), [0, 1, 2]);
    assert_eq!(support(with(0.0), &logits), [0]);
}

#[test]
fn top_p_over_a_large_flat_vocabulary_keeps_its_share() {
    let settings = Sampling { top_p: 0.5, ..Sampling::default() };
    let mut sampler = sampler(settings);
    sampler.next(&mut vec![0.0; 4096]).unwrap();
    assert_eq!(sampler.candidates.len(), 2048);
    assert!(sampler.candidates.iter().all(|candidate| candidate.id < 2048));
}

#[test]
fn min_p_is_relative_to_the_best() {
    let settings = Sampling { min_p: 0.25, ..Sampling::default() };
    assert_eq!(support(settings, &[0.4_f32, 0.3, 0.2, 0.06].map(f32::ln)), [0, 1, 2]);
}

#[test]
fn temperature_divides_before_top_p_looks() {
    // At temperature 2 the weights 0.8 and 0.2 become 2 : 1.
    let settings = Sampling { temperature: 2.0, top_p: 0.7, ..Sampling::default() };
    let logits = [0.8_f32, 0.2].map(f32::ln);
    assert_eq!(support(settings, &logits), [0, 1]);
    assert_eq!(support(Sampling { temperature: 1.0, ..settings }, &logits), [0]);
}

#[test]
fn a_seed_fixes_the_tokens_and_another_one_changes_them() {
    let logits: Vec<f32> = (0_u8..100).map(|id| f32::from(id % 7) / 3.0).collect();
    let tokens = |seed| {
        let mut sampler = Sampler::new(Sampling::default(), &[], seed, &[]);
        (0..20).map(|_| sampler.next(&mut logits.clone()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
}

#[test]
fn tokens_that_are_ruled_out_are_never_drawn() {
    let logits = [f32::NEG_INFINITY, 0.0, f32::NAN, 0.0];
    assert_eq!(support(Sampling::default(), &logits), [1, 3]);
    assert_eq!(sampler(Sampling::default()).next(&mut [f32::NAN; 3]), None);
}

#[test]
fn a_tiny_temperature_is_all_but_greedy() {
    let settings = Sampling { temperature: 1e-6, ..Sampling::default() };
    assert_eq!(support(settings, &[1.0, 1.1, 0.9]), [1]);
}
