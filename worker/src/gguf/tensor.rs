//! Tensor types: how many elements a block has and how many bytes it takes.
//!
//! The reader checks sizes with it, the weights decode by it.

use std::ops::Range;

/// The types that are read, with their numbers in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl TensorType {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Elements in a block.
    pub(super) fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a tensor of `shape`, or `None` if that is no size.
    pub(super) fn size_bytes(self, shape: &[usize]) -> Option<usize> {
        let elements =
            shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))?;
        (elements / self.block()).checked_mul(self.block_bytes())
    }

    /// Bytes of one row of `elements`, which are whole blocks.
    pub(super) fn row_bytes(self, elements: usize) -> usize {
        elements / self.block() * self.block_bytes()
    }
}

/// One tensor's place in the file.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    /// Fastest dimension first, as GGUF has it: a matrix is `[inputs, outputs]`.
    pub(super) shape: Vec<usize>,
    pub(super) kind: TensorType,
    /// In the file; as long as type and shape say.
    pub(super) range: Range<usize>,
}
