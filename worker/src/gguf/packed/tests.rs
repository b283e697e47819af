//! Every type packed and multiplied, against its own decoded numbers in f64.

use super::{
    BLOCK, Packed, Part, Processor, ROWS, Width, activation::Block, operator, pack, rows::Norm,
};
use crate::gguf::{decode::decode, tensor::TensorType};

const TYPES: [TensorType; 11] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::Bf16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];
const INPUTS: usize = 512;
const OUTPUTS: usize = 24;

/// Bytes without a pattern.
fn noise(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[5]
    }
}

/// A row of `kind` with reasonable scales: any bytes are quotients, but not any are numbers.
fn row(kind: TensorType, seed: u64) -> Vec<u8> {
    let mut next = noise(seed);
    let mut number = || (f32::from(next()) - 127.0) / 900.0;
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    match kind {
        TensorType::F32 => (0..INPUTS).flat_map(|_| number().to_le_bytes()).collect(),
        TensorType::F16 => (0..INPUTS).flat_map(|_| half(number())).collect(),
        TensorType::Bf16 => {
            (0..INPUTS).flat_map(|_| half::bf16::from_f32(number()).to_le_bytes()).collect()
        }
        _ => {
            let mut next = noise(seed + 1);
            let mut bytes: Vec<u8> = (0..kind.row_bytes(INPUTS)).map(|_| next()).collect();
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                let scale = half(0.001 + f32::from(next()) / 90_000.0);
                match kind {
                    TensorType::Q6K => block[208..].copy_from_slice(&scale),
                    TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => {
                        block[..2].copy_from_slice(&scale);
                    }
                    _ => {
                        block[..2].copy_from_slice(&scale);
                        block[2..4].copy_from_slice(&half(f32::from(next()) / 4000.0));
                    }
                }
            }
            bytes
        }
    }
}

fn rows(kind: TensorType) -> Vec<Vec<u8>> {
    (0..OUTPUTS as u64).map(|seed| row(kind, 7 + seed)).collect()
}

fn packed(kind: TensorType) -> Packed {
    let (rows, width, blocks) = (rows(kind), Width::of(kind), INPUTS / BLOCK);
    let part = |first: usize, count: usize| {
        let mut bytes = vec![0; count / ROWS * blocks * width.block_bytes()];
        pack::fill(|index| (kind, &rows[first + index][..]), width, blocks, &mut bytes);
        Part { width, bytes }
    };
    // Two parts, so that groups are counted across them.
    Packed { parts: vec![part(0, 8), part(8, OUTPUTS - 8)], blocks }
}

fn activations(count: usize) -> Vec<f32> {
    let mut next = noise(3);
    (0..count * INPUTS).map(|_| (f32::from(next()) - 127.0) / 64.0).collect()
}

/// `[rows, outputs]`.
fn multiplied(packed: &Packed, inputs: &[f32]) -> Vec<f32> {
    let processor = Processor::detect().expect("these tests are for processors with AVX2");
    let mut blocks = vec![Block::default(); inputs.len() / BLOCK];
    processor.round(inputs, &mut blocks);
    let outputs = packed.outputs();
    let out = std::cell::RefCell::new(vec![0.0; inputs.len() / INPUTS * outputs]);
    for group in 0..packed.groups() {
        operator::multiply(
            processor,
            [packed.group(group)],
            packed.blocks,
            &blocks,
            |row, [values]| {
                out.borrow_mut()[row * outputs + group * ROWS..][..ROWS].copy_from_slice(&values);
            },
        );
    }
    out.into_inner()
}

/// What is to be multiplied once the activations are rounded.
fn expected(kind: TensorType, inputs: &[f32]) -> Vec<f64> {
    let weights: Vec<Vec<f32>> = rows(kind)
        .iter()
        .map(|bytes| {
            let mut values = vec![0.0; INPUTS];
            decode(kind, bytes, &mut values);
            values
        })
        .collect();
    let rounded: Vec<f32> = inputs
        .as_chunks::<BLOCK>()
        .0
        .iter()
        .flat_map(|block| {
            let largest = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let inverse = 127.0 / largest;
            block.map(|x| (x * inverse).round_ties_even() * (largest / 127.0))
        })
        .collect();
    let dot = |x: &[f32], w: &[f32]| -> f64 {
        x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
    };
    rounded.chunks(INPUTS).flat_map(|x| weights.iter().map(move |w| dot(x, w))).collect()
}

/// How far what was found is from what was expected, against its size (both root mean square).
fn error(found: &[f32], expected: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let far: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - b)).sum();
    let size: f64 = expected.iter().copied().map(square).sum();
    (far / size).sqrt()
}

