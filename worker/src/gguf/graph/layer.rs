//! One decoder layer: norm, attention, norm, gated feed-forward.
//!
//! `graph` writes one after the other. q, k and v are one product, gate and up another.

use super::{
    Builder, Positions, Stream,
    nodes::{Attribute, MS, ONNX},
    product::Activation,
};
use crate::{
    gguf::{
        GgufError,
        basis::{group_of, spread},
        encode,
        matrix::{Matrix, Turn},
    },
    packed::{DOMAIN, DOWN, FEED_FORWARD, MATRIX, NORM},
};

/// Channels of the gated value that are mixed among themselves. More share out better what one has
/// too much; but the graph mixes while it runs, at a cost that grows with them.
const GROUP_MAX: usize = 128;

/// q, k and v: packed in one value, or three after norms of their own.
struct Heads {
    query: String,
    key: String,
    value: String,
}

impl<'a> Builder<'a> {
    /// Writes layer `index`.
    pub(super) fn layer(&mut self, index: usize, stream: Stream) -> Result<Stream, GgufError> {
        let prefix = format!("layer.{index}");
        let block = format!("blk.{index}");
        let norm = format!("{block}.attn_norm.weight");
        let (mut attended, mut residual) = self.attention(index, stream, &norm)?;
        if self.logits == Positions::Last && index + 1 == self.facts.layers {
            // What follows attention looks at one position at a time: the rest can go.
            attended = self.kept(&attended);
            residual = self.kept(&residual);
        }
        // Its values come out of their product spread already.
        let attended = match self.head_group() {
            Some(group) => Activation::spread(attended, group),
            None => Activation::plain(attended),
        };
        let addend = self.output_product(
            attended,
            &format!("{block}.attn_output"),
            self.facts.heads * self.facts.head_dim,
            &format!("{prefix}.attn.out"),
        )?;
        let stream = Stream { residual, addend: Some(addend) };
        self.feed_forward(index, stream)
    }

    fn feed_forward(&mut self, index: usize, stream: Stream) -> Result<Stream, GgufError> {
        let (prefix, block) = (format!("layer.{index}"), format!("blk.{index}"));
        let norm = format!("{block}.ffn_norm.weight");
        if let Some(stream) = self.packed_feed_forward(&prefix, &block, &stream, &norm)? {
            return Ok(stream);
        }
        let (normed, gain, residual) = self.norm(&format!("{prefix}.ffn"), stream, &norm)?;
        let gated = self.gated(index, normed.with_fixed_step(), gain)?;
        // The first and the last layer's are the largest, and what they lose is missed most.
        let is_outer = index == 0 || index + 1 == self.facts.layers;
        let gated = if is_outer { Activation::plain(gated) } else { self.spread(gated) };
        let addend = self.output_product(
            gated,
            &format!("{block}.ffn_down"),
            self.facts.feed_forward,
            &format!("{prefix}.ffn.out"),
        )?;
        Ok(Stream { residual, addend: Some(addend) })
    }

    /// How many elements of a value's head are mixed among themselves, in a graph that does that.
    fn head_group(&self) -> Option<usize> {
        self.basis.is_some().then(|| group_of(self.facts.head_dim, encode::ROWS))
    }

    /// Mixes groups of a value's channels among themselves, in a graph that does that: what one
    /// channel has too much is shared out, as in the residual stream's other basis.
    fn spread(&mut self, name: String) -> Activation {
        if self.basis.is_none() {
            return Activation::plain(name);
        }
        let group = group_of(self.facts.feed_forward, GROUP_MAX);
        let names = ["groups", "mixed", "spread"].map(|part| format!("{name}.{part}"));
        let [groups, mixed, spread] = names.each_ref().map(String::as_str);
        let [mixer, to_groups, back] = ["mixer", "groups", "rows"].map(|n| format!("ffn.{n}"));
        let nodes = &mut self.nodes;
        // Zero keeps a dimension as it is.
        nodes.node((ONNX, "Reshape"), &[&name, &to_groups], &[groups], &[]);
        nodes.node((ONNX, "MatMul"), &[groups, &mixer], &[mixed], &[]);
        nodes.node((ONNX, "Reshape"), &[mixed, &back], &[spread], &[]);
        Activation::spread(spread.to_owned(), group)
    }

