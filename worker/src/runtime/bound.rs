//! A session whose inputs and outputs live in memory of ours, bound once and used many times.
//!
//! Owns the session, every block of memory that it reads or writes, and the bindings between the
//! two; [`crate::generate`] decides what is bound where. The only unsafe code of the engine is here
//! and in the files below: ONNX Runtime is handed raw pointers into the blocks, and what keeps them
//! valid is that blocks, bindings and session are fields of one struct that never gives any of them
//! out.
//!
//! Tensors are made through the C interface and not with `TensorRef`: binding a borrowed tensor
//! copies it through a second session, whose lock the same tensor takes again.
#![expect(
    unsafe_code,
    reason = "ONNX Runtime takes raw pointers, and no safe call runs a binding in place"
)]

pub(crate) mod asked;
mod block;
mod mover;

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

use ort::memory::Allocator;
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, TensorElementType};
use ort::{AsPointer, Error, ErrorCode};

pub(crate) use block::{Block, Element, OutOfMemory, Place, element_bytes};
pub(crate) use mover::Device;

/// Names one block of a [`BoundSession`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockId(usize);

/// Names one binding of a [`BoundSession`]; void after [`BoundSession::unbind_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BindingId(usize);

/// Part of a block as a tensor: where it starts, in elements, and its shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) block: BlockId,
    pub(crate) start: usize,
    pub(crate) shape: &'a [i64],
}

impl<'a> View<'a> {
    /// The beginning of a block.
    pub(crate) fn from_start(block: BlockId, shape: &'a [i64]) -> Self {
        Self { block, start: 0, shape }
    }
}

/// Bytes that are to go from one place to another, offsets in bytes. Both may lie in one block, apart
/// from each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carry {
    pub(crate) from: (BlockId, usize),
    pub(crate) to: (BlockId, usize),
    pub(crate) bytes: usize,
}

/// A session with its memory and its bindings. Fields drop in order: bindings before memory, and
/// memory before what it came from.
pub(crate) struct BoundSession {
    bindings: Vec<IoBinding>,
    blocks: Vec<Block>,
    /// The memory of the device that it runs on, where that is used.
    device: Option<Device>,
    /// Of every run that is not captured.
    options: Option<RunOptions>,
    session: Session,
}

impl fmt::Debug for BoundSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundSession")
            .field("bindings", &self.bindings.len())
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

/// The run option by which a provider knows one captured graph from another.
const GRAPH_ID: &str = "gpu_graph_id";

impl BoundSession {
    pub(crate) fn new(session: Session, device: Option<Device>) -> Self {
        Self { bindings: Vec::new(), blocks: Vec::new(), device, options: None, session }
    }

