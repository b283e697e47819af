//! Graphs in files, by the messages that the rest of the worker writes with.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::path::PathBuf;

use half::f16;
use prost::Message;

use super::super::{graph::node, source::MS};
use crate::{
    onnx::{
        AttributeProto, DataType, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
        OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
        TypeProto, ValueInfoProto,
    },
    packed::tests::noise,
};

const WEIGHTS_FILE: &str = "weights.bin";

/// A matrix of 4-bit blocks without a pattern.
#[derive(Clone)]
pub(super) struct Matrix {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    block: usize,
    level: i64,
    scale: f32,
    has_zeros: bool,
    has_bias: bool,
    is_outside: bool,
    seed: u64,
}

impl Matrix {
    pub(super) fn new(outputs: usize, inputs: usize) -> Self {
        Self {
            outputs,
            inputs,
            block: 32,
            level: 4,
            scale: 0.02,
            has_zeros: false,
            has_bias: false,
            is_outside: false,
            seed: 1,
        }
    }

    pub(super) fn block(self, block: usize) -> Self {
        Self { block, ..self }
    }

    pub(super) fn zeros(self) -> Self {
        Self { has_zeros: true, ..self }
    }

    pub(super) fn bias(self) -> Self {
        Self { has_bias: true, ..self }
    }

    pub(super) fn outside(self) -> Self {
        Self { is_outside: true, ..self }
    }

    pub(super) fn level(self, level: i64) -> Self {
        Self { level, ..self }
    }

    pub(super) fn scales(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    pub(super) fn has_zeros(&self) -> bool {
        self.has_zeros
    }

    fn blocks(&self) -> usize {
        self.inputs / self.block
    }

    fn quotients(&self) -> Vec<u8> {
        let mut next = noise(self.seed);
        (0..self.outputs * self.inputs / 2).map(|_| next()).collect()
    }

    /// Halves, unless they are too small or too large for that.
    fn scale_values(&self) -> Vec<f32> {
        let mut next = noise(self.seed + 1000);
        let scale = |byte: u8| self.scale * (1.0 + f32::from(byte) / 256.0);
        let half = |x: f32| if self.scale == 0.02 { f16::from_f32(x).to_f32() } else { x };
        (0..self.outputs * self.blocks()).map(|_| half(scale(next()))).collect()
    }

    fn zero_bytes(&self) -> Vec<u8> {
        let mut next = noise(self.seed + 2000);
        (0..self.outputs * self.blocks().div_ceil(2)).map(|_| next()).collect()
    }

    pub(super) fn bias_values(&self) -> Vec<f32> {
        (0..self.outputs).map(|i| if self.has_bias { i as f32 } else { 0.0 }).collect()
    }

    /// Its numbers, by the operator's definition.
    pub(super) fn decoded(&self) -> Vec<Vec<f32>> {
        let (quotients, scales, zeros) = (self.quotients(), self.scale_values(), self.zero_bytes());
        let nibble = |bytes: &[u8], i: usize| f32::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
        let weight = |row: usize, i: usize| {
            let block = i / self.block;
            let row_zeros = &zeros[row * self.blocks().div_ceil(2)..];
            let zero = if self.has_zeros { nibble(row_zeros, block) } else { 8.0 };
            let quotient = nibble(&quotients[row * self.inputs / 2..], i);
            (quotient - zero) * scales[row * self.blocks() + block]
        };
        (0..self.outputs).map(|row| (0..self.inputs).map(|i| weight(row, i)).collect()).collect()
    }
}

/// A graph in a folder of its own.
pub(super) struct GraphFile {
    folder: tempfile::TempDir,
}

impl GraphFile {
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("model.onnx")
    }

    /// `x` times a matrix.
    pub(super) fn of_product(matrix: &Matrix) -> Self {
        let mut graph = Writer::default();
        graph.input("x", matrix.inputs);
        graph.product(("x", "logits"), "w", matrix);
        graph.output("logits", matrix.outputs);
        graph.written()
    }

