//! OpenAI's dialect: request JSON → the shared request; replies → response JSON.
//!
//! One file per endpoint. Responses are async-openai's types; the chunk of a stream is our own,
//! because theirs writes every absent field as `null` into each of thousands of chunks.

pub mod chat;
pub mod embeddings;
pub mod rerank;
pub mod tokenize;
pub mod models;
