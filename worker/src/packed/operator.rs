//! Packed matrices as operators of an ONNX graph.
//!
//! Who hands a graph over [`register`]s them with its session; the graph's nodes name a matrix by its
//! number.
//! `…` stands for any dimensions, the same everywhere; all values are f32 but tokens.
//!
//! | operator | inputs | outputs |
//! |---|---|---|
//! | [`LOOKUP`] | tokens i64 `[…]` | their rows `[…, inputs]` |
//! | [`PRODUCT`] | `[…, inputs]` | `[…, outputs]` |
//! | [`NORMED_PRODUCT`] | two to be added and normed, `[…, inputs]` | `[…, outputs]`, the sum |
//! | [`FEED_FORWARD`](super::feed_forward) | as before | `down × (silu(gate × x) · up × x)`, the sum |
#![expect(unsafe_code, reason = "threads write disjoint places of one output")]

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use ort::{
    Error,
    operator::{
        BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput,
        OperatorOutput,
    },
    session::builder::SessionBuilder,
    value::TensorElementType,
};

use super::{
    Group, Packed, Processor, ROWS,
    activation::Block,
    feed_forward::FeedForward,
    rows::{self, Norm, Places},
};

/// The domain of the operators.
pub(crate) const DOMAIN: &str = "hearth";
/// Rows of a matrix.
pub(crate) const LOOKUP: &str = "Lookup";
/// A matrix product.
pub(crate) const PRODUCT: &str = "Product";
/// A sum, its norm, and a product.
pub(crate) const NORMED_PRODUCT: &str = "NormedProduct";
/// The attribute that says which matrix.
pub(crate) const MATRIX: &str = "matrix";
/// The attribute that says which norm.
pub(crate) const NORM: &str = "norm";

/// Rows that are multiplied side by side: more would not fit the registers.
const TILE: usize = 4;
/// Tasks for each thread, so that one that is late holds nobody up for long.
const TASKS: usize = 4;

/// What the operators work with. All nodes of a session share it.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) processor: Processor,
    matrices: Arc<[Arc<Packed>]>,
    norms: Arc<[Arc<Norm>]>,
    /// Tasks in a product.
    tasks: usize,
    /// Rounded rows. One for all nodes: they run one after the other.
    pub(super) scratch: Arc<Mutex<Scratch>>,
}

/// Rounded rows of the node that runs.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) inputs: Vec<Block>,
    pub(super) hidden: Vec<Block>,
}

/// Gives `builder` the operators over `matrices` and `norms`, for a session of `threads` threads.
///
/// # Errors
/// ONNX Runtime's, if it takes no operators.
pub(crate) fn register(
    builder: SessionBuilder,
    processor: Processor,
    (matrices, norms): (Vec<Packed>, Vec<Norm>),
    threads: NonZeroUsize,
) -> Result<SessionBuilder, Error> {
    let table = Table {
        processor,
        matrices: matrices.into_iter().map(Arc::new).collect(),
        norms: norms.into_iter().map(Arc::new).collect(),
        tasks: threads.get() * TASKS,
        scratch: Arc::default(),
    };
    let domain = OperatorDomain::new(DOMAIN)?
        .add(Lookup(table.clone()))?
        .add(Product(table.clone()))?
        .add(NormedProduct(table.clone()))?
        .add(FeedForward(table))?;
    builder.with_operators(domain).map_err(Into::into)
}

impl Table {
    /// The matrix that a node names by `attribute`.
    pub(super) fn matrix(
        &self,
        context: &KernelContext<'_>,
        attribute: &str,
    ) -> Result<Arc<Packed>, Error> {
        chosen(&self.matrices, context, attribute)
    }

    pub(super) fn norm(&self, context: &KernelContext<'_>) -> Result<Arc<Norm>, Error> {
        chosen(&self.norms, context, NORM)
    }

