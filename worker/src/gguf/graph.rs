//! A GGUF file's network as an ONNX graph in memory.
//!
//! The worker builds one for each model and commits it to a session. The graph has the interface of
//! onnxruntime-genai's folders: `input_ids` i64 `[batch, sequence]`, `attention_mask` i64
//! `[batch, total]` of which the row sums and the width count, `past_key_values.N.key` and `.value`
//! f32 `[batch, kv_heads, past, head_dim]`; `logits` f32, `present.N.key` and `.value`. Past and
//! present may be one buffer. Logits come for the last position or for all, as asked when it is built.
//!
//! Nothing is decoded here: the weights are listed, and made at the hand-over.

mod layer;
mod nodes;
mod product;
mod rope;

use std::sync::Arc;

use self::{
    nodes::{Attribute, MS, Nodes, ONNX, Size},
    product::{Activation, slot},
};
use super::{
    Facts, GgufError, GgufModel,
    basis::Basis,
    decode::decode,
    encode::BLOCK,
    matrix::{Matrix, Part, Turn},
    reader::GgufFile,
    weights::{Weight, Work},
};
use crate::{
    onnx::DataType,
    packed::{Norm, PRODUCT},
};

/// What the graph is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphKind {
    /// The file's own blocks in our own product: small, near and fast. For processors that
    /// [`can_pack`](super::can_pack).
    Packed,
    /// 8-bit weights with a scale for each output, in ONNX Runtime's integer products, activations
    /// rounded to 8 bits. For processors that have
    /// [`has_sound_columns`](super::has_sound_columns).
    Columns,
    /// Nearness: weights that are floats stay so, others keep 8 bits by blocks of 32.
    Exact,
    /// Every weight as f32, products in f32. Slow and large: to measure the others by.
    Reference,
}

/// A graph, and what to make its weights from.
#[derive(Debug)]
pub struct BuiltGraph<'a> {
    /// An ONNX `ModelProto` whose large tensors are external.
    pub model_proto: Vec<u8>,
    pub(super) weights: Vec<Weight<'a>>,
    /// What nodes of our own name by its number.
    pub(super) packed: Vec<Matrix<'a>>,
    /// As `packed`.
    pub(super) norms: Vec<Norm>,
}

/// For which positions logits come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// `logits` is `[batch, 1, vocabulary]`: what generating needs, and nothing is computed for the
    /// others after the last attention.
    Last,
    /// `logits` is `[batch, sequence, vocabulary]`.
    All,
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct GraphOptions {
    /// Encoding of the weights.
    pub kind: GraphKind,
    /// Where logits are wanted.
    pub logits: Positions,
    /// The longest sequence that will run; the model's own limit goes before it.
    pub context_length: usize,
}

/// Builds the graph.
///
/// # Errors
/// [`GgufError::MissingTensor`], [`GgufError::Tensor`] or [`GgufError::Unsupported`].
pub fn build_graph(model: &GgufModel, options: GraphOptions) -> Result<BuiltGraph<'_>, GgufError> {
    let GraphOptions { kind, logits, context_length } = options;
    let facts = &model.facts;
    let basis = if kind == GraphKind::Columns { basis(facts) } else { None };
    let nodes = Nodes::default();
    let mut builder = Builder {
        file: &model.file,
        facts,
        kind,
        logits,
        basis,
        nodes,
        weights: Vec::new(),
        packed: Vec::new(),
        norms: Vec::new(),
        embedding: None,
    };
    builder.prologue(context_length.min(facts.context_length))?;
    let mut stream = builder.embed()?;
    for index in 0..facts.layers {
        stream = builder.layer(index, stream)?;
    }
    builder.logits(stream)?;
    let Builder { nodes, weights, packed, norms, .. } = builder;
    Ok(BuiltGraph { model_proto: nodes.encode(), weights, packed, norms })
}

