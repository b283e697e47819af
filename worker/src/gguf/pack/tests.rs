//! Every type packed and multiplied, against its own decoded numbers in f64.

use super::{fill_row, width_of};
use crate::{
    gguf::{decode::decode, tensor::TensorType},
    packed::{
        Packed, ROWS, Width,
        tests::{error, expected, multiplied, noise, numbers, packed_from},
    },
};

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
    let (rows, width) = (rows(kind), width_of(kind));
    // Two parts, so that groups are counted across them.
    let parts = [(width, 8), (width, OUTPUTS - 8)];
    packed_from(INPUTS, &parts, |row, places| fill_row(kind, &rows[row], places))
}

fn decoded(kind: TensorType) -> Vec<Vec<f32>> {
    let row = |bytes: &Vec<u8>| {
        let mut values = vec![0.0; INPUTS];
        decode(kind, bytes, &mut values);
        values
    };
    rows(kind).iter().map(row).collect()
}

#[test]
fn every_type_multiplies_as_its_decoded_numbers_do() {
    let inputs = numbers(3 * INPUTS, 3);
    for kind in TYPES {
        let error = error(&multiplied(&packed(kind), &inputs), &expected(&decoded(kind), &inputs));
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
    let inputs = numbers(7 * INPUTS, 3);
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
fn a_row_that_is_looked_up_is_the_row_decoded() {
    for kind in TYPES {
        let packed = packed(kind);
        for (number, bytes) in rows(kind).iter().enumerate() {
            let (mut found, mut decoded) = (vec![0.0; INPUTS], vec![0.0; INPUTS]);
            packed.look_up(number, &mut found);
            decode(kind, bytes, &mut decoded);
            let decoded: Vec<f64> = decoded.into_iter().map(f64::from).collect();
            let error = error(&found, &decoded);
            let bound = if width_of(kind) == Width::Four { 5e-4 } else { 1e-2 };
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
        let mut bytes = vec![quotients; kind.row_bytes(INPUTS)];
        for block in bytes.chunks_exact_mut(kind.block_bytes()) {
            block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
            if kind == TensorType::Q4_1 {
                block[2..4].copy_from_slice(&half::f16::ZERO.to_le_bytes());
            }
        }
        let parts = [(width_of(kind), ROWS)];
        let packed = packed_from(INPUTS, &parts, |_, places| fill_row(kind, &bytes, places));
        let weight =
            if kind == TensorType::Q4_1 { 15.0 } else { f32::from(quotients.cast_signed()) };
        let inputs = vec![-2.0; INPUTS];
        let found = multiplied(&packed, &inputs);
        assert_eq!(found, [weight * -2.0 * INPUTS as f32; ROWS], "{kind:?}");
    }
}
