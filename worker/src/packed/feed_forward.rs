//! A gated feed-forward layer as one operator: sum, norm, gate and up, and down.
//!
//! One node for what would be six. What gate and up make is rounded by the thread that made it,
//! block by block, and is never written as numbers.
#![expect(unsafe_code, reason = "threads write disjoint places of one output")]

use std::sync::PoisonError;

use ort::{
    Error,
    operator::{
        BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput,
    },
};

use super::{
    BLOCK, Packed, ROWS,
    activation::Block,
    operator::{FLOATS, FLOATS_OUT, MATRIX, Table, cleared, missing, multiply, normed, reshaped},
    rows::Places,
};

/// The operator.
pub(crate) const FEED_FORWARD: &str = "FeedForward";
/// The attribute that says which matrix is the second; [`MATRIX`] is gate and up, one over the other.
pub(crate) const DOWN: &str = "down";

/// Groups whose outputs are one block.
const GROUPS: usize = BLOCK / ROWS;

pub(super) struct FeedForward(pub(super) Table);

impl Operator for FeedForward {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        FEED_FORWARD
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
        let (both, down) = (self.0.matrix(context, MATRIX)?, self.0.matrix(context, DOWN)?);
        let (norm, table) = (self.0.norm(context)?, self.0.clone());
        if both.outputs() != 2 * down.inputs() {
            return Err(Error::new("gate and up don't make what down takes"));
        }
        Ok(Box::new(move |context: &ComputeContext| {
            let mut scratch = table.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let scratch = &mut *scratch;
            let shape = normed(&table, &norm, &mut scratch.inputs, context)?;
            let shape = reshaped(&shape, both.inputs(), down.outputs())?;
            let mut output = context.output(0, shape)?.ok_or_else(missing)?;
            let (_, output) = output.try_extract_tensor_mut::<f32>()?;
            let rows = output.len() / down.outputs();
            let hidden = cleared(&mut scratch.hidden, rows * down.blocks);
            gated(&table, &both, &scratch.inputs[..rows * both.blocks], hidden, context)?;
            table.multiply(&down, hidden, output, context)
        }))
    }
}

/// `silu(gate) × up`, rounded.
pub(super) fn gated(
    table: &Table,
    both: &Packed,
    inputs: &[Block],
    hidden: &mut [Block],
    context: &ComputeContext,
) -> Result<(), Error> {
    let half = both.groups() / 2;
    let (blocks, hidden) = (half / GROUPS, Places::of(hidden));
    table.share(context, blocks, |block| {
        let first = block * GROUPS;
        let gates = std::array::from_fn::<_, GROUPS, _>(|i| both.group(first + i));
        let ups = std::array::from_fn::<_, GROUPS, _>(|i| both.group(half + first + i));
        let groups = std::array::from_fn::<_, { 2 * GROUPS }, _>(|i| {
            if i < GROUPS { gates[i] } else { ups[i - GROUPS] }
        });
        multiply(table.processor, groups, both.blocks, inputs, |row, mut values| {
            let (gates, ups) = values.split_at_mut(GROUPS);
            gates.iter_mut().zip(ups).for_each(|(gate, up)| table.processor.gate(gate, up));
            // SAFETY: no other task has this block, and no block's place is another's.
            let place = unsafe { hidden.take(row * blocks + block, 1) };
            table.processor.round(gates.as_flattened(), place);
        });
    })
}