/// Sizes that no kernel takes in blocks keep the basis that they have.
fn basis(facts: &Facts) -> Option<Arc<Basis>> {
    let sizes = [facts.hidden, facts.feed_forward, facts.heads * facts.head_dim];
    if sizes.iter().all(|size| size.is_multiple_of(BLOCK)) {
        Basis::new(facts.hidden).map(Arc::new)
    } else {
        None
    }
}

/// The graph being written and what it is written from.
struct Builder<'a> {
    file: &'a GgufFile,
    facts: &'a Facts,
    kind: GraphKind,
    logits: Positions,
    /// The residual stream's other basis, if it has one.
    basis: Option<Arc<Basis>>,
    nodes: Nodes,
    weights: Vec<Weight<'a>>,
    packed: Vec<Matrix<'a>>,
    norms: Vec<Norm>,
    /// The embedding's number, if it is packed.
    embedding: Option<usize>,
}

/// The residual stream between two layers: its sum so far and what is still to be added.
struct Stream {
    residual: String,
    addend: Option<String>,
}

const LAST_AXIS_ONE: &str = "one";

impl<'a> Builder<'a> {
    fn prologue(&mut self, positions: usize) -> Result<(), GgufError> {
        let batch = Size::Named("batch");
        self.nodes.input("input_ids", DataType::Int64, &[batch, Size::Named("sequence")]);
        self.nodes.input("attention_mask", DataType::Int64, &[batch, Size::Named("total")]);
        self.nodes.integers(LAST_AXIS_ONE, &[1], &[1]);
        self.nodes.integers("one.scalar", &[], &[1]);
        // GroupQueryAttention takes each row's last position and the widest row's length.
        let keep = [("keepdims", Attribute::Int(0))];
        let to_int32 = [("to", Attribute::Int(DataType::Int32 as i64))];
        let nodes = &mut self.nodes;
        nodes.node((ONNX, "ReduceSum"), &["attention_mask", LAST_AXIS_ONE], &["lengths"], &keep);
        nodes.node((ONNX, "Sub"), &["lengths", LAST_AXIS_ONE], &["last.i64"], &[]);
        nodes.node((ONNX, "Cast"), &["last.i64"], &["last"], &to_int32);
        nodes.node((ONNX, "Shape"), &["attention_mask"], &["mask.shape"], &[]);
        nodes.node((ONNX, "Gather"), &["mask.shape", "one.scalar"], &["total.i64"], &[]);
        nodes.node((ONNX, "Cast"), &["total.i64"], &["total"], &to_int32);
        nodes.integers("kept.start", &[1], &[-1]);
        nodes.integers("kept.end", &[1], &[i64::MAX]);
        if self.kind == GraphKind::Columns {
            self.quantisation_constants();
        }
        if self.basis.is_some() {
            self.vector("gain.one", vec![1.0; self.facts.hidden]);
            self.mixer();
        }
        let head_dim = self.facts.head_dim;
        let tables = rope::tables(self.file, &self.facts.rope, head_dim, positions)?;
        let shape = vec![positions, head_dim / 2];
        let table = |name| slot(name, DataType::Float, shape.clone());
        self.weight(table("cos"), None, Work::Vector(tables.cos));
        self.weight(table("sin"), None, Work::Vector(tables.sin));
        Ok(())
    }

    fn embed(&mut self) -> Result<Stream, GgufError> {
        let turn = self.turn(Turn::Inputs);
        let matrix = self.matrix(&["token_embd.weight"], self.facts.hidden, turn)?;
        self.lookup(matrix, "embedding");
        Ok(Stream { residual: "embedding".to_owned(), addend: None })
    }

