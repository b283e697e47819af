//! The file's rows → groups of packed blocks.
//!
//! The hand-over runs it over a few threads. Types of at most 4 bits keep their numbers, and so do
//! Q8_0 and Q5_0; all others become 8-bit blocks of 32, which changes them by 0.5 % (root mean
//! square).

use half::f16;

use super::{BLOCK, Eight, Four, Packed, ROWS, Width};
use crate::gguf::{
    decode::{decode, scale_and_min},
    matrix::Matrix,
    tensor::TensorType,
    weights::{PIECE_ELEMENTS, Piece},
};

/// A row's block before it is put beside its neighbours.
struct Row4 {
    /// Input `i` in the low nibble of byte `i`, input `16 + i` in its high one: GGUF's own order.
    nibbles: [u8; 16],
    scale: f16,
    minimum: f16,
}

/// As [`Row4`], with a byte for each input, two's complement.
struct Row8 {
    bytes: [u8; BLOCK],
    scale: f16,
}

/// Cuts the filling of `packed`, which has room for `matrix`, into pieces.
pub(in crate::gguf) fn pieces<'w>(
    matrix: &'w Matrix<'w>,
    packed: &'w mut Packed,
) -> Vec<Piece<'w>> {
    let mut pieces = Vec::new();
    let (mut first_row, blocks) = (0, packed.blocks);
    for (part, from) in packed.parts.iter_mut().zip(&matrix.parts) {
        let (width, group_bytes) = (part.width, blocks * part.width.block_bytes());
        let (row_bytes, part_row) = (from.tensor.kind.row_bytes(matrix.inputs), first_row);
        let groups = (PIECE_ELEMENTS / (ROWS * matrix.inputs)).max(1);
        for bytes in part.bytes.chunks_mut(groups * group_bytes) {
            let rows = bytes.len() / group_bytes * ROWS;
            pieces.push(Piece {
                elements: rows * matrix.inputs,
                run: Box::new(move || {
                    let row = |index| {
                        let (tensor, bytes) = matrix.raw_row(first_row + index);
                        (tensor.kind, bytes)
                    };
                    fill(row, width, blocks, bytes);
                    // Else the file would stand in memory a second time while the others are packed.
                    let copied = first_row - part_row..first_row - part_row + rows;
                    let bytes = copied.start * row_bytes..copied.end * row_bytes;
                    matrix.file.leave(&from.tensor, bytes);
                }),
            });
            first_row += rows;
        }
    }
    pieces
}

/// Packs whole groups. `row` gives a row's type and bytes by its number, from 0 on.
pub(super) fn fill<'b>(
    row: impl Fn(usize) -> (TensorType, &'b [u8]),
    width: Width,
    blocks: usize,
    out: &mut [u8],
) {
    for (group, out) in out.chunks_exact_mut(blocks * width.block_bytes()).enumerate() {
        for r in 0..ROWS {
            let (kind, bytes) = row(group * ROWS + r);
            match width {
                Width::Four => fill_four(kind, bytes, r, out.as_chunks_mut().0),
                Width::Eight => fill_eight(kind, bytes, r, out.as_chunks_mut().0),
            }
        }
    }
}

/// Puts a row in place `r` of its group.
fn fill_four(kind: TensorType, bytes: &[u8], r: usize, out: &mut [Four]) {
    for (index, out) in out.iter_mut().enumerate() {
        let row = row4(kind, bytes, index);
        for (word, nibbles) in row.nibbles.as_chunks::<4>().0.iter().enumerate() {
            out[32 * word + 4 * r..][..4].copy_from_slice(nibbles);
        }
        out[128 + 2 * r..][..2].copy_from_slice(&row.scale.to_le_bytes());
        out[144 + 2 * r..][..2].copy_from_slice(&row.minimum.to_le_bytes());
    }
}

/// As [`fill_four`].
fn fill_eight(kind: TensorType, bytes: &[u8], r: usize, out: &mut [Eight]) {
    let values = match kind {
        TensorType::Q8_0 | TensorType::Q5_0 => Vec::new(),
        _ => {
            let mut values = vec![0.0; out.len() * BLOCK];
            decode(kind, bytes, &mut values);
            values
        }
    };
    for (index, out) in out.iter_mut().enumerate() {
        let row = match kind {
            TensorType::Q8_0 => q8_0(nth(bytes, index)),
            TensorType::Q5_0 => q5_0(nth(bytes, index)),
            _ => rounded(&values.as_chunks().0[index]),
        };
        for (word, four) in row.bytes.as_chunks::<4>().0.iter().enumerate() {
            out[32 * word + 4 * r..][..4].copy_from_slice(four);
        }
        out[256 + 2 * r..][..2].copy_from_slice(&row.scale.to_le_bytes());
    }
}

/// Block `index` of a row of blocks of `N` bytes.
fn nth<const N: usize>(bytes: &[u8], index: usize) -> &[u8; N] {
    &bytes.as_chunks().0[index]
}

fn half(two: &[u8]) -> f16 {
    f16::from_le_bytes([two[0], two[1]])
}

fn row4(kind: TensorType, bytes: &[u8], index: usize) -> Row4 {
    match kind {
        TensorType::Q4_0 => {
            let block: &[u8; 18] = nth(bytes, index);
            let scale = half(block);
            // Eight times a half is a half.
            let minimum = f16::from_f32(-8.0 * scale.to_f32());
            Row4 { nibbles: *block[2..].first_chunk().unwrap_or(&[0; 16]), scale, minimum }
        }
        TensorType::Q4_1 => {
            let block: &[u8; 20] = nth(bytes, index);
            let (scale, minimum) = (half(block), half(&block[2..]));
            Row4 { nibbles: *block[4..].first_chunk().unwrap_or(&[0; 16]), scale, minimum }
        }
        _ => q4_k(nth(bytes, index / 8), index % 8),
    }
}

/// Sub-block `j` of eight. Scale and minimum become halves: one rounding more than the file has.
fn q4_k(block: &[u8; 144], j: usize) -> Row4 {
    let (d, d_min) = (half(block).to_f32(), half(&block[2..]).to_f32());
    let (scale, min) = scale_and_min(&block[4..16], j);
    let shift = 4 * (j % 2);
    let quotient = |i: usize| block[16 + j / 2 * 32 + i] >> shift & 15;
    Row4 {
        nibbles: std::array::from_fn(|i| quotient(i) | quotient(16 + i) << 4),
        scale: f16::from_f32(d * scale),
        minimum: f16::from_f32(-d_min * min),
    }
}

fn q8_0(block: &[u8; 34]) -> Row8 {
    Row8 { bytes: *block[2..].first_chunk().unwrap_or(&[0; BLOCK]), scale: half(block) }
}

fn q5_0(block: &[u8; 22]) -> Row8 {
    let byte = |i: usize| {
        let low = if i < 16 { block[6 + i] & 15 } else { block[i - 10] >> 4 };
        let fifth = block[2 + i / 8] >> (i % 8) & 1;
        (low | fifth << 4).wrapping_sub(16)
    };
    Row8 { bytes: std::array::from_fn(byte), scale: half(block) }
}

/// The scale is a half too: quotients are taken by what is stored, so nothing is lost twice.
fn rounded(values: &[f32; BLOCK]) -> Row8 {
    let largest = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
    Row8 { bytes: values.map(|x| nearest(x * inverse).cast_unsigned()), scale }
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
fn nearest(x: f32) -> i8 {
    x.round_ties_even().clamp(-127.0, 127.0) as i8
}
