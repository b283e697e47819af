//! Which nodes become which of ours.
//!
//! Pure: it looks at the graph and writes nothing. Three patterns are known, the largest first: a sum,
//! its norm and a gated feed-forward; a sum, its norm and one product; a product. A table of which a
//! product has the matrix already is looked up in that.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    graph::{Graph, Node, node},
    source::{MS, Name, Source},
};
use crate::{
    onnx::{
        AttributeProto, DataType, Dimension, DimensionValue, NodeProto, TensorProto, ValueInfoProto,
    },
    packed::{
        BLOCK, DOMAIN, DOWN, FEED_FORWARD, LOOKUP, MATRIX, NORM, NORMED_PRODUCT, Norm, PRODUCT,
    },
};

/// The start, the end and the axis of the slice that keeps the last position.
const LAST: [(&str, i64); 3] =
    [("hearth.last.start", -1), ("hearth.last.end", i64::MAX), ("hearth.last.axis", 1)];
/// Of an output's shape, `[batch, positions, vocabulary]`.
const POSITIONS: usize = 1;

/// A graph's changes.
#[derive(Default)]
pub(super) struct Plan {
    /// What stands in the place of a node, by its index; mostly one node or none.
    pub(super) nodes: BTreeMap<usize, Vec<NodeProto>>,
    pub(super) sources: Vec<Source>,
    /// What nodes of ours name by its number: sources, one over the other.
    pub(super) matrices: Vec<Vec<usize>>,
    /// As `matrices`.
    pub(super) norms: Vec<Norm>,
    /// Tensors that new nodes want.
    pub(super) constants: Vec<TensorProto>,
    /// Outputs whose shape is another.
    pub(super) outputs: Vec<ValueInfoProto>,
    /// How many products are ours.
    pub(super) products: usize,
    /// Whether logits come for the last position alone.
    pub(super) last_only: bool,
}

/// A product that can be ours.
struct Product {
    source: usize,
    input: String,
    output: String,
    bias: Option<String>,
}

/// `None` where nothing can be ours; `logits` is an output of which the last position is enough.
pub(super) fn plan(graph: &Graph, logits: Option<&str>) -> Option<Plan> {
    let mut planner = Planner { graph, products: BTreeMap::new(), plan: Plan::default() };
    let names = planner.find_products();
    if planner.products.is_empty() {
        return None;
    }
    planner.plan.products = planner.products.len();
    planner.look_up(&names);
    let logits = logits.filter(|_| {
        // Such a graph knows itself which positions are wanted.
        !["num_logits_to_keep", "logits_to_keep"].iter().any(|name| graph.has_input(name))
    });
    for index in 0..graph.nodes.len() {
        planner.fuse(index, logits);
    }
    planner.rest();
    Some(planner.plan)
}

struct Planner<'g> {
    graph: &'g Graph,
    /// Those that no node of ours stands for yet, by their index.
    products: BTreeMap<usize, Product>,
    plan: Plan,
}

