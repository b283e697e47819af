//! What a request may say about its answer beside the prompt: choices, ends, bias, probabilities.

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FinishReason, Generate, Sampling};

use crate::PLAIN;
use crate::driver::{Answer, Driver, case_request, check, request};
use crate::golden::{Case, golden, load_fixture};

fn ask(request: Generate) -> Answer {
    let mut driver = Driver::new(load_fixture(PLAIN));
    driver.admit(0, request);
    driver.finish();
    driver.answers.remove(&RequestId(0)).unwrap()
}

/// The case whose answer ends by itself, after several tokens.
fn ending_case() -> Case {
    let mut cases = golden(PLAIN).cases;
    let place = cases.iter().position(|case| case.eos_index.is_some()).unwrap();
    cases.swap_remove(place)
}

fn ids(answer: &Answer) -> Vec<u32> {
    answer.logprobs.iter().map(|logprob| logprob.token.id).collect()
}

#[test]
fn without_the_models_end_the_answer_goes_on_as_the_golden_does() {
    let case = ending_case();
    let mut request = case_request(&case);
    request.ignore_eos = true;
    request.max_tokens = Some(40);
    request.logprobs = Some(0);
    let answer = ask(request);
    assert_eq!(ids(&answer), case.greedy_ids[..40]);
    assert_eq!((answer.finish, answer.counts.1), (Some(FinishReason::Length), 40));
    assert!(answer.text.starts_with(&case.text) && answer.text.len() > case.text.len());
}

#[test]
fn no_end_comes_before_the_least_tokens() {
    let case = ending_case();
    let end = case.eos_index.unwrap();
    let minimum = |min_tokens| {
        let mut request = case_request(&case);
        request.min_tokens = u32::try_from(min_tokens).unwrap();
        request.max_tokens = Some(40);
        request.logprobs = Some(1);
        ask(request)
    };
    // So many tokens come before the end anyway.
    let answer = minimum(end);
    assert_eq!(ids(&answer), case.answer());
    assert_eq!(answer.finish, Some(FinishReason::Stop));
    let answer = minimum(end + 1);
    assert_eq!(ids(&answer)[..end], case.greedy_ids[..end]);
    // What is told is what the model thinks, the end that was ruled out.
    assert_eq!(answer.logprobs[end].top[0].0.id, case.greedy_ids[end]);
    assert_ne!(ids(&answer)[end], case.greedy_ids[end]);
}

#[test]
fn stop_texts_are_not_looked_for_in_the_least_tokens() {
    let golden = golden(PLAIN);
    let case = &golden.cases[0];
    let stop: String = case.text.chars().skip(3).take(2).collect();
    let at = case.text.find(&stop).unwrap();
    let with = |min_tokens| {
        let mut request = case_request(case);
        request.stop = vec![stop.clone()];
        request.min_tokens = min_tokens;
        ask(request)
    };
    assert_eq!(with(0).text, case.text[..at]);
    let late = with(12);
    assert!(late.text.starts_with(&case.text[..at + stop.len()]), "{:?}", late.text);
    assert!(late.counts.1 > 12);
}

#[test]
fn a_token_of_the_request_ends_the_answer_and_is_no_part_of_it() {
    let golden = golden(PLAIN);
    let case = &golden.cases[0];
    let place = (5..48).find(|&place| !case.greedy_ids[..place].contains(&case.greedy_ids[place]));
    let place = place.unwrap();
    let mut request = case_request(case);
    request.stop_token_ids = vec![case.greedy_ids[place]];
    request.logprobs = Some(0);
    let answer = ask(request);
    assert_eq!(ids(&answer), case.greedy_ids[..=place]);
    assert_eq!(answer.finish, Some(FinishReason::Stop));
    assert!(case.text.starts_with(&answer.text) && answer.text.len() < case.text.len());
}

#[test]
fn a_bias_rules_tokens_out_and_in() {
    let golden = golden(PLAIN);
    let case = &golden.cases[0];
    let (first, second) = (case.greedy_ids[0], case.greedy_ids[1]);
    let with = |bias| {
        let mut request = case_request(case);
        request.logit_bias = bias;
        request.logprobs = Some(0);
        ids(&ask(request))
    };
    assert!(!with(vec![(first, -100.0)]).contains(&first));
    assert_eq!(with(vec![(second, 100.0)]), vec![second; 48]);
}

#[test]
fn probabilities_add_up_and_bytes_spell_the_text() {
    let golden = golden(PLAIN);
    let case = golden.cases.iter().find(|case| case.name == "split-utf8").unwrap();
    let mut request = case_request(case);
    request.logprobs = Some(20);
    let answer = ask(request);
    assert_eq!(ids(&answer), case.answer());
    let mut bytes = Vec::new();
    for told in &answer.logprobs {
        bytes.extend_from_slice(&told.token.bytes);
        // Greedy: the chosen token is the likeliest.
        assert_eq!(told.top[0], (told.token.clone(), told.logprob));
        assert_eq!(told.top.len(), 20);
        assert!(told.top.is_sorted_by(|(_, a), (_, b)| a >= b));
        let mass: f32 = told.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!(mass > 0.0 && mass <= 1.0 + 1e-5, "{mass}");
    }
    assert_eq!(String::from_utf8_lossy(&bytes), case.text);
    // The sampler's rules change what is chosen and not what is told.
    let hot = Sampling { temperature: 3.0, top_k: 5, seed: Some(1), ..Sampling::NEUTRAL };
    let mut request = case_request(case);
    request.sampling = hot;
    request.logprobs = Some(20);
    assert_eq!(ask(request).logprobs[0].top, answer.logprobs[0].top);
}

#[test]
fn choices_are_answers_of_their_own_with_a_seed_each() {
    let golden = golden(PLAIN);
    let sampling = |seed| Sampling { temperature: 0.7, seed: Some(seed), ..Sampling::NEUTRAL };
    let seeded = |seed| request(golden.cases[0].prompt(), 24, sampling(seed));
    let mut driver = Driver::new(load_fixture(PLAIN));
    // More than there are slots: the last ones wait.
    driver.admit(7, Generate { choices: 6, ..seeded(10) });
    driver.finish();
    let mut texts = Vec::new();
    for choice in 0..6 {
        let found = std::mem::take(driver.choice(RequestId(7), choice));
        let alone = ask(seeded(10 + u64::from(choice)));
        assert_eq!((&found.ids, &found.text), (&alone.ids, &alone.text), "choice {choice}");
        assert_eq!((found.counts, found.finish), (alone.counts, alone.finish));
        texts.push(found.text);
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 6, "every seed should give a text of its own");
}

#[test]
fn a_cancelled_request_takes_all_its_choices_along() {
    let golden = golden(PLAIN);
    let case = &golden.cases[1];
    for ticks in [1, 3, 6, 9] {
        let mut driver = Driver::new(load_fixture(PLAIN));
        driver.admit(1, Generate { choices: 3, ..case_request(&golden.cases[0]) });
        driver.admit(2, case_request(case));
        for _ in 0..ticks {
            driver.tick();
        }
        driver.engine.cancel(RequestId(1));
        let heard =
            (driver.answers.get(&RequestId(1)).map(|answer| answer.ids.len()), driver.others.len());
        driver.finish();
        check(case, &driver.answers[&RequestId(2)]);
        let after =
            (driver.answers.get(&RequestId(1)).map(|answer| answer.ids.len()), driver.others.len());
        assert_eq!(heard, after, "cancelled after {ticks} ticks");
    }
}
