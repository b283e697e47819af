//! The keys and values of every running sequence, in slabs that are updated in place.
//!
//! One slab per layer and K or V, `[slots, heads, rows, head size]`. ONNX Runtime gets it as past
//! and as present at once, so a step copies nothing. How much of a slot counts is said by the
//! attention mask alone; what lies beyond a slot's length is garbage and harmless. So a slot whose
//! sequence is over still holds its tokens, and another one that begins like it can go on there.
//!
//! Slabs start small and grow, because a kernel's scratch memory is sized by a slab's rows and not
//! by those in use. Their pages are mapped as they are touched, so unused slots cost nothing.

pub(crate) mod concatenated;

use std::ops::Range;

use crate::runtime::bound::{
    BindingId, Block, BlockId, BoundSession, OutOfMemory, View, element_bytes,
};
use crate::runtime::interface::KvLayer;

/// Rows that a slab starts with, and the least it grows to.
const CAPACITY_START: usize = 256;

/// The cache of one session.
#[derive(Debug)]
pub(crate) struct KvCache {
    slabs: Vec<Slab>,
    /// The tokens that each slot holds, from the first on.
    held: Vec<Vec<u32>>,
    /// Rows of every slab that is not window-sized.
    capacity: usize,
    /// The most rows ever: the model's context.
    capacity_max: usize,
}

#[derive(Debug)]
struct Slab {
    layer: KvLayer,
    block: BlockId,
}

impl Slab {
    /// Rows of one slot, where slabs that are not window-sized have `capacity`.
    fn rows(&self, capacity: usize) -> usize {
        self.layer.window_rows.unwrap_or(capacity)
    }

    /// Bytes of one position of one head.
    fn position_bytes(&self) -> usize {
        self.layer.head_size * element_bytes(self.layer.element)
    }

    /// Where `count` positions of one head of one slot lie, in bytes.
    fn span(&self, rows: usize, (slot, head): (usize, usize), count: usize) -> Range<usize> {
        let start = (slot * self.layer.heads + head) * rows * self.position_bytes();
        start..start + count * self.position_bytes()
    }
}