impl Planner<'_> {
    fn find_products(&mut self) -> BTreeMap<Name, usize> {
        let mut names = BTreeMap::new();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let Some((name, source)) = Source::of(self.graph, node) else { continue };
            let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
            let number = *names.entry(name).or_insert_with(|| {
                self.plan.sources.push(source);
                self.plan.sources.len() - 1
            });
            let product = Product {
                source: number,
                input: input.to_owned(),
                output: output.to_owned(),
                bias: node.input(5).map(str::to_owned),
            };
            self.products.insert(index, product);
        }
        names
    }

    /// Tables whose numbers are those of a product.
    fn look_up(&mut self, names: &BTreeMap<Name, usize>) {
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let rows = node.is(MS, "GatherBlockQuantized")
                && node.int("bits").unwrap_or(4) == 4
                && node.int("gather_axis").unwrap_or(0) == 0
                && node.int("quantize_axis").unwrap_or(1) == 1;
            let (true, Some(data), Some(tokens), Some(scales), Some(output)) =
                (rows, node.input(0), node.input(1), node.input(2), node.output(0))
            else {
                continue;
            };
            // The table is the matrix in another shape, and the scales say in which.
            let name = (self.reshaped(data), scales.to_owned(), node.input(3).map(str::to_owned));
            let Some(&source) = names.get(&name) else { continue };
            if !self.takes_tokens(tokens) || !self.has_rows(scales, source) {
                continue;
            }
            let number = self.matrix(vec![source]);
            let lookup = ours(LOOKUP, output, (&[tokens], &[output]), &[(MATRIX, number)]);
            self.plan.nodes.insert(index, vec![lookup]);
        }
    }

    /// What `name` is made of, if a node only gives it another shape.
    fn reshaped(&self, name: &str) -> String {
        let maker = self.graph.nodes.iter().find(|node| node.output(0) == Some(name));
        let from = maker.filter(|node| node.is("", "Reshape")).and_then(|node| node.input(0));
        from.unwrap_or(name).to_owned()
    }

    /// Tokens of 32 bits are rare, and ours takes 64.
    fn takes_tokens(&self, name: &str) -> bool {
        self.graph.input_type(name) == Some(DataType::Int64 as i32)
    }

    fn has_rows(&self, scales: &str, source: usize) -> bool {
        let rows = self.plan.sources[source].outputs;
        self.graph.tensors.get(scales).is_some_and(|tensor| tensor.dims.first() == Some(&rows))
    }

    /// Makes node `index`, if it adds and norms, one of ours with what comes after it.
    fn fuse(&mut self, index: usize, logits: Option<&str>) -> Option<()> {
        let graph = self.graph;
        let add_and_norm = &graph.nodes[index];
        let fits = add_and_norm.is(MS, "SkipSimplifiedLayerNormalization")
            // A bias, and what only training wants.
            && add_and_norm.input(3).is_none()
            && add_and_norm.output(1).is_none()
            && add_and_norm.output(2).is_none();
        if !fits {
            return None;
        }
        let norm = self.norm(add_and_norm)?;
        let normed = add_and_norm.output(0)?;
        let sum =
            add_and_norm.output(3).map_or_else(|| format!("{normed}.hearth.sum"), str::to_owned);
        let addends = [add_and_norm.input(0)?, add_and_norm.input(1)?];
        match *graph.takers(normed)? {
            [only] => {
                let product = self.products.get(&only)?;
                if product.input != normed || self.inputs_of(product) != norm.gain.len() {
                    return None;
                }
                let product = self.products.remove(&only)?;
                let number = self.matrix(vec![product.source]);
                let norm = self.add_norm(norm);
                let wanted = logits.filter(|&name| {
                    name == product.output && graph.takers(&sum).is_some_and(<[usize]>::is_empty)
                });
                let (kept, mut nodes) = match wanted.and_then(|name| self.last_only(name)) {
                    Some(()) => slices(addends),
                    None => (addends.map(str::to_owned), Vec::new()),
                };
                let attributes = [(MATRIX, number), (NORM, norm)];
                let (output, bias) = biased(&product);
                let inputs = [kept[0].as_str(), &kept[1]];
                let outputs = [output.as_str(), &sum];
                nodes.push(ours(NORMED_PRODUCT, &product.output, (&inputs, &outputs), &attributes));
                nodes.extend(bias);
                self.plan.nodes.insert(index, nodes);
                self.plan.nodes.insert(only, Vec::new());
            }
            [one, other] => {
                let found = self.feed_forward(normed, [one, other], norm.gain.len())?;
                let both = [found.gate, found.up].map(|at| self.products[&at].source);
                let down = self.products[&found.down].source;
                let output = self.products[&found.down].output.clone();
                let attributes = [
                    (NORM, self.add_norm(norm)),
                    (MATRIX, self.matrix(both.to_vec())),
                    (DOWN, self.matrix(vec![down])),
                ];
                let outputs = [output.as_str(), &sum];
                let node = ours(FEED_FORWARD, &output, (&addends, &outputs), &attributes);
                for at in [found.gate, found.up, found.down] {
                    self.products.remove(&at);
                }
                for at in found.all() {
                    self.plan.nodes.insert(at, Vec::new());
                }
                self.plan.nodes.insert(index, vec![node]);
            }
            _ => return None,
        }
        Some(())
    }

    /// `silu(gate × x) · up × x`, and the product that takes it: nodes of which nobody else takes
    /// anything.
    fn feed_forward(&self, normed: &str, products: [usize; 2], size: usize) -> Option<FeedForward> {
        let graph = self.graph;
        let only = |at: usize| match graph.takers(graph.nodes[at].output(0)?)? {
            [taker] => Some(*taker),
            _ => None,
        };
        let is = |at: usize, op_type| graph.nodes[at].is("", op_type);
        let of = |at: usize, from: [usize; 2]| {
            let inputs = [graph.nodes[at].input(0), graph.nodes[at].input(1)];
            let outputs = from.map(|from| graph.nodes[from].output(0));
            inputs == outputs || inputs == [outputs[1], outputs[0]]
        };
        let found = [products, [products[1], products[0]]].into_iter().find_map(|[gate, up]| {
            let mut takers = graph.takers(graph.nodes[gate].output(0)?)?.to_vec();
            takers.sort_by_key(|&at| !is(at, "Sigmoid"));
            let [sigmoid, active] = takers[..] else { return None };
            let gated = only(active)?;
            let chain = is(sigmoid, "Sigmoid")
                && is(active, "Mul")
                && is(gated, "Mul")
                && only(sigmoid) == Some(active)
                && only(up) == Some(gated)
                && of(active, [gate, sigmoid])
                && of(gated, [active, up]);
            let down = only(gated).filter(|_| chain)?;
            Some(FeedForward { gate, up, sigmoid, active, gated, down })
        })?;
        let [gate, up, down] = [found.gate, found.up, found.down].map(|at| self.products.get(&at));
        let (gate, up, down) = (gate?, up?, down?);
        let hidden = self.inputs_of(down);
        let outputs = |product: &Product| self.plan.sources[product.source].outputs;
        let fits = [gate, up].iter().all(|product| {
            product.input == normed && self.inputs_of(product) == size && outputs(product) == hidden
        }) && graph.nodes[found.gated].output(0) == Some(&down.input)
            && [gate, up, down].iter().all(|product| product.bias.is_none());
        fits.then_some(found)
    }

    /// Products that stand for themselves.
    fn rest(&mut self) {
        for (index, product) in std::mem::take(&mut self.products) {
            let number = self.matrix(vec![product.source]);
            let (output, bias) = biased(&product);
            let names = (&[product.input.as_str()][..], &[output.as_str()][..]);
            let node = ours(PRODUCT, &product.output, names, &[(MATRIX, number)]);
            self.plan.nodes.insert(index, [node].into_iter().chain(bias).collect());
        }
    }

    fn inputs_of(&self, product: &Product) -> usize {
        self.plan.sources[product.source].inputs
    }

    /// The number of a matrix, which may be another's too.
    fn matrix(&mut self, parts: Vec<usize>) -> usize {
        let matrices = &mut self.plan.matrices;
        matrices.iter().position(|found| *found == parts).unwrap_or_else(|| {
            matrices.push(parts);
            matrices.len() - 1
        })
    }

    fn norm(&self, node: &Node) -> Option<Norm> {
        let gain = self.graph.tensors.get(node.input(2)?)?;
        let floats = gain.data_type == DataType::Float as i32
            && gain.dims.len() == 1
            && gain.dims[0].is_multiple_of(BLOCK)
            && gain.data.len() == gain.dims[0] * 4;
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        let gain = gain.data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four));
        floats.then(|| Norm { gain: gain.collect(), epsilon })
    }

    fn add_norm(&mut self, norm: Norm) -> usize {
        self.plan.norms.push(norm);
        self.plan.norms.len() - 1
    }

    /// Says of the output that it has one position.
    fn last_only(&mut self, output: &str) -> Option<()> {
        let mut info = self.graph.output(output)?.clone();
        let dims = &mut info.r#type.as_mut()?.tensor_type.as_mut()?.shape.as_mut()?.dim;
        if dims.len() != 3 {
            return None;
        }
        dims[POSITIONS] = Dimension { value: Some(DimensionValue::Size(1)) };
        self.plan.outputs.push(info);
        self.plan.last_only = true;
        self.plan.constants = LAST
            .map(|(name, value)| TensorProto {
                dims: vec![1],
                data_type: DataType::Int64 as i32,
                name: name.to_owned(),
                raw_data: value.to_le_bytes().to_vec(),
                external_data: Vec::new(),
                data_location: 0,
            })
            .to_vec();
        Some(())
    }
}

