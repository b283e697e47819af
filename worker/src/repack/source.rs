//! Which products have a matrix that means the same in our blocks, and how its rows become these.
//!
//! `plan` asks for nodes, `repack` fills with what was found. Where a matrix lies and how its blocks
//! stand is said in
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits>.

use half::f16;

use super::graph::{Data, Graph, Node};
use crate::{
    onnx::DataType,
    packed::{BLOCK, Packed, Row, Row4, put_four},
};

/// ONNX Runtime's own operators.
pub(super) const MS: &str = "com.microsoft";
/// The quotient that stands for zero where the file names none.
const ZERO: u8 = 8;
/// Whether activations may become int8: 4 says so, 0 leaves it to whoever computes.
const ACCURACY_LEVELS: [i64; 2] = [0, 4];
const BLOCK_SIZES: [usize; 4] = [32, 64, 128, 256];
/// How far scales may be from themselves once they are halves, of their size (root mean square).
const SCALES_ERROR_MAX: f64 = 1e-3;

/// What a matrix is known by: the names of its quotients, scales and zero points.
pub(super) type Name = (String, String, Option<String>);

/// A matrix of 4-bit blocks, `[outputs, inputs]`.
pub(super) struct Source {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Inputs that share a scale.
    block: usize,
    /// u8 `[outputs, inputs / 2]`, the first of two inputs in the low nibble.
    quotients: Data,
    /// f32 `[outputs, inputs / block]`.
    scales: Data,
    /// u8 `[outputs, inputs / block / 2]`, rounded up, the first of two blocks in the low nibble.
    zeros: Option<Data>,
}

impl Source {
    /// The matrix of a product, if ours can take it.
    pub(super) fn of(graph: &Graph, node: &Node) -> Option<(Name, Self)> {
        let plain = node.is(MS, "MatMulNBits")
            && node.int("bits").unwrap_or(4) == 4
            && ACCURACY_LEVELS.contains(&node.int("accuracy_level").unwrap_or(0))
            && node.int("weight_prepacked").unwrap_or(0) == 0
            // Inputs in an order of their own.
            && node.input(4).is_none();
        if !plain {
            return None;
        }
        let size = |name| node.int(name).and_then(|size| usize::try_from(size).ok());
        let shape = [size("N")?, size("K")?, size("block_size")?];
        Self::named(graph, [node.input(1)?, node.input(2)?], node.input(3), shape)
    }

    fn named(
        graph: &Graph,
        [quotients, scales]: [&str; 2],
        zeros: Option<&str>,
        [outputs, inputs, block]: [usize; 3],
    ) -> Option<(Name, Self)> {
        if !BLOCK_SIZES.contains(&block)
            || !inputs.is_multiple_of(block)
            || !Packed::takes(inputs, [outputs].into_iter())
        {
            return None;
        }
        let blocks = inputs / block;
        let of = |name: &str, kind: DataType, bytes: Option<usize>| {
            let tensor = graph.tensors.get(name).filter(|_| !graph.has_input(name))?;
            let fits = tensor.data_type == kind as i32 && Some(tensor.data.len()) == bytes;
            fits.then(|| tensor.data.clone())
        };
        let found = Self {
            inputs,
            outputs,
            block,
            quotients: of(quotients, DataType::Uint8, outputs.checked_mul(inputs / 2))?,
            scales: of(scales, DataType::Float, outputs.checked_mul(blocks * 4))?,
            zeros: match zeros {
                None => None,
                Some(zeros) => {
                    let bytes = outputs.checked_mul(blocks.div_ceil(2));
                    Some(of(zeros, DataType::Uint8, bytes)?)
                }
            },
        };
        let name = (quotients.to_owned(), scales.to_owned(), zeros.map(str::to_owned));
        found.scales_become_halves().then_some((name, found))
    }

    /// Whether no scale is too large for a half, and the small ones lose too little to be seen.
    fn scales_become_halves(&self) -> bool {
        let (mut lost, mut all) = (0.0, 0.0);
        for four in self.scales.as_chunks::<4>().0 {
            let scale = f32::from_le_bytes(*four);
            let half = f16::from_f32(scale).to_f32();
            // A minimum is up to 15 scales.
            if !(half * 16.0).is_finite() || !f16::from_f32(half * 15.0).is_finite() {
                return false;
            }
            lost += f64::from(scale - half).powi(2);
            all += f64::from(scale).powi(2);
        }
        lost <= all * SCALES_ERROR_MAX.powi(2)
    }

    /// Takes the pages of rows that have been copied out of memory.
    pub(super) fn leave(&self, rows: std::ops::Range<usize>) {
        let row_bytes = self.inputs / 2;
        self.quotients.leave(rows.start * row_bytes..rows.end * row_bytes);
    }

    /// Block `index` of 32 of row `row`.
    fn block_of(&self, row: usize, index: usize) -> Row4 {
        let (blocks, shared) = (self.inputs / self.block, self.block / BLOCK);
        let (group, row_bytes) = (index / shared, self.inputs / 2);
        let scale = &self.scales[(row * blocks + group) * 4..][..4];
        let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
        let zero = self.zeros.as_ref().map_or(ZERO, |zeros| {
            zeros[row * blocks.div_ceil(2) + group / 2] >> (4 * (group % 2)) & 15
        });
        let bytes = &self.quotients[row * row_bytes + index * BLOCK / 2..][..BLOCK / 2];
        let quotient = |i: usize| bytes[i / 2] >> (4 * (i % 2)) & 15;
        let scale = f16::from_f32(scale);
        Row4 {
            nibbles: std::array::from_fn(|i| quotient(i) | quotient(16 + i) << 4),
            scale,
            // Of a zero point of eight it is exact.
            minimum: f16::from_f32(-f32::from(zero) * scale.to_f32()),
        }
    }
}

/// Puts row `row` into its places.
pub(super) fn put_row(source: &Source, row: usize, places: Row<'_>) {
    if let Row::Four(group, r) = places {
        for (index, out) in group.iter_mut().enumerate() {
            put_four(&source.block_of(row, index), r, out);
        }
    }
}
