//! What slots hold, moved: to larger or smaller slabs, to another slot, between two slots.
//!
//! On the host only what a slot holds is copied, head by head. In a device's memory whole slots are
//! where that can be: there every copy costs a call, and bytes cost next to nothing.

use std::ops::Range;

use ort::value::TensorElementType;

use super::{KvCache, Slab};
use crate::generate::ForwardError;
use crate::runtime::bound::{BlockId, BoundSession, Carry, Place};

/// What two slots of a device's memory exchange goes through so many bytes at a time.
const SCRATCH_BYTES: usize = 64 * 1024 * 1024;

impl KvCache {
    /// Puts fresh slabs of so many rows in the place of all, what the slots hold copied.
    pub(super) fn rebuild(
        &mut self,
        session: &mut BoundSession,
        rows: usize,
    ) -> Result<(), ForwardError> {
        let mut fresh = Vec::new();
        for slab in &self.slabs {
            let elements = slab.elements(self.held.len(), slab.rows(rows));
            fresh.push(session.block(self.place, slab.layer.element, elements)?);
        }
        let mut outcome = Ok(());
        for (slab, block) in self.slabs.iter().zip(fresh) {
            let (old_rows, new_rows) = (slab.rows(self.capacity), slab.rows(rows));
            let kept = self.held.iter().enumerate().flat_map(|(slot, held)| {
                let count = held.len().min(old_rows);
                (0..slab.layer.heads).filter(move |_| count > 0).map(move |head| {
                    let from = slab.span(old_rows, (slot, head), count);
                    (from, slab.span(new_rows, (slot, head), 0).start)
                })
            });
            outcome = outcome.and(session.replace_block(slab.block, block, kept));
        }
        // Also where copying failed the fresh slabs are in place, so that all have one size.
        self.capacity = rows;
        outcome?;
        if let Some((block, _)) = self.scratch {
            // Here, where bindings are void anyway.
            let bytes = self.scratch_bytes();
            let fresh = session.block(self.place, TensorElementType::Uint8, bytes)?;
            session.replace_block(block, fresh, [])?;
            self.scratch = Some((block, bytes));
        }
        Ok(())
    }

    /// Copies a slot's first `length` tokens to another slot; what was there is lost.
    ///
    /// Unless the cache [rewinds](Self::rewinds), only all of them can be copied.
    ///
    /// # Errors
    /// What ONNX Runtime says, only of a cache in a device's memory; the target then holds nothing.
    pub(crate) fn copy(
        &mut self,
        session: &mut BoundSession,
        (from, to): (usize, usize),
        length: usize,
    ) -> ort::Result<()> {
        debug_assert!(self.rewinds() || length == self.held[from].len());
        self.held[to].clear();
        session.carry(self.slabs.iter().flat_map(|slab| {
            let rows = slab.rows(self.capacity);
            self.spans(slab, (from, length)).map(move |(head, span)| Carry {
                to: (slab.block, slab.span(rows, (to, head), 0).start),
                bytes: span.len(),
                from: (slab.block, span.start),
            })
        }))?;
        self.held[to] = self.held[from][..length].to_vec();
        Ok(())
    }

    /// Two slots exchange what they hold.
    ///
    /// # Errors
    /// What ONNX Runtime says, only of a cache in a device's memory; both then hold anything.
    pub(crate) fn exchange(
        &mut self,
        session: &mut BoundSession,
        (a, b): (usize, usize),
    ) -> Result<(), ForwardError> {
        let slots = (a.min(b), a.max(b));
        match self.place {
            Place::Host => self.exchange_in_place(session, slots),
            Place::Device => self.exchange_through_scratch(session, slots)?,
        }
        self.held.swap(a, b);
        Ok(())
    }

    fn exchange_in_place(&self, session: &mut BoundSession, (low, high): (usize, usize)) {
        for slab in &self.slabs {
            let rows = slab.rows(self.capacity);
            let count = |slot: usize| self.held[slot].len().min(rows);
            let bytes = session.bytes_mut(slab.block);
            for head in 0..slab.layer.heads {
                let in_low = slab.span(rows, (low, head), count(low));
                let in_high = slab.span(rows, (high, head), count(high));
                exchange_spans(bytes, in_low, in_high);
            }
        }
    }

