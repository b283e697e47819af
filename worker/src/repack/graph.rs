//! What an ONNX file says: its nodes, its tensors, who makes a value and who takes it.
//!
//! Messages that nothing is asked of stay bytes, so that the graph is written again as it was.
//! Field numbers are those of <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
};

use prost::{DecodeError, Message, bytes::Bytes};

use super::plan::Plan;
use crate::{
    mapped,
    onnx::{NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto},
    packed::DOMAIN,
};

/// A tensor of fewer bytes is copied into the graph's new message; a larger one stays in its file.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// `TensorProto.DataLocation`.
const EXTERNAL: i32 = 1;

/// `ModelProto` with what a session needs.
#[derive(Clone, PartialEq, Message)]
struct RawModel {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(string, tag = "4")]
    domain: String,
    #[prost(int64, tag = "5")]
    model_version: i64,
    #[prost(message, required, tag = "7")]
    graph: RawGraph,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetIdProto>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    metadata_props: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "25")]
    functions: Vec<Bytes>,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
struct RawGraph {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    node: Vec<Bytes>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    initializer: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    input: Vec<Bytes>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
    #[prost(bytes = "bytes", repeated, tag = "13")]
    value_info: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    quantization_annotation: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "15")]
    sparse_initializer: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "16")]
    metadata_props: Vec<Bytes>,
}

/// `NodeProto`, to be read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

/// `AttributeProto`, to be read.
#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, tag = "2")]
    f: f32,
    #[prost(int64, tag = "3")]
    i: i64,
    #[prost(bytes = "bytes", optional, tag = "6")]
    graph: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    graphs: Vec<Bytes>,
}

/// `TensorProto`, to be read.
#[derive(Clone, PartialEq, Message)]
struct RawTensor {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "bytes", optional, tag = "9")]
    raw_data: Option<Bytes>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

impl Node {
    pub(super) fn is(&self, domain: &str, op_type: &str) -> bool {
        // The standard operators' domain has two names.
        let found = if self.domain == "ai.onnx" { "" } else { &self.domain };
        found == domain && self.op_type == op_type
    }

