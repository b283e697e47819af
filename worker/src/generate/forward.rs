//! One forward pass: token ids in, logits out, the cache a step further.
//!
//! Two kinds of runs exist, because `GroupQueryAttention` refuses a batch of longer inputs that
//! have a past: a decode step gives every running slot one token; a prefill gives one slot several.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use half::f16;
use ort::session::Session;
use ort::value::TensorElementType;

use super::kv_cache::{KvCache, dimension};
use super::slots::Move;
use crate::runtime::bound::{BindingId, BlockId, BoundSession, OutOfMemory, View, element_bytes};
use crate::runtime::interface::{Interface, Logits};
use crate::runtime::one_line;

/// The most tokens in one prefill: decoding waits for it.
const CHUNK_MAX: usize = 512;
const CHUNK_MIN: usize = 64;
/// Most graphs give logits of every position, whether wanted or not; a chunk's shall fit into this.
const LOGITS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a forward pass failed. The cache's lengths are as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// ONNX Runtime refused or failed.
    #[error("ONNX Runtime: {}", one_line(.0.message()))]
    Run(#[from] ort::Error),
    /// The cache can't grow.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// A decoder's session with its cache and the memory around it.
#[derive(Debug)]
pub(crate) struct Forward {
    session: BoundSession,
    cache: KvCache,
    input_ids: (String, BlockId),
    attention_mask: (String, BlockId),
    logits: (Logits, BlockId),
    /// How many positions each row of the last run's logits has.
    positions: usize,
    /// A row of logits that are not `f32` already.
    widened: Vec<f32>,
    chunk: usize,
    /// By first slot and count; each binds that part of the cache.
    bindings: HashMap<(usize, usize), BindingId>,
    /// How long ONNX Runtime's runs took so far.
    time_in_runtime: Duration,
}

impl Forward {
    /// Allocates what runs need.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(crate) fn new(
        session: Session,
        interface: Interface,
        slots: usize,
        context_length: usize,
    ) -> Result<Self, OutOfMemory> {
        let mut session = BoundSession::new(session);
        let logits = interface.logits;
        let row_bytes = logits.vocabulary * element_bytes(logits.element);
        let chunk = if logits.last_only {
            CHUNK_MAX
        } else {
            (LOGITS_BYTES_MAX / row_bytes).clamp(CHUNK_MIN, CHUNK_MAX)
        };
        let logits_rows = if logits.last_only { slots } else { chunk.max(slots) };
        let int64 = TensorElementType::Int64;
        let ids_block = session.add_block(int64, chunk.max(slots))?;
        let mask_block = session.add_block(int64, slots * context_length)?;
        let logits_block = session.add_block(logits.element, logits_rows * logits.vocabulary)?;
        Ok(Self {
            cache: KvCache::new(&mut session, interface.layers, slots, context_length)?,
            session,
            input_ids: (interface.input_ids, ids_block),
            attention_mask: (interface.attention_mask, mask_block),
            positions: 1,
            widened: vec![0.0; logits.vocabulary],
            logits: (logits, logits_block),
            chunk,
            bindings: HashMap::new(),
            time_in_runtime: Duration::ZERO,
        })
    }

    /// The most tokens that one [`Forward::prefill`] takes.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Lowers what one [`Forward::prefill`] takes; it can't be raised again.
    pub(crate) fn limit_chunk(&mut self, tokens: usize) {
        self.chunk = self.chunk.min(tokens).max(1);
    }

    /// How long ONNX Runtime's runs took since the load.
    pub(crate) fn time_in_runtime(&self) -> Duration {
        self.time_in_runtime
    }

    /// How many sequences have room.
    pub(crate) fn slots(&self) -> usize {
        self.cache.slots()
    }

    /// How many tokens a slot holds.
    pub(crate) fn length(&self, slot: usize) -> usize {
        self.cache.length(slot)
    }

    /// Forgets a slot's tokens.
    pub(crate) fn clear(&mut self, slot: usize) {
        self.cache.set_length(slot, 0);
    }

    /// Moves a slot's tokens to another.
    pub(crate) fn apply(&mut self, step: Move) {
        self.cache.apply(&mut self.session, step);
    }

    /// Gives each of the first slots one token more; row `i` of the logits is then slot `i`'s.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub(crate) fn decode(&mut self, tokens: &[u32]) -> Result<(), ForwardError> {
        let lengths: Vec<_> = (0..tokens.len()).map(|slot| self.length(slot) + 1).collect();
        self.run((0, tokens.len()), tokens, &lengths)?;
        for (slot, length) in lengths.into_iter().enumerate() {
            self.cache.set_length(slot, length);
        }
        Ok(())
    }

    /// Gives one slot several tokens more, at most [`Forward::chunk`]; row 0 of the logits is
    /// then that of the last one.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub(crate) fn prefill(&mut self, slot: usize, tokens: &[u32]) -> Result<(), ForwardError> {
        let length = self.length(slot) + tokens.len();
        self.run((slot, 1), tokens, &[length])?;
        self.cache.set_length(slot, length);
        Ok(())
    }

    /// The logits of a row of the last run, at its last position; the caller may change them.
    pub(crate) fn logits(&mut self, row: usize) -> &mut [f32] {
        let (Logits { vocabulary, element, .. }, block) = &self.logits;
        let start = (row * self.positions + self.positions - 1) * vocabulary;
        let range = start..start + vocabulary;
        if *element == TensorElementType::Float32 {
            return &mut self.session.elements_mut::<f32>(*block)[range];
        }
        let narrow = &self.session.elements::<f16>(*block)[range];
        for (wide, narrow) in self.widened.iter_mut().zip(narrow) {
            *wide = narrow.to_f32();
        }
        &mut self.widened
    }

    /// Runs `tokens`, spread evenly over `slots` (first, count), which then hold `lengths` tokens.
    fn run(
        &mut self,
        slots: (usize, usize),
        tokens: &[u32],
        lengths: &[usize],
    ) -> Result<(), ForwardError> {
        let width = lengths.iter().copied().max().unwrap_or(0);
        if self.cache.reserve(&mut self.session, width)? {
            self.bindings.clear();
        }
        let binding = self.binding(slots)?;
        self.write_inputs(tokens, lengths, width);
        let rows = dimension(lengths.len());
        let per_row = tokens.len() / lengths.len();
        self.positions = if self.logits.0.last_only { 1 } else { per_row };
        let ids = [rows, dimension(per_row)];
        let mask = [rows, dimension(width)];
        let logits = [rows, dimension(self.positions), dimension(self.logits.0.vocabulary)];
        let (name, block) = &self.input_ids;
        self.session.bind_input(binding, name, View::from_start(*block, &ids))?;
        let (name, block) = &self.attention_mask;
        self.session.bind_input(binding, name, View::from_start(*block, &mask))?;
        let (output, block) = &self.logits;
        self.session.bind_output(binding, &output.name, View::from_start(*block, &logits))?;
        let began = Instant::now();
        let result = self.session.run(binding);
        self.time_in_runtime += began.elapsed();
        Ok(result?)
    }

    fn binding(&mut self, slots: (usize, usize)) -> ort::Result<BindingId> {
        if let Some(&binding) = self.bindings.get(&slots) {
            return Ok(binding);
        }
        let binding = self.session.add_binding()?;
        self.cache.bind(&mut self.session, binding, slots)?;
        self.bindings.insert(slots, binding);
        Ok(binding)
    }

    /// A mask row's ones stand on the left and their sum is the row's length; the width has to be
    /// the longest row's, and says by being equal to the input's that a prompt is a first one.
    fn write_inputs(&mut self, tokens: &[u32], lengths: &[usize], width: usize) {
        let ids = self.session.elements_mut::<i64>(self.input_ids.1);
        for (id, &token) in ids.iter_mut().zip(tokens) {
            *id = i64::from(token);
        }
        let mask = self.session.elements_mut::<i64>(self.attention_mask.1);
        for (row, &length) in mask.chunks_exact_mut(width).zip(lengths) {
            row[..length].fill(1);
            row[length..].fill(0);
        }
    }
}
