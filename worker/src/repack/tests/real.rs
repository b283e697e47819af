//! A real model of 4 bits, where a developer has one beside the project: how far ours is from its
//! weights, and how far ONNX Runtime's own product is.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::path::Path;

use hearth_shared::protocol::GraphChoice;
use ort::{
    memory::Allocator,
    session::{Session, SessionInputValue},
    value::Tensor,
};

use super::{super::open, session};

const LAYERS: usize = 30;
const VOCABULARY: usize = 49_152;
const TOKENS: usize = 192;

#[test]
fn a_real_model_is_as_near_to_its_weights_as_onnx_runtime_brings_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = folder.join("../../shared/models/smollm2-135m-instruct-genai-int4");
    let path = folder.join("model.onnx");
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return;
    }
    let repacked = open(&path, None).unwrap();
    assert_eq!(repacked.plan.products, 5 * LAYERS + 1);
    drop(repacked);
    let ids = text(&folder);
    let (mut floats, _copy) = in_floats(&path);
    let reference = logprobs(&mut floats, &ids);
    drop(floats);
    let far = |graph| divergence(&reference, &logprobs(&mut session(&path, graph, None), &ids));
    let (ours, theirs) = (far(GraphChoice::Default), far(GraphChoice::Exact));
    eprintln!("mean KL over {} tokens: ours {ours:.5}, ONNX Runtime's {theirs:.5}", ids.len());
    assert!(ours < 0.02, "{ours}");
    assert!(ours < theirs * 1.5, "{ours} {theirs}");
}

/// The first tokens of the project's licence.
fn text(folder: &Path) -> Vec<i64> {
    let tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    let licence = Path::new(env!("CARGO_MANIFEST_DIR")).join("../LICENSE");
    let encoding = tokenizer.encode(std::fs::read_to_string(licence).unwrap(), false).unwrap();
    encoding.get_ids().iter().take(TOKENS).map(|&id| i64::from(id)).collect()
}

/// The graph with its activations left as they are: in each product `accuracy_level` is 1 instead of 4.
fn in_floats(path: &Path) -> (Session, tempfile::TempDir) {
    const NAME: &[u8] = b"accuracy_level";
    // What follows is the attribute's number, field 3.
    let four = [NAME, &[3 << 3, 4]].concat();
    let mut bytes = std::fs::read(path).unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - four.len()).filter(|&at| bytes[at..].starts_with(&four)).collect();
    assert_eq!(found.len(), 5 * LAYERS + 1);
    found.into_iter().for_each(|at| bytes[at + NAME.len() + 1] = 1);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("model.onnx");
    std::fs::write(&copy, bytes).unwrap();
    let weights = "model.onnx.data";
    std::fs::copy(path.with_file_name(weights), folder.path().join(weights)).unwrap();
    (session(&copy, GraphChoice::Exact, None), folder)
}

/// Log-probabilities at every position.
fn logprobs(session: &mut Session, ids: &[i64]) -> Vec<Vec<f64>> {
    let shape = [1, ids.len()];
    let mut inputs: Vec<(String, SessionInputValue<'_>)> = vec![
        ("input_ids".to_owned(), Tensor::from_array((shape, ids.to_vec())).unwrap().into()),
        (
            "attention_mask".to_owned(),
            Tensor::from_array((shape, vec![1_i64; ids.len()])).unwrap().into(),
        ),
    ];
    for layer in 0..LAYERS {
        for part in ["key", "value"] {
            let past = Tensor::<f32>::new(&Allocator::default(), [1, 3, 0, 64_usize]).unwrap();
            inputs.push((format!("past_key_values.{layer}.{part}"), past.into()));
        }
    }
    let outputs = session.run(inputs).unwrap();
    let (_, logits) = outputs["logits"].try_extract_tensor::<f32>().unwrap();
    assert_eq!(logits.len(), ids.len() * VOCABULARY);
    logits.chunks(VOCABULARY).map(log_softmax).collect()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
    row.iter().map(|x| f64::from(x - largest) - sum.ln()).collect()
}

/// Mean over positions.
fn divergence(reference: &[Vec<f64>], other: &[Vec<f64>]) -> f64 {
    let row = |(r, o): (&Vec<f64>, &Vec<f64>)| -> f64 {
        r.iter().zip(o).map(|(r, o)| r.exp() * (r - o)).sum()
    };
    reference.iter().zip(other).map(row).sum::<f64>() / reference.len() as f64
}