    /// For a session that captures: its runs don't, but those that say so.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub(crate) fn capture_only_when_asked(&mut self) -> ort::Result<()> {
        let mut options = RunOptions::new()?;
        options.set(GRAPH_ID, "-1")?;
        self.options = Some(options);
        Ok(())
    }

    /// What the device's allocator holds, if there is one that counts.
    pub(crate) fn device_memory(&self) -> Option<asked::Held> {
        self.device.as_ref()?.held()
    }

    /// Adds a block of zeroes in our own memory.
    pub(crate) fn add_block(
        &mut self,
        element: TensorElementType,
        elements: usize,
    ) -> Result<BlockId, OutOfMemory> {
        self.add_block_in(Place::Host, element, elements)
    }

    /// Adds a block of zeroes.
    pub(crate) fn add_block_in(
        &mut self,
        place: Place,
        element: TensorElementType,
        elements: usize,
    ) -> Result<BlockId, OutOfMemory> {
        let block = self.block(place, element, elements)?;
        self.blocks.push(block);
        Ok(BlockId(self.blocks.len() - 1))
    }

    /// Adds a block of zeroes that is read here and written by the device.
    pub(crate) fn add_pinned_block(
        &mut self,
        element: TensorElementType,
        elements: usize,
    ) -> Result<BlockId, OutOfMemory> {
        let pinned = self.device.as_ref().and_then(|device| device.pinned.as_ref());
        let block = match pinned {
            Some(memory) => Block::allocated(memory, Place::Host, (element, elements))?,
            None => Block::zeroed(element, elements)?,
        };
        self.blocks.push(block);
        Ok(BlockId(self.blocks.len() - 1))
    }

    /// Makes a block of zeroes, for [`BoundSession::replace_block`].
    ///
    /// # Panics
    /// If it shall lie in a device's memory, and the session was given none.
    pub(crate) fn block(
        &mut self,
        place: Place,
        element: TensorElementType,
        elements: usize,
    ) -> Result<Block, OutOfMemory> {
        if place == Place::Host {
            return Block::zeroed(element, elements);
        }
        let device = self.device.as_mut().expect("only sessions with a device use its memory");
        let block = Block::allocated(&device.memory, place, (element, elements))?;
        let bytes = block.bytes;
        let zeroes = Block::zeroed(TensorElementType::Uint8, bytes.min(ZEROES_BYTES))?;
        // A device is handed few zeroes and copies them until there are enough.
        let mut zeroed = zeroes.bytes;
        let mut outcome = device.carry((&zeroes, 0), (&block, 0), zeroed);
        while outcome.is_ok() && zeroed < bytes {
            let more = zeroed.min(bytes - zeroed);
            outcome = device.carry((&block, 0), (&block, zeroed), more);
            zeroed += more;
        }
        // What fails here is the copying's own memory.
        outcome.map_err(|_error| OutOfMemory { bytes })?;
        Ok(block)
    }

    /// Puts `fresh` in the place of a block, with some of the old block's bytes: from where to where.
    /// Every binding goes first, because any may point into the old block.
    ///
    /// # Errors
    /// What ONNX Runtime says, only of blocks in a device's memory; not everything is kept then.
    pub(crate) fn replace_block(
        &mut self,
        id: BlockId,
        mut fresh: Block,
        kept: impl IntoIterator<Item = (Range<usize>, usize)>,
    ) -> ort::Result<()> {
        self.unbind_all();
        let old = &self.blocks[id.0];
        let mut outcome = Ok(());
        for (from, to) in kept {
            if (old.place(), fresh.place()) == (Place::Host, Place::Host) {
                let bytes = from.len();
                fresh.bytes_mut()[to..to + bytes].copy_from_slice(&old.bytes()[from]);
            } else if outcome.is_ok() {
                let device = self.device.as_mut().expect("there is a block of its memory");
                outcome = device.carry((old, from.start), (&fresh, to), from.len());
            }
        }
        self.blocks[id.0] = fresh;
        outcome
    }

    /// Carries bytes about, in this order.
    ///
    /// # Errors
    /// What ONNX Runtime says, only of blocks in a device's memory; targets then hold anything.
    pub(crate) fn carry(&mut self, all: impl IntoIterator<Item = Carry>) -> ort::Result<()> {
        for Carry { from: (from, start), to: (to, target), bytes } in all {
            let places = [from, to].map(|id| self.blocks[id.0].place());
            if places != [Place::Host, Place::Host] {
                let device = self.device.as_mut().expect("there is a block of its memory");
                let (from, to) = (&self.blocks[from.0], &self.blocks[to.0]);
                device.carry((from, start), (to, target), bytes)?;
            } else if from == to {
                self.bytes_mut(from).copy_within(start..start + bytes, target);
            } else {
                let (from, to) = self.bytes_of_two(from, to);
                to[target..target + bytes].copy_from_slice(&from[start..start + bytes]);
            }
        }
        Ok(())
    }

    /// The block's elements.
    ///
    /// # Panics
    /// If the block holds another type, or lies in a device's memory.
    pub(crate) fn elements<T: Element>(&self, id: BlockId) -> &[T] {
        self.blocks[id.0].elements()
    }

    /// The block's elements, to be written.
    ///
    /// # Panics
    /// If the block holds another type, or lies in a device's memory.
    pub(crate) fn elements_mut<T: Element>(&mut self, id: BlockId) -> &mut [T] {
        self.blocks[id.0].elements_mut()
    }

    /// The bytes of one block, to be read, and of another, to be written.
    ///
    /// # Panics
    /// If both are the same, or one lies in a device's memory.
    pub(crate) fn bytes_of_two(&mut self, from: BlockId, to: BlockId) -> (&[u8], &mut [u8]) {
        let both = self.blocks.get_disjoint_mut([from.0, to.0]);
        let [from, to] = both.expect("a block is not copied onto itself");
        (from.bytes(), to.bytes_mut())
    }

    /// The block's bytes, to be moved about.
    ///
    /// # Panics
    /// If the block lies in a device's memory.
    pub(crate) fn bytes_mut(&mut self, id: BlockId) -> &mut [u8] {
        self.blocks[id.0].bytes_mut()
    }

    /// Adds a binding with nothing bound.
    pub(crate) fn add_binding(&mut self) -> ort::Result<BindingId> {
        self.bindings.push(self.session.create_binding()?);
        Ok(BindingId(self.bindings.len() - 1))
    }

    /// Drops every binding.
    pub(crate) fn unbind_all(&mut self) {
        self.bindings.clear();
    }

    /// Binds an input; one bound before under that name is replaced. Where the session wants the
    /// input on a device and the block does not lie there, it gets what the block holds now.
    pub(crate) fn bind_input(
        &mut self,
        id: BindingId,
        name: &str,
        view: View<'_>,
    ) -> ort::Result<()> {
        let tensor = self.tensor(view)?;
        self.bindings[id.0].bind_input(name, &tensor)
    }

    /// Binds an output; one bound before under that name is replaced.
    pub(crate) fn bind_output(
        &mut self,
        id: BindingId,
        name: &str,
        view: View<'_>,
    ) -> ort::Result<()> {
        let mut tensor = self.tensor(view)?;
        self.bindings[id.0].bind_output(name, tensor.view_mut())
    }

    /// Binds one stretch of memory as an input and as an output, to be updated in place.
    pub(crate) fn bind_in_place(
        &mut self,
        id: BindingId,
        (input, output): (&str, &str),
        view: View<'_>,
    ) -> ort::Result<()> {
        let mut tensor = self.tensor(view)?;
        self.bindings[id.0].bind_input(input, &tensor)?;
        self.bindings[id.0].bind_output(output, tensor.view_mut())
    }

    /// Runs the session once on what is bound. Blocks for one forward pass.
    ///
    /// # Errors
    /// What ONNX Runtime says; bound outputs then hold anything.
    pub(crate) fn run(&mut self, id: BindingId) -> ort::Result<()> {
        run(&mut self.session, &self.bindings[id.0], self.options.as_ref())
    }

    /// Runs the session as [`BoundSession::run`] does; the first run of `graph` is captured, and later
    /// ones repeat it with whatever the same memory holds then.
    ///
    /// # Errors
    /// As [`BoundSession::run`].
    pub(crate) fn run_captured(&mut self, id: BindingId, graph: u32) -> ort::Result<()> {
        let mut options = RunOptions::new()?;
        options.set(GRAPH_ID, graph.to_string())?;
        run(&mut self.session, &self.bindings[id.0], Some(&options))
    }

    fn tensor(&self, view: View<'_>) -> ort::Result<DynTensor> {
        let block = &self.blocks[view.block.0];
        tensor(block, block.element, (view.start, view.shape))
    }
}

