//! What crosses the local socket between the gateway and a worker, and nothing else.
//!
//! The gateway and the worker both depend on this crate and never on each other. It holds the
//! messages ([`protocol`]), how they become bytes ([`codec`]), where the socket lives and who may
//! speak on it ([`endpoint`]), the names both sides use ([`ids`]), and what a worker's exit code
//! says ([`exit_code`]). It knows no HTTP, no ONNX Runtime and no tokenizer.

#![forbid(unsafe_code)]

pub mod protocol;
pub mod codec;
pub mod endpoint;
pub mod ids;
pub mod exit_code;
