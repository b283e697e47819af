//! The keys and values of every running sequence, in slabs that are updated in place.
//!
//! One slab per layer and K or V, `[slots, heads, rows, head size]`. ONNX Runtime gets it as past
//! and as present at once, so a step copies nothing. How much of a slot counts is said by the
//! attention mask alone; what lies beyond a slot's length is garbage and harmless. So a slot whose
//! sequence is over still holds its tokens, and another one that begins like it can go on there.
//!
//! Slabs start small and grow, because a kernel's scratch memory is sized by a slab's rows and not
//! by those in use. On the host their pages are mapped as they are touched, so unused slots cost
//! nothing. In a device's memory they lie where the session's kernels have them at hand.

pub(crate) mod concatenated;
mod moves;

use std::ops::Range;

use super::ForwardError;
use crate::runtime::bound::{
    BindingId, BlockId, BoundSession, OutOfMemory, Place, View, element_bytes,
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
    /// Where the slabs lie.
    place: Place,
    /// For exchanges in a device's memory: its bytes, once it has been needed.
    scratch: Option<(BlockId, usize)>,
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

    /// Numbers in so many slots.
    fn elements(&self, slots: usize, rows: usize) -> usize {
        slots * self.layer.heads * rows * self.layer.head_size
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
        (slots, context_length): (usize, usize),
        place: Place,
    ) -> Result<Self, OutOfMemory> {
        let capacity = CAPACITY_START.min(context_length);
        let mut slabs = Vec::new();
        for layer in layers {
            let rows = layer.window_rows.unwrap_or(capacity);
            let elements = slots * layer.heads * rows * layer.head_size;
            let block = session.add_block_in(place, layer.element, elements)?;
            slabs.push(Slab { layer, block });
        }
        let held = vec![Vec::new(); slots];
        let capacity_max = context_length;
        Ok(Self { slabs, held, capacity, capacity_max, place, scratch: None })
    }

    /// Rows of every slab that is not window-sized.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
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

    /// Forgets all tokens of all slots.
    pub(crate) fn forget(&mut self) {
        self.held.iter_mut().for_each(Vec::clear);
    }

    /// Makes room for `length` tokens in every slot; says whether slabs moved, which voids every
    /// binding.
    ///
    /// # Errors
    /// [`ForwardError`]; without memory, nothing has changed.
    pub(crate) fn reserve(
        &mut self,
        session: &mut BoundSession,
        length: usize,
    ) -> Result<bool, ForwardError> {
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
    /// As [`KvCache::reserve`].
    pub(crate) fn shrink(&mut self, session: &mut BoundSession) -> Result<(), ForwardError> {
        let longest = self.held.iter().map(Vec::len).max().unwrap_or(0);
        self.rebuild(session, self.step(longest))
    }

    /// The capacity that `length` tokens take: few steps, so that slabs seldom move.
    fn step(&self, length: usize) -> usize {
        length.next_power_of_two().max(CAPACITY_START).min(self.capacity_max)
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

/// A size as ONNX spells it.
pub(crate) fn dimension(size: usize) -> i64 {
    i64::try_from(size).expect("no block is as large as that")
}