    /// A sum of `x` and a product of `y`, a gated feed-forward, and the logits, with what `change` adds.
    pub(super) fn of_layer(change: impl FnOnce(&mut Writer)) -> Self {
        let mut graph = Writer::default();
        graph.input("x", 64);
        graph.input("y", 64);
        graph.product(("y", "attended"), "o", &Matrix::new(64, 64).seed(2));
        graph.sum_and_norm(["x", "attended"], ("normed.1", "sum.1"), 64);
        graph.product(("normed.1", "gate"), "gate.w", &Matrix::new(96, 64).seed(3));
        graph.product(("normed.1", "up"), "up.w", &Matrix::new(96, 64).seed(4));
        graph.node(("", "Sigmoid"), &["gate"], &["sigmoid"], &[]);
        graph.node(("", "Mul"), &["gate", "sigmoid"], &["active"], &[]);
        graph.node(("", "Mul"), &["active", "up"], &["gated"], &[]);
        graph.product(("gated", "down"), "down.w", &Matrix::new(64, 96).seed(5));
        graph.sum_and_norm(["sum.1", "down"], ("normed.2", ""), 64);
        graph.product(("normed.2", "logits"), "head", &Matrix::new(32, 64).seed(6));
        graph.output("logits", 32);
        change(&mut graph);
        graph.written()
    }

    /// Rows of a matrix by token, and their product with it.
    pub(super) fn of_tied_table(matrix: &Matrix) -> Self {
        let mut graph = Writer::default();
        let shape = value_info("tokens", DataType::Int64, &[None, None]);
        graph.graph.input.push(shape);
        let table = [matrix.outputs as i64, matrix.inputs as i64 / 2];
        let bytes = table.iter().flat_map(|size| size.to_le_bytes()).collect();
        graph.tensor("shape", (DataType::Int64, &[2]), bytes, false);
        graph.node(("", "Reshape"), &["w.q", "shape"], &["table"], &[]);
        let attributes =
            [("bits", 4), ("block_size", 32), ("gather_axis", 0), ("quantize_axis", 1)];
        let op = (MS, "GatherBlockQuantized");
        graph.node(op, &["table", "tokens", "w.s"], &["rows"], &attributes);
        graph.product(("rows", "logits"), "w", matrix);
        graph.output("rows", matrix.inputs);
        graph.output("logits", matrix.outputs);
        graph.written()
    }

    /// The last byte of the weights is lost.
    pub(super) fn cut_weights(&self) {
        let path = self.folder.path().join(WEIGHTS_FILE);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }
}

/// A graph being written.
#[derive(Default)]
pub(super) struct Writer {
    graph: GraphProto,
    weights: Vec<u8>,
}

impl Writer {
    /// The value `name` is an output too.
    pub(super) fn also_gives(&mut self, name: &str, width: usize) {
        self.output(name, width);
    }

    /// There is an input `name` that nothing takes.
    pub(super) fn takes(&mut self, name: &str) {
        self.graph.input.push(value_info(name, DataType::Int64, &[]));
    }

    fn input(&mut self, name: &str, width: usize) {
        let info = value_info(name, DataType::Float, &[Some(1), None, Some(width)]);
        self.graph.input.push(info);
    }

    fn output(&mut self, name: &str, width: usize) {
        // The gate's width is another; what is declared has to fit.
        let width = if ["gate", "gated"].contains(&name) { 96 } else { width };
        let info = value_info(name, DataType::Float, &[None, None, Some(width)]);
        self.graph.output.push(info);
    }

