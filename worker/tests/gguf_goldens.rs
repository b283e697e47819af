//! GGUF fixtures against their golden outputs: tokenizer, and every graph kind over ONNX Runtime.
//!
//! The goldens come from PyTorch in float32 on the dequantised weights; `tests/fixtures/gguf` holds
//! them beside the files. One teacher-forced run per case covers all positions.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::{num::NonZeroUsize, path::PathBuf, sync::OnceLock};

use hearth_worker::gguf::{self, GgufModel, GraphKind, GraphOptions, Positions};
use ort::{
    environment::Environment,
    session::{Session, SessionInputValue},
    value::Tensor,
};
use serde_json::Value;

const FILES: [&str; 10] = [
    "tiny-llama-f32",
    "tiny-llama-f16",
    "tiny-llama-q8_0",
    "tiny-llama-q4_0",
    "tiny-llama-q4_1",
    "tiny-llama256-q4_k_m",
    "tiny-llama256-q5_k_m",
    "tiny-llama256-q6_k",
    "tiny-qwen3-f32",
    "tiny-qwen3-q8_0",
];

#[expect(clippy::disallowed_methods, reason = "a test finds the library as setup leaves it")]
fn library() -> PathBuf {
    let home = std::env::var_os("HEARTH_HOME").map(PathBuf::from);
    let user = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".local/share/hearth");
    let library = home.unwrap_or_else(user).join("runtime/libonnxruntime.so");
    library.canonicalize().expect("scripts/setup brings ONNX Runtime")
}

fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| ort::init_from(library()).unwrap().with_telemetry(false).build().unwrap())
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf").join(name)
}