    fn exchange_through_scratch(
        &mut self,
        session: &mut BoundSession,
        (low, high): (usize, usize),
    ) -> Result<(), ForwardError> {
        let (low_held, high_held) = (self.held[low].len(), self.held[high].len());
        if low_held == 0 && high_held == 0 {
            return Ok(());
        }
        if low_held == 0 || high_held == 0 {
            let (from, to) = if low_held > 0 { (low, high) } else { (high, low) };
            return Ok(session.carry(self.slabs.iter().map(|slab| self.whole(slab, from, to)))?);
        }
        let scratch = self.scratch(session)?;
        let slot_bytes = |slab: &Slab| slab.span(slab.rows(self.capacity), (1, 0), 0).start;
        let mut rest = &self.slabs[..];
        while !rest.is_empty() {
            let mut filled = 0;
            let fits = rest.iter().take_while(|slab| {
                filled += slot_bytes(slab);
                filled <= scratch.1
            });
            let (group, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let starts = group.iter().scan(0, |next, slab| {
                let start = *next;
                *next += slot_bytes(slab);
                Some((slab, start))
            });
            let starts: Vec<_> = starts.collect();
            let aside = starts.iter().map(|&(slab, start)| Carry {
                to: (scratch.0, start),
                ..self.whole(slab, high, low)
            });
            let up = group.iter().map(|slab| self.whole(slab, low, high));
            let back = starts.iter().map(|&(slab, start)| Carry {
                from: (scratch.0, start),
                ..self.whole(slab, high, low)
            });
            session.carry(aside.chain(up).chain(back))?;
        }
        Ok(())
    }

    /// All of a slot to another slot.
    fn whole(&self, slab: &Slab, from: usize, to: usize) -> Carry {
        let rows = slab.rows(self.capacity);
        let start = |slot: usize| slab.span(rows, (slot, 0), 0).start;
        Carry { from: (slab.block, start(from)), to: (slab.block, start(to)), bytes: start(1) }
    }

    /// What of a slot has to be copied for its first `length` tokens, by the head at which it begins.
    fn spans(
        &self,
        slab: &Slab,
        (slot, length): (usize, usize),
    ) -> impl Iterator<Item = (usize, Range<usize>)> {
        let rows = slab.rows(self.capacity);
        let (pieces, count) = match self.place {
            Place::Host => (slab.layer.heads, length.min(rows)),
            Place::Device => (1, rows * slab.layer.heads),
        };
        (0..pieces).map(move |head| (head, slab.span(rows, (slot, head), count)))
    }

    /// A block for exchanges, and its bytes.
    fn scratch(&mut self, session: &mut BoundSession) -> Result<(BlockId, usize), ForwardError> {
        if let Some(scratch) = self.scratch {
            return Ok(scratch);
        }
        let bytes = self.scratch_bytes();
        let block = session.add_block_in(self.place, TensorElementType::Uint8, bytes)?;
        Ok(*self.scratch.insert((block, bytes)))
    }

    /// One slot of the largest slab has to fit in, and one of every slab may.
    fn scratch_bytes(&self) -> usize {
        let slot_bytes = self.slabs.iter().map(|slab| {
            let rows = slab.rows(self.capacity);
            slab.span(rows, (1, 0), 0).start
        });
        let all: usize = slot_bytes.clone().sum();
        slot_bytes.max().unwrap_or(0).max(all.min(SCRATCH_BYTES))
    }
}

/// Exchanges two stretches that lie apart, the shorter one's bytes with as many of the longer one,
/// and copies the rest of the longer one after the shorter one's place.
fn exchange_spans(bytes: &mut [u8], low: Range<usize>, high: Range<usize>) {
    let common = low.len().min(high.len());
    let (before, after) = bytes.split_at_mut(high.start);
    before[low.start..low.start + common].swap_with_slice(&mut after[..common]);
    if low.len() > common {
        bytes.copy_within(low.start + common..low.end, high.start + common);
    } else {
        bytes.copy_within(high.start + common..high.end, low.start + common);
    }
}