    fn node(
        &mut self,
        op: (&str, &str),
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, i64)],
    ) {
        const INT: i32 = 2;
        let mut node: NodeProto = node(op, outputs[0], (inputs, outputs));
        let attribute = |&(name, i): &(&str, i64)| AttributeProto {
            name: name.to_owned(),
            f: 0.0,
            i,
            kind: INT,
        };
        node.attribute = attributes.iter().map(attribute).collect();
        self.graph.node.push(node);
    }

    fn product(&mut self, (input, output): (&str, &str), name: &str, matrix: &Matrix) {
        let [q, s, z, b] = ["q", "s", "z", "b"].map(|part| format!("{name}.{part}"));
        let blocks = matrix.blocks();
        let outside = matrix.is_outside;
        let shape = [matrix.outputs, blocks, matrix.block / 2];
        self.tensor(&q, (DataType::Uint8, &shape), matrix.quotients(), outside);
        let floats = |values: Vec<f32>| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let scales = floats(matrix.scale_values());
        self.tensor(&s, (DataType::Float, &[matrix.outputs, blocks]), scales, outside);
        let mut inputs = vec![input, &q, &s];
        if matrix.has_zeros {
            let shape = [matrix.outputs * blocks.div_ceil(2)];
            self.tensor(&z, (DataType::Uint8, &shape), matrix.zero_bytes(), outside);
            inputs.push(&z);
        }
        if matrix.has_bias {
            let bias = floats(matrix.bias_values());
            self.tensor(&b, (DataType::Float, &[matrix.outputs]), bias, false);
            inputs.resize(5, "");
            inputs.push(&b);
        }
        let attributes = [
            ("K", matrix.inputs as i64),
            ("N", matrix.outputs as i64),
            ("bits", 4),
            ("block_size", matrix.block as i64),
            ("accuracy_level", matrix.level),
        ];
        self.node((MS, "MatMulNBits"), &inputs, &[output], &attributes);
    }

    fn sum_and_norm(&mut self, inputs: [&str; 2], (normed, sum): (&str, &str), width: usize) {
        let gain = format!("{normed}.gain");
        let values: Vec<u8> =
            (0..width).flat_map(|i| (0.5 + i as f32 / 64.0).to_le_bytes()).collect();
        self.tensor(&gain, (DataType::Float, &[width]), values, false);
        let inputs = [inputs[0], inputs[1], &gain];
        let outputs = if sum.is_empty() { vec![normed] } else { vec![normed, "", "", sum] };
        self.node((MS, "SkipSimplifiedLayerNormalization"), &inputs, &outputs, &[]);
    }

    fn tensor(
        &mut self,
        name: &str,
        (kind, shape): (DataType, &[usize]),
        bytes: Vec<u8>,
        outside: bool,
    ) {
        let entry = |key: &str, value: usize| StringStringEntryProto {
            key: key.to_owned(),
            value: value.to_string(),
        };
        let mut tensor = TensorProto {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: kind as i32,
            name: name.to_owned(),
            raw_data: Vec::new(),
            external_data: Vec::new(),
            data_location: 0,
        };
        if outside {
            let location = StringStringEntryProto {
                key: "location".to_owned(),
                value: WEIGHTS_FILE.to_owned(),
            };
            let places = [entry("offset", self.weights.len()), entry("length", bytes.len())];
            tensor.external_data = [location].into_iter().chain(places).collect();
            tensor.data_location = 1;
            self.weights.extend(bytes);
        } else {
            tensor.raw_data = bytes;
        }
        self.graph.initializer.push(tensor);
    }

    fn written(mut self) -> GraphFile {
        self.graph.name = "test".to_owned();
        let domain =
            |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        let model = ModelProto {
            ir_version: 10,
            producer_name: "hearth".to_owned(),
            graph: Some(self.graph),
            opset_import: vec![domain("", 21), domain(MS, 1)],
        };
        let file = GraphFile { folder: tempfile::tempdir().unwrap() };
        std::fs::write(file.path(), model.encode_to_vec()).unwrap();
        std::fs::write(file.folder.path().join(WEIGHTS_FILE), self.weights).unwrap();
        file
    }
}

fn value_info(name: &str, kind: DataType, sizes: &[Option<usize>]) -> ValueInfoProto {
    let dimension = |(index, size): (usize, &Option<usize>)| Dimension {
        value: Some(match size {
            Some(size) => DimensionValue::Size(*size as i64),
            None => DimensionValue::Name(format!("d{index}")),
        }),
    };
    let dim = sizes.iter().enumerate().map(dimension).collect();
    let tensor = TensorTypeProto { elem_type: kind as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}