/// The nodes of a gated feed-forward, by their index.
struct FeedForward {
    gate: usize,
    up: usize,
    sigmoid: usize,
    active: usize,
    gated: usize,
    down: usize,
}

impl FeedForward {
    fn all(&self) -> BTreeSet<usize> {
        [self.gate, self.up, self.sigmoid, self.active, self.gated, self.down].into()
    }
}

/// The last position of two values.
fn slices(values: [&str; 2]) -> ([String; 2], Vec<NodeProto>) {
    let kept = values.map(|value| format!("{value}.hearth.last"));
    let [start, end, axis] = LAST.map(|(name, _)| name);
    let nodes = values
        .iter()
        .zip(&kept)
        .map(|(value, kept)| node(("", "Slice"), kept, (&[value, start, end, axis], &[kept])));
    let nodes = nodes.collect();
    (kept, nodes)
}

/// The name of a product's output before its bias, and the node that adds it, if it has one.
fn biased(product: &Product) -> (String, Option<NodeProto>) {
    let Some(bias) = &product.bias else { return (product.output.clone(), None) };
    let output = format!("{}.hearth.unbiased", product.output);
    let names = (&[output.as_str(), bias][..], &[product.output.as_str()][..]);
    let add = node(("", "Add"), &format!("{}.hearth.bias", product.output), names);
    (output, Some(add))
}

/// A node of ours.
fn ours(
    op_type: &str,
    name: &str,
    names: (&[&str], &[&str]),
    numbers: &[(&str, usize)],
) -> NodeProto {
    /// `AttributeProto.AttributeType`: a whole number.
    const INT: i32 = 2;
    let attribute = |&(name, number): &(&str, usize)| AttributeProto {
        name: name.to_owned(),
        f: 0.0,
        i: number as i64,
        kind: INT,
    };
    let mut node = node((DOMAIN, op_type), &format!("{name}.hearth"), names);
    node.attribute = numbers.iter().map(attribute).collect();
    node
}
