//! The keys and values of every running sequence, in slabs that are updated in place.
//!
//! One slab per layer and K or V, `[slots, heads, rows, head size]`. ONNX Runtime gets it as past
//! and as present at once, so a step copies nothing. How much of a slot counts is said by the
//! attention mask alone; what lies beyond a slot's length is garbage and harmless.
//!
//! Slabs start small and grow, because a kernel's scratch memory is sized by a slab's rows and not
//! by those in use. Their pages are mapped as they are touched, so unused slots cost nothing.

pub(crate) mod concatenated;

use std::ops::Range;

use super::slots::Move;
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
    /// How many tokens each slot holds.
    lengths: Vec<usize>,
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
        Ok(Self { slabs, lengths: vec![0; slots], capacity, capacity_max: context_length })
    }

    /// How many sequences have room.
    pub(crate) fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// How many tokens a slot holds.
    pub(crate) fn length(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Says that a slot now holds `length` tokens: those of a run that succeeded, or fewer.
    pub(crate) fn set_length(&mut self, slot: usize, length: usize) {
        self.lengths[slot] = length;
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
        let rows = length.next_power_of_two().max(CAPACITY_START).min(self.capacity_max);
        debug_assert!(length <= rows, "no sequence outgrows the context");
        let growing = || self.slabs.iter().filter(|slab| slab.layer.window_rows.is_none());
        let mut fresh = Vec::new();
        for Slab { layer, .. } in growing() {
            let elements = self.lengths.len() * layer.heads * rows * layer.head_size;
            fresh.push(Block::zeroed(layer.element, elements)?);
        }
        for (slab, block) in growing().zip(fresh) {
            session.replace_block(slab.block, block, |old, new| {
                for (slot, &length) in self.lengths.iter().enumerate() {
                    for head in 0..slab.layer.heads {
                        let from = slab.span(self.capacity, (slot, head), length);
                        let to = slab.span(rows, (slot, head), length);
                        new[to].copy_from_slice(&old[from]);
                    }
                }
            });
        }
        self.capacity = rows;
        Ok(true)
    }

    /// Moves a slot's tokens to another slot; what was there is lost.
    pub(crate) fn apply(&mut self, session: &mut BoundSession, Move { from, to }: Move) {
        let length = self.lengths[from];
        for slab in &self.slabs {
            let rows = slab.layer.window_rows.unwrap_or(self.capacity);
            let bytes = session.bytes_mut(slab.block);
            for head in 0..slab.layer.heads {
                let source = slab.span(rows, (from, head), length.min(rows));
                let target = slab.span(rows, (to, head), length.min(rows));
                bytes.copy_within(source, target.start);
            }
        }
        self.lengths[to] = length;
        self.lengths[from] = 0;
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
