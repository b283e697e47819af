//! One forward pass: token ids in, logits out, the cache a step further.
//!
//! Three kinds of runs exist, because `GroupQueryAttention` refuses a batch of longer inputs that
//! have a past: a decode step gives every running slot one token; a prefill gives one slot several;
//! and several slots without a past get their first tokens together. Graphs whose cache grows by
//! concatenation keep to the first two.

mod captured;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use half::f16;
use ort::value::TensorElementType;

use super::extras::ExtraInputs;
use super::kv_cache::concatenated::{Packed, Rows};
use super::kv_cache::{KvCache, dimension};
use super::slots::Exchange;
use crate::model::CacheKind;
use crate::runtime::bound::{
    BindingId, BlockId, BoundSession, Carry, OutOfMemory, Place, View, element_bytes,
};
use crate::runtime::interface::{Interface, Logits};
use crate::runtime::layout::Layout;
use crate::runtime::one_line;

use captured::Captured;

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
    /// Each row's last logits, where the logits themselves lie in a device's memory.
    fetched: Option<BlockId>,
    /// Whether the session takes a copy of the cache when it is bound, so that binding goes before
    /// every run.
    rebound: bool,
    /// For decode steps that a provider repeats as a whole.
    captured: Option<Captured>,
    /// Whether what the slots held is lost, until somebody asks.
    lost: bool,
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
        mut session: BoundSession,
        interface: Interface,
        kind: CacheKind,
        (slots, context_length): (usize, usize),
        layout: Layout,
    ) -> Result<Self, OutOfMemory> {
        let room = (slots, context_length);
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
        let logits_size = logits_rows * logits.vocabulary;
        let logits_block = session.add_block_in(layout.logits, logits.element, logits_size)?;
        let fetched = match layout.logits {
            Place::Host => None,
            Place::Device => {
                Some(session.add_pinned_block(logits.element, slots * logits.vocabulary)?)
            }
        };
        let captured = layout.captured.then(|| Captured::new(&mut session, room));
        let extras = ExtraInputs::new(&mut session, interface.extras, chunk.max(slots))?;
        let cache = KvCache::new(&mut session, interface.layers, room, layout.cache)?;
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
            fetched,
            rebound: layout.rebound,
            captured: captured.transpose()?,
            lost: false,
            chunk,
            ran: Duration::ZERO,
            last_run: Duration::ZERO,
            bindings: HashMap::new(),
        })
    }

    /// Bytes that the session has from its device, where that is known.
    pub(crate) fn device_bytes(&self) -> Option<u64> {
        self.session.device_memory().map(|memory| memory.total)
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
        let outcome = self.cache.copy(&mut self.session, slots, length);
        self.note_loss(&outcome.map_err(ForwardError::from));
    }

    /// Two slots exchange what they hold.
    pub(crate) fn exchange(&mut self, Exchange(a, b): Exchange) {
        let outcome = self.cache.exchange(&mut self.session, (a, b));
        self.note_loss(&outcome);
    }

    /// Whether no slot holds anything any more because a device failed to move what was there:
    /// whatever was under way can't go on. Says it once.
    pub(crate) fn take_loss(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// As if a device had failed to move what the slots hold.
    #[cfg(test)]
    pub(super) fn lose(&mut self) {
        let error = ort::Error::new("asked for by a test");
        self.note_loss(&Err(ForwardError::Run(error)));
    }

    fn note_loss(&mut self, outcome: &Result<(), ForwardError>) {
        if let Err(error @ ForwardError::Run(_)) = outcome {
            tracing::error!("the cache is lost: {error}");
            self.cache.forget();
            self.lost = true;
        }
    }

    /// Makes room for so many tokens in every slot.
    ///
    /// # Errors
    /// [`ForwardError`]; without memory, nothing has changed.
    pub(crate) fn reserve(&mut self, length: usize) -> Result<(), ForwardError> {
        let outcome = self.cache.reserve(&mut self.session, length);
        if !matches!(outcome, Ok(false)) {
            self.forget_bindings();
        }
        let outcome = outcome.map(|_moved| ());
        self.note_loss(&outcome);
        outcome
    }

    /// Gives memory back that no slot's tokens need.
    ///
    /// # Errors
    /// As [`Forward::reserve`].
    pub(crate) fn shrink(&mut self) -> Result<(), ForwardError> {
        self.forget_bindings();
        self.session.unbind_all();
        let outcome = self.cache.shrink(&mut self.session);
        self.note_loss(&outcome);
        outcome
    }

    fn forget_bindings(&mut self) {
        self.bindings.clear();
        if let Some(captured) = &mut self.captured {
            captured.forget();
        }
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
        if self.captured.is_some() {
            self.decode_captured(tokens, &lengths)?;
        } else if self.ragged || lengths.iter().all(|length| *length == lengths[0]) {
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
        let (block, place) = match &self.fetched {
            None => (block, row * self.positions + self.positions - 1),
            Some(fetched) => (fetched, row),
        };
        let start = place * vocabulary;
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
        self.fetch(logits_row..logits_row + lengths.len())?;
        Ok(())
    }

    /// Brings the last logits of these rows from a device's memory, and no others: those of a prompt's
    /// every position may be a hundred megabytes, of which one row is read.
    fn fetch(&mut self, rows: std::ops::Range<usize>) -> ort::Result<()> {
        let Some(fetched) = self.fetched else {
            return Ok(());
        };
        let (Logits { vocabulary, element, .. }, block) = &self.logits;
        let bytes = vocabulary * element_bytes(*element);
        let (block, positions) = (*block, self.positions);
        let carry = |from: usize, to: usize, count: usize| Carry {
            from: (block, from * bytes),
            to: (fetched, to * bytes),
            bytes: count * bytes,
        };
        if positions == 1 {
            return self.session.carry([carry(rows.start, rows.start, rows.len())]);
        }
        self.session.carry(rows.map(|row| carry(row * positions + positions - 1, row, 1)))
    }

    fn binding(&mut self, slots: (usize, usize)) -> ort::Result<BindingId> {
        if let Some(&binding) = self.bindings.get(&slots) {
            if self.rebound {
                self.cache.bind(&mut self.session, binding, slots)?;
            }
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
