//! Hearth's worker: one model, one process.
//!
//! The walk: [`run`] reads the arguments, enters the sandbox, connects to the gateway and serves
//! the link. The first message asks for a load ([`load()`]): the model's files, ONNX Runtime, a
//! session, a first run. From then on a request is prepared ([`Preparer`]: messages → prompt text
//! → tokens), admitted by the engine ([`Engine`]), and its news go back step by step. Embedding
//! models and rerankers have an engine of their own ([`Encoder`]) and the rest in common.
//!
//! The worker opens no network connection, reads no configuration, and ends with its link.

mod start;
mod sandbox;
mod link;
mod serve;
mod load;
mod model;
mod onnx;
mod pieces;
mod heap;
mod mapped;
mod packed;
pub mod gguf;
mod repack;

mod runtime;
mod tokenizer;
mod prompt;
mod prepare;
mod answer;
mod generate;
mod encode;
mod work;

pub use encode::{EncodeJob, EncodePreparer, Encoder};
pub use generate::Engine;
pub use load::{AnyLoaded, Loaded, LoadedEncoder, load, load_any};
pub use prepare::{Prepared, Preparer};
pub use start::run;
