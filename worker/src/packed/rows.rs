//! What happens to rows before a product: the sum, its norm, rounding.
//!
//! The operators call it. Few rows are done where they are; a prompt's are shared out over the
//! session's threads.
#![expect(unsafe_code, reason = "threads write disjoint places of one output")]

use std::{marker::PhantomData, slice};

use ort::{Error, operator::ComputeContext};

use super::{BLOCK, Processor, activation::Block};

/// Rows from which on it pays to share them out, and how many are a task then.
const SHARED: usize = 16;

/// A norm by the root mean square.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) gain: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// Rounds rows of `blocks` blocks into `to`.
pub(super) fn round(
    processor: Processor,
    from: &[f32],
    (blocks, to): (usize, &mut [Block]),
    context: &ComputeContext,
) -> Result<(), Error> {
    let (rows, to) = (to.len() / blocks, Places::of(to));
    share(context, rows, |row| {
        // SAFETY: no other call has this row.
        let to = unsafe { to.take(row * blocks, blocks) };
        processor.round(&from[row * blocks * BLOCK..][..blocks * BLOCK], to);
    })
}

/// Adds rows, writes the sums to `sums`, and rounds what their norm makes of them into `to`.
pub(super) fn norm(
    processor: Processor,
    (left, right): (&[f32], &[f32]),
    norm: &Norm,
    (sums, to): (&mut [f32], &mut [Block]),
    context: &ComputeContext,
) -> Result<(), Error> {
    let width = norm.gain.len();
    let (rows, blocks) = (sums.len() / width, width / BLOCK);
    let (sums, to) = (Places::of(sums), Places::of(to));
    share(context, rows, |row| {
        let at = row * width..(row + 1) * width;
        // SAFETY: no other call has this row.
        let (sum, to) = unsafe { (sums.take(at.start, width), to.take(row * blocks, blocks)) };
        processor.norm((&left[at.clone()], &right[at]), norm, sum, to);
    })
}

fn share(
    context: &ComputeContext,
    rows: usize,
    each: impl Fn(usize) + Send + Sync,
) -> Result<(), Error> {
    if rows < SHARED {
        (0..rows).for_each(each);
        return Ok(());
    }
    context.par_for(rows.div_ceil(SHARED), 0, |task| {
        (task * SHARED..((task + 1) * SHARED).min(rows)).for_each(&each);
    })
}

/// A slice that several threads write at once, each its own places.
pub(super) struct Places<'s, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'s mut [T]>,
}

// SAFETY: it is written only through `take`, whose callers keep to different places.
unsafe impl<T: Send> Sync for Places<'_, T> {}
// SAFETY: as for `Sync`.
unsafe impl<T: Send> Send for Places<'_, T> {}

impl<'s, T> Places<'s, T> {
    pub(super) fn of(slice: &'s mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// `len` places from `at` on.
    ///
    /// # Safety
    /// As long as they are held, nobody else takes any of them.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps to its own places")]
    pub(super) unsafe fn take(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "places outside of the slice");
        // SAFETY: they are within the slice, and the caller's alone.
        unsafe { slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
