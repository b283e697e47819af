//! What a slot holds already is not computed again, and nothing changes by it.

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Generate, Prompt};
use hearth_worker::load;

use crate::PLAIN;
use crate::driver::{Driver, case_request, check, greedy, request};
use crate::golden::{Case, fixture, golden, load_fixture, spec};

const FIXTURES: [&str; 6] = [
    PLAIN,
    "tiny-llama-genai-int4",
    "tiny-qwen3-genai-fp32",
    "tiny-gemma3-genai-fp32",
    "tiny-gemma3-genai-window",
    "tiny-llama-fp16kv",
];

/// The cases that begin with the same long system prompt.
fn family(name: &str) -> Vec<Case> {
    let cases = golden(name).cases;
    let family: Vec<_> =
        cases.into_iter().filter(|case| case.name.starts_with("prefix-")).collect();
    assert_eq!(family.len(), 3);
    family
}

fn common(a: &[u32], b: &[u32]) -> u32 {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    u32::try_from(common).unwrap()
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn prompts_that_begin_alike_give_the_golden_ids_in_every_order() {
    for name in FIXTURES {
        let cases = family(name);
        for order in ORDERS {
            let mut driver = Driver::new(load_fixture(name));
            for (id, place) in (0..).zip(order) {
                driver.admit(id, case_request(&cases[place]));
                driver.finish();
                let answer = &driver.answers[&RequestId(id)];
                check(&cases[place], answer);
                // Each goes on in the slot of the one before; what has slid out of a window can't
                // be had back.
                let before = usize::try_from(id).unwrap().checked_sub(1);
                let before = before.filter(|_| !name.ends_with("window"));
                let shared = before.map(|before| {
                    common(&cases[place].prompt_ids, &cases[order[before]].prompt_ids)
                });
                assert_eq!(answer.cached, shared.unwrap_or(0), "{name} {order:?} {place}");
            }
        }
    }
}

#[test]
fn prompts_that_begin_alike_give_the_golden_ids_while_others_run() {
    for name in FIXTURES {
        let cases = family(name);
        for (order, ticks) in ORDERS.into_iter().zip([0, 1, 2, 7, 20, 49]) {
            let mut driver = Driver::new(load_fixture(name));
            driver.engine.limit_prefill(64);
            for (id, place) in (0..).zip(order.into_iter().chain(order)) {
                driver.admit(id, case_request(&cases[place]));
                for _ in 0..ticks {
                    driver.tick();
                }
            }
            driver.finish();
            for (id, place) in (0..).zip(order.into_iter().chain(order)) {
                check(&cases[place], &driver.answers[&RequestId(id)]);
            }
        }
    }
}

#[test]
fn a_conversation_goes_on_where_it_ended() {
    for name in FIXTURES {
        let golden = golden(name);
        let case = golden.cases.iter().find(|case| case.eos_index.is_none()).unwrap();
        // The prompt and half its answer are the next prompt.
        let mut first = case_request(case);
        first.max_tokens = Some(24);
        let mut next = case.prompt_ids.clone();
        next.extend(&case.greedy_ids[..24]);
        let mut driver = Driver::new(load_fixture(name));
        driver.admit(0, first);
        driver.finish();
        driver.admit(1, request(Prompt::Tokens(next.clone()), 24, greedy()));
        driver.finish();
        let answer = &driver.answers[&RequestId(1)];
        assert_eq!(answer.ids, case.greedy_ids[24..47], "{name}");
        // The last token was chosen but not read; also a window goes on from where it is.
        assert_eq!(answer.cached, u32::try_from(next.len() - 1).unwrap(), "{name}");
    }
}

#[test]
fn a_prompt_that_was_read_before_is_read_in_its_last_token_only() {
    let golden = golden(PLAIN);
    let case = &golden.cases[0];
    let mut driver = Driver::new(load_fixture(PLAIN));
    for id in 0..3 {
        driver.admit(id, case_request(case));
        driver.finish();
        check(case, &driver.answers[&RequestId(id)]);
    }
    let all_but_last = u32::try_from(case.prompt_ids.len() - 1).unwrap();
    let cached = [0, 1, 2].map(|id| driver.answers[&RequestId(id)].cached);
    assert_eq!(cached, [0, all_but_last, all_but_last]);
}

#[test]
fn choices_share_the_reading_of_their_prompt() {
    let golden = golden(PLAIN);
    let case = golden.cases.iter().find(|case| case.name == "long-prompt").unwrap();
    let mut driver = Driver::new(load_fixture(PLAIN));
    driver.engine.limit_prefill(16);
    driver.admit(0, Generate { choices: 4, ..case_request(case) });
    while driver.answers.is_empty() {
        driver.tick();
    }
    assert!(driver.others.is_empty());
    driver.tick();
    // A prompt of 349 tokens would take 22 ticks for each.
    assert_eq!(driver.others.len(), 3);
    driver.finish();
    for choice in 0..4 {
        let answer = driver.choice(RequestId(0), choice).clone();
        check(case, &answer);
        assert_eq!(answer.cached, 0, "a request finds nothing in what it read itself");
    }
}

#[test]
fn short_prompts_that_wait_together_are_read_together() {
    let golden = golden(PLAIN);
    let prompts: Vec<_> =
        golden.cases[..4].iter().map(|case| &case.prompt_ids[4..]).zip([20, 18, 20, 19]).collect();
    let ask = |id: usize| {
        let (ids, count) = prompts[id];
        let ids = ids.iter().cycle().take(count).copied().collect();
        request(Prompt::Tokens(ids), 12, greedy())
    };
    let mut alone = Driver::new(load_fixture(PLAIN));
    for id in 0..4 {
        alone.admit(u64::try_from(id).unwrap(), ask(id));
        alone.finish();
    }
    let mut together = Driver::new(load_fixture(PLAIN));
    for id in 0..4 {
        together.admit(u64::try_from(id).unwrap(), ask(id));
    }
    // One run for the prompts, one for the first tokens.
    together.tick();
    together.tick();
    assert_eq!(together.answers.len(), 4);
    together.finish();
    for id in (0..4).map(RequestId) {
        let (one, other) = (&alone.answers[&id], &together.answers[&id]);
        assert_eq!((&one.ids, &one.text), (&other.ids, &other.text));
        assert_eq!(other.cached, 0);
    }
}

#[test]
fn memory_is_given_back_and_the_last_conversation_is_still_there() {
    for name in FIXTURES {
        let golden = golden(name);
        let case = golden.cases.iter().find(|case| case.name == "long-prompt").unwrap();
        let mut driver = Driver::new(load_fixture(name));
        for id in 0..2 {
            driver.admit(id, case_request(case));
            driver.finish();
            check(case, &driver.answers[&RequestId(id)]);
            driver.engine.rest();
        }
        let cached = driver.answers[&RequestId(1)].cached;
        if name.ends_with("window") {
            assert_eq!(cached, 0);
        } else {
            assert_eq!(cached, u32::try_from(case.prompt_ids.len() - 1).unwrap(), "{name}");
        }
    }
}

#[test]
fn few_slots_serve_many_conversations_right() {
    for name in FIXTURES {
        let golden = golden(name);
        for slots in [1, 2, 3] {
            let mut spec = spec(&fixture(name));
            spec.slots = Some(slots);
            let mut driver = Driver::new(load(&spec, |_stage, _fraction| {}).unwrap());
            let order = golden.cases.iter().chain(golden.cases.iter().rev());
            let order: Vec<_> = (0..).zip(order).collect();
            for (id, case) in &order {
                driver.admit(*id, case_request(case));
                for _ in 0..id % 5 * 9 {
                    driver.tick();
                }
            }
            driver.finish();
            for (id, case) in &order {
                check(case, &driver.answers[&RequestId(*id)]);
            }
        }
    }
}
