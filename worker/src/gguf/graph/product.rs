//! One matrix product: which encoding its weights get, and the nodes that compute it.
//!
//! The layers ask for products by role; the graph's kind and the file's types decide here.

use super::{
    Builder, GraphKind,
    nodes::{Attribute, MS, ONNX},
};
use crate::gguf::{
    encode::BLOCK,
    matrix::{Matrix, Turn},
    onnx::DataType,
    tensor::TensorType,
    weights::{Slot, Weight, Work},
};

/// A value, and the same value as `uint8` once somebody has asked for it.
#[derive(Debug, Clone)]
pub(super) struct Activation {
    pub(super) name: String,
    /// Whether a norm without gain made it, so that its root mean square is one.
    pub(super) is_normed: bool,
    pub(super) quantised: Option<String>,
}

impl Activation {
    pub(super) fn plain(name: String) -> Self {
        Self {
            name,
            is_normed: false,
            quantised: None,
        }
    }
}

/// How the weights of one product are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Floats,
    Blocks8,
    Blocks4,
    Columns8,
}

fn encoding(kind: GraphKind, matrix: &Matrix<'_>, input: &Activation) -> Encoding {
    let every = |types: &[TensorType]| {
        matrix
            .parts
            .iter()
            .all(|part| types.contains(&part.tensor.kind))
    };
    match kind {
        GraphKind::Reference => Encoding::Floats,
        _ if !matrix.inputs.is_multiple_of(BLOCK) => Encoding::Floats,
        GraphKind::Exact if every(&[TensorType::F32, TensorType::F16, TensorType::Bf16]) => {
            Encoding::Floats
        }
        GraphKind::Exact if every(&[TensorType::Q4_0]) => Encoding::Blocks4,
        GraphKind::Exact => Encoding::Blocks8,
        GraphKind::Default if input.is_normed => Encoding::Columns8,
        GraphKind::Default => Encoding::Blocks8,
    }
}

impl<'a> Builder<'a> {
    /// Writes `output = input × matrix + bias`.
    pub(super) fn product(
        &mut self,
        input: &mut Activation,
        matrix: Matrix<'a>,
        bias: Option<Vec<f32>>,
        output: &str,
    ) {
        let (inputs, outputs) = (matrix.inputs, matrix.outputs());
        let bias = bias.map(|values| self.vector(&format!("{output}.bias"), values));
        let bias = bias.as_deref();
        let q = format!("{output}.weight");
        let scales = format!("{output}.scales");
        match encoding(self.kind, &matrix, input) {
            Encoding::Floats => {
                let first = slot(&q, DataType::Float, vec![inputs, outputs]);
                self.weight(first, None, Work::Floats(matrix));
                let product = bias.map(|_| format!("{output}.unbiased"));
                let product = product.as_deref().unwrap_or(output);
                self.nodes
                    .node((ONNX, "MatMul"), &[&input.name, &q], &[product], &[]);
                if let Some(bias) = bias {
                    self.nodes
                        .node((ONNX, "Add"), &[product, bias], &[output], &[]);
                }
            }
            Encoding::Columns8 => {
                let first = slot(&q, DataType::Int8, vec![inputs, outputs]);
                let second = slot(&scales, DataType::Float, vec![outputs]);
                self.weight(first, Some(second), Work::Columns8(matrix));
                let quantised = self.quantised(input);
                let mut names = vec![quantised.as_str(), &q, NORMED_SCALE, &scales, NORMED_ZERO];
                names.extend(bias.map(|bias| ["", bias]).into_iter().flatten());
                self.nodes
                    .node((MS, "MatMulIntegerToFloat"), &names, &[output], &[]);
            }
            encoding @ (Encoding::Blocks8 | Encoding::Blocks4) => {
                let bits = if encoding == Encoding::Blocks8 { 8 } else { 4 };
                let blob = BLOCK * bits / 8;
                let blocks = inputs / BLOCK;
                let first = slot(&q, DataType::Uint8, vec![outputs, blocks, blob]);
                let second = slot(&scales, DataType::Float, vec![outputs, blocks]);
                let work = if bits == 8 {
                    Work::Blocks8(matrix)
                } else {
                    Work::Blocks4(matrix)
                };
                self.weight(first, Some(second), work);
                let mut names = vec![input.name.as_str(), &q, &scales];
                names.extend(bias.map(|bias| ["", "", bias]).into_iter().flatten());
                let attributes = [
                    ("K", Attribute::Int(inputs as i64)),
                    ("N", Attribute::Int(outputs as i64)),
                    ("bits", Attribute::Int(bits as i64)),
                    ("block_size", Attribute::Int(BLOCK as i64)),
                    // Activations become int8 block by block: the kernel's fast path.
                    ("accuracy_level", Attribute::Int(4)),
                ];
                self.nodes
                    .node((MS, "MatMulNBits"), &names, &[output], &attributes);
            }
        }
    }

