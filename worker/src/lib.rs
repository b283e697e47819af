//! Hearth's worker: one model, one process.
//!
//! The walk: [`run`] reads the arguments, enters the sandbox, connects to the gateway and serves
//! the link. The first message asks for a load ([`load()`]): the model's files, ONNX Runtime, a
//! session, a first run. From then on a request is prepared ([`Preparer`]: messages → prompt text
//! → tokens), admitted by the engine ([`Engine`]), and its news go back step by step.
//!
//! The worker opens no network connection, reads no configuration, and ends with its link.

mod start;
mod sandbox;
mod link;
mod serve;
mod load;
mod model;
pub mod gguf;
mod runtime;
mod tokenizer;
mod prompt;
mod prepare;
mod answer;
mod generate;

pub use generate::Engine;
pub use load::{Loaded, load};
pub use prepare::{Prepared, Preparer};
pub use start::run;
