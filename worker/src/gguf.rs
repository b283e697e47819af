//! A GGUF file → facts, tokenizer, and an ONNX graph in memory.
//!
//! `model` opens a `.gguf` file with [`open`], takes facts, tokenizer and template from it, and hands
//! [`build_graph`]'s result to ONNX Runtime. Nothing here runs a model, and nothing is written to
//! disk. The walk: `cursor` → `reader` (container, every length checked) → `facts` and
//! `vocabulary` → `graph` (nodes; which `weights`) → `matrix`, `decode`, `basis`, `encode` (their
//! numbers), or `pack` (for a product of our own) → `handover` (a session).

mod cursor;
mod error;
mod tensor;
mod metadata;
mod reader;
mod facts;
mod vocabulary;
mod decode;
mod basis;
mod matrix;
mod encode;
mod weights;
mod pack;
mod graph;
mod handover;

use std::path::Path;

use self::reader::GgufFile;
pub use self::{
    error::{GgufError, TensorProblem},
    facts::{Facts, Family, Rope, RopeScaling},
    graph::{BuiltGraph, GraphKind, GraphOptions, Positions, build_graph},
    vocabulary::Vocabulary,
};
use crate::packed::Processor;

/// Whether this processor runs graphs of [`GraphKind::Packed`].
pub fn can_pack() -> bool {
    Processor::detect().is_some()
}

/// Whether ONNX Runtime's integer products are what they should be here. Without the instructions
/// that sum four products at once, its kernels for x86-64 sum pairs in 16 bits, and cut what is larger.
pub fn has_sound_columns() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    return true;
}

/// An open file and what it says of itself.
#[derive(Debug)]
pub struct GgufModel {
    file: GgufFile,
    /// The network.
    pub facts: Facts,
    /// The chat template, in Jinja, if the file has one.
    pub chat_template: Option<String>,
}

/// Opens a file: maps it, reads header, facts and tokenizer. No weight is touched.
///
/// # Errors
/// Any [`GgufError`] but [`GgufError::HandOver`]; nothing stays open.
pub fn open(path: &Path) -> Result<(GgufModel, Vocabulary), GgufError> {
    understand(GgufFile::open(path)?)
}

/// Reads a file that is in memory already, as [`open`] does.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(bytes: Vec<u8>) -> Result<(GgufModel, Vocabulary), GgufError> {
    understand(GgufFile::from_bytes(bytes)?)
}

fn understand(file: GgufFile) -> Result<(GgufModel, Vocabulary), GgufError> {
    let facts = Facts::read(&file)?;
    let vocabulary = vocabulary::read(&file)?;
    let chat_template = file.ask().string("tokenizer.chat_template")?.map(str::to_owned);
    Ok((GgufModel { file, facts, chat_template }, vocabulary))
}