    /// Writes the constants of [`Builder::spread`].
    pub(super) fn mixer(&mut self) {
        let size = self.facts.feed_forward;
        let group = group_of(size, GROUP_MAX);
        let mut mixer = vec![0.0; group * group];
        mixer.iter_mut().step_by(group + 1).for_each(|x| *x = 1.0);
        spread(&mut mixer, group, 1);
        self.nodes.floats("ffn.mixer", &[group as i64; 2], &mixer);
        self.nodes.integers("ffn.groups", &[4], &[0, 0, -1, group as i64]);
        self.nodes.integers("ffn.rows", &[3], &[0, 0, size as i64]);
    }

    fn kept(&mut self, name: &str) -> String {
        let kept = format!("{name}.kept");
        let inputs = [name, "kept.start", "kept.end", super::LAST_AXIS_ONE];
        self.nodes.node((ONNX, "Slice"), &inputs, &[&kept], &[]);
        kept
    }

    /// A product that writes into the residual stream.
    fn output_product(
        &mut self,
        mut input: Activation,
        weight: &str,
        inputs: usize,
        output: &str,
    ) -> Result<String, GgufError> {
        let turn = self.turn(Turn::Outputs);
        let mut matrix = self.matrix(&[&format!("{weight}.weight")], inputs, turn)?;
        matrix.spread = input.spread;
        self.expect_outputs(&matrix, self.facts.hidden, weight)?;
        let mut bias = self.optional_floats(&format!("{weight}.bias"), self.facts.hidden)?;
        if let (Some(bias), Some(basis)) = (&mut bias, &self.basis) {
            basis.turn_row(bias, &mut Vec::new());
        }
        self.product(&mut input, matrix, bias, output);
        Ok(output.to_owned())
    }

    fn attention(
        &mut self,
        index: usize,
        stream: Stream,
        norm: &str,
    ) -> Result<(String, String), GgufError> {
        let (heads, kv_heads) = (self.facts.heads, self.facts.kv_heads);
        let head_dim = self.facts.head_dim;
        let names = ["q", "k", "v"].map(|part| format!("blk.{index}.attn_{part}"));
        let weights = names.each_ref().map(|name| format!("{name}.weight"));
        let turn = self.turn(Turn::Inputs);
        let weights = weights.each_ref().map(String::as_str);
        let mut matrix = self.matrix(&weights, self.facts.hidden, turn)?;
        let sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
        for ((part, size), name) in matrix.parts.iter().zip(sizes).zip(weights) {
            self.file.needed_tensor(name, &[part.tensor.shape[0], size])?;
        }
        if self.facts.has_paired_rows() {
            matrix.parts[..2].iter_mut().for_each(|part| part.paired_head = Some(head_dim));
        }
        matrix.parts[2].spread = self.head_group();
        let bias = self.attention_bias(&names, sizes)?;
        let packed = format!("layer.{index}.attn.qkv");
        let prefix = format!("layer.{index}.attn");
        let residual = self.normed_product(stream, (&prefix, norm), (matrix, bias), &packed)?;
        let heads_of = self.heads(index, packed)?;
        let past = |part: &str| format!("past_key_values.{index}.{part}");
        let present = |part: &str| format!("present.{index}.{part}");
        let output = format!("layer.{index}.attn.heads");
        let attributes = [
            ("num_heads", Attribute::Int(heads as i64)),
            ("kv_num_heads", Attribute::Int(kv_heads as i64)),
            ("do_rotary", Attribute::Int(i64::from(self.facts.is_rotary(index)))),
            ("rotary_interleaved", Attribute::Int(0)),
        ];
        let (past_key, past_value) = (past("key"), past("value"));
        let mut inputs = vec![heads_of.query.as_str(), &heads_of.key, &heads_of.value];
        inputs.extend([past_key.as_str(), &past_value, "last", "total"]);
        if self.facts.is_rotary(index) {
            inputs.extend(["cos", "sin"]);
        }
        let outputs = [output.as_str(), &present("key"), &present("value")];
        self.nodes.node((MS, "GroupQueryAttention"), &inputs, &outputs, &attributes);
        Ok((output, residual))
    }