impl KvCache {
    /// Lays the slabs out for `slots` sequences of at most `context_length` tokens.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(crate) fn new(
        session: &mut BoundSession,
        layers: Vec<KvLayer>,
        slots: usize,
        context_length: usize,
    ) -> Result<Self, OutOfMemory> {
        let capacity = CAPACITY_START.min(context_length);
        let mut slabs = Vec::new();
        for layer in layers {
            let rows = layer.window_rows.unwrap_or(capacity);
            let elements = slots * layer.heads * rows * layer.head_size;
            let block = session.add_block(layer.element, elements)?;
            slabs.push(Slab { layer, block });
        }
        Ok(Self { slabs, held: vec![Vec::new(); slots], capacity, capacity_max: context_length })
    }

    /// How many sequences have room.
    pub(crate) fn slots(&self) -> usize {
        self.held.len()
    }

    /// The tokens that a slot holds.
    pub(crate) fn held(&self, slot: usize) -> &[u32] {
        &self.held[slot]
    }

    /// Says that a run succeeded that gave a slot these tokens more.
    pub(crate) fn extend(&mut self, slot: usize, tokens: &[u32]) {
        self.held[slot].extend_from_slice(tokens);
    }

    /// Forgets all of a slot's tokens but the first `length`.
    ///
    /// Unless the cache [rewinds](Self::rewinds), only none or all of them can be kept.
    pub(crate) fn truncate(&mut self, slot: usize, length: usize) {
        debug_assert!(self.rewinds() || length == 0 || length >= self.held[slot].len());
        self.held[slot].truncate(length);
    }

    /// Whether a slot can go back to fewer tokens: a window no longer has those that slid out.
    pub(crate) fn rewinds(&self) -> bool {
        self.slabs.iter().all(|slab| slab.layer.window_rows.is_none())
    }

    /// Bytes of one token of one slot.
    pub(crate) fn token_bytes(&self) -> usize {
        self.slabs.iter().map(|slab| slab.layer.heads * slab.position_bytes()).sum()
    }

    /// Makes room for `length` tokens in every slot; says whether slabs moved, which voids every
    /// binding.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing has changed.
    pub(crate) fn reserve(
        &mut self,
        session: &mut BoundSession,
        length: usize,
    ) -> Result<bool, OutOfMemory> {
        if length <= self.capacity {
            return Ok(false);
        }
        debug_assert!(length <= self.capacity_max, "no sequence outgrows the context");
        self.rebuild(session, self.step(length))?;
        Ok(true)
    }

    /// Gives memory back that no slot's tokens need; voids every binding.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing has changed.
    pub(crate) fn shrink(&mut self, session: &mut BoundSession) -> Result<(), OutOfMemory> {
        let longest = self.held.iter().map(Vec::len).max().unwrap_or(0);
        self.rebuild(session, self.step(longest))
    }

    /// The capacity that `length` tokens take: few steps, so that slabs seldom move.
    fn step(&self, length: usize) -> usize {
        length.next_power_of_two().max(CAPACITY_START).min(self.capacity_max)
    }

    /// Puts fresh slabs of so many rows in the place of all, what the slots hold copied.
    fn rebuild(&mut self, session: &mut BoundSession, rows: usize) -> Result<(), OutOfMemory> {
        let mut fresh = Vec::new();
        for slab in &self.slabs {
            let layer = &slab.layer;
            let elements = self.held.len() * layer.heads * slab.rows(rows) * layer.head_size;
            fresh.push(Block::zeroed(layer.element, elements)?);
        }
        for (slab, block) in self.slabs.iter().zip(fresh) {
            let (old_rows, new_rows) = (slab.rows(self.capacity), slab.rows(rows));
            session.replace_block(slab.block, block, |old, new| {
                for (slot, held) in self.held.iter().enumerate() {
                    let count = held.len().min(old_rows);
                    for head in 0..slab.layer.heads {
                        let from = slab.span(old_rows, (slot, head), count);
                        let to = slab.span(new_rows, (slot, head), count);
                        new[to].copy_from_slice(&old[from]);
                    }
                }
            });
        }
        self.capacity = rows;
        Ok(())
    }

    /// Copies a slot's first `length` tokens to another slot; what was there is lost.
    ///
    /// Unless the cache [rewinds](Self::rewinds), only all of them can be copied.
    pub(crate) fn copy(
        &mut self,
        session: &mut BoundSession,
        (from, to): (usize, usize),
        length: usize,
    ) {
        debug_assert!(self.rewinds() || length == self.held[from].len());
        for slab in &self.slabs {
            let rows = slab.rows(self.capacity);
            let bytes = session.bytes_mut(slab.block);
            for head in 0..slab.layer.heads {
                let source = slab.span(rows, (from, head), length.min(rows));
                let target = slab.span(rows, (to, head), 0).start;
                bytes.copy_within(source, target);
            }
        }
        self.held[to] = self.held[from][..length].to_vec();
    }

    /// Two slots exchange what they hold.
    pub(crate) fn exchange(&mut self, session: &mut BoundSession, (a, b): (usize, usize)) {
        let (low, high) = (a.min(b), a.max(b));
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
        self.held.swap(a, b);
    }

    /// Binds `count` slots from `first` on, as past and present of every layer.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub(crate) fn bind(
        &self,
        session: &mut BoundSession,
        binding: BindingId,
        (first, count): (usize, usize),
    ) -> ort::Result<()> {
        for slab in &self.slabs {
            let layer = &slab.layer;
            let rows = layer.window_rows.unwrap_or(self.capacity);
            let shape = [count, layer.heads, rows, layer.head_size].map(dimension);
            let view = View {
                block: slab.block,
                start: first * layer.heads * rows * layer.head_size,
                shape: &shape,
            };
            session.bind_in_place(binding, (&layer.past, &layer.present), view)?;
        }
        Ok(())
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

/// A size as ONNX spells it.
pub(crate) fn dimension(size: usize) -> i64 {
    i64::try_from(size).expect("no block is as large as that")
}
