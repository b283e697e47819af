//! A block of memory that a session reads or writes: in our own memory, or in the device's.
//!
//! [`super::BoundSession`] owns all blocks and gives none away. What lies in a device's memory can't
//! be touched from here at all: only ONNX Runtime moves it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::NonNull;

use half::f16;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::{Tensor, TensorElementType};

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
impl Element for u8 {
    const TYPE: TensorElementType = TensorElementType::Uint8;
}

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this process's memory.
    Host,
    /// In the memory of the device that the session runs on.
    Device,
}

/// A block of memory. On the host it is zeroed by the system page by page as it is touched; on a
/// device it holds anything at first.
pub(crate) struct Block {
    memory: Memory,
    pub(super) start: NonNull<u8>,
    pub(super) bytes: usize,
    pub(super) element: TensorElementType,
}

/// Who gives the memory back, and what ONNX Runtime is told of it.
enum Memory {
    /// Ours; the block starts at the first aligned byte.
    Own { allocation: NonNull<u8>, layout: Layout },
    /// An allocator's of ONNX Runtime, given back with the tensor.
    Runtimes { _tensor: Tensor<u8>, info: MemoryInfo<'static>, place: Place },
}

// SAFETY: a block is plain memory that it owns alone; nothing in it is tied to a thread.
unsafe impl Send for Block {}

impl Block {
    pub(crate) fn zeroed(element: TensorElementType, elements: usize) -> Result<Self, OutOfMemory> {
        let bytes = size(element, elements);
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
        Ok(Self { memory: Memory::Own { allocation, layout }, start, bytes, element })
    }

    /// A block from one of ONNX Runtime's allocators, whose memory lies in `place`.
    pub(super) fn allocated(
        allocator: &Allocator,
        place: Place,
        (element, elements): (TensorElementType, usize),
    ) -> Result<Self, OutOfMemory> {
        let bytes = size(element, elements);
        let out_of_memory = OutOfMemory { bytes };
        let mut tensor = Tensor::<u8>::new(allocator, [bytes]).map_err(|_error| out_of_memory)?;
        let start = NonNull::new(tensor.data_ptr_mut().cast()).ok_or(out_of_memory)?;
        if place == Place::Host {
            // SAFETY: the tensor is that many bytes of memory that can be written from here.
            unsafe { start.write_bytes(0, bytes) };
        }
        let info = allocator.memory_info().to_owned();
        let memory = Memory::Runtimes { _tensor: tensor, info, place };
        Ok(Self { memory, start, bytes, element })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes / element_bytes(self.element)
    }

    pub(super) fn place(&self) -> Place {
        match self.memory {
            Memory::Own { .. } => Place::Host,
            Memory::Runtimes { place, .. } => place,
        }
    }

    /// What ONNX Runtime calls the memory that the block lies in.
    pub(super) fn info(&self) -> MemoryInfo<'static> {
        match &self.memory {
            Memory::Own { .. } => MemoryInfo::default(),
            Memory::Runtimes { info, .. } => info.clone(),
        }
    }

    /// # Panics
    /// If the block lies in a device's memory.
    pub(super) fn bytes(&self) -> &[u8] {
        assert_eq!(self.place(), Place::Host, "a device's memory can't be read from here");
        // SAFETY: the block is that many initialised bytes of the host's memory, and it is
        // borrowed. ONNX Runtime writes to it only inside a run, which borrows it mutably.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// # Panics
    /// If the block lies in a device's memory.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        assert_eq!(self.place(), Place::Host, "a device's memory can't be written from here");
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// The block's elements.
    ///
    /// # Panics
    /// If the block holds another type, or lies in a device's memory.
    pub(super) fn elements<T: Element>(&self) -> &[T] {
        assert_eq!(self.element, T::TYPE, "the block holds another type");
        let start = self.bytes().as_ptr();
        // SAFETY: these are `len` initialised elements of `T`, aligned to 64 bytes by us and by
        // ONNX Runtime's allocators.
        unsafe { std::slice::from_raw_parts(start.cast(), self.len()) }
    }

    /// The block's elements, to be written.
    ///
    /// # Panics
    /// If the block holds another type, or lies in a device's memory.
    pub(super) fn elements_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.element, T::TYPE, "the block holds another type");
        let (start, len) = (self.bytes_mut().as_mut_ptr(), self.len());
        // SAFETY: as in `elements`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} × {}, {:?})", self.len(), self.element, self.place())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match &self.memory {
            // SAFETY: it came from `alloc_zeroed` with this very layout.
            Memory::Own { allocation, layout } => unsafe {
                dealloc(allocation.as_ptr(), *layout);
            },
            Memory::Runtimes { .. } => {}
        }
    }
}

/// The bytes of one element of a type that blocks hold.
pub(crate) fn element_bytes(element: TensorElementType) -> usize {
    element.byte_size(1).expect("only numbers of whole bytes are put into blocks")
}

/// Never nothing, because nothing has no address.
fn size(element: TensorElementType, elements: usize) -> usize {
    element_bytes(element).saturating_mul(elements.max(1))
}

/// Memory for a block can't be had.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no memory for {bytes} bytes")]
pub(crate) struct OutOfMemory {
    /// How much was asked for.
    pub(crate) bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_zeroed_and_of_the_size_asked_for() {
        for (element, bytes) in [(f32::TYPE, 4), (f16::TYPE, 2), (i64::TYPE, 8)] {
            let block = Block::zeroed(element, 1001).unwrap();
            assert_eq!(block.start.as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!((block.len(), block.bytes().len()), (1001, 1001 * bytes));
            assert!(block.bytes().iter().all(|&byte| byte == 0));
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