    /// The biases of q, k and v one after the other, if any has one.
    fn attention_bias(
        &self,
        names: &[String; 3],
        sizes: [usize; 3],
    ) -> Result<Option<Vec<f32>>, GgufError> {
        let mut bias = Vec::new();
        let mut any = false;
        for (part, (name, size)) in names.iter().zip(sizes).enumerate() {
            let found = self.optional_floats(&format!("{name}.bias"), size)?;
            any |= found.is_some();
            let mut values = found.unwrap_or_else(|| vec![0.0; size]);
            if part < 2 && self.facts.has_paired_rows() {
                crate::gguf::matrix::unpair(&mut values, self.facts.head_dim);
            }
            if let (2, Some(group)) = (part, self.head_group()) {
                spread(&mut values, group, 1);
            }
            bias.extend(values);
        }
        Ok(any.then_some(bias))
    }

    /// Norms q and k head by head where the model does.
    fn heads(&mut self, index: usize, packed: String) -> Result<Heads, GgufError> {
        let head_dim = self.facts.head_dim;
        let block = format!("blk.{index}");
        let Some(q_norm) =
            self.optional_floats(&format!("{block}.attn_q_norm.weight"), head_dim)?
        else {
            return Ok(Heads { query: packed, key: String::new(), value: String::new() });
        };
        let k_norm = self.floats(&format!("{block}.attn_k_norm.weight"), head_dim)?;
        let prefix = format!("layer.{index}.attn");
        let parts = ["q", "k", "v"].map(|part| format!("{prefix}.{part}"));
        let sizes = format!("{prefix}.sizes");
        let (q_size, kv_size) = (self.facts.heads * head_dim, self.facts.kv_heads * head_dim);
        let of = |size: usize| size as i64;
        self.nodes.integers(&sizes, &[3], &[of(q_size), of(kv_size), of(kv_size)]);
        let outputs = parts.each_ref().map(String::as_str);
        let last = [("axis", Attribute::Int(-1))];
        self.nodes.node((ONNX, "Split"), &[&packed, &sizes], &outputs, &last);
        let query = self.head_norm(&parts[0], q_norm, q_size);
        let key = self.head_norm(&parts[1], k_norm, kv_size);
        let [_, _, value] = parts;
        Ok(Heads { query, key, value })
    }

    fn head_norm(&mut self, name: &str, gain: Vec<f32>, size: usize) -> String {
        let names = ["heads", "heads.normed", "normed", "heads.shape", "shape"];
        let [heads, heads_normed, normed, to_heads, back] = names.map(|n| format!("{name}.{n}"));
        let head_dim = self.facts.head_dim;
        let gain = self.vector(&format!("{name}.gain"), gain);
        // Zero keeps a dimension as it is.
        self.nodes.integers(&to_heads, &[4], &[0, 0, -1, head_dim as i64]);
        self.nodes.integers(&back, &[3], &[0, 0, size as i64]);
        self.nodes.node((ONNX, "Reshape"), &[name, &to_heads], &[&heads], &[]);
        let attributes = [
            ("epsilon", Attribute::Float(self.facts.epsilon)),
            ("axis", Attribute::Int(-1)),
            ("stash_type", Attribute::Int(1)),
        ];
        let op = (ONNX, "SimplifiedLayerNormalization");
        self.nodes.node(op, &[&heads, &gain], &[&heads_normed], &attributes);
        self.nodes.node((ONNX, "Reshape"), &[&heads_normed, &back], &[&normed], &[]);
        normed
    }

