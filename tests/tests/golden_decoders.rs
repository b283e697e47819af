//! The engine against the goldens of an independent implementation, token by token.
//!
//! Runs the worker's library in this process: no gateway, no link. Every fixture's every case is
//! asked for alone, and all of them together in batches that they join and leave at different
//! times; both must give the same ids.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

#[path = "golden_decoders/golden.rs"]
mod golden;
#[path = "golden_decoders/driver.rs"]
mod driver;
#[path = "golden_decoders/prefix.rs"]
mod prefix;
#[path = "golden_decoders/gpu.rs"]
mod gpu;
#[path = "golden_decoders/rules.rs"]
mod rules;

use std::path::Path;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    Chat, ExecutionProvider, FinishReason, JsonText, LoadFailure, LoadFailureKind, LoadSpec,
    Prompt, RequestFailure, Sampling,
};
use hearth_worker::load;

use driver::{Answer, Driver, case_request, check, greedy, request};
use golden::{fixture, golden, load_fixture, spec};

// === Every fixture ===

fn every_case_alone(name: &str) {
    let golden = golden(name);
    assert!(!golden.eos_token_ids.is_empty());
    let mut driver = Driver::new(load_fixture(name));
    for (id, case) in (0..).zip(&golden.cases) {
        let text = driver.preparer.prompt_text(&case.prompt()).unwrap();
        assert_eq!(text, case.prompt, "{}: prompt", case.name);
        let prepared = driver.preparer.prepare(RequestId(id), case_request(case)).unwrap();
        assert_eq!(prepared.prompt_ids(), case.prompt_ids, "{}: prompt ids", case.name);
        driver.engine.admit(prepared).unwrap();
        driver.finish();
        check(case, &driver.answers[&RequestId(id)]);
    }
}

/// Requests arrive while others run, wait for slots, and leave at their own ends.
fn every_case_together(name: &str, prefill_tokens: usize) {
    let golden = golden(name);
    let mut driver = Driver::new(load_fixture(name));
    driver.engine.limit_prefill(prefill_tokens);
    for (id, case) in (0..).zip(&golden.cases) {
        driver.admit(id, case_request(case));
        for _ in 0..id % 4 * 5 {
            driver.tick();
        }
    }
    driver.finish();
    for (id, case) in (0..).zip(&golden.cases) {
        check(case, &driver.answers[&RequestId(id)]);
    }
}

macro_rules! fixtures {
    ($($module:ident: $folder:literal,)*) => {
        $(mod $module {
            #[test]
            fn gives_the_golden_ids_one_by_one() {
                super::every_case_alone($folder);
            }

            #[test]
            fn gives_the_golden_ids_in_a_batch() {
                super::every_case_together($folder, usize::MAX);
            }

            #[test]
            fn gives_the_golden_ids_with_prompts_read_piece_by_piece() {
                // The windows of the fixtures that have one are 32 tokens wide.
                super::every_case_together($folder, 23);
                super::every_case_together($folder, 50);
            }
        })*
    };
}

fixtures! {
    llama_fp32: "tiny-llama-genai-fp32",
    llama_int4: "tiny-llama-genai-int4",
    qwen3: "tiny-qwen3-genai-fp32",
    gemma3: "tiny-gemma3-genai-fp32",
    gemma3_window: "tiny-gemma3-genai-window",
    llama_fp16: "tiny-llama-fp16kv",
    llama_concatenated: "tiny-llama-optimum-fp32",
    llama_concatenated_fp16: "tiny-llama-optimum-fp32:fp16",
    llama_extra_inputs: "tiny-llama-optimum-fp32:extras",
    llama_gqa_with_positions: "tiny-llama-optimum-fp32:gqa",
}

// === What one fixture shows for all ===

const PLAIN: &str = "tiny-llama-genai-fp32";

#[test]
fn a_cancelled_request_is_not_heard_of_again_and_leaves_the_others_right() {
    let golden = golden(PLAIN);
    for stage in 0..8 {
        let mut driver = Driver::new(load_fixture(PLAIN));
        for (id, case) in (0..).zip(&golden.cases[..6]) {
            driver.admit(id, case_request(case));
        }
        // Request 1 is at first waiting, then joins, then runs; request 5 waits for a slot.
        for _ in 0..stage {
            driver.tick();
        }
        driver.engine.cancel(RequestId(1));
        driver.engine.cancel(RequestId(5));
        driver.engine.cancel(RequestId(99));
        let heard = driver.answers.remove(&RequestId(1)).map_or(0, |answer| answer.ids.len());
        assert!(heard < golden.cases[1].answer().len());
        driver.finish();
        let ids: Vec<_> = driver.answers.keys().map(|id| id.0).collect();
        assert_eq!(ids, [0, 2, 3, 4], "cancelled after {stage} ticks");
        for id in [0, 2, 3, 4] {
            let case = &golden.cases[usize::try_from(id).unwrap()];
            check(case, &driver.answers[&RequestId(id)]);
        }
    }
}

