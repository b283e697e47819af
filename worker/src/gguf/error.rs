//! Everything that can be wrong with a GGUF file, as facts.
//!
//! Made by the reader, the facts, the vocabulary and the graph; shown once, by whoever loads the
//! model. Never holds text longer than [`shown`] lets through, because names come from the file.

use std::path::PathBuf;

/// Why a GGUF file can't be opened, read or made into a graph.
///
/// Nothing is kept of the file when one of these comes back.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file can't be opened or mapped.
    #[error("can't open `{}`", path.display())]
    Open {
        /// The file asked for.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?}")]
    NotGguf {
        /// The bytes there instead, fewer than four in a shorter file.
        found: Vec<u8>,
    },
    /// Versions 2 and 3, little-endian, are read.
    #[error("GGUF version {found} is not read: versions 2 and 3 are (little-endian)")]
    Version {
        /// The version field as it stands.
        found: u32,
    },
    /// A length or an offset leads past the end of the file.
    #[error("truncated: {what} needs {needed} bytes at offset {offset}, {available} are there")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// How long it says it is.
        needed: u64,
        /// What the file holds from there on.
        available: usize,
    },
    /// A count that the rest of the file can't hold.
    #[error("{what} says {count} entries, but {available} bytes are left")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many the file claims.
        count: u64,
        /// Bytes left in the file.
        available: usize,
    },
    /// Text that is not UTF-8.
    #[error("{what} at offset {offset} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// A metadata value type that the format does not have, or an array of arrays.
    #[error("metadata `{key}` has value type {found}, which is not read")]
    ValueType {
        /// The metadata key.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// The same name twice.
    #[error("{what} `{name}` stands there twice")]
    Duplicate {
        /// `metadata` or `tensor`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A needed metadata key is missing.
    #[error("metadata `{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value is of another type or outside what makes sense.
    #[error("metadata `{key}`: expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// A tensor's entry contradicts itself or the file.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: TensorProblem,
    },
    /// A needed tensor is missing.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// An architecture that no graph is built for.
    #[error("architecture `{name}` is not supported (llama, mistral, qwen2, qwen3, smollm3 are)")]
    Architecture {
        /// `general.architecture`.
        name: String,
    },
    /// A part of a supported architecture that no graph is built for.
    #[error("{what} is not supported")]
    Unsupported {
        /// The part.
        what: String,
    },
    /// A tokenizer or a pre-tokenizer that is not known.
    #[error("tokenizer `{name}` is not supported")]
    Tokenizer {
        /// `tokenizer.ggml.model`, or `tokenizer.ggml.pre` of a byte-level one.
        name: String,
    },
    /// The vocabulary contradicts itself.
    #[error("vocabulary: {problem}")]
    Vocabulary {
        /// What is wrong.
        problem: String,
    },
    /// ONNX Runtime did not take a weight.
    #[error("ONNX Runtime did not take the weight `{name}`")]
    HandOver {
        /// The initializer.
        name: String,
        /// What ONNX Runtime said.
        #[source]
        source: ort::Error,
    },
}

/// What is wrong with one tensor's entry.
#[derive(Debug, thiserror::Error)]
pub enum TensorProblem {
    /// One to four dimensions are allowed.
    #[error("{0} dimensions, one to four are allowed")]
    Rank(u32),
    /// A dimension is zero or the product overflows.
    #[error("dimensions {0:?} do not make a size")]
    Dimensions(Vec<u64>),
    /// A type that is not read.
    #[error(
        "type {0} is not read (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K are)"
    )]
    Type(u32),
    /// Rows must be whole blocks.
    #[error("rows of {row} elements are not whole blocks of {block}")]
    Blocks {
        /// Elements in a row.
        row: usize,
        /// Elements in a block.
        block: usize,
    },
    /// The data starts off the file's alignment.
    #[error("its offset {0} is not a multiple of the alignment")]
    Alignment(u64),
    /// The data leads past the end of the file.
    #[error("its {size} bytes at offset {offset} of the data lead past the end of the file")]
    PastEnd {
        /// From the start of the data section.
        offset: u64,
        /// In bytes.
        size: usize,
    },
    /// The architecture needs another shape.
    #[error("shape {found:?}, {expected:?} is needed")]
    Shape {
        /// As the file says, fastest dimension first.
        found: Vec<usize>,
        /// As the architecture says.
        expected: Vec<usize>,
    },
}

/// Names come from the file: what an error shows of them is bounded.
pub(super) fn shown(name: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 96;
    name.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_default).collect()
}
