//! Decoded rows → what ONNX Runtime's kernels take.
//!
//! The graph chooses an encoding for each product, the hand-over runs these over a few threads.
//! Outputs are little-endian bytes, an f32 four of them. Nothing here knows which model it is.

use super::{
    matrix::{Matrix, Turn},
    tensor::TensorType,
};

/// Inputs that share a scale in `MatMulNBits`; the block size of GGUF's plain types.
pub(super) const BLOCK: usize = 32;

/// Symmetric 8-bit blocks: `q` holds `value / scale + 128`, 1 to 255.
///
/// `q` and `scales` are those of rows `first_row..`; as many as they have room for are written.
pub(super) fn blocks8(matrix: &Matrix<'_>, first_row: usize, q: &mut [u8], scales: &mut [[u8; 4]]) {
    let inputs = matrix.inputs;
    let (mut row, mut scratch) = (vec![0.0; inputs], Vec::new());
    let rows = q.chunks_exact_mut(inputs).zip(scales.chunks_exact_mut(inputs / BLOCK));
    for (index, (q, scales)) in (first_row..).zip(rows) {
        if matrix.turn == Turn::None
            && matrix.gain.is_none()
            && copy_blocks8(matrix, index, q, scales)
        {
            continue;
        }
        matrix.row(index, &mut row, &mut scratch);
        quantise_blocks8(&row, q, scales);
    }
}

/// The same for a matrix that is turned along its outputs: strips of columns instead of rows.
pub(super) fn blocks8_by_columns(matrix: &Matrix<'_>, q: &mut [u8], scales: &mut [[u8; 4]]) {
    let (inputs, outputs, width) = (matrix.inputs, matrix.outputs(), matrix.strip());
    let (mut tile, mut scratch) = (vec![0.0; outputs * width], Vec::new());
    for at in (0..inputs).step_by(width) {
        matrix.columns(at, width, &mut tile, &mut scratch);
        let rows = q.chunks_exact_mut(inputs).zip(scales.chunks_exact_mut(inputs / BLOCK));
        for (tile, (q, scales)) in tile.chunks_exact(width).zip(rows) {
            let blocks = at / BLOCK..(at + width) / BLOCK;
            quantise_blocks8(tile, &mut q[at..at + width], &mut scales[blocks]);
        }
    }
}

fn quantise_blocks8(row: &[f32], q: &mut [u8], scales: &mut [[u8; 4]]) {
    let blocks = row.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0).zip(scales);
    for ((row, q), scale) in blocks {
        let largest = largest(row);
        *scale = (largest / 127.0).to_le_bytes();
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        q.iter_mut().zip(row).for_each(|(q, x)| *q = nearest(x * inverse + 128.0));
    }
}

/// Types whose blocks are a scale and small integers keep both. Says whether it was one.
fn copy_blocks8(matrix: &Matrix<'_>, index: usize, q: &mut [u8], scales: &mut [[u8; 4]]) -> bool {
    let (tensor, bytes) = matrix.raw_row(index);

    let rows = q.as_chunks_mut::<BLOCK>().0.iter_mut().zip(scales);
    match tensor.kind {
        TensorType::Q8_0 => {
            for ((q, scale), block) in rows.zip(bytes.as_chunks::<34>().0) {
                *scale = scale_of(block[0], block[1]);
                q.iter_mut().zip(&block[2..]).for_each(|(q, byte)| *q = byte ^ 0x80);
            }
        }
        TensorType::Q4_0 => {
            for ((q, scale), block) in rows.zip(bytes.as_chunks::<18>().0) {
                *scale = scale_of(block[0], block[1]);
                for (j, byte) in block[2..].iter().enumerate() {
                    (q[j], q[j + 16]) = ((byte & 15) + 120, (byte >> 4) + 120);
                }
            }
        }
        TensorType::F32
        | TensorType::F16
        | TensorType::Bf16
        | TensorType::Q4_1
        | TensorType::Q5_0
        | TensorType::Q5_1
        | TensorType::Q4K
        | TensorType::Q5K
        | TensorType::Q6K => return false,
    }
    true
}

/// 4-bit blocks, two to a byte, exactly as the file has them; every part is `Q4_0`.
pub(super) fn blocks4(matrix: &Matrix<'_>, first_row: usize, q: &mut [u8], scales: &mut [[u8; 4]]) {
    let (blocks, inputs) = (matrix.inputs / BLOCK, matrix.inputs);
    let rows = q.chunks_exact_mut(inputs / 2).zip(scales.chunks_exact_mut(blocks));
    for (index, (q, scales)) in (first_row..).zip(rows) {
        let (_, bytes) = matrix.raw_row(index);
        let rows = q.as_chunks_mut::<16>().0.iter_mut().zip(scales);
        for ((q, scale), block) in rows.zip(bytes.as_chunks::<18>().0) {
            *scale = scale_of(block[0], block[1]);
            // The file pairs elements 16 apart, ONNX Runtime neighbours.
            for (j, out) in q.iter_mut().enumerate() {
                let nibble = |i: usize| {
                    if i < 16 { block[2 + i] & 15 } else { block[i - 14] >> 4 }
                };
                *out = nibble(2 * j) | nibble(2 * j + 1) << 4;
            }
        }
    }
}

/// Rows that become columns at once, so that writes stay within cache lines.
pub(super) const ROWS: usize = 64;

