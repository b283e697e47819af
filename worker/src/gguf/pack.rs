//! The file's rows → blocks that are packed.
//!
//! The hand-over runs it over a few threads. Types of at most 4 bits keep their numbers, and so do
//! Q8_0 and Q5_0; all others become 8-bit blocks of 32, which changes them by 0.5 % (root mean
//! square).

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use half::f16;

use super::{
    decode::{decode, scale_and_min},
    matrix::Matrix,
    tensor::TensorType,
};
use crate::{
    packed::{self, BLOCK, Eight, Packed, Row, Row4, Row8, Width, put_eight, put_four},
    pieces::Piece,
};

/// Whether a matrix can be packed.
pub(super) fn takes(matrix: &Matrix<'_>) -> bool {
    Packed::takes(matrix.inputs, matrix.parts.iter().map(|part| part.tensor.shape[1]))
}

/// Room for a matrix that can be packed.
pub(super) fn room_for(matrix: &Matrix<'_>) -> Packed {
    let part = |part: &super::matrix::Part| (width_of(part.tensor.kind), part.tensor.shape[1]);
    Packed::room_for(matrix.inputs, matrix.parts.iter().map(part))
}

fn width_of(kind: TensorType) -> Width {
    match kind {
        TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q4K => Width::Four,
        TensorType::F32
        | TensorType::F16
        | TensorType::Bf16
        | TensorType::Q5_0
        | TensorType::Q5_1
        | TensorType::Q8_0
        | TensorType::Q5K
        | TensorType::Q6K => Width::Eight,
    }
}

/// Cuts the filling of `packed`, which has room for `matrix`, into pieces.
pub(super) fn pieces<'w>(matrix: &'w Matrix<'w>, packed: &'w mut Packed) -> Vec<Piece<'w>> {
    let fill = move |(part, row): (usize, usize), places: Row<'_>| {
        let (tensor, bytes) = matrix.raw_row_of(part, row);
        fill_row(tensor.kind, bytes, places);
    };
    // Else the file would stand in memory a second time while the others are packed.
    let leave = move |part: usize, rows: std::ops::Range<usize>| {
        let tensor = &matrix.parts[part].tensor;
        let row_bytes = tensor.kind.row_bytes(matrix.inputs);
        matrix.file.leave(tensor, rows.start * row_bytes..rows.end * row_bytes);
    };
    packed::pieces(packed, fill, leave)
}

fn fill_row(kind: TensorType, bytes: &[u8], places: Row<'_>) {
    match places {
        Row::Four(group, r) => {
            for (index, out) in group.iter_mut().enumerate() {
                put_four(&row4(kind, bytes, index), r, out);
            }
        }
        Row::Eight(group, r) => fill_eight(kind, bytes, r, group),
    }
}

/// As [`fill_row`], of a type that is packed in 8 bits.
fn fill_eight(kind: TensorType, bytes: &[u8], r: usize, group: &mut [Eight]) {
    let values = match kind {
        TensorType::Q8_0 | TensorType::Q5_0 => Vec::new(),
        _ => {
            let mut values = vec![0.0; group.len() * BLOCK];
            decode(kind, bytes, &mut values);
            values
        }
    };
    for (index, out) in group.iter_mut().enumerate() {
        let row = match kind {
            TensorType::Q8_0 => q8_0(nth(bytes, index)),
            TensorType::Q5_0 => q5_0(nth(bytes, index)),
            _ => rounded(&values.as_chunks().0[index]),
        };
        put_eight(&row, r, out);
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
