//! Blocks of every tensor type → f32.
//!
//! The matrices decode rows with it. Each type means what ggml's own decoder computes; numbers are
//! exact up to one rounding of f32.

use half::{bf16, f16};

use super::tensor::TensorType;

/// Decodes whole blocks. `out` holds as many elements as `bytes` has blocks for.
pub(super) fn decode(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        TensorType::F32 => scalars(bytes, out, f32::from_le_bytes),
        TensorType::F16 => scalars(bytes, out, |two| f16::from_le_bytes(two).to_f32()),
        TensorType::Bf16 => scalars(bytes, out, |two| bf16::from_le_bytes(two).to_f32()),
        TensorType::Q4_0 => blocks::<18, 32>(bytes, out, q4_0),
        TensorType::Q4_1 => blocks::<20, 32>(bytes, out, q4_1),
        TensorType::Q5_0 => blocks::<22, 32>(bytes, out, q5_0),
        TensorType::Q5_1 => blocks::<24, 32>(bytes, out, q5_1),
        TensorType::Q8_0 => blocks::<34, 32>(bytes, out, q8_0),
        TensorType::Q4K => blocks::<144, 256>(bytes, out, q4_k),
        TensorType::Q5K => blocks::<176, 256>(bytes, out, q5_k),
        TensorType::Q6K => blocks::<210, 256>(bytes, out, q6_k),
    }
}

fn scalars<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (chunk, x) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *x = read(*chunk);
    }
}

fn blocks<const BYTES: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    for (bytes, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<N>().0) {
        block(bytes, out);
    }
}

/// A little-endian half-precision number at byte `at` of a block.
fn half<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low nibbles of 16 bytes are elements 0 to 15, the high ones 16 to 31.
fn nibbles(bytes: &[u8], out: &mut [f32; 32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    nibbles(&block[2..], out, |q| d * (f32::from(q) - 8.0));
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    nibbles(&block[4..], out, |q| d * f32::from(q) + m);
}

/// Nibbles, and a fifth bit for each from a 32-bit word.
fn five_bits(high: &[u8], low: &[u8], out: &mut [f32; 32], value: impl Fn(u8) -> f32) {
    let bit = |j: usize| (high[j / 8] >> (j % 8) & 1) << 4;
    for (j, byte) in low.iter().enumerate() {
        out[j] = value(byte & 15 | bit(j));
        out[j + 16] = value(byte >> 4 | bit(j + 16));
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    five_bits(&block[2..6], &block[6..], out, |q| d * (f32::from(q) - 16.0));
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    five_bits(&block[4..8], &block[8..], out, |q| d * f32::from(q) + m);
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (byte, x) in block[2..].iter().zip(out) {
        *x = d * f32::from(byte.cast_signed());
    }
}

/// Scale and minimum of sub-block `j`: eight pairs of six bits packed into twelve bytes.
pub(super) fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let (low, scale_high, min_high) = (packed[j + 4], packed[j - 4] >> 6, packed[j] >> 6);
        (low & 15 | scale_high << 4, low >> 4 | min_high << 4)
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, d_min) = (half(block, 0), half(block, 2));
    let (packed, nibbles) = (&block[4..16], &block[16..]);
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(packed, j);
        let (scale, min) = (d * scale, d_min * min);
        let shift = 4 * (j % 2);
        for (byte, x) in nibbles[j / 2 * 32..][..32].iter().zip(out) {
            *x = scale * f32::from(byte >> shift & 15) - min;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, d_min) = (half(block, 0), half(block, 2));
    let (packed, fifth, nibbles) = (&block[4..16], &block[16..48], &block[48..]);
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(packed, j);
        let (scale, min) = (d * scale, d_min * min);
        let shift = 4 * (j % 2);
        for ((byte, high), x) in nibbles[j / 2 * 32..][..32].iter().zip(fifth).zip(out) {
            let q = byte >> shift & 15 | (high >> j & 1) << 4;
            *x = scale * f32::from(q) - min;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(block, 208);
    let scales = &block[192..208];
    // Two halves of 128 elements; in each, four runs of 32 share 64 low and 32 high bytes.
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, run) = (j / 4, j % 4);
        let low = &block[half * 64 + run % 2 * 32..][..32];
        let high = &block[128 + half * 32..][..32];
        for (i, x) in out.iter_mut().enumerate() {
            let scale = f32::from(scales[half * 8 + run * 2 + i / 16].cast_signed());
            let q = low[i] >> (run / 2 * 4) & 15 | (high[i] >> (run * 2) & 3) << 4;
            *x = d * scale * (f32::from(q) - 32.0);
        }
    }
}
