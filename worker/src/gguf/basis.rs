//! Another basis for the residual stream, in which no channel stands out.
//!
//! A few channels of a trained model are tens of times larger than the rest, and an integer product
//! that gives every channel of a row one scale loses the others. An orthogonal change of basis
//! spreads them: norms without gain commute with it, so it costs nothing when the model runs. The
//! matrices are turned once, at the load: those that read the stream along their inputs, those that
//! write it along their outputs.
//!
//! The change is signs, then a Hadamard transform over the power of two in the width, then a Hartley
//! transform over what is left. Both transforms are symmetric and their own inverse.

/// The change of basis for one width.
#[derive(Debug)]
pub(super) struct Basis {
    signs: Vec<f32>,
    /// The largest power of two that divides the width.
    power: usize,
    /// `[odd, odd]`, where `odd` is the rest of the width.
    hartley: Vec<f32>,
    odd: usize,
}

impl Basis {
    /// The same for every load: the signs come from a fixed sequence. `None` for a width whose odd
    /// part would make the Hartley transform dear; no model has one.
    pub(super) fn new(width: usize) -> Option<Self> {
        const ODD_MAX: usize = 255;
        let power = 1 << width.trailing_zeros();
        let odd = width / power;
        if odd > ODD_MAX {
            return None;
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let signs = (0..width).map(|_| {
            // Xorshift: any fixed sequence without a pattern does.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state >> 63 == 0 { 1.0 } else { -1.0 }
        });
        let signs = signs.collect();
        let norm = 1.0 / (odd as f32).sqrt();
        let turn = std::f32::consts::TAU / odd as f32;
        let cell = |i: usize| {
            let (sin, cos) = ((i / odd) * (i % odd) % odd).rotated(turn);
            (sin + cos) * norm
        };
        let hartley = (0..odd * odd).map(cell).collect();
        Some(Self { signs, power, hartley, odd })
    }

    /// Turns rows of `width` elements, in place.
    pub(super) fn turn_row(&self, row: &mut [f32], scratch: &mut Vec<f32>) {
        for (x, sign) in row.iter_mut().zip(&self.signs) {
            *x *= sign;
        }
        for group in row.chunks_exact_mut(self.power) {
            hadamard(group, 1);
        }
        self.mix(row, self.power, scratch);
    }

    /// Turns every column of `tile`, `[width, columns]`, in place.
    pub(super) fn turn_columns(&self, tile: &mut [f32], columns: usize, scratch: &mut Vec<f32>) {
        for (row, &sign) in tile.chunks_exact_mut(columns).zip(&self.signs) {
            if sign < 0.0 {
                row.iter_mut().for_each(|x| *x = -*x);
            }
        }
        for group in tile.chunks_exact_mut(self.power * columns) {
            hadamard(group, columns);
        }
        self.mix(tile, self.power * columns, scratch);
    }

    /// The Hartley transform over `odd` groups of `len` elements, and the Hadamard's norm.
    fn mix(&self, data: &mut [f32], len: usize, scratch: &mut Vec<f32>) {
        let norm = 1.0 / (self.power as f32).sqrt();
        scratch.clear();
        scratch.resize(data.len(), 0.0);
        let rows = self.hartley.chunks_exact(self.odd);
        for (out, weights) in scratch.chunks_exact_mut(len).zip(rows) {
            for (group, weight) in data.chunks_exact(len).zip(weights) {
                let weight = weight * norm;
                out.iter_mut().zip(group).for_each(|(y, x)| *y += weight * x);
            }
        }
        data.copy_from_slice(scratch);
    }
}

/// Mixes the items of each group of `group` among themselves, each item `len` elements: a change of
/// basis for values that are not in the residual stream. It is its own inverse.
pub(super) fn spread(data: &mut [f32], group: usize, len: usize) {
    let norm = 1.0 / (group as f32).sqrt();
    for items in data.chunks_exact_mut(group * len) {
        hadamard(items, len);
        items.iter_mut().for_each(|x| *x *= norm);
    }
}

/// The largest group of at most `most`, a power of two, that [`spread`] can mix in rows of `size`.
pub(super) fn group_of(size: usize, most: usize) -> usize {
    1 << size.trailing_zeros().min(most.trailing_zeros())
}

/// Sine and cosine of a whole number of turns' parts.
trait Rotated {
    fn rotated(self, turn: f32) -> (f32, f32);
}

impl Rotated for usize {
    fn rotated(self, turn: f32) -> (f32, f32) {
        (self as f32 * turn).sin_cos()
    }
}

/// The Hadamard transform over the items of `data`, each `len` elements, without its norm.
fn hadamard(data: &mut [f32], len: usize) {
    let mut half = len;
    while half < data.len() {
        for pair in data.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(basis: &Basis, row: &[f32]) -> Vec<f32> {
        let mut row = row.to_vec();
        basis.turn_row(&mut row, &mut Vec::new());
        row
    }

    #[test]
    fn products_are_the_same_in_the_other_basis() {
        for width in [1, 2, 7, 64, 96, 576] {
            let basis = Basis::new(width).unwrap();
            let a: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..width).map(|i| (i as f32 * 1.3).cos()).collect();
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let before = product(&a, &b);
            let after = product(&turned(&basis, &a), &turned(&basis, &b));
            assert!((before - after).abs() < 1e-3, "{width}: {before} {after}");
        }
    }

    #[test]
    fn one_large_channel_is_spread_over_all() {
        let mut row = vec![0.0; 576];
        row[100] = 24.0;
        let largest =
            turned(&Basis::new(576).unwrap(), &row).iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        assert!(largest < 1.5, "{largest}");
    }

    #[test]
    fn columns_turn_as_rows_do() {
        let basis = Basis::new(96).unwrap();
        let column: Vec<f32> = (0..96).map(|i| i as f32 - 40.0).collect();
        let mut tile: Vec<f32> = column.iter().flat_map(|&x| [x, 2.0 * x, 0.0]).collect();
        basis.turn_columns(&mut tile, 3, &mut Vec::new());
        let row = turned(&basis, &column);
        let same = row.iter().zip(tile.chunks_exact(3)).all(|(x, three)| {
            (x - three[0]).abs() < 1e-3 && (2.0 * x - three[1]).abs() < 1e-3 && three[2] == 0.0
        });
        assert!(same);
    }
}
