//! Packed matrices as operators of an ONNX graph.
//!
//! The hand-over registers [`domain`] with a session; the graph's nodes name a matrix by its number.
//! [`PRODUCT`]: f32 `[…, inputs]` → f32 `[…, outputs]`. [`LOOKUP`]: i64 `[…]` → f32 `[…, inputs]`, a row
//! of the matrix for each number. The work is shared out over the session's own threads.
#![expect(unsafe_code, reason = "threads write disjoint places of one output")]

use std::sync::{Arc, Mutex, PoisonError};

use ort::{
    Error,
    operator::{
        BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput,
        OperatorOutput,
    },
    value::TensorElementType,
};

use super::{BLOCK, Finish, Group, Packed, Processor, ROWS, activation::Block};

/// The domain of both operators.
pub(in crate::gguf) const DOMAIN: &str = "hearth";
/// A matrix product.
pub(in crate::gguf) const PRODUCT: &str = "Product";
/// Rows of a matrix.
pub(in crate::gguf) const LOOKUP: &str = "Lookup";
/// The attribute that says which matrix.
pub(in crate::gguf) const MATRIX: &str = "matrix";

/// Rows that are multiplied side by side: more would not fit the registers.
const TILE: usize = 4;
/// Tasks for each thread, so that one that is late holds nobody up for long.
const TASKS: usize = 4;
/// Rows from which on it pays to share out the rounding too.
const SHARED_ROUNDING: usize = 16;

/// The operators over `matrices`, for a session of `threads` threads.
///
/// # Errors
/// ONNX Runtime's, if it takes no operators.
pub(in crate::gguf) fn domain(
    processor: Processor,
    matrices: Vec<Packed>,
    threads: usize,
) -> Result<OperatorDomain, Error> {
    let matrices: Arc<[Arc<Packed>]> = matrices.into_iter().map(Arc::new).collect();
    let scratch = Arc::default();
    let product = Product { processor, matrices: Arc::clone(&matrices), threads, scratch };
    OperatorDomain::new(DOMAIN)?.add(product)?.add(Lookup { matrices })
}

fn chosen(matrices: &[Arc<Packed>], context: &KernelContext<'_>) -> Result<Arc<Packed>, Error> {
    let index: Option<i64> = context.get(MATRIX);
    let index = index.and_then(|index| usize::try_from(index).ok());
    let found = index.and_then(|index| matrices.get(index)).map(Arc::clone);
    found.ok_or_else(|| Error::new("a node names no packed matrix"))
}

struct Product {
    processor: Processor,
    matrices: Arc<[Arc<Packed>]>,
    threads: usize,
    /// Rounded rows. One for all nodes: they run one after the other.
    scratch: Arc<Mutex<Vec<Block>>>,
}

impl Operator for Product {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        PRODUCT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> Result<Self::Kernel<'attr>, Error> {
        let packed = chosen(&self.matrices, context)?;
        let (processor, tasks) = (self.processor, self.threads * TASKS);
        let scratch = Arc::clone(&self.scratch);
        Ok(Box::new(move |context: &ComputeContext| {
            let mut blocks = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            product(processor, &packed, tasks, &mut blocks, context)
        }))
    }
}

fn product(
    processor: Processor,
    packed: &Packed,
    tasks: usize,
    blocks: &mut Vec<Block>,
    context: &ComputeContext,
) -> Result<(), Error> {
    let missing = || Error::new("a product without an input or output");
    let input = context.input(0)?.ok_or_else(missing)?;
    let (shape, input) = input.try_extract_tensor::<f32>()?;
    let (groups, outputs) = (packed.groups_out(), packed.groups_out() * ROWS);
    let mut shape = shape.to_vec();
    match shape.last_mut() {
        Some(last) if *last == packed.inputs() as i64 => *last = outputs as i64,
        _ => return Err(Error::new("a product's input has another width than its matrix")),
    }
    let rows = input.len() / packed.inputs();
    blocks.clear();
    blocks.resize(rows * packed.blocks, Block::default());
    round(processor, input, (packed.blocks, blocks), context)?;
    let mut output = context.output(0, shape)?.ok_or_else(missing)?;
    let (_, output) = output.try_extract_tensor_mut::<f32>()?;
    let output = Output::of(output);
    let per_task = groups.div_ceil(tasks);
    context.par_for(groups.div_ceil(per_task), 0, |task| {
        let groups = task * per_task..((task + 1) * per_task).min(groups);
        for group in groups {
            let at = |row: usize| row * outputs + group * ROWS;
            multiply(processor, packed, group, blocks, |row, values| {
                // SAFETY: no other task has this group, and no group's places are another's.
                unsafe { output.write(at(row), values) }
            });
        }
    })
}