#[test]
fn a_seed_gives_the_same_text_whoever_else_is_in_the_batch() {
    let golden = golden(PLAIN);
    let seeded = |seed| {
        let sampling = Sampling {
            seed: Some(seed),
            temperature: 0.5,
            top_p: 0.95,
            frequency_penalty: 0.1,
            ..Sampling::default()
        };
        request(golden.cases[0].prompt(), 40, sampling)
    };
    let mut driver = Driver::new(load_fixture(PLAIN));
    driver.admit(0, seeded(1));
    driver.finish();
    for (id, case) in (100..).zip(&golden.cases[1..4]) {
        driver.admit(id, case_request(case));
        driver.tick();
    }
    driver.admit(1, seeded(1));
    driver.finish();
    driver.admit(2, seeded(2));
    driver.finish();
    let answer = |id| &driver.answers[&RequestId(id)];
    assert!(answer(0).ids.len() > 20, "the seed should give a long answer");
    let said = |id| (&answer(id).ids, &answer(id).text);
    assert_eq!(said(0), said(1));
    assert_ne!(answer(0).ids, answer(2).ids);
}

#[test]
fn a_stop_text_ends_the_answer_before_itself() {
    let golden = golden(PLAIN);
    let case = &golden.cases[0];
    // From the middle of one token to the middle of a later one.
    let start = case.text.char_indices().nth(20).unwrap().0;
    let stop: String = case.text[start..].chars().take(9).collect();
    let before = &case.text[..case.text.find(&stop).unwrap()];
    let mut driver = Driver::new(load_fixture(PLAIN));
    let mut request = case_request(case);
    request.stop = vec!["never".to_owned(), stop];
    driver.admit(0, request);
    driver.finish();
    let answer = &driver.answers[&RequestId(0)];
    assert_eq!((answer.text.as_str(), answer.finish), (before, Some(FinishReason::Stop)));
    assert!(answer.counts.1 < 48);
}

#[test]
fn the_answer_ends_where_the_context_does() {
    let golden = golden(PLAIN);
    let case = golden.cases.iter().find(|case| case.eos_index.is_none()).unwrap();
    let prompt_tokens = u32::try_from(case.prompt_ids.len()).unwrap();
    let mut spec = spec(&fixture(PLAIN));
    spec.context_length = Some(prompt_tokens + 5);
    let mut driver = Driver::new(load(&spec, |_stage, _fraction| {}).unwrap());
    for (id, max_tokens) in [(0, None), (1, Some(10_000))] {
        let mut request = case_request(case);
        request.max_tokens = max_tokens;
        driver.admit(id, request);
        driver.finish();
        let answer = &driver.answers[&RequestId(id)];
        assert_eq!(answer.ids, case.greedy_ids[..4]);
        let end = (answer.counts, answer.finish);
        assert_eq!(end, ((prompt_tokens, 5), Some(FinishReason::Length)));
    }
}

#[test]
fn a_prompt_that_fills_the_context_is_refused_with_its_size() {
    let golden = golden(PLAIN);
    let case = &golden.cases[0];
    let prompt_tokens = u32::try_from(case.prompt_ids.len()).unwrap();
    let mut spec = spec(&fixture(PLAIN));
    spec.context_length = Some(prompt_tokens);
    let loaded = load(&spec, |_stage, _fraction| {}).unwrap();
    let refused = loaded.preparer.prepare(RequestId(0), case_request(case));
    let expected = RequestFailure::ContextOverflow { prompt_tokens, context_length: prompt_tokens };
    assert_eq!(refused.err(), Some(expected));
}

#[test]
fn no_tokens_wanted_means_that_only_the_prompt_is_read() {
    let golden = golden(PLAIN);
    let case = &golden.cases[0];
    let mut driver = Driver::new(load_fixture(PLAIN));
    driver.admit(0, request(case.prompt(), 0, greedy()));
    driver.finish();
    let prompt_tokens = u32::try_from(case.prompt_ids.len()).unwrap();
    let expected = Answer {
        finish: Some(FinishReason::Length),
        counts: (prompt_tokens, 0),
        ..Answer::default()
    };
    assert_eq!(driver.answers[&RequestId(0)], expected);
}

