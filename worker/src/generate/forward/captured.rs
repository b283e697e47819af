//! Decode steps that a provider captures once and repeats: CUDA's graphs.
//!
//! What is captured is addresses and sizes, so everything of such a step has a fixed place in the
//! device's memory and a fixed shape: the mask is as wide as the slabs have rows, whatever the rows
//! hold, and the numbers of a step are carried into the same blocks every time. One graph is captured
//! for each number of rows, and anew when the slabs have moved. [`Layout`](crate::runtime::layout::Layout)
//! says whether a session and its graph are fit for it.

use std::collections::HashMap;
use std::time::Instant;

use ort::value::TensorElementType;

use super::{Forward, ForwardError};
use crate::generate::kv_cache::dimension;
use crate::runtime::bound::{BindingId, BlockId, BoundSession, Carry, OutOfMemory, Place, View};
use crate::runtime::one_line;

/// Captured graphs are kept by the provider until it ends, so there is an end to them.
const GRAPHS_MAX: u32 = 64;

const INT64_BYTES: usize = size_of::<i64>();

/// A captured step's inputs, and what has been captured.
#[derive(Debug)]
pub(super) struct Captured {
    ids: BlockId,
    mask: BlockId,
    positions: BlockId,
    /// By rows: what is bound, and the graph's number.
    graphs: HashMap<usize, (BindingId, u32)>,
    /// How many numbers have been given away.
    numbered: u32,
}

impl Captured {
    pub(super) fn new(
        session: &mut BoundSession,
        (slots, context_length): (usize, usize),
    ) -> Result<Self, OutOfMemory> {
        let mut block =
            |elements| session.add_block_in(Place::Device, TensorElementType::Int64, elements);
        Ok(Self {
            ids: block(slots)?,
            mask: block(slots * context_length)?,
            positions: block(slots)?,
            graphs: HashMap::new(),
            numbered: 0,
        })
    }

    /// The slabs have moved: what was captured reads where nothing is.
    pub(super) fn forget(&mut self) {
        self.graphs.clear();
    }
}

impl Forward {
    /// As a decode step of [`Forward::run`], captured or repeated. A step that can't be captured is
    /// run plainly, and so are all after it.
    pub(super) fn decode_captured(
        &mut self,
        tokens: &[u32],
        lengths: &[usize],
    ) -> Result<(), ForwardError> {
        self.reserve(lengths.iter().copied().max().unwrap_or(0))?;
        match self.run_captured(tokens, lengths) {
            Ok(true) => return Ok(()),
            Ok(false) => tracing::warn!("{GRAPHS_MAX} steps have been captured; no more will be"),
            Err(error) => {
                tracing::warn!("steps are not captured: {}", one_line(error.message()));
            }
        }
        self.captured = None;
        // Whatever a step that failed has written, this one writes again.
        self.run((0, tokens.len()), tokens, (lengths, 0))
    }

    /// Whether there was a graph left for it.
    fn run_captured(&mut self, tokens: &[u32], lengths: &[usize]) -> ort::Result<bool> {
        let rows = tokens.len();
        let Some((binding, graph)) = self.graph(rows)? else {
            return Ok(false);
        };
        let Some(Captured { ids, mask, positions, .. }) = self.captured else {
            return Ok(false);
        };
        let width = self.cache.capacity();
        self.write_inputs(tokens, (lengths, 1), width);
        self.extras.write(&mut self.session, (lengths, 1));
        let carry = |from: BlockId, to: BlockId, elements: usize| Carry {
            from: (from, 0),
            to: (to, 0),
            bytes: elements * INT64_BYTES,
        };
        let inputs = [
            carry(self.input_ids.1, ids, rows),
            carry(self.attention_mask.1, mask, rows * width),
            carry(self.extras.positions(), positions, rows),
        ];
        let start = Instant::now();
        self.session.carry(inputs)?;
        self.session.run_captured(binding, graph)?;
        self.positions = 1;
        self.fetch(0..rows)?;
        self.last_run = start.elapsed();
        self.ran += self.last_run;
        Ok(true)
    }

    /// What is bound for so many rows, and its graph's number; `None` if there are no more numbers.
    fn graph(&mut self, rows: usize) -> ort::Result<Option<(BindingId, u32)>> {
        let Some(captured) = &mut self.captured else {
            return Ok(None);
        };
        if let Some(&known) = captured.graphs.get(&rows) {
            return Ok(Some(known));
        }
        if captured.numbered == GRAPHS_MAX {
            return Ok(None);
        }
        let session = &mut self.session;
        let binding = session.add_binding()?;
        self.cache.bind(session, binding, (0, rows))?;
        let ids = [dimension(rows), 1];
        session.bind_input(binding, &self.input_ids.0, View::from_start(captured.ids, &ids))?;
        let mask = [dimension(rows), dimension(self.cache.capacity())];
        session.bind_input(
            binding,
            &self.attention_mask.0,
            View::from_start(captured.mask, &mask),
        )?;
        self.extras.bind_fixed(session, binding, View::from_start(captured.positions, &ids))?;
        let (logits, block) = &self.logits;
        let shape = [dimension(rows), 1, dimension(logits.vocabulary)];
        session.bind_output(binding, &logits.name, View::from_start(*block, &shape))?;
        captured.numbered += 1;
        captured.graphs.insert(rows, (binding, captured.numbered));
        Ok(Some((binding, captured.numbered)))
    }
}
