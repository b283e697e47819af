//! Nodes, constants and tensors of the graph, in the order in which they are asked for.
//!
//! The other files of `graph` write with it. It knows ONNX's messages and no model.

use prost::Message as _;

use crate::{
    gguf::weights::Slot,
    onnx::{
        AttributeProto, DataType, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
        OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
        TypeProto, ValueInfoProto,
    },
    packed::DOMAIN,
};

/// ONNX Runtime's own operators.
pub(super) const MS: &str = "com.microsoft";
/// The standard operators.
pub(super) const ONNX: &str = "";

/// Chosen low, so that ONNX Runtime from 1.20 on loads the graph.
const IR_VERSION: i64 = 10;
const OPSET: i64 = 21;

/// An attribute's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attribute {
    Int(i64),
    Float(f32),
}

/// A size that is known, or a name for one that is not.
#[derive(Debug, Clone, Copy)]
pub(super) enum Size {
    Known(usize),
    Named(&'static str),
}

/// A graph being written.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    graph: GraphProto,
}

impl Nodes {
    pub(super) fn node(
        &mut self,
        (domain, op): (&str, &str),
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) {
        let name = outputs.first().copied().unwrap_or_default();
        let attribute = attributes.iter().map(|&(name, value)| attribute(name, value)).collect();
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs.iter().map(|&name| name.to_owned()).collect(),
            name: format!("{name}/{op}"),
            op_type: op.to_owned(),
            attribute,
            domain: domain.to_owned(),
        });
    }

    /// A small tensor that stands in the graph itself.
    pub(super) fn constant(&mut self, name: &str, kind: DataType, dims: &[i64], bytes: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: kind.into(),
            name: name.to_owned(),
            raw_data: bytes,
            ..TensorProto::default()
        });
    }

    pub(super) fn integers(&mut self, name: &str, dims: &[i64], values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, DataType::Int64, dims, bytes);
    }

    pub(super) fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, DataType::Float, dims, bytes);
    }

    /// A tensor that is handed to ONNX Runtime beside the graph, as a file of its own in memory.
    pub(super) fn external(&mut self, slot: &Slot) {
        let entry =
            |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        self.graph.initializer.push(TensorProto {
            dims: slot.shape.iter().map(|&size| size as i64).collect(),
            data_type: slot.kind.into(),
            name: slot.name.clone(),
            external_data: vec![
                entry("location", slot.name.clone()),
                entry("offset", "0".to_owned()),
                entry("length", slot.bytes().to_string()),
            ],
            data_location: 1,
            ..TensorProto::default()
        });
    }

    pub(super) fn input(&mut self, name: &str, kind: DataType, shape: &[Size]) {
        self.graph.input.push(value_info(name, kind, shape));
    }

    pub(super) fn output(&mut self, name: &str, kind: DataType, shape: &[Size]) {
        self.graph.output.push(value_info(name, kind, shape));
    }

    /// The finished model.
    pub(super) fn encode(mut self) -> Vec<u8> {
        self.graph.name = "gguf".to_owned();
        let opset =
            |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: "hearth".to_owned(),
            graph: Some(self.graph),
            opset_import: vec![opset(ONNX, OPSET), opset(MS, 1), opset(DOMAIN, 1)],
        }
        .encode_to_vec()
    }
}

fn attribute(name: &str, value: Attribute) -> AttributeProto {
    let name = name.to_owned();
    match value {
        Attribute::Float(f) => AttributeProto { name, f, i: 0, kind: 1 },
        Attribute::Int(i) => AttributeProto { name, f: 0.0, i, kind: 2 },
    }
}

fn value_info(name: &str, kind: DataType, shape: &[Size]) -> ValueInfoProto {
    let dim = shape.iter().map(|size| Dimension {
        value: Some(match *size {
            Size::Known(size) => DimensionValue::Size(size as i64),
            Size::Named(name) => DimensionValue::Name(name.to_owned()),
        }),
    });
    let tensor_type = TensorTypeProto {
        elem_type: kind.into(),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
    }
}