#[test]
fn every_type_multiplies_as_its_decoded_numbers_do() {
    let inputs = activations(3);
    for kind in TYPES {
        let error = error(&multiplied(&packed(kind), &inputs), &expected(kind, &inputs));
        let keeps_numbers = matches!(
            kind,
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q5_0 | TensorType::Q8_0
        );
        // Q4_K's scales are rounded to halves, what has no packed form of its own to 8 bits.
        let bound = match kind {
            _ if keeps_numbers => 2e-6,
            TensorType::Q4K => 5e-4,
            _ => 1e-2,
        };
        assert!(error < bound, "{kind:?}: {error}");
        assert!(keeps_numbers || error > 1e-6, "{kind:?}: {error} is too good");
    }
}

#[test]
fn a_row_gives_the_same_bits_alone_and_among_others() {
    let inputs = activations(7);
    for kind in [TensorType::Q4_1, TensorType::Q8_0] {
        let packed = packed(kind);
        let alone: Vec<f32> =
            inputs.chunks(INPUTS).flat_map(|row| multiplied(&packed, row)).collect();
        for count in 1..=7 {
            let together = multiplied(&packed, &inputs[..count * INPUTS]);
            assert_eq!(together, alone[..together.len()], "{kind:?} {count}");
        }
    }
}

#[test]
fn a_norm_is_the_sum_divided_by_its_size_times_the_gain() {
    let processor = Processor::detect().expect("these tests are for processors with AVX2");
    let (left, right) = (activations(1), row(TensorType::F32, 9));
    let mut addend = vec![0.0; INPUTS];
    decode(TensorType::F32, &right, &mut addend);
    let gain: Vec<f32> = (0..INPUTS).map(|i| 0.5 + i as f32 / 512.0).collect();
    let norm = Norm { gain, epsilon: 1e-5 };
    let (mut sum, mut blocks) = (vec![0.0; INPUTS], vec![Block::default(); INPUTS / BLOCK]);
    processor.norm((&left, &addend), &norm, &mut sum, &mut blocks);

    let wide: Vec<f64> =
        left.iter().zip(&addend).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
    let mean = wide.iter().map(|x| x * x).sum::<f64>() / INPUTS as f64;
    let size = (mean + 1e-5).sqrt();
    let expected: Vec<f64> =
        wide.iter().zip(&norm.gain).map(|(x, gain)| x / size * f64::from(*gain)).collect();
    let found: Vec<f32> = blocks
        .iter()
        .flat_map(|block| {
            let bytes = block.words.map(i32::to_le_bytes);
            let numbers = bytes.as_flattened().to_vec();
            numbers.into_iter().map(|q| block.scale * f32::from(q.cast_signed()))
        })
        .collect();
    assert!(error(&sum, &wide) < 1e-7);
    // What rounding to int8 by blocks costs.
    let error = error(&found, &expected);
    assert!(error < 0.005, "{error}");
}

#[test]
fn a_row_that_is_looked_up_is_the_row_decoded() {
    for kind in TYPES {
        let packed = packed(kind);
        for (number, bytes) in rows(kind).iter().enumerate() {
            let (mut found, mut decoded) = (vec![0.0; INPUTS], vec![0.0; INPUTS]);
            packed.look_up(number, &mut found);
            decode(kind, bytes, &mut decoded);
            let decoded: Vec<f64> = decoded.into_iter().map(f64::from).collect();
            let error = error(&found, &decoded);
            let bound = if Width::of(kind) == Width::Four { 5e-4 } else { 1e-2 };
            assert!(error < bound, "{kind:?} {number}: {error}");
        }
    }
}

/// The largest quotients everywhere: sums of pairs must not run over.
#[test]
fn the_largest_numbers_do_not_run_over() {
    for (kind, quotients) in
        [(TensorType::Q4_1, 0xff), (TensorType::Q8_0, 0x80), (TensorType::Q8_0, 0x7f)]
    {
        let (width, blocks) = (Width::of(kind), INPUTS / BLOCK);
        let mut bytes = vec![quotients; kind.row_bytes(INPUTS)];
        for block in bytes.chunks_exact_mut(kind.block_bytes()) {
            block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
            if kind == TensorType::Q4_1 {
                block[2..4].copy_from_slice(&half::f16::ZERO.to_le_bytes());
            }
        }
        let mut part = Part { width, bytes: vec![0; blocks * width.block_bytes()] };
        pack::fill(|_| (kind, &bytes[..]), width, blocks, &mut part.bytes);
        let packed = Packed { parts: vec![part], blocks };
        let weight =
            if kind == TensorType::Q4_1 { 15.0 } else { f32::from(quotients.cast_signed()) };
        let inputs = vec![-2.0; INPUTS];
        let found = multiplied(&packed, &inputs);
        assert_eq!(found, [weight * -2.0 * INPUTS as f32; ROWS], "{kind:?}");
    }
}
