//! The product by itself. What the tests of who packs need beside is here too.

use super::{
    BLOCK, Packed, Processor, ROWS, Row, Width, activation::Block, operator, pack, rows::Norm,
};

/// Bytes without a pattern.
pub(crate) fn noise(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[5]
    }
}

/// `count` numbers around zero.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut next = noise(seed);
    (0..count).map(|_| (f32::from(next()) - 127.0) / 64.0).collect()
}

/// A matrix of such parts. `fill` gets each row's number among all of them.
pub(crate) fn packed_from(
    inputs: usize,
    parts: &[(Width, usize)],
    fill: impl Fn(usize, Row<'_>),
) -> Packed {
    let mut packed = Packed::room_for(inputs, parts.iter().copied());
    let (mut first, blocks) = (0, packed.blocks);
    for (part, (width, rows)) in packed.parts.iter_mut().zip(parts) {
        pack::fill_groups(|row, places| fill(first + row, places), *width, blocks, &mut part.bytes);
        first += rows;
    }
    packed
}

/// `[rows, outputs]`.
pub(crate) fn multiplied(packed: &Packed, inputs: &[f32]) -> Vec<f32> {
    let processor = Processor::detect().expect("these tests are for processors with AVX2");
    let mut blocks = vec![Block::default(); inputs.len() / BLOCK];
    processor.round(inputs, &mut blocks);
    let outputs = packed.outputs();
    let out = std::cell::RefCell::new(vec![0.0; inputs.len() / packed.inputs() * outputs]);
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

/// What is to be multiplied once `inputs` are rounded, `[rows, outputs]`; `weights` are rows.
pub(crate) fn expected(weights: &[Vec<f32>], inputs: &[f32]) -> Vec<f64> {
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
    rounded.chunks(weights[0].len()).flat_map(|x| weights.iter().map(move |w| dot(x, w))).collect()
}

/// How far what was found is from what was expected, against its size (both root mean square).
pub(crate) fn error(found: &[f32], expected: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let far: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - b)).sum();
    let size: f64 = expected.iter().copied().map(square).sum();
    (far / size).sqrt()
}

#[test]
fn a_norm_is_the_sum_divided_by_its_size_times_the_gain() {
    const INPUTS: usize = 512;
    let processor = Processor::detect().expect("these tests are for processors with AVX2");
    let (left, addend) = (numbers(INPUTS, 3), numbers(INPUTS, 9));
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
