//! The vectors of an input's tokens → one vector, and what is done to it.
//!
//! Pure.

use crate::model::Pooling;

/// Makes one vector of `[tokens, size]`, of which the first `length` tokens count.
///
/// # Panics
/// If there are fewer vectors than `length`, or none at all.
pub(super) fn pool(pooling: Pooling, hidden: &[f32], size: usize, length: usize) -> Vec<f32> {
    let mut tokens = hidden.chunks_exact(size).take(length);
    let first = tokens.next().expect("an input has at least one token");
    let mut vector = first.to_vec();
    match pooling {
        Pooling::Cls => {}
        Pooling::Last => vector.copy_from_slice(tokens.next_back().unwrap_or(first)),
        Pooling::Mean => {
            for token in tokens {
                for (sum, value) in vector.iter_mut().zip(token) {
                    *sum += value;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "inputs are far shorter than 2²⁴")]
            let count = length as f32;
            vector.iter_mut().for_each(|value| *value /= count);
        }
        Pooling::Max => {
            for token in tokens {
                for (max, &value) in vector.iter_mut().zip(token) {
                    *max = max.max(value);
                }
            }
        }
    }
    vector
}

/// Brings a vector to length 1; one of zeroes stays.
pub(super) fn normalize(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|&value| f64::from(value).powi(2)).sum();
    // As PyTorch does, so that a vector of almost nothing is not blown up.
    let length = square.sqrt().max(1e-12);
    for value in vector {
        #[expect(clippy::cast_possible_truncation, reason = "it was an f32 and got no longer")]
        let scaled = (f64::from(*value) / length) as f32;
        *value = scaled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_takes_no_part_in_any_pooling() {
        let hidden = [1.0, -4.0, 3.0, 2.0, 2.0, 8.0, 100.0, 100.0];
        let pooled = |pooling| pool(pooling, &hidden, 2, 3);
        assert_eq!(pooled(Pooling::Cls), [1.0, -4.0]);
        assert_eq!(pooled(Pooling::Last), [2.0, 8.0]);
        assert_eq!(pooled(Pooling::Mean), [2.0, 2.0]);
        assert_eq!(pooled(Pooling::Max), [3.0, 8.0]);
        assert_eq!(pool(Pooling::Last, &hidden, 2, 1), [1.0, -4.0]);
    }

    #[test]
    fn a_vector_of_zeroes_has_no_direction_and_stays() {
        let mut vector = [3.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut nothing = [0.0, 0.0];
        normalize(&mut nothing);
        assert_eq!(nothing, [0.0, 0.0]);
    }
}
