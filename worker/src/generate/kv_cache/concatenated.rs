//! Runs of graphs whose cache grows by concatenation: the past goes in, and comes out longer.
//!
//! The slabs stay where tokens are kept, so slots, moves and rewinding are the same as for graphs
//! that write in place. Before a run what the rows hold is copied out of them, packed as the graph
//! wants it, and after it the new positions are copied in.

use ort::value::TensorElementType;

use super::{KvCache, Slab, dimension};
use crate::runtime::bound::{BindingId, BlockId, BoundSession, OutOfMemory, Place, View};

/// Memory for what goes in and what comes out, of every layer.
#[derive(Debug)]
pub(crate) struct Packed {
    past: Vec<BlockId>,
    present: Vec<BlockId>,
    /// Rows that each has room for.
    capacity: usize,
}

/// The rows of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// The first one's slot; the others follow.
    pub(crate) first: usize,
    /// How many positions each has after the run.
    pub(crate) lengths: &'a [usize],
    /// How many of these are new.
    pub(crate) added: usize,
}

impl Rows<'_> {
    fn width(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }
}

impl Packed {
    /// Allocates for what the cache can hold now.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(crate) fn new(session: &mut BoundSession, cache: &KvCache) -> Result<Self, OutOfMemory> {
        let mut blocks = || -> Result<Vec<_>, OutOfMemory> {
            let sizes = cache.slabs.iter().map(|slab| cache.packed_elements(slab));
            sizes.map(|(element, count)| session.add_block(element, count)).collect()
        };
        Ok(Self { past: blocks()?, present: blocks()?, capacity: cache.capacity })
    }

    /// Packs what the rows hold, and binds it with room for what comes out.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the cache has grown, or what ONNX Runtime says.
    pub(crate) fn bind<E: From<OutOfMemory> + From<ort::Error>>(
        &mut self,
        session: &mut BoundSession,
        cache: &KvCache,
        rows: Rows<'_>,
    ) -> Result<BindingId, E> {
        if self.capacity != cache.capacity {
            for blocks in [&self.past, &self.present] {
                for (slab, &block) in cache.slabs.iter().zip(blocks) {
                    let (element, count) = cache.packed_elements(slab);
                    let fresh = session.block(Place::Host, element, count)?;
                    session.replace_block(block, fresh, [])?;
                }
            }
            self.capacity = cache.capacity;
        }
        // Shapes differ from run to run, so no binding serves twice.
        session.unbind_all();
        let binding = session.add_binding()?;
        let width = rows.width();
        for ((slab, &past), &present) in cache.slabs.iter().zip(&self.past).zip(&self.present) {
            cache.pack(session, (slab, past), rows);
            let layer = &slab.layer;
            let shape = |rows_in: usize| {
                [rows.lengths.len(), layer.heads, rows_in, layer.head_size].map(dimension)
            };
            let view = shape(width - rows.added);
            session.bind_input(binding, &layer.past, View::from_start(past, &view))?;
            session.bind_output(
                binding,
                &layer.present,
                View::from_start(present, &shape(width)),
            )?;
        }
        Ok(binding)
    }

    /// Copies the new positions into the slabs, after a run that succeeded.
    pub(crate) fn keep(&self, session: &mut BoundSession, cache: &KvCache, rows: Rows<'_>) {
        let width = rows.width();
        for (slab, &present) in cache.slabs.iter().zip(&self.present) {
            let (from, to) = session.bytes_of_two(present, slab.block);
            for (row, &length) in rows.lengths.iter().enumerate() {
                for head in 0..slab.layer.heads {
                    let new = slab.span(width, (row, head), width);
                    let new = new.end - rows.added * slab.position_bytes()..new.end;
                    let place = slab.span(cache.capacity, (rows.first + row, head), length);
                    let place = place.end - new.len()..place.end;
                    to[place].copy_from_slice(&from[new]);
                }
            }
        }
    }
}

impl KvCache {
    fn packed_elements(&self, slab: &Slab) -> (TensorElementType, usize) {
        let layer = &slab.layer;
        (layer.element, self.slots() * layer.heads * self.capacity * layer.head_size)
    }

    /// Each row's past at the left, as wide as the longest one's.
    fn pack(&self, session: &mut BoundSession, (slab, past): (&Slab, BlockId), rows: Rows<'_>) {
        let width = rows.width() - rows.added;
        let (from, to) = session.bytes_of_two(slab.block, past);
        for (row, &length) in rows.lengths.iter().enumerate() {
            for head in 0..slab.layer.heads {
                let held = length - rows.added;
                let source = slab.span(self.capacity, (rows.first + row, head), held);
                let target = slab.span(width, (row, head), width);
                let (filled, gap) = to[target].split_at_mut(source.len());
                filled.copy_from_slice(&from[source]);
                // The mask hides it, but what was no number before would stay none behind a mask.
                gap.fill(0);
            }
        }
    }
}