    /// The name of input `index`, if it is given.
    pub(super) fn input(&self, index: usize) -> Option<&str> {
        self.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The name of output `index`, if it is wanted.
    pub(super) fn output(&self, index: usize) -> Option<&str> {
        self.output.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub(super) fn int(&self, name: &str) -> Option<i64> {
        self.attribute.iter().find(|attribute| attribute.name == name).map(|found| found.i)
    }

    pub(super) fn float(&self, name: &str) -> Option<f32> {
        self.attribute.iter().find(|attribute| attribute.name == name).map(|found| found.f)
    }
}

/// Bytes of a tensor, in the file that has them.
#[derive(Clone)]
pub(super) struct Data {
    bytes: Bytes,
    file: Arc<mapped::Bytes>,
    /// Where in the file they begin.
    at: usize,
}

impl std::ops::Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Data {
    /// See [`mapped::Bytes::leave`].
    pub(super) fn leave(&self, range: std::ops::Range<usize>) {
        self.file.leave(self.at + range.start..self.at + range.end);
    }
}

/// A tensor whose data are bytes of a file.
pub(super) struct Tensor {
    pub(super) dims: Vec<usize>,
    /// A number of `TensorProto.DataType`.
    pub(super) data_type: i32,
    pub(super) data: Data,
}

/// What owns a map for [`Bytes`].
struct Whole(Arc<mapped::Bytes>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A file's graph.
pub(super) struct Graph {
    model: RawModel,
    pub(super) nodes: Vec<Node>,
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// Who takes a value, by its name; a graph's output is taken by nobody here.
    consumers: BTreeMap<String, Vec<usize>>,
    inputs: BTreeMap<String, Option<i32>>,
    outputs: BTreeSet<String>,
}

impl Graph {
    /// Maps the file and those that it refers to, and reads nodes and the descriptions of tensors.
    ///
    /// # Errors
    /// The system's; `InvalidData` for what is no graph or has others within, whose nodes may take
    /// any of its values.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut files = Files::new(path)?;
        let mut model = RawModel::decode(files.graph.clone()).map_err(invalid)?;
        let raw = &mut model.graph;
        let nodes: Vec<Node> = raw
            .node
            .iter()
            .map(|bytes| Node::decode(bytes.clone()))
            .collect::<Result<_, _>>()
            .map_err(invalid)?;
        let nested =
            |attribute: &Attribute| attribute.graph.is_some() || !attribute.graphs.is_empty();
        if nodes.iter().any(|node| node.attribute.iter().any(nested)) || !model.functions.is_empty()
        {
            return Err(invalid("it holds graphs within its graph"));
        }
        let mut consumers = BTreeMap::<String, Vec<usize>>::new();
        for (index, node) in nodes.iter().enumerate() {
            for name in &node.input {
                consumers.entry(name.clone()).or_default().push(index);
            }
        }
        let mut tensors = BTreeMap::new();
        for bytes in &mut raw.initializer {
            let tensor = RawTensor::decode(bytes.clone()).map_err(invalid)?;
            if let Some((found, stays)) = files.tensor(&tensor)? {
                if let Some(stays) = stays {
                    *bytes = stays;
                }
                tensors.insert(tensor.name, found);
            }
        }
        let named = |bytes: &Bytes| {
            let info = ValueInfoProto::decode(bytes.clone())?;
            let tensor = info.r#type.and_then(|kind| kind.tensor_type);
            Ok((info.name, tensor.map(|tensor| tensor.elem_type)))
        };
        let inputs = raw.input.iter().map(named).collect::<Result<_, DecodeError>>();
        let inputs = inputs.map_err(invalid)?;
        let outputs = raw.output.iter().map(|info| info.name.clone()).collect();
        Ok(Self { model, nodes, tensors, consumers, inputs, outputs })
    }

    /// Who takes the value `name`; `None` if the graph's caller sees it too.
    pub(super) fn takers(&self, name: &str) -> Option<&[usize]> {
        let takers = self.consumers.get(name).map_or(&[][..], Vec::as_slice);
        (!self.outputs.contains(name)).then_some(takers)
    }

    /// Whether a caller feeds `name`.
    pub(super) fn has_input(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// The type of an input's elements, a number of `TensorProto.DataType`.
    pub(super) fn input_type(&self, name: &str) -> Option<i32> {
        self.inputs.get(name).copied().flatten()
    }

    pub(super) fn output(&self, name: &str) -> Option<&ValueInfoProto> {
        self.model.graph.output.iter().find(|output| output.name == name)
    }

    /// The whole model again, as the plan has it.
    pub(super) fn with(mut self, plan: &Plan) -> Vec<u8> {
        let raw = &mut self.model.graph;
        let old = std::mem::take(&mut raw.node);
        for (index, bytes) in old.into_iter().enumerate() {
            match plan.nodes.get(&index) {
                None => raw.node.push(bytes),
                Some(nodes) => {
                    raw.node.extend(nodes.iter().map(|node| Bytes::from(node.encode_to_vec())));
                }
            }
        }
        let taken: BTreeSet<String> = raw
            .node
            .iter()
            .filter_map(|bytes| Node::decode(bytes.clone()).ok())
            .flat_map(|node| node.input)
            .chain(self.outputs)
            .collect();
        raw.initializer.retain(|bytes| {
            RawTensor::decode(bytes.clone()).is_ok_and(|tensor| taken.contains(&tensor.name))
        });
        let added = plan.constants.iter().map(|tensor| Bytes::from(tensor.encode_to_vec()));
        raw.initializer.extend(added);
        for output in &mut raw.output {
            if let Some(changed) = plan.outputs.iter().find(|info| info.name == output.name) {
                *output = changed.clone();
            }
        }
        self.model.opset_import.push(OperatorSetIdProto { domain: DOMAIN.to_owned(), version: 1 });
        self.model.encode_to_vec()
    }
}

/// The files that hold a graph and its tensors, mapped once each.
struct Files {
    path: std::path::PathBuf,
    file_name: String,
    graph_file: Arc<mapped::Bytes>,
    graph: Bytes,
    others: BTreeMap<String, (Arc<mapped::Bytes>, Bytes)>,
}

impl Files {
    fn new(path: &Path) -> io::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let file_name = name.ok_or_else(|| invalid("its name is no text"))?.to_owned();
        let graph_file = Arc::new(mapped::Bytes::map(path)?);
        let graph = Bytes::from_owner(Whole(Arc::clone(&graph_file)));
        Ok(Self { path: path.to_owned(), file_name, graph_file, graph, others: BTreeMap::new() })
    }

    /// A tensor, if its data lie in a file as bytes, and its message if it has to be another: one
    /// that leaves large data where they are.
    fn tensor(&mut self, raw: &RawTensor) -> io::Result<Option<(Tensor, Option<Bytes>)>> {
        let Some(dims) = raw.dims.iter().map(|&size| usize::try_from(size).ok()).collect() else {
            return Ok(None);
        };
        let (data, stays) = match &raw.raw_data {
            Some(bytes) if raw.data_location != EXTERNAL => {
                let at = bytes.as_ptr().addr() - self.graph.as_ptr().addr();
                let data = Data { bytes: bytes.clone(), file: Arc::clone(&self.graph_file), at };
                let stays = (bytes.len() > COPIED_BYTES_MAX).then(|| self.outside(raw, at));
                (data, stays)
            }
            _ if raw.data_location == EXTERNAL => match self.external(raw)? {
                Some(data) => (data, None),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some((Tensor { dims, data_type: raw.data_type, data }, stays)))
    }

    /// A tensor whose data are bytes of the graph's file, from `at` on.
    fn outside(&self, raw: &RawTensor, at: usize) -> Bytes {
        let length = raw.raw_data.as_ref().map_or(0, Bytes::len);
        let entry =
            |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        let tensor = TensorProto {
            dims: raw.dims.clone(),
            data_type: raw.data_type,
            name: raw.name.clone(),
            raw_data: Vec::new(),
            external_data: vec![
                entry("location", self.file_name.clone()),
                entry("offset", at.to_string()),
                entry("length", length.to_string()),
            ],
            data_location: EXTERNAL,
        };
        tensor.encode_to_vec().into()
    }

    /// `None` where the bytes are not all there: ONNX Runtime will say so.
    fn external(&mut self, raw: &RawTensor) -> io::Result<Option<Data>> {
        let entry = |key: &str| {
            raw.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
        };
        let number = |key: &str| entry(key).map(|text| text.parse::<usize>()).transpose();
        let Some(location) = entry("location") else { return Ok(None) };
        let (Ok(offset), Ok(Some(length))) = (number("offset"), number("length")) else {
            return Ok(None);
        };
        let at = offset.unwrap_or(0);
        let path = crate::model::beside(&self.path, location);
        let path = path.map_err(|error| invalid(error.to_string()))?;
        if !self.others.contains_key(location) {
            let file = Arc::new(mapped::Bytes::map(&path)?);
            let bytes = Bytes::from_owner(Whole(Arc::clone(&file)));
            self.others.insert(location.clone(), (file, bytes));
        }
        let (file, whole) = &self.others[location];
        let end = at.checked_add(length).filter(|&end| end <= whole.len());
        Ok(end.map(|end| Data { bytes: whole.slice(at..end), file: Arc::clone(file), at }))
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A node of another kind in the place of some.
pub(super) fn node(
    (domain, op_type): (&str, &str),
    name: &str,
    (input, output): (&[&str], &[&str]),
) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        input: owned(input),
        output: owned(output),
        name: name.to_owned(),
        op_type: op_type.to_owned(),
        attribute: Vec::new(),
        domain: domain.to_owned(),
    }
}