#[test]
fn one_slot_serves_requests_in_order() {
    let golden = golden(PLAIN);
    let mut spec = spec(&fixture(PLAIN));
    spec.slots = Some(1);
    let loaded = load(&spec, |_stage, _fraction| {}).unwrap();
    assert_eq!(loaded.card.slots, 1);
    let mut driver = Driver::new(loaded);
    for (id, case) in (0..).zip(&golden.cases[..3]) {
        driver.admit(id, case_request(case));
    }
    for (id, case) in (0..).zip(&golden.cases[..3]) {
        while driver.answers.get(&RequestId(id)).is_none_or(|answer| answer.finish.is_none()) {
            driver.tick();
            assert!(
                !driver.answers.contains_key(&RequestId(id + 1)) || id == 2 || {
                    driver.answers[&RequestId(id)].finish.is_some()
                }
            );
        }
        check(case, &driver.answers[&RequestId(id)]);
    }
}

// === Loads ===

#[test]
fn a_load_reports_its_stages_in_order() {
    let mut stages = Vec::new();
    let mut spec = spec(&fixture(PLAIN));
    spec.slots = None;
    let loaded = load(&spec, |stage, fraction| stages.push((stage.as_str(), fraction)));
    let card = loaded.unwrap().card;
    let names: Vec<_> = stages.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["files", "runtime", "session", "warm-up"]);
    assert!(stages.is_sorted_by(|(_, a), (_, b)| a < b));
    assert_eq!((card.architecture.as_str(), card.context_length, card.slots), ("llama", 512, 16));
    assert_eq!(card.execution_provider, ExecutionProvider::Cpu);
    assert!(card.execution_provider_note.is_some());
    assert!(card.runtime_version.starts_with("1."), "{}", card.runtime_version);
}

fn refused(spec: &LoadSpec) -> LoadFailure {
    load(spec, |_stage, _fraction| {}).map(|loaded| loaded.card).unwrap_err()
}

#[test]
fn a_provider_asked_for_by_name_is_had_or_is_an_error_that_says_what_to_do() {
    for provider in [ExecutionProvider::Cuda, ExecutionProvider::DirectMl] {
        let mut spec = spec(&fixture(PLAIN));
        spec.execution_provider = provider;
        let failure = refused(&spec);
        assert_eq!(failure.kind, LoadFailureKind::NoProvider);
        assert!(failure.message.contains(provider.as_str()), "{}", failure.message);
        assert!(failure.message.contains("use `auto` or `cpu`"), "{}", failure.message);
    }
    let mut spec = spec(&fixture(PLAIN));
    spec.execution_provider = ExecutionProvider::Cpu;
    let card = load(&spec, |_stage, _fraction| {}).unwrap().card;
    assert_eq!(
        (card.execution_provider, card.execution_provider_note),
        (spec.execution_provider, None)
    );
}

#[test]
fn files_that_are_missing_or_short_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture(PLAIN)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let spec = spec(folder.path());
    let weights = std::fs::File::options();
    let weights = weights.clone().write(true).open(folder.path().join("model.onnx.data")).unwrap();
    weights.set_len(1000).unwrap();
    let failure = refused(&spec);
    assert_eq!(failure.kind, LoadFailureKind::BadFiles);
    assert!(failure.message.contains("model.onnx.data is broken"), "{}", failure.message);
    for name in ["model.onnx.data", "model.onnx", "genai_config.json"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
        let failure = refused(&spec);
        assert_eq!(failure.kind, LoadFailureKind::BadFiles);
        assert!(failure.message.contains(name), "{}", failure.message);
    }
}

// === The real model ===

#[test]
fn a_real_model_knows_the_capital_of_france() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/models/smollm2-135m-instruct-genai-int4");
    let Ok(model) = model.canonicalize() else {
        eprintln!("skipped: {} is not there", model.display());
        return;
    };
    let mut driver = Driver::new(load(&spec(&model), |_stage, _fraction| {}).unwrap());
    let messages = r#"[{"role":"user","content":"What is the capital of France?"}]"#;
    let prompt = Prompt::Chat(Chat::new(JsonText(messages.to_owned())));
    driver.admit(0, request(prompt, 48, greedy()));
    driver.finish();
    let answer = &driver.answers[&RequestId(0)];
    assert!(answer.text.contains("Paris"), "{:?}", answer.text);
}