/// So many zeroes are handed to a device at once.
const ZEROES_BYTES: usize = 1024 * 1024;

impl Device {
    /// Copies bytes from one block to another, or within one, apart from each other.
    fn carry(
        &mut self,
        (from, start): (&Block, usize),
        (to, target): (&Block, usize),
        bytes: usize,
    ) -> ort::Result<()> {
        let shape = [i64::try_from(bytes).unwrap_or(i64::MAX)];
        let source = tensor(from, TensorElementType::Uint8, (start, &shape))?;
        let mut place = tensor(to, TensorElementType::Uint8, (target, &shape))?;
        self.binding.bind_input(mover::FROM, &source)?;
        self.binding.bind_output(mover::TO, place.view_mut())?;
        run(&mut self.mover, &self.binding, None)
    }
}

/// Runs a session on what `binding` binds. Not `Session::run_binding`: it wraps every bound output in
/// a value of its own, and a decoder has two for each layer.
fn run(
    session: &mut Session,
    binding: &IoBinding,
    options: Option<&RunOptions>,
) -> ort::Result<()> {
    // SAFETY: session, binding and options are alive, and every caller's binding belongs to the
    // session. Every view in it lies within a block (`tensor` checks) that lives at least until the
    // binding is dropped or bound anew. Callers borrow the blocks' owner mutably, which makes this
    // the only run on them and rules out slices of them.
    unsafe {
        let status = (ort::api().RunWithBinding)(
            session.ptr().cast_mut(),
            options.map_or(std::ptr::null(), AsPointer::ptr),
            binding.ptr(),
        );
        Error::result_from_status(status)
    }
}

/// Part of a block as a tensor of `element`: where it starts, counted in these, and its shape.
fn tensor(
    block: &Block,
    element: TensorElementType,
    (start, shape): (usize, &[i64]),
) -> ort::Result<DynTensor> {
    let refused = |why| Error::new_with_code(ErrorCode::InvalidArgument, why);
    let size = element_bytes(element);
    let elements = shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(usize::try_from(size).ok()?));
    let end = elements.and_then(|elements| start.checked_add(elements)?.checked_mul(size));
    let (Some(elements), Some(end)) = (elements, end) else {
        return Err(refused("a shape overflows"));
    };
    if end > block.bytes {
        return Err(refused("a view exceeds its block"));
    }
    let memory = block.info();
    let mut value = std::ptr::null_mut();
    // SAFETY: the offset was checked to lie in the block, the byte length is that of the shape, and
    // ONNX Runtime copies the shape and the description of the memory. The value does not own the
    // data.
    unsafe {
        let status = (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            block.start.as_ptr().add(start * size).cast(),
            elements * size,
            shape.as_ptr(),
            shape.len(),
            element.into(),
            &raw mut value,
        );
        Error::result_from_status(status)?;
    }
    let value = NonNull::new(value).ok_or_else(|| Error::new("no tensor was made"))?;
    // SAFETY: the value was just made and is owned by nobody else.
    Ok(unsafe { DynTensor::from_ptr(value, Some(&Allocator::default())) })
}
