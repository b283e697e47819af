//! Rows → groups of packed blocks.
//!
//! Who knows a file's blocks gives them row by row; here they get their places. It runs over a few
//! threads while a model loads.

use half::f16;

use super::{BLOCK, Eight, Four, Packed, ROWS, Width};
use crate::pieces::{PIECE_ELEMENTS, Piece};

/// A row's block before it is put beside its neighbours: `weight = scale × quotient + minimum`.
pub(crate) struct Row4 {
    /// Input `i` in the low nibble of byte `i`, input `16 + i` in its high one.
    pub(crate) nibbles: [u8; 16],
    pub(crate) scale: f16,
    pub(crate) minimum: f16,
}

/// As [`Row4`], with a byte for each input, two's complement, and no minimum.
pub(crate) struct Row8 {
    pub(crate) bytes: [u8; BLOCK],
    pub(crate) scale: f16,
}

/// A row's places in its group. Whoever fills it uses the variant that it is.
pub(crate) enum Row<'p> {
    /// The group, and which of its rows this is.
    Four(&'p mut [Four], usize),
    /// As before.
    Eight(&'p mut [Eight], usize),
}

/// Puts a block of a row in place `r` of its group.
pub(crate) fn put_four(block: &Row4, r: usize, out: &mut Four) {
    for (word, nibbles) in block.nibbles.as_chunks::<4>().0.iter().enumerate() {
        out[32 * word + 4 * r..][..4].copy_from_slice(nibbles);
    }
    out[128 + 2 * r..][..2].copy_from_slice(&block.scale.to_le_bytes());
    out[144 + 2 * r..][..2].copy_from_slice(&block.minimum.to_le_bytes());
}

/// As [`put_four`].
pub(crate) fn put_eight(block: &Row8, r: usize, out: &mut Eight) {
    for (word, four) in block.bytes.as_chunks::<4>().0.iter().enumerate() {
        out[32 * word + 4 * r..][..4].copy_from_slice(four);
    }
    out[256 + 2 * r..][..2].copy_from_slice(&block.scale.to_le_bytes());
}

/// Cuts the filling of `packed` into pieces.
///
/// `fill` puts a row, named by its part and its number there, into its places; `done` is told of each
/// part's rows once they are filled.
pub(crate) fn pieces<'w, F, D>(packed: &'w mut Packed, fill: F, done: D) -> Vec<Piece<'w>>
where
    F: Fn((usize, usize), Row<'_>) + Send + Clone + 'w,
    D: Fn(usize, std::ops::Range<usize>) + Send + Clone + 'w,
{
    let blocks = packed.blocks;
    let mut pieces = Vec::new();
    for (index, part) in packed.parts.iter_mut().enumerate() {
        let width = part.width;
        let group_bytes = blocks * width.block_bytes();
        let groups = (PIECE_ELEMENTS / (ROWS * blocks * BLOCK)).max(1);
        let mut first = 0;
        for bytes in part.bytes.chunks_mut(groups * group_bytes) {
            let rows = bytes.len() / group_bytes * ROWS;
            let (fill, done) = (fill.clone(), done.clone());
            pieces.push(Piece {
                elements: rows * blocks * BLOCK,
                run: Box::new(move || {
                    fill_groups(
                        |row, places| fill((index, first + row), places),
                        width,
                        blocks,
                        bytes,
                    );
                    done(index, first..first + rows);
                }),
            });
            first += rows;
        }
    }
    pieces
}

/// Packs whole groups; `fill` gets each row's number, from 0 on, and its places.
pub(crate) fn fill_groups(
    fill: impl Fn(usize, Row<'_>),
    width: Width,
    blocks: usize,
    out: &mut [u8],
) {
    for (group, out) in out.chunks_exact_mut(blocks * width.block_bytes()).enumerate() {
        for r in 0..ROWS {
            let places = match width {
                Width::Four => Row::Four(out.as_chunks_mut().0, r),
                Width::Eight => Row::Eight(out.as_chunks_mut().0, r),
            };
            fill(group * ROWS + r, places);
        }
    }
}
