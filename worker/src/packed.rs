//! Matrices whose weights stay what the file has: blocks of 4 or 8 bits, put in the order in which
//! our own product reads them.
//!
//! ONNX Runtime's 4-bit product is slow from a few rows on, its fast 8-bit one wants the weights
//! twice as large and rounded once more. This one takes a block as it is: 0.625 bytes a weight of 4
//! bits, whose minimum costs one multiplication for 32 weights. `gguf` and `repack` decide who is
//! packed and give the rows, `pack` puts them in their places, `activation` and `rows` round what
//! comes in, `avx2` multiplies, `operator` and `feed_forward` put all of it into the graph. Nothing
//! here knows a model or a file.
//!
//! A *group* is eight rows that are computed side by side. Its blocks stand one after the other, each
//! with the same 32 inputs of all eight rows:
//!
//! | bytes | [`Four`] | [`Eight`] |
//! |---|---|---|
//! | quotients | 4 × 32: word `r` of the `i`-th 32 is row `r`; its low nibbles are inputs `4i..4i+4`, its high ones `16+4i..` | 8 × 32: word `r` of the `i`-th 32 is row `r`, inputs `4i..4i+4`, two's complement |
//! | scales | 8 × f16 | 8 × f16 |
//! | minima | 8 × f16 | none |

mod activation;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod feed_forward;
mod operator;
mod pack;
mod processor;
mod rows;
#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) mod tests;

pub(crate) use self::{
    feed_forward::{DOWN, FEED_FORWARD},
    operator::{DOMAIN, LOOKUP, MATRIX, NORM, NORMED_PRODUCT, PRODUCT, register},
    pack::{Row, Row4, Row8, pieces, put_eight, put_four},
    processor::Processor,
    rows::Norm,
};
use half::f16;

/// Inputs of a block.
pub(crate) const BLOCK: usize = 32;
/// Rows of a group.
pub(crate) const ROWS: usize = 8;

/// A block of eight rows with 4-bit quotients: `weight = scale × quotient + minimum`.
pub(crate) type Four = [u8; 160];
/// A block of eight rows with 8-bit quotients: `weight = scale × quotient`.
pub(crate) type Eight = [u8; 272];

/// How a part is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Four,
    Eight,
}

impl Width {
    fn block_bytes(self) -> usize {
        match self {
            Self::Four => size_of::<Four>(),
            Self::Eight => size_of::<Eight>(),
        }
    }
}

/// The rows of one tensor.
#[derive(Debug)]
struct Part {
    width: Width,
    /// Whole groups of whole blocks.
    bytes: Vec<u8>,
}

/// A packed matrix, `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Packed {
    parts: Vec<Part>,
    /// Blocks of a row.
    blocks: usize,
}

/// One group's blocks.
#[derive(Debug, Clone, Copy)]
enum Group<'a> {
    Four(&'a [Four]),
    Eight(&'a [Eight]),
}

impl Packed {
    /// Whether a matrix can be packed: whole blocks along its inputs, whole groups in each part.
    pub(crate) fn takes(inputs: usize, mut rows_of_parts: impl Iterator<Item = usize>) -> bool {
        let whole = |rows: usize| rows > 0 && rows.is_multiple_of(ROWS);
        inputs > 0 && inputs.is_multiple_of(BLOCK) && rows_of_parts.all(whole)
    }

    /// Room for a matrix of such parts, each with its rows, if [`Packed::takes`] it; zeroes until it
    /// is filled.
    pub(crate) fn room_for(inputs: usize, parts: impl Iterator<Item = (Width, usize)>) -> Self {
        let blocks = inputs / BLOCK;
        let part = |(width, rows): (Width, usize)| Part {
            width,
            bytes: vec![0; rows / ROWS * blocks * width.block_bytes()],
        };
        Self { parts: parts.map(part).collect(), blocks }
    }

    fn inputs(&self) -> usize {
        self.blocks * BLOCK
    }

    fn groups(&self) -> usize {
        self.parts.iter().map(|part| part.groups(self.blocks)).sum()
    }

    fn outputs(&self) -> usize {
        self.groups() * ROWS
    }

    fn group(&self, mut index: usize) -> Group<'_> {
        for part in &self.parts {
            let groups = part.groups(self.blocks);
            if index < groups {
                return part.group(index, self.blocks);
            }
            index -= groups;
        }
        unreachable!("callers count groups by `groups`")
    }
}

impl Part {
    fn groups(&self, blocks: usize) -> usize {
        self.bytes.len() / (blocks * self.width.block_bytes())
    }

    fn group(&self, index: usize, blocks: usize) -> Group<'_> {
        let len = blocks * self.width.block_bytes();
        let bytes = &self.bytes[index * len..][..len];
        match self.width {
            Width::Four => Group::Four(bytes.as_chunks().0),
            Width::Eight => Group::Eight(bytes.as_chunks().0),
        }
    }
}

impl Packed {
    /// Row `number` as numbers, `[inputs]`.
    pub(crate) fn look_up(&self, number: usize, out: &mut [f32]) {
        let (group, r) = (self.group(number / ROWS), number % ROWS);
        let out = out.as_chunks_mut::<BLOCK>().0.iter_mut();
        match group {
            Group::Four(blocks) => out.zip(blocks).for_each(|(out, block)| {
                let (scale, minimum) = (half(block, 128 + 2 * r), half(block, 144 + 2 * r));
                for i in 0..16 {
                    let byte = block[32 * (i / 4) + 4 * r + i % 4];
                    out[i] = scale * f32::from(byte & 15) + minimum;
                    out[16 + i] = scale * f32::from(byte >> 4) + minimum;
                }
            }),
            Group::Eight(blocks) => out.zip(blocks).for_each(|(out, block)| {
                let scale = half(block, 256 + 2 * r);
                for (i, x) in out.iter_mut().enumerate() {
                    let byte = block[32 * (i / 4) + 4 * r + i % 4];
                    *x = scale * f32::from(byte.cast_signed());
                }
            }),
        }
    }
}

/// The half at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
