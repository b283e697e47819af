//! The tensors that the graph wants beside it: what each is made from, and the making.
//!
//! The graph lists them, the hand-over gives each its memory and runs [`Weight::pieces`] over a few
//! threads. Nothing is decoded before that.

use super::{
    encode,
    matrix::{Matrix, Turn},
};
use crate::{
    onnx::DataType,
    pieces::{PIECE_ELEMENTS, Piece},
};

/// One tensor's name and size.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) kind: DataType,
    pub(super) shape: Vec<usize>,
}

impl Slot {
    /// How long its data are.
    pub(super) fn bytes(&self) -> usize {
        let element = match self.kind {
            DataType::Undefined => 0,
            DataType::Uint8 | DataType::Int8 => 1,
            DataType::Float | DataType::Int32 => 4,
            DataType::Int64 => 8,
        };
        self.shape.iter().product::<usize>() * element
    }
}

/// One or two tensors that are made together.
#[derive(Debug)]
pub(super) struct Weight<'a> {
    pub(super) first: Slot,
    /// The scales, of what has some.
    pub(super) second: Option<Slot>,
    pub(super) work: Work<'a>,
}

/// How they are made.
#[derive(Debug)]
pub(super) enum Work<'a> {
    /// Quotients u8 and scales f32 by blocks.
    Blocks8(Matrix<'a>),
    /// Quotients packed two to a byte and scales f32 by blocks.
    Blocks4(Matrix<'a>),
    /// Quotients i8 `[inputs, outputs]` and scales f32 by output.
    Columns8(Matrix<'a>),
    /// f32 `[inputs, outputs]`.
    Floats(Matrix<'a>),
    /// f32 `[outputs, inputs]`.
    Table(Matrix<'a>),
    /// f32, ready.
    Vector(Vec<f32>),
}

type BlocksOf = fn(&Matrix<'_>, usize, &mut [u8], &mut [[u8; 4]]);

impl Weight<'_> {
    /// Cuts the making into pieces. `q` and `rest` are the bytes of the first slot and of the second.
    pub(super) fn pieces<'w>(&'w self, q: &'w mut [u8], rest: &'w mut [u8]) -> Vec<Piece<'w>> {
        let scales = rest.as_chunks_mut::<4>().0;
        match &self.work {
            Work::Blocks8(matrix) if matrix.turn == Turn::Outputs => {
                whole(matrix, move || encode::blocks8_by_columns(matrix, q, scales))
            }
            Work::Blocks8(matrix) => by_rows((matrix, encode::blocks8, matrix.inputs), q, scales),
            Work::Blocks4(matrix) => {
                by_rows((matrix, encode::blocks4, matrix.inputs / 2), q, scales)
            }
            Work::Columns8(matrix) => whole(matrix, move || encode::columns8(matrix, q, scales)),
            Work::Floats(matrix) => {
                let out = q.as_chunks_mut::<4>().0;
                whole(matrix, move || encode::floats(matrix, out))
            }
            Work::Table(matrix) => {
                let rows = rows_in_piece(matrix);
                let out = q.as_chunks_mut::<4>().0.chunks_mut(rows * matrix.inputs);
                let piece = |(index, out): (usize, &'w mut [[u8; 4]])| Piece {
                    elements: out.len(),
                    run: Box::new(move || encode::table(matrix, index * rows, out)),
                };
                out.enumerate().map(piece).collect()
            }
            Work::Vector(values) => {
                let out = q.as_chunks_mut::<4>().0.iter_mut();
                out.zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
                Vec::new()
            }
        }
    }
}

fn rows_in_piece(matrix: &Matrix<'_>) -> usize {
    (PIECE_ELEMENTS / matrix.inputs).max(1)
}

fn whole<'w>(matrix: &Matrix<'_>, run: impl FnOnce() + Send + 'w) -> Vec<Piece<'w>> {
    vec![Piece { elements: matrix.inputs * matrix.outputs(), run: Box::new(run) }]
}

fn by_rows<'w>(
    (matrix, encode, row_bytes): (&'w Matrix<'w>, BlocksOf, usize),
    q: &'w mut [u8],
    scales: &'w mut [[u8; 4]],
) -> Vec<Piece<'w>> {
    let rows = rows_in_piece(matrix);
    let blocks = matrix.inputs / encode::BLOCK;
    let chunks = q.chunks_mut(rows * row_bytes).zip(scales.chunks_mut(rows * blocks));
    let piece = |(index, (q, scales)): (usize, (&'w mut [u8], &'w mut [[u8; 4]]))| Piece {
        elements: scales.len() * encode::BLOCK,
        run: Box::new(move || encode(matrix, index * rows, q, scales)),
    };
    chunks.enumerate().map(piece).collect()
}
