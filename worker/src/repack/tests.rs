//! Small graphs, written here and run as their file has them and as we have them.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

mod build;
mod real;

use std::path::{Path, PathBuf};

use hearth_shared::protocol::{ExecutionProvider, GraphChoice};
use ort::{session::Session, value::Tensor};
use proptest::prelude::*;

use self::build::{GraphFile, Matrix};
use super::*;
use crate::{
    model::GraphSource,
    packed::tests::{error, expected, numbers},
    runtime::{Runtime, Wish, provider::Capture},
};

const LOGITS: Option<&str> = Some("logits");

#[expect(clippy::disallowed_methods, reason = "a test finds the runtime where the gateway would")]
fn runtime() -> Runtime {
    let home = match std::env::var("HEARTH_HOME") {
        Ok(home) => PathBuf::from(home),
        Err(_) => PathBuf::from(std::env::var("HOME").unwrap()).join(".local/share/hearth"),
    };
    Runtime::open(&home.join("runtime/libonnxruntime.so")).expect("run `scripts/setup` first")
}

/// A session as the loader would make it: `exact` is the file as it stands.
fn session(path: &Path, graph: GraphChoice, logits: Option<&str>) -> Session {
    let wish = Wish {
        provider: ExecutionProvider::Cpu,
        graph,
        threads: 2,
        context_length: 64,
        capture: Capture::No,
    };
    let source = GraphSource::File { path: path.to_owned(), logits: logits.map(str::to_owned) };
    runtime().session(&source, wish).unwrap().session
}

/// The outputs for rows of numbers, `[1, rows, width]`, by name.
fn outputs(session: &mut Session, inputs: &[(&str, &[f32])], width: usize) -> Vec<Vec<f32>> {
    let inputs = inputs.iter().map(|(name, values)| {
        let tensor = Tensor::from_array(([1, values.len() / width, width], values.to_vec()));
        ((*name).to_owned(), tensor.unwrap())
    });
    let inputs: Vec<_> = inputs.collect();
    let outputs = session.run(inputs).unwrap();
    outputs.values().map(|value| value.try_extract_tensor::<f32>().unwrap().1.to_vec()).collect()
}

/// What nodes of our own a plan has, in the order of their places.
fn kinds(path: &Path) -> Vec<String> {
    let repacked = open(path, LOGITS).expect("something should be ours");
    let nodes = repacked.plan.nodes.values().flatten();
    nodes.filter(|node| node.domain == packed::DOMAIN).map(|node| node.op_type.clone()).collect()
}

#[test]
fn every_form_of_a_matrix_multiplies_as_its_numbers_do() {
    let forms = [
        ("blocks of 32", Matrix::new(16, 96).block(32)),
        ("zero points of an odd number of blocks", Matrix::new(24, 96).block(32).zeros()),
        ("blocks of 64 with zero points", Matrix::new(16, 192).block(64).zeros()),
        ("blocks of 128, a bias", Matrix::new(40, 256).block(128).bias()),
        ("blocks of 256", Matrix::new(8, 512).block(256)),
        ("so large that it stays in its file", Matrix::new(128, 512).block(32)),
        ("weights in a file of their own", Matrix::new(128, 512).block(32).zeros().outside()),
        ("no level of accuracy", Matrix::new(16, 96).block(32).level(0)),
    ];
    for (form, matrix) in forms {
        let file = GraphFile::of_product(&matrix);
        assert_eq!(kinds(&file.path()), ["Product"], "{form}");
        let inputs = numbers(3 * matrix.inputs, 5);
        let mut session = session(&file.path(), GraphChoice::Default, LOGITS);
        let found = outputs(&mut session, &[("x", &inputs)], matrix.inputs).remove(0);
        let mut wanted = expected(&matrix.decoded(), &inputs);
        for row in wanted.chunks_exact_mut(matrix.outputs) {
            row.iter_mut().zip(matrix.bias_values()).for_each(|(x, bias)| *x += f64::from(bias));
        }
        let error = error(&found, &wanted);
        // Minima of odd zero points are rounded to halves.
        let bound = if matrix.has_zeros() { 5e-4 } else { 2e-6 };
        assert!(error < bound, "{form}: {error}");
    }
}

#[test]
fn a_layer_becomes_one_node_for_each_norm_and_says_what_it_said() {
    let file = GraphFile::of_layer(|_graph| {});
    assert_eq!(kinds(&file.path()), ["Product", "FeedForward", "NormedProduct"]);
    let (x, y) = (numbers(5 * 64, 1), numbers(5 * 64, 2));
    let run = |graph| {
        outputs(&mut session(&file.path(), graph, LOGITS), &[("x", &x), ("y", &y)], 64).remove(0)
    };
    let (theirs, ours) = (run(GraphChoice::Exact), run(GraphChoice::Default));
    // Ours has logits for the last of five positions.
    assert_eq!((theirs.len(), ours.len()), (5 * 32, 32));
    let theirs: Vec<f64> = theirs[4 * 32..].iter().copied().map(f64::from).collect();
    let error = error(&ours, &theirs);
    assert!(error < 0.02, "{error}");
    assert!(error > 1e-7, "{error}: was it ours at all?");
}

