//! Inputs that only some graphs have: positions, how many logits, whether there is a past.

use ort::value::TensorElementType;

use super::kv_cache::dimension;
use crate::runtime::bound::{BindingId, BlockId, BoundSession, OutOfMemory, View};
use crate::runtime::interface::Extras;

/// These inputs with their memory.
#[derive(Debug)]
pub(super) struct ExtraInputs {
    names: Extras,
    positions: BlockId,
    one: BlockId,
    has_past: BlockId,
}

impl ExtraInputs {
    /// Allocates what they need, for runs of at most so many tokens.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn new(
        session: &mut BoundSession,
        names: Extras,
        tokens_max: usize,
    ) -> Result<Self, OutOfMemory> {
        let positions = session.add_block(TensorElementType::Int64, tokens_max)?;
        let one = session.add_block(TensorElementType::Int64, 1)?;
        session.elements_mut::<i64>(one)[0] = 1;
        let has_past = session.add_block(TensorElementType::Bool, 1)?;
        Ok(Self { names, positions, one, has_past })
    }

    /// Writes and binds them for a run that gives each row `per_row` tokens, of which the rows
    /// then have `lengths`.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub(super) fn bind(
        &self,
        session: &mut BoundSession,
        binding: BindingId,
        (lengths, per_row): (&[usize], usize),
    ) -> ort::Result<()> {
        if let Some(name) = &self.names.position_ids {
            self.write(session, (lengths, per_row));
            let shape = [dimension(lengths.len()), dimension(per_row)];
            session.bind_input(binding, name, View::from_start(self.positions, &shape))?;
        }
        if let Some((name, shape)) = &self.names.logits_to_keep {
            session.bind_input(binding, name, View::from_start(self.one, shape))?;
        }
        if let Some(name) = &self.names.use_cache_branch {
            let has_past = lengths.iter().any(|&length| length > per_row);
            session.bytes_mut(self.has_past)[0] = u8::from(has_past);
            session.bind_input(binding, name, View::from_start(self.has_past, &[1]))?;
        }
        Ok(())
    }

    /// Where positions are written.
    pub(super) fn positions(&self) -> BlockId {
        self.positions
    }

    /// Writes the positions of a run that gives each row `per_row` tokens, of which the rows then have
    /// `lengths`.
    pub(super) fn write(&self, session: &mut BoundSession, (lengths, per_row): (&[usize], usize)) {
        let positions = session.elements_mut::<i64>(self.positions);
        // A row that is shorter than the input is a first prompt, padded at its end.
        for (row, &length) in positions.chunks_exact_mut(per_row).zip(lengths) {
            for (position, place) in row.iter_mut().zip(length.saturating_sub(per_row)..) {
                *position = dimension(place);
            }
        }
    }

    /// Binds what never changes its place; the positions are wherever `positions` says.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub(super) fn bind_fixed(
        &self,
        session: &mut BoundSession,
        binding: BindingId,
        positions: View<'_>,
    ) -> ort::Result<()> {
        if let Some(name) = &self.names.position_ids {
            session.bind_input(binding, name, positions)?;
        }
        if let Some((name, shape)) = &self.names.logits_to_keep {
            session.bind_input(binding, name, View::from_start(self.one, shape))?;
        }
        Ok(())
    }
}
