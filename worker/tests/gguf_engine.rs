//! A GGUF file through the worker's own load and engine.
//!
//! Numbers are looked at in `gguf_goldens`; here it matters that the file is a model like any other,
//! and that a sequence says the same whoever else is in the batch.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::{collections::BTreeMap, path::PathBuf};

use hearth_shared::{
    ids::RequestId,
    protocol::{ExecutionProvider, FromWorker, Generate, GraphChoice, LoadSpec, Prompt, Sampling},
};
use hearth_worker::{Loaded, load};

#[expect(clippy::disallowed_methods, reason = "a test finds the runtime where the gateway would")]
fn loaded(name: &str) -> Loaded {
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
        variant: None,
        graph: GraphChoice::Default,
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
        let mut loaded = loaded(name);
        let prompts: Vec<(u64, &str)> = (0..).zip(PROMPTS).collect();
        let mut alone = BTreeMap::new();
        for prompt in &prompts {
            alone.extend(answers(&mut loaded, &[*prompt]));
        }
        assert_eq!(answers(&mut loaded, &prompts), alone, "{name}");
    }
}