#[test]
fn what_somebody_else_takes_is_not_joined() {
    // The hidden value is an output too, then the gate, then the normed value.
    let cases = [
        ("gated", vec!["Product", "Product", "Product", "Product", "NormedProduct"]),
        ("gate", vec!["Product", "Product", "Product", "Product", "NormedProduct"]),
        ("normed.1", vec!["Product", "Product", "Product", "Product", "NormedProduct"]),
        ("normed.2", vec!["Product", "Product", "FeedForward"]),
    ];
    for (name, expected) in cases {
        let file = GraphFile::of_layer(|graph| graph.also_gives(name, 64));
        let mut found = kinds(&file.path());
        found.sort_by_key(|kind| expected.iter().position(|other| other == kind));
        assert_eq!(found, expected, "{name}");
        let (x, y) = (numbers(5 * 64, 1), numbers(5 * 64, 2));
        let mut session = session(&file.path(), GraphChoice::Default, LOGITS);
        assert_eq!(outputs(&mut session, &[("x", &x), ("y", &y)], 64).len(), 2, "{name}");
    }
}

#[test]
fn logits_of_every_position_stay_where_the_graph_asks_which_are_wanted() {
    let file = GraphFile::of_layer(|graph| graph.takes("num_logits_to_keep"));
    let repacked = open(&file.path(), LOGITS).unwrap();
    assert!(!repacked.plan.last_only);
    let file = GraphFile::of_layer(|_graph| {});
    assert!(open(&file.path(), LOGITS).unwrap().plan.last_only);
    assert!(!open(&file.path(), Some("other")).unwrap().plan.last_only);
    assert!(!open(&file.path(), None).unwrap().plan.last_only);
}

#[test]
fn a_matrix_that_would_not_be_the_same_is_left_to_onnx_runtime() {
    let large = Matrix::new(16, 96).block(32).scales(7000.0);
    let tiny = Matrix::new(16, 96).block(32).scales(1e-8);
    let forms = [
        ("rows that are no whole group", Matrix::new(12, 96).block(32)),
        ("blocks of 16", Matrix::new(16, 96).block(16)),
        ("activations that have to stay floats", Matrix::new(16, 96).block(32).level(1)),
        ("scales beyond a half", large),
        ("scales below a half", tiny),
    ];
    for (form, matrix) in forms {
        assert!(open(&GraphFile::of_product(&matrix).path(), None).is_none(), "{form}");
    }
    let cut = GraphFile::of_product(&Matrix::new(128, 512).block(32).outside());
    assert!(open(&cut.path(), None).is_some());
    cut.cut_weights();
    assert!(open(&cut.path(), None).is_none());
}

#[test]
fn a_table_that_a_product_has_is_looked_up_in_its_matrix() {
    let file = GraphFile::of_tied_table(&Matrix::new(64, 32).block(32));
    assert_eq!(kinds(&file.path()), ["Lookup", "Product"]);
    let repacked = open(&file.path(), None).unwrap();
    assert_eq!(repacked.plan.matrices, [[0]]);
    let run = |graph| {
        let mut session = session(&file.path(), graph, LOGITS);
        let tokens = Tensor::from_array(([1, 3], vec![0_i64, 63, 17])).unwrap();
        let outputs = session.run(vec![("tokens".to_owned(), tokens)]).unwrap();
        outputs["rows"].try_extract_tensor::<f32>().unwrap().1.to_vec()
    };
    assert_eq!(run(GraphChoice::Default), run(GraphChoice::Exact));
}

#[test]
fn a_folder_of_onnxruntime_genai_is_all_ours() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../tests/fixtures/tiny-llama-genai-int4/model.onnx");
    let repacked = open(&path, LOGITS).unwrap();
    assert_eq!((repacked.plan.products, repacked.plan.last_only), (11, true));
    let mut found = kinds(&path);
    found.sort();
    let expected = ["FeedForward", "FeedForward", "NormedProduct", "NormedProduct"];
    assert_eq!(found, [&expected[..], &["Product"; 3]].concat());
    let other = path.with_file_name("../tiny-llama-genai-fp32/model.onnx");
    assert!(open(&other, LOGITS).is_none(), "there is nothing of 4 bits in it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever a file holds, it is read or left alone.
    #[test]
    fn no_damage_to_a_file_ends_the_worker(at: prop::sample::Index, with: [u8; 3], cut: bool) {
        let file = GraphFile::of_layer(|_graph| {});
        let mut bytes = std::fs::read(file.path()).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            let end = bytes.len().min(at + with.len());
            bytes[at..end].copy_from_slice(&with[..end - at]);
        }
        std::fs::write(file.path(), bytes).unwrap();
        if let Some(repacked) = open(&file.path(), LOGITS) {
            // To the end of what is ours: ONNX Runtime has its own tests.
            repacked.packed(NonZeroUsize::MIN);
        }
    }
}