/// One scale for each output: `q` is i8 `[inputs, outputs]`, `scales` `[outputs]`.
pub(super) fn columns8(matrix: &Matrix<'_>, q: &mut [u8], scales: &mut [[u8; 4]]) {
    if matrix.turn == Turn::Outputs {
        return turned_columns8(matrix, q, scales);
    }
    let (inputs, outputs) = (matrix.inputs, matrix.outputs());
    let (mut tile, mut scratch) = (vec![0.0; ROWS * inputs], Vec::new());
    let mut bytes = vec![0; ROWS * inputs];
    for first in (0..outputs).step_by(ROWS) {
        let count = ROWS.min(outputs - first);
        let tile = &mut tile[..count * inputs];
        matrix.rows(first, tile, &mut scratch);
        let rows = tile.chunks_exact(inputs).zip(bytes.chunks_exact_mut(inputs));
        for ((row, bytes), scale) in rows.zip(&mut scales[first..]) {
            let largest = largest(row);
            *scale = (largest / 127.0).to_le_bytes();
            quantise_row(row, largest, bytes);
        }
        write_columns(&bytes[..count * inputs], inputs, (q, outputs), first);
    }
}

/// The same for a matrix that is turned along its outputs: strips of columns, decoded twice unless
/// the whole matrix is one, because a scale needs all of its row.
fn turned_columns8(matrix: &Matrix<'_>, q: &mut [u8], scales: &mut [[u8; 4]]) {
    /// What one strip may hold of a small matrix: 16 MiB.
    const WHOLE_MAX: usize = 1 << 22;
    let (inputs, outputs) = (matrix.inputs, matrix.outputs());
    let width = if inputs * outputs <= WHOLE_MAX { inputs } else { matrix.strip() };
    let (mut tile, mut scratch) = (vec![0.0; outputs * width], Vec::new());
    let mut most = vec![0.0_f32; outputs];
    for at in (0..inputs).step_by(width) {
        matrix.columns(at, width, &mut tile, &mut scratch);
        let rows = tile.chunks_exact(width).zip(&mut most);
        rows.for_each(|(row, most)| *most = most.max(largest(row)));
    }
    scales.iter_mut().zip(&most).for_each(|(scale, most)| *scale = (most / 127.0).to_le_bytes());
    let mut bytes = vec![0; ROWS * width];
    for at in (0..inputs).step_by(width) {
        if width < inputs {
            matrix.columns(at, width, &mut tile, &mut scratch);
        }
        let strip = &mut q[at * outputs..(at + width) * outputs];
        for (index, rows) in tile.chunks(ROWS * width).enumerate() {
            let first = index * ROWS;
            let all = rows.chunks_exact(width).zip(bytes.chunks_exact_mut(width));
            for ((row, bytes), &most) in all.zip(&most[first..]) {
                quantise_row(row, most, bytes);
            }
            write_columns(&bytes[..rows.len()], width, (strip, outputs), first);
        }
    }
}

/// Two's complement of `127 × x / largest`: what is 128 above zero, with the top bit turned.
fn quantise_row(row: &[f32], largest: f32, q: &mut [u8]) {
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    q.iter_mut().zip(row).for_each(|(q, x)| *q = nearest(x * inverse + 128.0) ^ 0x80);
}

/// Writes rows of `width` bytes as columns from `first` on of `q`, `[width, outputs]`.
fn write_columns(rows: &[u8], width: usize, (q, outputs): (&mut [u8], usize), first: usize) {
    let count = rows.len() / width;
    for (input, column) in q.chunks_exact_mut(outputs).enumerate() {
        let column = &mut column[first..first + count];
        column.iter_mut().enumerate().for_each(|(i, q)| *q = rows[i * width + input]);
    }
}

/// Plain numbers, `[inputs, outputs]`.
pub(super) fn floats(matrix: &Matrix<'_>, out: &mut [[u8; 4]]) {
    let (inputs, outputs) = (matrix.inputs, matrix.outputs());
    let (mut tile, mut scratch) = (vec![0.0; ROWS * inputs], Vec::new());
    for first in (0..outputs).step_by(ROWS) {
        let count = ROWS.min(outputs - first);
        for (index, row) in tile.chunks_exact_mut(inputs).take(count).enumerate() {
            matrix.row(first + index, row, &mut scratch);
        }
        for (input, column) in out.chunks_exact_mut(outputs).enumerate() {
            let column = &mut column[first..first + count];
            column
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = tile[i * inputs + input].to_le_bytes());
        }
    }
}

/// Plain numbers, `[outputs, inputs]`, as the embedding is looked up.
pub(super) fn table(matrix: &Matrix<'_>, first_row: usize, out: &mut [[u8; 4]]) {
    let (mut row, mut scratch) = (vec![0.0; matrix.inputs], Vec::new());
    for (index, out) in (first_row..).zip(out.chunks_exact_mut(matrix.inputs)) {
        matrix.row(index, &mut row, &mut scratch);
        out.iter_mut().zip(&row).for_each(|(out, x)| *out = x.to_le_bytes());
    }
}

/// A half-precision scale as the f32 that ONNX Runtime takes.
fn scale_of(low: u8, high: u8) -> [u8; 4] {
    half::f16::from_le_bytes([low, high]).to_f32().to_le_bytes()
}

fn largest(row: &[f32]) -> f32 {
    // Eight lanes, so that the compiler need not keep the order of one long chain.
    let mut lanes = [0.0_f32; 8];
    for chunk in row.as_chunks::<8>().0 {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = lane.max(x.abs()));
    }
    let rest = row.as_chunks::<8>().1.iter();
    lanes.into_iter().chain(rest.map(|x| x.abs())).fold(0.0, f32::max)
}

/// The nearest byte; not a number becomes zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and callers stay within 1 to 255"
)]
fn nearest(x: f32) -> u8 {
    (x + 0.5) as u8
}
