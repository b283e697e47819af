//! OpenAI's dialect: request JSON → the shared request; replies → response JSON.
//!
//! One file per endpoint, and what several share: `known` says what becomes of each field,
//! `decoding`, `format` and `thinking` read what all generating endpoints have.

pub mod chat;
pub mod completions;
pub mod responses;
pub mod embeddings;
pub mod rerank;
pub mod tokenize;
pub mod models;
pub mod openapi;
mod known;
mod decoding;
mod format;
mod thinking;
mod usage;
