//! Activations as the product takes them: int8 by blocks of 32, and each block's sum.
//!
//! `operator` rounds each row once for a product, `avx2` reads it for every group of rows of the
//! matrix. A block that holds one large value loses the others' last bits, and no other block does.

use super::{BLOCK, ROWS, rows::Norm};

/// A block of one row: `value ≈ scale × quotient`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block {
    /// Quotients, -127 to 127, four to a word.
    pub(super) words: [i32; BLOCK / 4],
    pub(super) scale: f32,
    /// Of the values as they were rounded: what a minimum of the weights is multiplied by.
    pub(super) sum: f32,
}

/// Rounds `values` into `blocks`, as many as there are; the same on every processor.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the caller has the instructions that this wants")]
pub(super) fn round(values: &[f32], blocks: &mut [Block]) {
    for (values, block) in values.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        round_block(values, block);
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as `round`")]
fn round_block(values: &[f32; BLOCK], block: &mut Block) {
    let largest = largest(values);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let (mut bytes, mut sum) = ([0_u8; BLOCK], 0_i32);
    for (byte, x) in bytes.iter_mut().zip(values) {
        let quotient = nearest(x * inverse);
        *byte = quotient.cast_unsigned();
        sum += i32::from(quotient);
    }
    let (words, _) = bytes.as_chunks::<4>();
    for (to, from) in block.words.iter_mut().zip(words) {
        *to = i32::from_le_bytes(*from);
    }
    block.scale = largest / 127.0;
    block.sum = block.scale * sum as f32;
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as `round`")]
fn largest(values: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for eight in values.as_chunks::<8>().0 {
        for (lane, x) in lanes.iter_mut().zip(eight) {
            // Not a number is passed over, and becomes zero below.
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    lanes.into_iter().fold(0.0, f32::max)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as `round`")]
#[expect(clippy::cast_possible_truncation, reason = "callers stay within -127 to 127")]
fn nearest(x: f32) -> i8 {
    x.round_ties_even() as i8
}

/// Adds two rows into `sum`, and rounds its norm: divided by the root of its mean square, times gain.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as `round`")]
pub(super) fn norm(
    (left, right): (&[f32], &[f32]),
    norm: &Norm,
    sum: &mut [f32],
    to: &mut [Block],
) {
    let mut squares = [0.0_f32; 8];
    let parts = left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0);
    for (sum, (left, right)) in sum.as_chunks_mut::<8>().0.iter_mut().zip(parts) {
        for i in 0..8 {
            sum[i] = left[i] + right[i];
            squares[i] += sum[i] * sum[i];
        }
    }
    let mean = squares.iter().sum::<f32>() / sum.len() as f32;
    let inverse = 1.0 / (mean + norm.epsilon).sqrt();
    let parts = sum.as_chunks::<BLOCK>().0.iter().zip(norm.gain.as_chunks::<BLOCK>().0);
    for ((sum, gain), block) in parts.zip(to) {
        let mut normed = [0.0; BLOCK];
        for i in 0..BLOCK {
            normed[i] = sum[i] * inverse * gain[i];
        }
        round_block(&normed, block);
    }
}

/// `silu(gate) × up` in place of the gates.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as `round`")]
pub(super) fn gate(gates: &mut [f32; ROWS], ups: &[f32; ROWS]) {
    for (gate, up) in gates.iter_mut().zip(ups) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// The exponential function, within two units in the last place, without a call for each number.
///
/// `exp(x) = 2^n × exp(r)` with `n` the nearest whole number of `x / ln 2`; `exp(r)` is its Taylor
/// polynomial, which is good to 2e-8 where `|r|` is at most half of `ln 2`.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the range is cut before")]
fn exp(x: f32) -> f32 {
    /// `ln 2` in two parts, the first with few enough bits that its multiples are exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    // Beyond, the gate is zero or itself whatever the power's size.
    let x = x.clamp(-87.0, 87.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN_2.1, n.mul_add(-LN_2.0, x));
    let sum = (1.0_f32 / 5040.0).mul_add(r, 1.0 / 720.0);
    let sum = sum.mul_add(r, 1.0 / 120.0);
    let sum = sum.mul_add(r, 1.0 / 24.0);
    let sum = sum.mul_add(r, 1.0 / 6.0);
    let sum = sum.mul_add(r, 0.5);
    let sum = sum.mul_add(r, 1.0);
    let power = f32::from_bits(((n as i32 + 127) << 23).cast_unsigned());
    sum.mul_add(r, 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(values: &[f32; BLOCK]) -> (Block, [f32; BLOCK]) {
        let mut blocks = [Block::default()];
        round(values, &mut blocks);
        let bytes: Vec<u8> = blocks[0].words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut back = [0.0; BLOCK];
        for (x, byte) in back.iter_mut().zip(bytes) {
            *x = blocks[0].scale * f32::from(byte.cast_signed());
        }
        (blocks[0], back)
    }

    #[test]
    fn a_block_is_within_half_a_step_of_its_values() {
        let values: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 * 0.7).sin() * 3.0);
        let (block, back) = rounded(&values);
        let furthest = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        assert!(furthest <= block.scale * 0.5001, "{furthest} {}", block.scale);
        assert!((block.sum - back.iter().sum::<f32>()).abs() < 1e-4);
    }

    #[test]
    fn the_gate_is_silu_times_up() {
        for step in -400_i16..400 {
            let x = f32::from(step) * 0.25;
            let mut gates = [x; ROWS];
            gate(&mut gates, &[3.0; ROWS]);
            let wide = f64::from(x);
            let expected = wide / (1.0 + (-wide).exp()) * 3.0;
            let error = (f64::from(gates[5]) - expected).abs();
            assert!(error <= expected.abs() * 4e-7 + 1e-35, "{x}: {} {expected}", gates[5]);
        }
    }

    #[test]
    fn zeroes_stay_zeroes() {
        let (block, back) = rounded(&[0.0; BLOCK]);
        assert_eq!((back, block.scale, block.sum), ([0.0; BLOCK], 0.0, 0.0));
    }
}