fn golden(name: &str) -> Value {
    let bytes = std::fs::read(fixture(&format!("{name}.golden.json"))).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn session(model: &GgufModel, kind: GraphKind) -> Session {
    let builder = Session::builder(environment()).unwrap().with_intra_threads(1).unwrap();
    let options = GraphOptions { kind, logits: Positions::All, context_length: 512 };
    let graph = gguf::build_graph(model, options).unwrap();
    graph.commit(builder, NonZeroUsize::MIN).unwrap()
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Log-probabilities of the last `count` positions of `ids`, one row each.
fn logprobs(session: &mut Session, model: &GgufModel, ids: &[i64], count: usize) -> Vec<Vec<f64>> {
    let facts = &model.facts;
    let ones = vec![1_i64; ids.len()];
    let mut inputs: Vec<(String, SessionInputValue<'_>)> = vec![
        ("input_ids".into(), Tensor::from_array(([1, ids.len()], ids.to_vec())).unwrap().into()),
        ("attention_mask".into(), Tensor::from_array(([1, ids.len()], ones)).unwrap().into()),
    ];
    for layer in 0..facts.layers {
        for part in ["key", "value"] {
            let shape = [1, facts.kv_heads, 0, facts.head_dim];
            let empty = Tensor::<f32>::new(&ort::memory::Allocator::default(), shape).unwrap();
            inputs.push((format!("past_key_values.{layer}.{part}"), empty.into()));
        }
    }
    let outputs = session.run(inputs).unwrap();
    let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>().unwrap();
    assert_eq!(&shape[..], [1, ids.len() as i64, facts.vocab_size as i64]);
    let rows = logits.chunks(facts.vocab_size);
    rows.skip(ids.len() - count).map(log_softmax).collect()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
    row.iter().map(|x| f64::from(x - largest) - sum.ln()).collect()
}

/// Runs every case of a file: how often the best token is another, and the largest difference in the
/// log-probability of the golden one.
fn compare(name: &str, kind: GraphKind) -> (usize, f64) {
    let (model, _) = gguf::open(&fixture(&format!("{name}.gguf"))).unwrap();
    let mut session = session(&model, kind);
    let (mut misses, mut furthest) = (0, 0.0_f64);
    for case in golden(name)["cases"].as_array().unwrap() {
        let (prompt, greedy) = (ids(&case["prompt_ids"]), ids(&case["greedy_ids"]));
        let input = [&prompt[..], &greedy[..greedy.len() - 1]].concat();
        let rows = logprobs(&mut session, &model, &input, greedy.len());
        let expected = case["greedy_logprobs"].as_array().unwrap();
        for ((row, &id), expected) in rows.iter().zip(&greedy).zip(expected) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            misses += usize::from(best as i64 != id);
            furthest = furthest
                .max((row[usize::try_from(id).unwrap()] - expected.as_f64().unwrap()).abs());
        }
    }
    (misses, furthest)
}

#[test]
fn reference_graphs_give_the_golden_ids_and_logprobs() {
    for name in FILES {
        let (misses, furthest) = compare(name, GraphKind::Reference);
        assert_eq!(misses, 0, "{name}");
        assert!(furthest < 1e-4, "{name}: {furthest}");
    }
}

#[test]
fn exact_graphs_of_floats_give_the_golden_ids_and_logprobs() {
    for name in FILES.iter().filter(|name| name.ends_with("f32") || name.ends_with("f16")) {
        let (misses, furthest) = compare(name, GraphKind::Exact);
        assert_eq!(misses, 0, "{name}");
        assert!(furthest < 1e-4, "{name}: {furthest}");
    }
}

/// Activations become 8-bit, as in llama.cpp, whose log-probabilities are up to 0.5 away.
#[test]
fn exact_graphs_of_blocks_stay_near_the_golden_logprobs() {
    for name in FILES {
        let (_, furthest) = compare(name, GraphKind::Exact);
        assert!(furthest < 0.5, "{name}: {furthest}");
    }
}

/// The weights are the file's, or 8-bit blocks where it has floats; activations are 8-bit.
#[test]
fn packed_graphs_stay_near_the_golden_logprobs() {
    for name in FILES.into_iter().filter(|_| gguf::can_pack()) {
        let (_, furthest) = compare(name, GraphKind::Packed);
        assert!(furthest < 0.6, "{name}: {furthest}");
    }
}

/// Random weights have no structure that forgives rounding: real models are nearer.
#[test]
fn graphs_of_columns_stay_near_the_golden_logprobs() {
    if !gguf::has_sound_columns() {
        eprintln!("SKIPPED: this processor has no VNNI, so graphs of columns don't run on it");
        return;
    }
    for name in FILES {
        let (_, furthest) = compare(name, GraphKind::Columns);
        assert!(furthest < 1.0, "{name}: {furthest}");
    }
}

#[test]
fn prompts_encode_to_the_golden_ids() {
    for name in FILES {
        let (_, vocabulary) = gguf::open(&fixture(&format!("{name}.gguf"))).unwrap();
        for case in golden(name)["cases"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            let encoding = vocabulary.tokenizer.encode(prompt, false).unwrap();
            let encoded: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
            assert_eq!(encoded, ids(&case["prompt_ids"]), "{name}: {}", case["name"]);
        }
    }
}

/// Two real vocabularies without their weights, against implementations of others.
#[test]
fn real_vocabularies_encode_and_decode_as_their_references() {
    for name in ["smollm2-vocabulary", "mistral-vocabulary"] {
        let (_, vocabulary) = gguf::open(&fixture(&format!("{name}.gguf"))).unwrap();
        for case in golden(name)["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let encoding = vocabulary.tokenizer.encode(text, false).unwrap();
            let encoded: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
            assert_eq!(encoded, ids(&case["ids"]), "{name}: {text:?}");
            let decoded = vocabulary.tokenizer.decode(encoding.get_ids(), false).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}: {text:?}");
        }
    }
}

#[test]
fn a_vocabulary_says_what_begins_and_what_ends() {
    let ends = |name: &str| {
        let (_, vocabulary) = gguf::open(&fixture(name)).unwrap();
        (vocabulary.bos, vocabulary.adds_bos, vocabulary.ends)
    };
    assert_eq!(ends("smollm2-vocabulary.gguf"), (Some(1), false, vec![2]));
    assert_eq!(ends("mistral-vocabulary.gguf"), (Some(1), true, vec![2]));
    assert_eq!(ends("tiny-qwen3-q8_0.gguf"), (Some(0), false, vec![2]));
}

/// The fuzzer's seeds: whole models of a few numbers, in what the fixtures lack.
#[test]
fn seeds_of_every_kind_run_in_every_graph() {
    for name in ["llama-byte-level", "llama-sentencepiece", "qwen2-byte-level"] {
        let seed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf").join(name);
        let (model, _) = gguf::open(&seed).unwrap();
        let run = |kind| logprobs(&mut session(&model, kind), &model, &[0, 2, 3], 1).remove(0);
        let expected = run(GraphKind::Reference);
        let packed = gguf::can_pack().then_some(GraphKind::Packed);
        let columns = gguf::has_sound_columns().then_some(GraphKind::Columns);
        for kind in [GraphKind::Exact].into_iter().chain(packed).chain(columns) {
            let found = run(kind);
            let furthest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let furthest = furthest.fold(0.0, f64::max);
            assert!(furthest < 0.05, "{name} {kind:?}: {furthest}");
        }
    }
}