    /// Runs `each` for every number below `count`, a few at a time, over the session's threads.
    pub(super) fn share(
        &self,
        context: &ComputeContext,
        count: usize,
        each: impl Fn(usize) + Send + Sync,
    ) -> Result<(), Error> {
        let per_task = count.div_ceil(self.tasks).max(1);
        context.par_for(count.div_ceil(per_task), 0, |task| {
            (task * per_task..((task + 1) * per_task).min(count)).for_each(&each);
        })
    }

    /// The product of rounded rows with a whole matrix.
    pub(super) fn multiply(
        &self,
        packed: &Packed,
        inputs: &[Block],
        output: &mut [f32],
        context: &ComputeContext,
    ) -> Result<(), Error> {
        let (groups, output) = (packed.groups(), Places::of(output));
        self.share(context, groups, |index| {
            let group = packed.group(index);
            multiply(self.processor, [group], packed.blocks, inputs, |row, [values]| {
                // SAFETY: no other task has this group, and no group's places are another's.
                let places = unsafe { output.take((row * groups + index) * ROWS, ROWS) };
                places.copy_from_slice(&values);
            });
        })
    }
}

fn chosen<T>(
    all: &[Arc<T>],
    context: &KernelContext<'_>,
    attribute: &str,
) -> Result<Arc<T>, Error> {
    let index: Option<i64> = context.get(attribute);
    let index = index.and_then(|index| usize::try_from(index).ok());
    let found = index.and_then(|index| all.get(index)).map(Arc::clone);
    found.ok_or_else(|| Error::new(format!("a node's attribute `{attribute}` names nothing")))
}

/// Outputs of groups that are computed together for every row, given to `put` with the row's number.
pub(super) fn multiply<const N: usize>(
    processor: Processor,
    groups: [Group<'_>; N],
    blocks: usize,
    inputs: &[Block],
    put: impl Fn(usize, [[f32; ROWS]; N]),
) {
    let (mut row, mut rest) = (0, inputs);
    while !rest.is_empty() {
        let left = rest.len() / blocks;
        let count = if left >= TILE { TILE } else { left.min(2) };
        let (now, later) = rest.split_at(count * blocks);
        let part = |i: usize| &now[i * blocks..][..blocks];
        match count {
            TILE => {
                let rows = std::array::from_fn::<_, TILE, _>(part);
                tile(processor, groups, rows, row, &put);
            }
            2 => tile(processor, groups, [part(0), part(1)], row, &put),
            _ => tile(processor, groups, [part(0)], row, &put),
        }
        (rest, row) = (later, row + count);
    }
}

fn tile<const M: usize, const N: usize>(
    processor: Processor,
    groups: [Group<'_>; N],
    rows: [&[Block]; M],
    first_row: usize,
    put: &impl Fn(usize, [[f32; ROWS]; N]),
) {
    let mut outputs = [[[0.0; ROWS]; N]; M];
    for (n, group) in groups.into_iter().enumerate() {
        let values = processor.multiply(group, rows);
        outputs.iter_mut().zip(values).for_each(|(output, values)| output[n] = values);
    }
    outputs.into_iter().enumerate().for_each(|(i, values)| put(first_row + i, values));
}

pub(super) fn missing() -> Error {
    Error::new("a node of ours without an input or output")
}

/// `shape` with its last dimension, which has to be `inputs`, made `outputs`.
pub(super) fn reshaped(shape: &[i64], inputs: usize, outputs: usize) -> Result<Vec<i64>, Error> {
    match shape.split_last() {
        Some((&last, rest)) if usize::try_from(last) == Ok(inputs) => {
            Ok(rest.iter().copied().chain([outputs as i64]).collect())
        }
        _ => Err(Error::new("a product's input has another width than its matrix")),
    }
}

pub(super) const FLOATS: OperatorInput = OperatorInput::required(TensorElementType::Float32);
pub(super) const FLOATS_OUT: OperatorOutput = OperatorOutput::required(TensorElementType::Float32);

struct Product(Table);

impl Operator for Product {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        PRODUCT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [FLOATS_OUT]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> Result<Self::Kernel<'attr>, Error> {
        let (packed, table) = (self.0.matrix(context, MATRIX)?, self.0.clone());
        Ok(Box::new(move |context: &ComputeContext| {
            let input = context.input(0)?.ok_or_else(missing)?;
            let (shape, input) = input.try_extract_tensor::<f32>()?;
            let shape = reshaped(shape, packed.inputs(), packed.outputs())?;
            let mut output = context.output(0, shape)?.ok_or_else(missing)?;
            let (_, output) = output.try_extract_tensor_mut::<f32>()?;
            let mut scratch = table.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let inputs = cleared(&mut scratch.inputs, input.len() / super::BLOCK);
            rows::round(table.processor, input, (packed.blocks, inputs), context)?;
            table.multiply(&packed, inputs, output, context)
        }))
    }
}

/// A vector of `len` blocks with anything in them.
pub(super) fn cleared(blocks: &mut Vec<Block>, len: usize) -> &mut [Block] {
    if blocks.len() < len {
        blocks.resize(len, Block::default());
    }
    &mut blocks[..len]
}

struct NormedProduct(Table);

impl Operator for NormedProduct {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        NORMED_PRODUCT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS, FLOATS]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [FLOATS_OUT, FLOATS_OUT]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> Result<Self::Kernel<'attr>, Error> {
        let (packed, norm) = (self.0.matrix(context, MATRIX)?, self.0.norm(context)?);
        let table = self.0.clone();
        Ok(Box::new(move |context: &ComputeContext| {
            let mut scratch = table.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let shape = normed(&table, &norm, &mut scratch.inputs, context)?;
            let inputs = &scratch.inputs[..];
            let shape = reshaped(&shape, packed.inputs(), packed.outputs())?;
            let mut output = context.output(0, shape)?.ok_or_else(missing)?;
            let (_, output) = output.try_extract_tensor_mut::<f32>()?;
            let inputs = &inputs[..output.len() / packed.outputs() * packed.blocks];
            table.multiply(&packed, inputs, output, context)
        }))
    }
}

