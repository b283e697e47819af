//! A GGUF file through the worker's own load and engine.
//!
//! Numbers are looked at in `gguf_goldens`; here it matters that the file is a model like any other,
//! that a sequence says the same whoever else is in the batch, and that the kind of graph that a
//! load asks for is the one that runs.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::{collections::BTreeMap, path::PathBuf};

use hearth_shared::{
    ids::RequestId,
    protocol::{ExecutionProvider, FromWorker, Generate, GraphChoice, LoadSpec, Prompt, Sampling},
};
use hearth_worker::{Loaded, load};
use serde_json::Value;

#[expect(clippy::disallowed_methods, reason = "a test finds the runtime where the gateway would")]
fn loaded(name: &str, graph: GraphChoice) -> Loaded {
    let home = std::env::var_os("HEARTH_HOME").map(PathBuf::from);
    let user = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".local/share/hearth");
    let library = home.unwrap_or_else(user).join("runtime/libonnxruntime.so");
    let library = library.canonicalize().expect("run `scripts/setup` first");
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf");
    let spec = LoadSpec {
        model_path: fixtures.join(name).to_str().unwrap().to_owned(),
        runtime_library: library.to_str().unwrap().to_owned(),
        execution_provider: ExecutionProvider::Cpu,
        threads: Some(1),
        context_length: None,
        slots: None,
        cuda_graphs: false,
        variant: None,
        graph,
    };
    load(&spec, |_stage, _fraction| {}).unwrap()
}

const PROMPTS: [&str; 3] = ["The river runs", "A letter to the", "One saddle, two markets and a"];

/// Runs the prompts given, all at once, to their ends.
fn answers(loaded: &mut Loaded, prompts: &[(u64, &str)]) -> BTreeMap<u64, Vec<u32>> {
    for &(id, text) in prompts {
        let request = Generate {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: Some(24),
            ..Generate::new(Prompt::raw(text))
        };
        let prepared = loaded.preparer.prepare(RequestId(id), request).unwrap();
        loaded.engine.admit(prepared).unwrap();
    }
    let mut answers: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    while !loaded.engine.is_idle() {
        for message in loaded.engine.tick() {
            assert!(matches!(message, FromWorker::Step(_)), "{message:?}");
        }
        for (id, _, token) in loaded.engine.last_tokens() {
            answers.entry(id.0).or_default().push(token);
        }
    }
    answers
}

#[test]
fn a_sequence_says_the_same_alone_and_in_a_batch() {
    for name in ["tiny-llama-q8_0.gguf", "tiny-llama256-q4_k_m.gguf", "tiny-qwen3-q8_0.gguf"] {
        let mut loaded = loaded(name, GraphChoice::Default);
        let prompts: Vec<(u64, &str)> = (0..).zip(PROMPTS).collect();
        let mut alone = BTreeMap::new();
        for prompt in &prompts {
            alone.extend(answers(&mut loaded, &[*prompt]));
        }
        assert_eq!(answers(&mut loaded, &prompts), alone, "{name}");
    }
}

/// Runs the first case of the golden file alone: the log-probabilities of what was said.
fn logprobs(graph: GraphChoice, case: &Value) -> Vec<f64> {
    let mut loaded = loaded("tiny-llama-f32.gguf", graph);
    let numbers = |name: &str| -> Vec<u32> { serde_json::from_value(case[name].clone()).unwrap() };
    let expected = numbers("greedy_ids");
    let request = Generate {
        sampling: Sampling { temperature: 0.0, ..Sampling::NEUTRAL },
        max_tokens: Some(u32::try_from(expected.len()).unwrap()),
        ignore_eos: true,
        logprobs: Some(0),
        ..Generate::new(Prompt::Tokens(numbers("prompt_ids")))
    };
    let prepared = loaded.preparer.prepare(RequestId(1), request).unwrap();
    loaded.engine.admit(prepared).unwrap();
    let mut found = Vec::new();
    while !loaded.engine.is_idle() {
        for message in loaded.engine.tick() {
            let FromWorker::Step(news) = message else { panic!("{message:?}") };
            let told = news.iter().flat_map(|news| &news.logprobs);
            found.extend(told.map(|token| f64::from(token.logprob)));
        }
    }
    assert_eq!(found.len(), expected.len());
    found
}

#[test]
fn a_load_gets_the_graph_that_it_asks_for() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/tiny-llama-f32.golden.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let case = &golden["cases"][0];
    let expected: Vec<f64> = serde_json::from_value(case["greedy_logprobs"].clone()).unwrap();
    let furthest = |found: &[f64]| {
        found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0_f64, f64::max)
    };

    let default = logprobs(GraphChoice::Default, case);
    let exact = logprobs(GraphChoice::Exact, case);
    // The file has floats: `exact` keeps them, the others round them to int8.
    assert!(furthest(&exact) < 1e-4, "{}", furthest(&exact));
    assert!(furthest(&default) > 1e-3, "{}", furthest(&default));
    assert_eq!(logprobs(GraphChoice::Memory, case), default);
}

#[test]
fn little_memory_reads_a_prompt_in_small_chunks() {
    let ticks = |graph| {
        let mut loaded = loaded("tiny-llama-q8_0.gguf", graph);
        let request = Generate {
            max_tokens: Some(1),
            ignore_eos: true,
            ..Generate::new(Prompt::Tokens((0..100).collect()))
        };
        let prepared = loaded.preparer.prepare(RequestId(1), request).unwrap();
        loaded.engine.admit(prepared).unwrap();
        let mut ticks = 0;
        while !loaded.engine.is_idle() {
            loaded.engine.tick();
            ticks += 1;
        }
        ticks
    };
    let kinds = [GraphChoice::Default, GraphChoice::Exact, GraphChoice::Memory];
    assert_eq!(kinds.map(ticks), [1, 1, 2]);
}
