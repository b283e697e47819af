//! What the engine does when ONNX Runtime fails: a token that the model lacks makes it.

mod device;

use std::path::{Path, PathBuf};

use hearth_shared::protocol::{ExecutionProvider, GraphChoice, LoadSpec, Part, Sampling};

use super::*;
use crate::answer::Reading;

fn engine() -> Engine {
    crate::load(&spec("tiny-llama-genai-fp32"), |_stage, _fraction| {}).unwrap().engine
}

#[expect(clippy::disallowed_methods, reason = "a test finds the runtime where the gateway would")]
fn spec(fixture: &str) -> LoadSpec {
    let home = match std::env::var("HEARTH_HOME") {
        Ok(home) => PathBuf::from(home),
        Err(_) => PathBuf::from(std::env::var("HOME").unwrap()).join(".local/share/hearth"),
    };
    let library = home.join("runtime/libonnxruntime.so").canonicalize();
    let library = library.expect("ONNX Runtime should be there; run `scripts/setup` first");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(fixture);
    LoadSpec {
        model_path: model.to_str().unwrap().to_owned(),
        runtime_library: library.to_str().unwrap().to_owned(),
        execution_provider: ExecutionProvider::Cpu,
        threads: Some(1),
        context_length: None,
        slots: None,
        cuda_graphs: false,
        variant: None,
        graph: GraphChoice::Default,
    }
}

const NO_TOKEN: u32 = 1_000_000;

fn request(id: u64, prompt: &[u32]) -> Prepared {
    Prepared {
        id: RequestId(id),
        prompt: prompt.to_vec(),
        choices: 1,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        logit_bias: Vec::new(),
        stop: Vec::new(),
        ends: Vec::new(),
        tokens_min: 0,
        tokens_max: 8,
        logprobs: None,
        reading: Reading::default(),
        grammar: None,
        tells_context: false,
    }
}

/// Ticks to the end: who failed in ONNX Runtime, and all text of the others.
fn run(engine: &mut Engine) -> (Vec<u64>, String) {
    let (mut failed, mut text) = (Vec::new(), String::new());
    while !engine.is_idle() {
        for message in engine.tick() {
            match message {
                FromWorker::Step(news) => {
                    text.extend(news.into_iter().flat_map(|news| news.parts).map(
                        |part| match part {
                            Part::Text(text) => text,
                            other => panic!("unexpected: {other:?}"),
                        },
                    ));
                }
                FromWorker::Failed { id, reason: RequestFailure::Engine { message } } => {
                    assert!(message.contains("ONNX Runtime: "), "{message}");
                    failed.push(id.0);
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }
    (failed, text)
}

#[test]
fn a_prompt_that_onnx_runtime_refuses_fails_alone() {
    let mut engine = engine();
    engine.admit(request(0, &[10, 20, 30])).unwrap();
    let (_, expected) = run(&mut engine);
    engine.admit(request(1, &[10, 20, 30])).unwrap();
    engine.tick();
    engine.admit(request(2, &[11, NO_TOKEN, 30])).unwrap();
    // The first token of request 1 went with the tick above.
    let (failed, rest) = run(&mut engine);
    assert_eq!(failed, [2]);
    assert!(!rest.is_empty() && expected.ends_with(&rest), "{expected:?} {rest:?}");
}

#[test]
fn a_step_that_fails_ends_those_in_it_and_leaves_the_engine_usable() {
    let mut engine = engine();
    engine.admit(request(0, &[10, 20, 30])).unwrap();
    let (_, expected) = run(&mut engine);
    for id in [1, 2] {
        engine.admit(request(id, &[10, 20, 30])).unwrap();
        engine.tick();
    }
    engine.slots.running()[0].last = NO_TOKEN;
    engine.admit(request(3, &[10, 20, 30])).unwrap();
    let (mut failed, text) = run(&mut engine);
    failed.sort_unstable();
    assert_eq!((failed, text), (vec![1, 2], expected));
}

#[test]
fn more_requests_than_a_gateway_would_send_are_refused() {
    let mut engine = engine();
    for id in 0..256 {
        engine.admit(request(id, &[10])).unwrap();
    }
    let refused = engine.admit(request(256, &[10]));
    assert!(matches!(refused, Err(RequestFailure::Invalid { .. })), "{refused:?}");
}

#[test]
fn who_joins_does_so_right_behind_those_who_run() {
    let mut engine = engine();
    engine.forward.limit_chunk(8);
    // What these leave in the first slots is worth more than an empty slot further behind.
    for id in 0..3 {
        engine.admit(request(id, &[10, 11 + u32::try_from(id).unwrap(), 12])).unwrap();
    }
    assert!(run(&mut engine).0.is_empty());
    engine.admit(request(3, &[20, 21])).unwrap();
    engine.tick();
    assert_eq!(engine.slots.running().len(), 1);
    engine.admit(request(4, &[30; 40])).unwrap();
    engine.tick();
    assert_eq!(engine.slots.joining().map(|(slot, _sequence)| slot), Some(1));
    assert!(run(&mut engine).0.is_empty());
}