/// Rounds every row, on several threads where that pays.
fn round(
    processor: Processor,
    input: &[f32],
    (row, blocks): (usize, &mut [Block]),
    context: &ComputeContext,
) -> Result<(), Error> {
    if blocks.len() < SHARED_ROUNDING * row {
        processor.round(input, blocks);
        return Ok(());
    }
    let each = SHARED_ROUNDING * row;
    let chunks = input.chunks(each * BLOCK).zip(blocks.chunks_mut(each));
    let chunks: Vec<_> = chunks.map(|(from, to)| Mutex::new((from, to))).collect();
    context.par_for(chunks.len(), 0, |task| {
        let mut chunk = chunks[task].lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = &mut *chunk;
        processor.round(from, to);
    })
}

/// Outputs of group `index` for every row, given to `put` with the row's number.
pub(super) fn multiply(
    processor: Processor,
    packed: &Packed,
    index: usize,
    blocks: &[Block],
    put: impl Fn(usize, [f32; ROWS]),
) {
    let first = packed.group(index);
    let second = match packed.finish {
        Finish::Plain => None,
        Finish::Gated => Some(packed.group(packed.groups() / 2 + index)),
    };
    let mut row = 0;
    let mut rest = blocks;
    while !rest.is_empty() {
        let left = rest.len() / packed.blocks;
        let count = if left >= TILE { TILE } else { left.min(2) };
        let (now, later) = rest.split_at(count * packed.blocks);
        let parts = |i: usize| &now[i * packed.blocks..][..packed.blocks];
        match count {
            TILE => {
                tile(
                    processor,
                    (first, second),
                    std::array::from_fn::<_, TILE, _>(parts),
                    row,
                    &put,
                );
            }
            2 => tile(processor, (first, second), [parts(0), parts(1)], row, &put),
            _ => tile(processor, (first, second), [parts(0)], row, &put),
        }
        (rest, row) = (later, row + count);
    }
}

fn tile<const M: usize>(
    processor: Processor,
    (first, second): (Group<'_>, Option<Group<'_>>),
    rows: [&[Block]; M],
    row: usize,
    put: &impl Fn(usize, [f32; ROWS]),
) {
    let mut outputs = processor.multiply(first, rows);
    if let Some(second) = second {
        let ups = processor.multiply(second, rows);
        outputs.iter_mut().zip(ups).for_each(|(gate, up)| processor.gate(gate, &up));
    }
    outputs.into_iter().enumerate().for_each(|(i, values)| put(row + i, values));
}

/// An output that several threads write at once.
struct Output {
    start: *mut f32,
    len: usize,
}

// SAFETY: it is written only through `write`, whose callers keep to different places.
unsafe impl Sync for Output {}
// SAFETY: as for `Sync`.
unsafe impl Send for Output {}

impl Output {
    fn of(values: &mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len() }
    }

    /// Writes `values` from `at` on.
    ///
    /// # Safety
    /// Nobody writes the same places at the same time, and the slice still lives.
    unsafe fn write(&self, at: usize, values: [f32; ROWS]) {
        assert!(at + ROWS <= self.len, "a group outside of its output");
        // SAFETY: it is within the slice, and the caller's alone.
        unsafe { self.start.add(at).cast::<[f32; ROWS]>().write_unaligned(values) }
    }
}

struct Lookup {
    matrices: Arc<[Arc<Packed>]>,
}

impl Operator for Lookup {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        LOOKUP
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Int64)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> Result<Self::Kernel<'attr>, Error> {
        let packed = chosen(&self.matrices, context)?;
        Ok(Box::new(move |context: &ComputeContext| {
            let missing = || Error::new("a lookup without an input or output");
            let numbers = context.input(0)?.ok_or_else(missing)?;
            let (shape, numbers) = numbers.try_extract_tensor::<i64>()?;
            let mut shape = shape.to_vec();
            shape.push(packed.inputs() as i64);
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
