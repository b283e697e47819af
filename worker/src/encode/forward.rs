//! One forward pass of an encoder: rows of tokens in, one vector for each out.

use std::borrow::Cow;
use std::fmt;

use half::f16;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor};

use super::interface::{Feed, Input, Integer, Interface, OutputKind};
use super::pooling::pool;
use crate::model::Pooling;
use crate::runtime::one_line;

/// Why a forward pass failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    /// ONNX Runtime refused or failed.
    #[error("ONNX Runtime: {}", one_line(.0.message()))]
    Run(#[from] ort::Error),
    /// What came out has not the shape that the graph promised.
    #[error("the model's output has the shape {0:?}")]
    Shape(Vec<i64>),
}

/// One row of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) ids: &'a [u32],
    /// Empty where all tokens belong to one text.
    pub(super) types: &'a [u32],
}

/// An encoder's session.
pub(crate) struct Forward {
    session: Session,
    interface: Interface,
    options: RunOptions<HasSelectedOutputs>,
    pooling: Pooling,
    pad: u32,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("interface", &self.interface).finish_non_exhaustive()
    }
}

impl Forward {
    /// Prepares a session to be run.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub(super) fn new(
        session: Session,
        interface: Interface,
        pooling: Pooling,
        pad: u32,
    ) -> ort::Result<Self> {
        // A decoder that embeds gives a cache too, which nobody wants.
        let wanted = OutputSelector::no_default().with(&interface.output.name);
        let options = RunOptions::new()?.with_outputs(wanted);
        Ok(Self { session, interface, options, pooling, pad })
    }

    /// Whether runs take one row only.
    pub(super) fn one_row(&self) -> bool {
        self.interface.one_row
    }

    /// Runs the rows together; gives a vector for each, or one number as a vector of one.
    ///
    /// Blocks for one forward pass.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub(super) fn run(&mut self, rows: &[Row<'_>]) -> Result<Vec<Vec<f32>>, EncodeError> {
        let width = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let mut inputs = Vec::new();
        for Input { name, feed } in &self.interface.inputs {
            let value = tensor_for(*feed, rows, (width, self.pad))?;
            inputs.push((Cow::Borrowed(name.as_str()), SessionInputValue::Owned(value)));
        }
        let outputs = self.session.run_with_options(inputs, &self.options)?;
        let output = &outputs[self.interface.output.name.as_str()];
        let (shape, numbers) = numbers(output)?;
        let expected = match self.interface.output.kind {
            OutputKind::Tokens => rows.len() * width,
            OutputKind::Sentences | OutputKind::Scores => rows.len(),
        };
        let size = numbers.len() / expected.max(1);
        let is_score = self.interface.output.kind == OutputKind::Scores;
        if size == 0 || size * expected != numbers.len() || is_score && size != 1 {
            return Err(EncodeError::Shape(shape));
        }
        Ok(match self.interface.output.kind {
            OutputKind::Sentences | OutputKind::Scores => {
                numbers.chunks_exact(size).map(<[f32]>::to_vec).collect()
            }
            OutputKind::Tokens => {
                let hidden = numbers.chunks_exact(width * size).zip(rows);
                let pooled =
                    hidden.map(|(hidden, row)| pool(self.pooling, hidden, size, row.ids.len()));
                pooled.collect()
            }
        })
    }
}

/// Shape and values of a tensor of floats.
fn numbers(value: &DynValue) -> ort::Result<(Vec<i64>, Cow<'_, [f32]>)> {
    if let Ok((shape, numbers)) = value.try_extract_tensor::<f32>() {
        return Ok((shape.to_vec(), Cow::Borrowed(numbers)));
    }
    let (shape, numbers) = value.try_extract_tensor::<f16>()?;
    Ok((shape.to_vec(), Cow::Owned(numbers.iter().map(|number| number.to_f32()).collect())))
}

fn tensor_for(feed: Feed, rows: &[Row<'_>], (width, pad): (usize, u32)) -> ort::Result<DynValue> {
    let token = |row: &Row<'_>, place: usize| row.ids.get(place).copied();
    match feed {
        Feed::Ids(integer) => {
            matrix(integer, rows, width, |row, place| token(row, place).unwrap_or(pad))
        }
        Feed::Mask(integer) => {
            matrix(integer, rows, width, |row, place| u32::from(place < row.ids.len()))
        }
        Feed::Types(integer) => {
            matrix(integer, rows, width, |row, place| row.types.get(place).copied().unwrap_or(0))
        }
        Feed::Positions(integer) => {
            matrix(integer, rows, width, |_row, place| u32::try_from(place).unwrap_or(u32::MAX))
        }
        Feed::EmptyCache { half, heads, head_size } => {
            let shape = [rows.len(), heads, 0, head_size];
            if half {
                Ok(Tensor::from_array((shape, Vec::<f16>::new()))?.into_dyn())
            } else {
                Ok(Tensor::from_array((shape, Vec::<f32>::new()))?.into_dyn())
            }
        }
    }
}

fn matrix(
    integer: Integer,
    rows: &[Row<'_>],
    width: usize,
    value: impl Fn(&Row<'_>, usize) -> u32,
) -> ort::Result<DynValue> {
    let value = &value;
    let values = rows.iter().flat_map(|row| (0..width).map(move |place| value(row, place)));
    let shape = [rows.len(), width];
    match integer {
        Integer::I64 => tensor(shape, values.map(i64::from).collect()),
        // No token's id and no length is as large as that.
        Integer::I32 => {
            tensor(shape, values.map(|value| i32::try_from(value).unwrap_or(i32::MAX)).collect())
        }
    }
}

fn tensor<T: PrimitiveTensorElementType + fmt::Debug + Clone + 'static>(
    shape: [usize; 2],
    values: Vec<T>,
) -> ort::Result<DynValue> {
    Ok(Tensor::from_array((shape, values))?.into_dyn())
}
