//! A session whose inputs and outputs live in memory of ours, bound once and used many times.
//!
//! Owns the session, every block of memory that it reads or writes, and the bindings between the
//! two; [`crate::generate`] decides what is bound where. The only unsafe code of the project:
//! ONNX Runtime is handed raw pointers into the blocks, and what keeps them valid is that blocks,
//! bindings and session are fields of one struct that never gives any of them out.
//!
//! Tensors are made through the C interface and not with `TensorRef`: binding a borrowed tensor
//! copies it through a second session, whose lock the same tensor takes again.
#![expect(
    unsafe_code,
    reason = "ONNX Runtime takes raw pointers, and no safe call runs a binding in place"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::NonNull;

use half::f16;
use ort::memory::{Allocator, MemoryInfo};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType};
use ort::{AsPointer, Error, ErrorCode};

/// What ONNX Runtime's kernels like their buffers aligned to.
const ALIGNMENT: usize = 64;

/// A number type that a block can hold. Private to this crate: every one of them takes all-zero
/// bytes, and any bytes, for a value.
pub(crate) trait Element: Copy {
    const TYPE: TensorElementType;
}

impl Element for f32 {
    const TYPE: TensorElementType = TensorElementType::Float32;
}
impl Element for f16 {
    const TYPE: TensorElementType = TensorElementType::Float16;
}
impl Element for i64 {
    const TYPE: TensorElementType = TensorElementType::Int64;
}

/// A block of memory, zeroed by the system page by page as it is touched.
pub(crate) struct Block {
    /// What was allocated; the block starts at its first aligned byte.
    allocation: NonNull<u8>,
    layout: Layout,
    start: NonNull<u8>,
    bytes: usize,
    element: TensorElementType,
}

// SAFETY: a block is plain memory that it owns alone; nothing in it is tied to a thread.
unsafe impl Send for Block {}

impl Block {
    pub(crate) fn zeroed(element: TensorElementType, elements: usize) -> Result<Self, OutOfMemory> {
        let bytes = element_bytes(element).saturating_mul(elements.max(1));
        let out_of_memory = OutOfMemory { bytes };
        // Aligned by hand: asked for more than its own alignment, the allocator would write the
        // zeroes itself, and every page of a cache that may never fill would become resident.
        let layout = Layout::from_size_align(bytes.saturating_add(ALIGNMENT), 1)
            .map_err(|_error| out_of_memory)?;
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(out_of_memory)?;
        let padding = allocation.as_ptr().align_offset(ALIGNMENT);
        assert!(padding < ALIGNMENT, "a byte pointer can always be aligned");
        // SAFETY: the allocation is larger than the block by more than the padding.
        let start = unsafe { allocation.add(padding) };
        Ok(Self { allocation, layout, start, bytes, element })
    }

    fn len(&self) -> usize {
        self.bytes / element_bytes(self.element)
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} × {})", self.len(), self.element)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from `alloc_zeroed` with this very layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// The bytes of one element of a type that blocks hold.
pub(crate) fn element_bytes(element: TensorElementType) -> usize {
    element.byte_size(1).expect("only numbers of whole bytes are put into blocks")
}

/// Memory for a block can't be had.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no memory for {bytes} bytes")]
pub(crate) struct OutOfMemory {
    /// How much was asked for.
    pub(crate) bytes: usize,
}

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

/// A session with its memory and its bindings. Fields drop in order: bindings before memory.
pub(crate) struct BoundSession {
    bindings: Vec<IoBinding>,
    blocks: Vec<Block>,
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

impl BoundSession {
    pub(crate) fn new(session: Session) -> Self {
        Self { bindings: Vec::new(), blocks: Vec::new(), session }
    }

    /// Adds a block of zeroes.
    pub(crate) fn add_block(
        &mut self,
        element: TensorElementType,
        elements: usize,
    ) -> Result<BlockId, OutOfMemory> {
        self.blocks.push(Block::zeroed(element, elements)?);
        Ok(BlockId(self.blocks.len() - 1))
    }

    /// Puts `fresh` in the place of a block and calls `copy` with the old and the new bytes.
    /// Every binding goes first, because any may point into the old block.
    pub(crate) fn replace_block(
        &mut self,
        id: BlockId,
        mut fresh: Block,
        copy: impl FnOnce(&[u8], &mut [u8]),
    ) {
        self.unbind_all();
        copy(bytes_of(&self.blocks[id.0]), bytes_of_mut(&mut fresh));
        self.blocks[id.0] = fresh;
    }

    /// The block's elements.
    ///
    /// # Panics
    /// If the block holds another type.
    pub(crate) fn elements<T: Element>(&self, id: BlockId) -> &[T] {
        let block = &self.blocks[id.0];
        assert_eq!(block.element, T::TYPE, "the block holds another type");
        // SAFETY: the block holds `len` initialised elements of `T`, aligned to 64 bytes. ONNX
        // Runtime writes to it only inside `run`, which borrows `self` mutably.
        unsafe { std::slice::from_raw_parts(block.start.as_ptr().cast(), block.len()) }
    }

