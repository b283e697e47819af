//! Hearth's worker: one model, one process.

pub mod gguf;
