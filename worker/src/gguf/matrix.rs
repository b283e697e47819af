//! A matrix as the graph wants it: rows of one or more tensors, one under the other, decoded.
//!
//! The encoders ask for rows. Row order, gains and the change of basis are applied here, so that no
//! encoder knows of them. It decodes a few rows at a time and never a whole matrix.

use std::sync::Arc;

use super::{
    basis::{Basis, spread},
    decode::decode,
    reader::GgufFile,
    tensor::Tensor,
};

/// Rows of one tensor.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) tensor: Tensor,
    /// The head size, where the file has the two halves of each head's rows next to each other.
    pub(super) paired_head: Option<usize>,
    /// How many rows at a time are mixed among themselves, if any.
    pub(super) spread: Option<usize>,
}

/// Which side of a matrix meets the residual stream in its other basis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    Inputs,
    Outputs,
}

/// `[outputs, inputs]`, as GGUF has it: a row for each output.
#[derive(Debug, Clone)]
pub(super) struct Matrix<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) parts: Vec<Part>,
    pub(super) inputs: usize,
    /// The gain of the norm before, folded into the inputs.
    pub(super) gain: Option<Vec<f32>>,
    pub(super) basis: Option<Arc<Basis>>,
    pub(super) turn: Turn,
    /// How many inputs at a time come mixed among themselves, if any; only with `Turn::Outputs`.
    pub(super) spread: Option<usize>,
}

impl Matrix<'_> {
    pub(super) fn outputs(&self) -> usize {
        self.parts.iter().map(|part| part.tensor.shape[1]).sum()
    }

    /// The bytes of row `index` as they stand in the file, with the tensor they belong to.
    pub(super) fn raw_row(&self, index: usize) -> (&Tensor, &[u8]) {
        let mut row = index;
        for (number, part) in self.parts.iter().enumerate() {
            let rows = part.tensor.shape[1];
            if row < rows {
                return self.raw_row_of(number, row);
            }
            row -= rows;
        }
        unreachable!("callers count rows by `outputs`")
    }

    /// As [`Matrix::raw_row`], of row `row` of part `number`.
    pub(super) fn raw_row_of(&self, number: usize, row: usize) -> (&Tensor, &[u8]) {
        let part = &self.parts[number];
        let at = part.paired_head.map_or(row, |head| paired(row, head));
        let bytes = part.tensor.kind.row_bytes(self.inputs);
        (&part.tensor, &self.file.data(&part.tensor)[at * bytes..][..bytes])
    }

    /// Decodes row `index` into `out`, `[inputs]`, with the gain and the basis of its inputs.
    pub(super) fn row(&self, index: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
        let (tensor, bytes) = self.raw_row(index);
        decode(tensor.kind, bytes, out);
        if let Some(gain) = &self.gain {
            out.iter_mut().zip(gain).for_each(|(x, gain)| *x *= gain);
        }
        if let (Some(basis), Turn::Inputs) = (&self.basis, self.turn) {
            basis.turn_row(out, scratch);
        }
    }

    /// Decodes rows from `first` on into `tile`, `[rows, inputs]`, as [`Matrix::row`] does, and mixes
    /// those that are to be mixed: `first` and the number of rows don't cut a group.
    pub(super) fn rows(&self, first: usize, tile: &mut [f32], scratch: &mut Vec<f32>) {
        let inputs = self.inputs;
        for (index, row) in (first..).zip(tile.chunks_exact_mut(inputs)) {
            self.row(index, row, scratch);
        }
        let (mut start, end) = (0, first + tile.len() / inputs);
        for part in &self.parts {
            let next = start + part.tensor.shape[1];
            let (from, to) = (start.max(first), next.min(end));
            if let Some(group) = part.spread
                && from < to
            {
                let rows = (from - first) * inputs..(to - first) * inputs;
                spread(&mut tile[rows], group, inputs);
            }
            start = next;
        }
    }

    /// How wide a strip of columns is decoded at once: whole blocks of every part.
    pub(super) fn strip(&self) -> usize {
        let block = self.parts.iter().map(|part| part.tensor.kind.block());
        let block = block.chain(self.spread).fold(32, usize::max);
        // 256 columns of a few thousand rows fit a core's cache.
        [256, block].into_iter().find(|width| self.inputs.is_multiple_of(*width)).unwrap_or(block)
    }

    /// Decodes columns `at..at + width` of every row into `tile`, `[outputs, width]`, with the basis
    /// of its outputs.
    pub(super) fn columns(
        &self,
        at: usize,
        width: usize,
        tile: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        for (index, row) in tile.chunks_exact_mut(width).enumerate() {
            let (tensor, bytes) = self.raw_row(index);
            let (from, len) = (tensor.kind.row_bytes(at), tensor.kind.row_bytes(width));
            decode(tensor.kind, &bytes[from..from + len], row);
            if let Some(group) = self.spread {
                spread(row, group, 1);
            }
        }
        if let Some(basis) = &self.basis {
            basis.turn_columns(tile, width, scratch);
        }
    }
}

/// Where the file has row `row` of a head whose halves were put next to each other.
fn paired(row: usize, head: usize) -> usize {
    let (start, within) = (row / head * head, row % head);
    let half = head / 2;
    start + if within < half { 2 * within } else { 2 * (within - half) + 1 }
}

/// Puts the elements of a bias in the order of the rows.
pub(super) fn unpair(values: &mut [f32], head: usize) {
    let stored = values.to_vec();
    values.iter_mut().enumerate().for_each(|(row, x)| *x = stored[paired(row, head)]);
}

#[cfg(test)]
mod tests {
    use super::paired;

    #[test]
    fn paired_rows_come_back_as_halves() {
        let order: Vec<usize> = (0..8).map(|row| paired(row, 4)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