    /// The block's elements, to be written.
    ///
    /// # Panics
    /// If the block holds another type.
    pub(crate) fn elements_mut<T: Element>(&mut self, id: BlockId) -> &mut [T] {
        let block = &mut self.blocks[id.0];
        assert_eq!(block.element, T::TYPE, "the block holds another type");
        // SAFETY: as in `elements`, and `self` is borrowed mutably, so this is the only slice.
        unsafe { std::slice::from_raw_parts_mut(block.start.as_ptr().cast(), block.len()) }
    }

    /// The bytes of one block, to be read, and of another, to be written.
    ///
    /// # Panics
    /// If both are the same.
    pub(crate) fn bytes_of_two(&mut self, from: BlockId, to: BlockId) -> (&[u8], &mut [u8]) {
        let both = self.blocks.get_disjoint_mut([from.0, to.0]);
        let [from, to] = both.expect("a block is not copied onto itself");
        (bytes_of(from), bytes_of_mut(to))
    }

    /// The block's bytes, to be moved about.
    pub(crate) fn bytes_mut(&mut self, id: BlockId) -> &mut [u8] {
        bytes_of_mut(&mut self.blocks[id.0])
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

    /// Binds an input; one bound before under that name is replaced.
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
        let binding = &self.bindings[id.0];
        // Not `Session::run_binding`: it wraps every bound output in a value of its own, and a
        // decoder has two for each layer.
        //
        // SAFETY: session and binding are alive and belong together, no run options are given,
        // and every view in the binding lies within a block (`tensor` checks) that lives as long
        // as the binding. `&mut self` makes this the only run and rules out slices of the blocks.
        unsafe {
            let status = (ort::api().RunWithBinding)(
                self.session.ptr().cast_mut(),
                std::ptr::null(),
                binding.ptr(),
            );
            Error::result_from_status(status)
        }
    }

    fn tensor(&mut self, view: View<'_>) -> ort::Result<DynTensor> {
        let block = &mut self.blocks[view.block.0];
        let elements = view
            .shape
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(usize::try_from(size).ok()?));
        let end = elements.and_then(|elements| view.start.checked_add(elements));
        let (Some(elements), Some(end)) = (elements, end) else {
            return Err(Error::new_with_code(ErrorCode::InvalidArgument, "a shape overflows"));
        };
        if end > block.len() {
            return Err(Error::new_with_code(
                ErrorCode::InvalidArgument,
                "a view exceeds its block",
            ));
        }
        let size = element_bytes(block.element);
        let memory = MemoryInfo::default();
        let mut value = std::ptr::null_mut();
        // SAFETY: the offset was checked to lie in the block, the byte length is that of the
        // shape, and ONNX Runtime copies the shape. The value does not own the data.
        unsafe {
            let status = (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                block.start.as_ptr().add(view.start * size).cast(),
                elements * size,
                view.shape.as_ptr(),
                view.shape.len(),
                block.element.into(),
                &raw mut value,
            );
            Error::result_from_status(status)?;
        }
        let value = NonNull::new(value).ok_or_else(|| Error::new("no tensor was made"))?;
        // SAFETY: the value was just made and is owned by nobody else.
        Ok(unsafe { DynTensor::from_ptr(value, Some(&Allocator::default())) })
    }
}

fn bytes_of(block: &Block) -> &[u8] {
    // SAFETY: the block is that many initialised bytes, and it is borrowed.
    unsafe { std::slice::from_raw_parts(block.start.as_ptr(), block.bytes) }
}

fn bytes_of_mut(block: &mut Block) -> &mut [u8] {
    // SAFETY: as in `bytes_of`, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(block.start.as_ptr(), block.bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_zeroed_and_of_the_size_asked_for() {
        for (element, bytes) in [(f32::TYPE, 4), (f16::TYPE, 2), (i64::TYPE, 8)] {
            let block = Block::zeroed(element, 1001).unwrap();
            assert_eq!(block.start.as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!((block.len(), bytes_of(&block).len()), (1001, 1001 * bytes));
            assert!(bytes_of(&block).iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_block_that_no_memory_could_hold_is_an_error() {
        let error = Block::zeroed(f32::TYPE, usize::MAX / 8).unwrap_err();
        assert_eq!(error.bytes, usize::MAX / 8 * 4);
    }

    /// A cache of a long context is mostly never used.
    #[test]
    #[cfg(target_os = "linux")]
    fn pages_of_a_block_become_resident_only_when_they_are_touched() {
        let resident_pages = || -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse().unwrap()
        };
        let before = resident_pages();
        let block = Block::zeroed(f32::TYPE, 256 * 1024 * 1024).unwrap();
        let after = resident_pages();
        assert_eq!(block.bytes, 1 << 30);
        // Other tests run at the same time, but none takes a tenth of this.
        assert!(after < before + (1 << 30) / 4096 / 10, "{before} {after}");
    }
}