    /// `silu(gate) × up`.
    fn gated(
        &mut self,
        index: usize,
        mut normed: Activation,
        gain: Option<Vec<f32>>,
    ) -> Result<String, GgufError> {
        let prefix = format!("layer.{index}.ffn");
        let mut matrix = self.gate_and_up(&format!("blk.{index}"))?;
        matrix.gain = gain;
        let both = format!("{prefix}.both");
        self.product(&mut normed, matrix, None, &both);
        let parts = ["gate", "up", "active", "gated"].map(|part| format!("{prefix}.{part}"));
        let [gate, up, active, gated] = parts.each_ref().map(String::as_str);
        let halves = [("axis", Attribute::Int(-1)), ("num_outputs", Attribute::Int(2))];
        self.nodes.node((ONNX, "Split"), &[&both], &[gate, up], &halves);
        // QuickGelu with alpha 1 is x · sigmoid(x) in one node.
        let alpha = [("alpha", Attribute::Float(1.0))];
        self.nodes.node((MS, "QuickGelu"), &[gate], &[active], &alpha);
        self.nodes.node((ONNX, "Mul"), &[active, up], &[gated], &[]);
        Ok(gated.to_owned())
    }

    /// Gate and up, one over the other.
    fn gate_and_up(&self, block: &str) -> Result<Matrix<'a>, GgufError> {
        let turn = self.turn(Turn::Inputs);
        let names = ["gate", "up"].map(|part| format!("{block}.ffn_{part}.weight"));
        let matrix = self.matrix(&names.each_ref().map(String::as_str), self.facts.hidden, turn)?;
        for (part, name) in matrix.parts.iter().zip(&names) {
            let shape = [part.tensor.shape[0], self.facts.feed_forward];
            self.file.needed_tensor(name, &shape)?;
        }
        Ok(matrix)
    }

    /// The whole feed-forward as one node of our own, if its matrices are packed.
    fn packed_feed_forward(
        &mut self,
        prefix: &str,
        block: &str,
        stream: &Stream,
        norm: &str,
    ) -> Result<Option<Stream>, GgufError> {
        let (weight, size) = (format!("{block}.ffn_down"), self.facts.feed_forward);
        let both = self.gate_and_up(block)?;
        let down = self.matrix(&[&format!("{weight}.weight")], size, Turn::None)?;
        let has_bias = self.file.tensor(&format!("{weight}.bias")).is_some();
        let (true, Some(addend)) =
            (self.packs(&both) && self.packs(&down) && !has_bias, &stream.addend)
        else {
            return Ok(None);
        };
        self.expect_outputs(&down, self.facts.hidden, &weight)?;
        let attributes = [
            (NORM, Attribute::Int(self.packed_norm(norm)? as i64)),
            (MATRIX, Attribute::Int(self.pack(both) as i64)),
            (DOWN, Attribute::Int(self.pack(down) as i64)),
        ];
        let [output, sum] = ["out", "sum"].map(|name| format!("{prefix}.ffn.{name}"));
        let inputs = [stream.residual.as_str(), addend];
        self.nodes.node((DOMAIN, FEED_FORWARD), &inputs, &[&output, &sum], &attributes);
        Ok(Some(Stream { residual: sum, addend: Some(output) }))
    }

    fn optional_floats(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, GgufError> {
        match self.file.tensor(name) {
            None => Ok(None),
            Some(_) => self.floats(name, len).map(Some),
        }
    }

    fn expect_outputs(
        &self,
        matrix: &Matrix<'_>,
        outputs: usize,
        weight: &str,
    ) -> Result<(), GgufError> {
        let name = format!("{weight}.weight");
        self.file.needed_tensor(&name, &[matrix.inputs, outputs]).map(drop)
    }
}