/// Adds both inputs, writes the second output and the rounded norm; gives the shape of all of them.
pub(super) fn normed(
    table: &Table,
    norm: &Norm,
    to: &mut Vec<Block>,
    context: &ComputeContext,
) -> Result<Vec<i64>, Error> {
    let left = context.input(0)?.ok_or_else(missing)?;
    let right = context.input(1)?.ok_or_else(missing)?;
    let (shape, left) = left.try_extract_tensor::<f32>()?;
    let (other, right) = right.try_extract_tensor::<f32>()?;
    if shape != other {
        return Err(Error::new("two values that are to be added differ in shape"));
    }
    let shape = reshaped(shape, norm.gain.len(), norm.gain.len())?;
    let mut sums = context.output(1, shape.clone())?.ok_or_else(missing)?;
    let (_, sums) = sums.try_extract_tensor_mut::<f32>()?;
    let to = cleared(to, sums.len() / super::BLOCK);
    rows::norm(table.processor, (left, right), norm, (sums, to), context)?;
    Ok(shape)
}

struct Lookup(Table);

impl Operator for Lookup {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        LOOKUP
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Int64)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [FLOATS_OUT]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> Result<Self::Kernel<'attr>, Error> {
        let packed = self.0.matrix(context, MATRIX)?;
        Ok(Box::new(move |context: &ComputeContext| {
            let numbers = context.input(0)?.ok_or_else(missing)?;
            let (shape, numbers) = numbers.try_extract_tensor::<i64>()?;
            let shape: Vec<i64> = shape.iter().copied().chain([packed.inputs() as i64]).collect();
            let mut output = context.output(0, shape)?.ok_or_else(missing)?;
            let (_, output) = output.try_extract_tensor_mut::<f32>()?;
            let outside = || Error::new("a token outside of the vocabulary");
            for (number, row) in numbers.iter().zip(output.chunks_exact_mut(packed.inputs())) {
                let number = usize::try_from(*number).ok().filter(|n| n / ROWS < packed.groups());
                packed.look_up(number.ok_or_else(outside)?, row);
            }
            Ok(())
        }))
    }
}
