//! The rotary tables, `[positions, head_dim / 2]`, with the model's stretching of frequencies.
//!
//! `graph` puts them beside the graph; `GroupQueryAttention` looks positions up in them.

use std::f64::consts::TAU;

use crate::gguf::{
    GgufError, Rope, RopeScaling, decode::decode, reader::GgufFile, tensor::TensorType,
};

/// Cosines and sines.
pub(super) struct Tables {
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

pub(super) fn tables(
    file: &GgufFile,
    rope: &Rope,
    head_dim: usize,
    positions: usize,
) -> Result<Tables, GgufError> {
    let half = head_dim / 2;
    let base = f64::from(rope.base);
    let plain = (0..half).map(|i| base.powf(-(2.0 * i as f64) / head_dim as f64));
    let (frequencies, magnitude): (Vec<f64>, f64) = match rope.scaling {
        RopeScaling::None => (plain.collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|f| f / f64::from(factor)).collect(), 1.0),
        RopeScaling::PerFrequency => {
            let factors = factors(file, half)?;
            (plain.zip(factors).map(|(f, factor)| f / f64::from(factor)).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, original_context } => {
            let factor = f64::from(factor);
            let (low, high) = yarn_ramp(base, head_dim, f64::from(original_context));
            let stretched = plain.enumerate().map(|(i, f)| {
                let kept = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                f / factor * (1.0 - kept) + f * kept
            });
            (stretched.collect(), 1.0 + 0.1 * factor.ln())
        }
    };
    let angles = (0..positions)
        .flat_map(|position| frequencies.iter().map(move |frequency| position as f64 * frequency));
    let (cos, sin) = angles
        .map(|angle| (nearest(angle.cos() * magnitude), nearest(angle.sin() * magnitude)))
        .unzip();
    Ok(Tables { cos, sin })
}

#[expect(clippy::cast_possible_truncation, reason = "the table is f32; rounding is meant")]
fn nearest(x: f64) -> f32 {
    x as f32
}

fn factors(file: &GgufFile, half: usize) -> Result<Vec<f32>, GgufError> {
    const NAME: &str = "rope_freqs.weight";
    let tensor = file.needed_tensor(NAME, &[half])?;
    if tensor.kind != TensorType::F32 {
        return Err(GgufError::Unsupported { what: format!("`{NAME}` in another type than F32") });
    }
    let mut factors = vec![0.0; half];
    decode(tensor.kind, file.data(tensor), &mut factors);
    Ok(factors)
}

/// Between which frequencies YaRN goes from keeping to dividing: those that turn 32 times and once
/// in the original context.
fn yarn_ramp(base: f64, head_dim: usize, context: f64) -> (f64, f64) {
    let turning = |turns: f64| head_dim as f64 * (context / (turns * TAU)).ln() / (2.0 * base.ln());
    let last = (head_dim - 1) as f64;
    (turning(32.0).floor().clamp(0.0, last), turning(1.0).ceil().clamp(0.0, last))
}