    /// Writes the lookup of `input_ids` in the embedding.
    pub(super) fn lookup(&mut self, matrix: Matrix<'a>, output: &str) {
        let (inputs, outputs) = (matrix.inputs, matrix.outputs());
        let plain = Activation::plain(String::new());
        let q = format!("{output}.weight");
        let scales = format!("{output}.scales");
        if encoding(self.kind, &matrix, &plain) == Encoding::Floats {
            let first = slot(&q, DataType::Float, vec![outputs, inputs]);
            self.weight(first, None, Work::Table(matrix));
            self.nodes
                .node((ONNX, "Gather"), &[&q, "input_ids"], &[output], &[]);
            return;
        }
        let first = slot(&q, DataType::Uint8, vec![outputs, inputs]);
        let second = slot(&scales, DataType::Float, vec![outputs, inputs / BLOCK]);
        self.weight(first, Some(second), Work::Blocks8(matrix));
        let attributes = [
            ("bits", Attribute::Int(8)),
            ("block_size", Attribute::Int(BLOCK as i64)),
            ("quantize_axis", Attribute::Int(1)),
            ("gather_axis", Attribute::Int(0)),
        ];
        let names = [&q, "input_ids", &scales];
        self.nodes
            .node((MS, "GatherBlockQuantized"), &names, &[output], &attributes);
    }

    /// The input as `uint8`, quantised once however many products read it.
    fn quantised(&mut self, input: &mut Activation) -> String {
        if let Some(name) = &input.quantised {
            return name.clone();
        }
        let name = format!("{}.quantised", input.name);
        let names = [input.name.as_str(), NORMED_SCALE, NORMED_ZERO];
        self.nodes
            .node((ONNX, "QuantizeLinear"), &names, &[&name], &[]);
        input.quantised = Some(name.clone());
        name
    }

    /// Writes the constants that quantised activations need.
    pub(super) fn quantisation_constants(&mut self) {
        self.nodes.float(NORMED_SCALE, NORMED_LARGEST / 127.0);
        self.nodes
            .constant(NORMED_ZERO, DataType::Uint8, &[], vec![128]);
    }

    pub(super) fn vector(&mut self, name: &str, values: Vec<f32>) -> String {
        let first = slot(name, DataType::Float, vec![values.len()]);
        self.weight(first, None, Work::Vector(values));
        name.to_owned()
    }

    pub(super) fn weight(&mut self, first: Slot, second: Option<Slot>, work: Work<'a>) {
        for slot in [Some(&first), second.as_ref()].into_iter().flatten() {
            self.nodes.external(slot);
        }
        self.weights.push(Weight {
            first,
            second,
            work,
        });
    }

    pub(super) fn turn(&self, turn: Turn) -> Turn {
        if self.basis.is_some() {
            turn
        } else {
            Turn::None
        }
    }
}

const NORMED_SCALE: &str = "normed.scale";
const NORMED_ZERO: &str = "normed.zero";
/// The largest element of a normed row that is kept whole. In the other basis such rows look like
/// samples of a normal distribution with deviation one.
const NORMED_LARGEST: f32 = 5.0;

pub(super) fn slot(name: &str, kind: DataType, shape: Vec<usize>) -> Slot {
    Slot {
        name: name.to_owned(),
        kind,
        shape,
    }
}
