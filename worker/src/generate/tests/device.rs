//! The engine with its memory on a device gives what it gives without one.
//!
//! The device is the CPU here: its memory is had from ONNX Runtime, never touched by us, and moved by
//! runs of the moving session, exactly as a GPU's is. What a GPU's kernels do is not shown by it.

use std::collections::BTreeMap;

use super::*;
use crate::generate::{Forward, Pace};
use crate::model::{AnyModel, CacheKind, Device, Model, Variant};
use crate::runtime::bound::{BoundSession, Place};
use crate::runtime::interface::{Hints, Interface};
use crate::runtime::layout::{Layout, ON_HOST};
use crate::runtime::provider::Capture;
use crate::runtime::{Runtime, Wish};

const SLOTS: usize = 4;

fn forward(fixture: &str, layout: Layout) -> Forward {
    let spec = spec(fixture);
    let model = AnyModel::read(Path::new(&spec.model_path), Variant::BestFor(Device::Cpu));
    let AnyModel::Decoder(model) = model.unwrap() else { panic!("a fixture of a decoder") };
    let Model { graph, names, head_size, kv_heads, vocabulary, window, context_length, .. } =
        *model;
    let runtime = Runtime::open(Path::new(&spec.runtime_library)).unwrap();
    let context_length = usize::try_from(context_length).unwrap();
    let wish = Wish {
        provider: ExecutionProvider::Cpu,
        graph: GraphChoice::Default,
        threads: 1,
        context_length,
        capture: Capture::No,
    };
    let session = runtime.session(&graph, wish).unwrap().session;
    let hints = Hints { head_size, kv_heads, vocabulary, window: window.as_ref() };
    let interface = Interface::of(&session, &names, hints).unwrap();
    let device = runtime.host_as_device(&session);
    let session = BoundSession::new(session, Some(device));
    let room = (SLOTS, context_length);
    Forward::new(session, interface, CacheKind::InPlace, room, layout).unwrap()
}

fn engine_with(fixture: &str, layout: Layout) -> Engine {
    let tokenizer = crate::load(&spec(fixture), |_stage, _fraction| {}).unwrap().engine.tokenizer;
    let engine = Engine::new(forward(fixture, layout), tokenizer);
    assert_eq!(engine.pace.chunk(512), Pace::default().chunk(512));
    engine
}

/// Every request's ids, in the order in which they came.
type Answers = BTreeMap<(RequestId, u32), Vec<u32>>;

/// Prompts that begin alike and don't, that are long enough for the slabs to grow, that want several
/// choices, and more of them than there are slots.
fn answers(engine: &mut Engine) -> Answers {
    let mut answers = Answers::new();
    let lengths: [u32; 12] = [3, 40, 41, 9, 300, 30, 301, 12, 5, 40, 120, 300];
    for (id, length) in (0..).zip(lengths) {
        let start = if length % 2 == 0 { 7 } else { 90 };
        let prompt: Vec<u32> = (0..length).map(|place| 20 + (start + place * 13) % 150).collect();
        let mut request = request(id, &prompt);
        request.choices = if id % 5 == 3 { 2 } else { 1 };
        request.tokens_max = 4 + u32::try_from(id).unwrap() % 7;
        engine.admit(request).unwrap();
        for _ in 0..id % 4 {
            tick(engine, &mut answers);
        }
        if id == 6 {
            engine.rest();
        }
    }
    while !engine.is_idle() {
        tick(engine, &mut answers);
    }
    engine.rest();
    answers
}

fn tick(engine: &mut Engine, answers: &mut Answers) {
    for message in engine.tick() {
        assert!(matches!(message, FromWorker::Step(_)), "{message:?}");
    }
    for (id, choice, token) in engine.last_tokens() {
        answers.entry((id, choice)).or_default().push(token);
    }
}

fn gives_the_same(fixture: &str, layout: Layout) {
    let expected = answers(&mut engine_with(fixture, ON_HOST));
    assert_eq!(expected.len(), 14);
    assert!(expected.values().all(|ids| ids.len() >= 3), "{expected:?}");
    assert_eq!(answers(&mut engine_with(fixture, layout)), expected, "{fixture} {layout:?}");
}

const ON_DEVICE: Layout = Layout { cache: Place::Device, logits: Place::Device, ..ON_HOST };

#[test]
fn a_cache_and_logits_on_a_device_give_the_same_tokens() {
    for fixture in ["tiny-llama-genai-fp32", "tiny-qwen3-genai-fp32", "tiny-llama-fp16kv"] {
        gives_the_same(fixture, ON_DEVICE);
    }
}

#[test]
fn a_window_on_a_device_gives_the_same_tokens() {
    gives_the_same("tiny-gemma3-genai-window", ON_DEVICE);
}

#[test]
fn a_cache_that_is_bound_before_every_run_gives_the_same_tokens() {
    gives_the_same("tiny-llama-genai-fp32", Layout { rebound: true, ..ON_HOST });
}

/// The CPU captures nothing and runs such a step plainly: what is shown is that a step of fixed places
/// and a fixed shape says the same.
#[test]
fn steps_of_fixed_shape_give_the_same_tokens() {
    for fixture in ["tiny-llama-genai-fp32", "tiny-qwen3-genai-fp32"] {
        gives_the_same(fixture, Layout { captured: true, ..ON_DEVICE });
    }
}

#[test]
fn what_a_device_holds_is_counted() {
    let on_device = forward("tiny-llama-genai-fp32", ON_DEVICE);
    let cache_bytes = on_device.token_bytes() * SLOTS * 256;
    let bytes = on_device.device_bytes().expect("the CPU's arena counts");
    assert!(bytes >= u64::try_from(cache_bytes).unwrap(), "{bytes} {cache_bytes}");
}

#[test]
fn what_could_not_be_moved_fails_and_the_next_request_starts_over() {
    let mut engine = engine_with("tiny-llama-genai-fp32", ON_DEVICE);
    engine.admit(request(0, &[10, 20, 30])).unwrap();
    let (_, expected) = run(&mut engine);
    engine.admit(request(1, &[10, 20, 30])).unwrap();
    engine.tick();
    engine.forward.lose();
    engine.admit(request(2, &[10, 20, 30])).unwrap();
    let (failed, text) = run(&mut engine);
    assert_eq!((failed, text), (vec![1], expected));
}
