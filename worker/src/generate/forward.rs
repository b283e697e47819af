//! One forward pass: token ids in, logits out, the cache a step further.
//!
//! Three kinds of runs exist, because `GroupQueryAttention` refuses a batch of longer inputs that
//! have a past: a decode step gives every running slot one token; a prefill gives one slot several;
//! and several slots without a past get their first tokens together. Graphs whose cache grows by
//! concatenation keep to the first two.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use half::f16;
use ort::session::Session;
use ort::value::TensorElementType;

use super::extras::ExtraInputs;
use super::kv_cache::concatenated::{Packed, Rows};
use super::kv_cache::{KvCache, dimension};
use super::slots::Exchange;
use crate::model::CacheKind;
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
    extras: ExtraInputs,
    logits: (Logits, BlockId),
    /// For graphs that do not write in place.
    packed: Option<Packed>,
    /// Whether rows of unlike length can share a run.
    ragged: bool,
    /// How many positions each row of the last run's logits has.
    positions: usize,
    /// A row of logits that are not `f32` already.
    widened: Vec<f32>,
    chunk: usize,
    /// Time in ONNX Runtime, of all runs and of the last one.
    ran: Duration,
    last_run: Duration,
    /// By first slot and count; each binds that part of the cache.
    bindings: HashMap<(usize, usize), BindingId>,
}

impl Forward {
    /// Allocates what runs need.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(crate) fn new(
        session: Session,
        interface: Interface,
        kind: CacheKind,
        (slots, context_length): (usize, usize),
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
        let extras = ExtraInputs::new(&mut session, interface.extras, chunk.max(slots))?;
        let cache = KvCache::new(&mut session, interface.layers, slots, context_length)?;
        let (packed, ragged) = match kind {
            CacheKind::InPlace => (None, true),
            CacheKind::Concatenated { ragged } => {
                (Some(Packed::new(&mut session, &cache)?), ragged)
            }
        };
        Ok(Self {
            cache,
            extras,
            packed,
            ragged,
            session,
            input_ids: (interface.input_ids, ids_block),
            attention_mask: (interface.attention_mask, mask_block),
            positions: 1,
            widened: vec![0.0; logits.vocabulary],
            logits: (logits, logits_block),
            chunk,
            ran: Duration::ZERO,
            last_run: Duration::ZERO,
            bindings: HashMap::new(),
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

    /// How many sequences have room.
    pub(crate) fn slots(&self) -> usize {
        self.cache.slots()
    }

    /// The tokens that a slot holds.
    pub(crate) fn held(&self, slot: usize) -> &[u32] {
        self.cache.held(slot)
    }

    /// Whether [`Forward::prefill_together`] can be asked for.
    pub(crate) fn reads_together(&self) -> bool {
        self.packed.is_none()
    }

    /// Whether a slot can go back to fewer tokens.
    pub(crate) fn rewinds(&self) -> bool {
        self.cache.rewinds()
    }

    /// Bytes of one token in the cache.
    pub(crate) fn token_bytes(&self) -> usize {
        self.cache.token_bytes()
    }

    /// Forgets all of a slot's tokens but the first `length`.
    pub(crate) fn truncate(&mut self, slot: usize, length: usize) {
        self.cache.truncate(slot, length);
    }

    /// Copies a slot's first tokens to another slot.
    pub(crate) fn copy(&mut self, slots: (usize, usize), length: usize) {
        self.cache.copy(&mut self.session, slots, length);
    }

    /// Two slots exchange what they hold.
    pub(crate) fn exchange(&mut self, Exchange(a, b): Exchange) {
        self.cache.exchange(&mut self.session, (a, b));
    }

    /// Makes room for so many tokens in every slot.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing has changed.
    pub(crate) fn reserve(&mut self, length: usize) -> Result<(), OutOfMemory> {
        if self.cache.reserve(&mut self.session, length)? {
            self.bindings.clear();
        }
        Ok(())
    }

    /// Gives memory back that no slot's tokens need.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing has changed.
    pub(crate) fn shrink(&mut self) -> Result<(), OutOfMemory> {
        self.bindings.clear();
        self.session.unbind_all();
        self.cache.shrink(&mut self.session)
    }

    /// How long ONNX Runtime has run so far, all runs together and the last one.
    pub(crate) fn ran(&self) -> (Duration, Duration) {
        (self.ran, self.last_run)
    }

    /// Gives each of the first slots one token more; row `i` of the logits is then slot `i`'s.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub(crate) fn decode(&mut self, tokens: &[u32]) -> Result<(), ForwardError> {
        let lengths: Vec<_> = (0..tokens.len()).map(|slot| self.held(slot).len() + 1).collect();
        if self.ragged || lengths.iter().all(|length| *length == lengths[0]) {
            self.run((0, tokens.len()), tokens, (&lengths, 0))?;
        } else {
            for (slot, &length) in lengths.iter().enumerate() {
                self.run((slot, 1), &tokens[slot..=slot], (&[length], slot))?;
            }
        }
        for (slot, token) in tokens.iter().enumerate() {
            self.cache.extend(slot, std::slice::from_ref(token));
        }
        Ok(())
    }

    /// Gives one slot several tokens more, at most [`Forward::chunk`]; row 0 of the logits is
    /// then that of the last one.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub(crate) fn prefill(&mut self, slot: usize, tokens: &[u32]) -> Result<(), ForwardError> {
        let length = self.held(slot).len() + tokens.len();
        self.run((slot, 1), tokens, (&[length], 0))?;
        self.cache.extend(slot, tokens);
        Ok(())
    }