    /// The last norm, and logits for the positions that are left of the stream.
    fn logits(&mut self, stream: Stream) -> Result<(), GgufError> {
        let (mut normed, gain, _) = self.norm("output", stream, "output_norm.weight")?;
        let tied = self.file.tensor("output.weight").is_none();
        let name = if tied { "token_embd.weight" } else { "output.weight" };
        let turn = self.turn(Turn::Inputs);
        let mut matrix = self.matrix(&[name], self.facts.hidden, turn)?;
        if matrix.outputs() != self.facts.vocab_size {
            let what = "an output matrix of another size than the embedding".to_owned();
            return Err(GgufError::Unsupported { what });
        }
        matrix.gain = gain;
        match self.embedding.filter(|_| tied) {
            Some(number) => self.packed_node(PRODUCT, &normed.name, number, "logits"),
            None => self.product(&mut normed, matrix, None, "logits"),
        }
        let vocabulary = Size::Known(self.facts.vocab_size);
        let positions = match self.logits {
            Positions::Last => Size::Known(1),
            Positions::All => Size::Named("sequence"),
        };
        let shape = [Size::Named("batch"), positions, vocabulary];
        self.nodes.output("logits", DataType::Float, &shape);
        for layer in 0..self.facts.layers {
            self.cache(layer);
        }
        Ok(())
    }

    /// Adds what is still to be added and norms the sum. The gain comes back if it has to be folded
    /// into the matrices that read the result; the last value is the new sum.
    fn norm(
        &mut self,
        prefix: &str,
        stream: Stream,
        weight: &str,
    ) -> Result<(Activation, Option<Vec<f32>>, String), GgufError> {
        let gain = self.floats(weight, self.facts.hidden)?;
        let (name, folded) = if self.basis.is_some() {
            ("gain.one".to_owned(), Some(gain))
        } else {
            (self.vector(&format!("{prefix}.gain"), gain), None)
        };
        let output = format!("{prefix}.normed");
        let epsilon = ("epsilon", Attribute::Float(self.facts.epsilon));
        let Stream { residual, addend } = stream;
        let sum = if let Some(addend) = addend {
            let sum = format!("{prefix}.sum");
            let inputs = [residual.as_str(), &addend, &name];
            let outputs = [output.as_str(), "", "", &sum];
            self.nodes.node(
                (MS, "SkipSimplifiedLayerNormalization"),
                &inputs,
                &outputs,
                &[epsilon],
            );
            sum
        } else {
            let attributes =
                [epsilon, ("axis", Attribute::Int(-1)), ("stash_type", Attribute::Int(1))];
            let inputs = [residual.as_str(), &name];
            self.nodes.node(
                (ONNX, "SimplifiedLayerNormalization"),
                &inputs,
                &[&output],
                &attributes,
            );
            residual
        };
        let activation =
            if folded.is_some() { Activation::even(output) } else { Activation::plain(output) };
        Ok((activation, folded, sum))
    }

    fn cache(&mut self, layer: usize) {
        let (kv_heads, head_dim) = (self.facts.kv_heads, self.facts.head_dim);
        for part in ["key", "value"] {
            let shape = |len| {
                [
                    Size::Named("batch"),
                    Size::Known(kv_heads),
                    Size::Named(len),
                    Size::Known(head_dim),
                ]
            };
            let past = format!("past_key_values.{layer}.{part}");
            self.nodes.input(&past, DataType::Float, &shape("past"));
            let present = format!("present.{layer}.{part}");
            self.nodes.output(&present, DataType::Float, &shape("present"));
        }
    }

    /// Tensors of `inputs` columns each, one under the other.
    fn matrix(&self, names: &[&str], inputs: usize, turn: Turn) -> Result<Matrix<'a>, GgufError> {
        let mut parts = Vec::new();
        for &name in names {
            let missing = || GgufError::MissingTensor { name: name.to_owned() };
            let found = self.file.tensor(name).ok_or_else(missing)?;
            let rows = found.shape.get(1).copied().unwrap_or(1);
            let tensor = self.file.needed_tensor(name, &[inputs, rows])?.clone();
            parts.push(Part { tensor, paired_head: None, spread: None });
        }
        let basis = self.basis.clone();
        Ok(Matrix { file: self.file, parts, inputs, gain: None, basis, turn, spread: None })
    }

    /// A vector of any type, decoded.
    fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>, GgufError> {
        let tensor = self.file.needed_tensor(name, &[len])?;
        let mut values = vec![0.0; len];
        decode(tensor.kind, self.file.data(tensor), &mut values);
        Ok(values)
    }
}