    /// Gives the slots from `first` on, whatever they held, these first tokens: none without any,
    /// and as many times the longest as there are at most [`Forward::chunk`]. The logits are of
    /// no use then.
    ///
    /// # Errors
    /// [`ForwardError`]; the slots hold nothing then.
    pub(crate) fn prefill_together(
        &mut self,
        first: usize,
        prompts: &[&[u32]],
    ) -> Result<(), ForwardError> {
        let lengths: Vec<_> = prompts.iter().map(|prompt| prompt.len()).collect();
        let width = lengths.iter().copied().max().unwrap_or(0);
        // A mask as wide as the input makes every row a first prompt. What a short row writes
        // behind its end lies behind its length.
        let mut padded = vec![0; prompts.len() * width];
        for (row, prompt) in padded.chunks_exact_mut(width).zip(prompts) {
            row[..prompt.len()].copy_from_slice(prompt);
        }
        for slot in first..first + prompts.len() {
            self.truncate(slot, 0);
        }
        self.run((first, prompts.len()), &padded, (&lengths, 0))?;
        for (slot, prompt) in (first..).zip(prompts) {
            self.cache.extend(slot, prompt);
        }
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
    /// Their logits are put from row `logits_row` on.
    fn run(
        &mut self,
        slots: (usize, usize),
        tokens: &[u32],
        (lengths, logits_row): (&[usize], usize),
    ) -> Result<(), ForwardError> {
        let width = lengths.iter().copied().max().unwrap_or(0);
        self.reserve(width)?;
        let per_row = tokens.len() / lengths.len();
        let rows = Rows { first: slots.0, lengths, added: per_row };
        let binding = match &mut self.packed {
            None => self.binding(slots)?,
            Some(packed) => packed.bind::<ForwardError>(&mut self.session, &self.cache, rows)?,
        };
        self.write_inputs(tokens, (lengths, per_row), width);
        self.extras.bind(&mut self.session, binding, (lengths, per_row))?;
        let rows_count = dimension(lengths.len());
        self.positions = if self.logits.0.last_only { 1 } else { per_row };
        let ids = [rows_count, dimension(per_row)];
        let mask = [rows_count, dimension(width)];
        let vocabulary = self.logits.0.vocabulary;
        let logits = [rows_count, dimension(self.positions), dimension(vocabulary)];
        let (name, block) = &self.input_ids;
        self.session.bind_input(binding, name, View::from_start(*block, &ids))?;
        let (name, block) = &self.attention_mask;
        self.session.bind_input(binding, name, View::from_start(*block, &mask))?;
        let (output, block) = &self.logits;
        let start = logits_row * self.positions * vocabulary;
        let logits = View { block: *block, start, shape: &logits };
        self.session.bind_output(binding, &output.name, logits)?;
        let start = Instant::now();
        let outcome = self.session.run(binding);
        self.last_run = start.elapsed();
        self.ran += self.last_run;
        if outcome.is_err() && !self.rewinds() {
            // Windows may have slid by now, and no longer hold what the slots say.
            (slots.0..slots.0 + slots.1).for_each(|slot| self.truncate(slot, 0));
        }
        outcome?;
        if let Some(packed) = &self.packed {
            packed.keep(&mut self.session, &self.cache, rows);
        }
        Ok(())
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

    /// In place, a mask row's ones stand on the left and their sum is the row's length; the width
    /// has to be the longest row's, and says by being equal to the input's that a prompt is a first
    /// one. Concatenated, new positions come last in every row, whatever gap is before them.
    fn write_inputs(&mut self, tokens: &[u32], (lengths, new): (&[usize], usize), width: usize) {
        let ids = self.session.elements_mut::<i64>(self.input_ids.1);
        for (id, &token) in ids.iter_mut().zip(tokens) {
            *id = i64::from(token);
        }
        let gap_is_last = self.packed.is_none();
        let mask = self.session.elements_mut::<i64>(self.attention_mask.1);
        for (row, &length) in mask.chunks_exact_mut(width).zip(lengths) {
            row.fill(1);
            let gap = if gap_is_last { length..width } else { length - new..width - new };
            row[gap].fill(0);
        }
    }
}
