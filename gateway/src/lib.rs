//! Hearth's gateway: the server and the command line.
//!
//! A request walks through the modules in this order. `server` accepts it, `guard` refuses
//! strangers, `route` picks the endpoint; `openai` or `ollama` parses it into one shared request,
//! with the help of `fields`, `known`, `messages`, `tools` and `sampling`. `generation` looks the model up in
//! the `catalog`, lays the `recipe` of a derived one into the request, gets a lease from the `fleet` and sends it; `oneshot` does so for work that
//! generates nothing. The fleet starts, keeps and ends the worker
//! processes; `control` is where it is told to load or unload, and tells what happens. What comes
//! back is written by the dialect through `stream`. Whatever goes wrong on
//! the way becomes an answer in `error`, and `metrics` counts it all.
//!
//! The gateway never links ONNX Runtime or a tokenizer, and never sees a token id.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod keep_alive;
pub mod catalog;
pub mod describe;
pub mod store;
pub mod recipe;
pub mod hub;
pub mod pull;
pub mod app;
pub mod server;
pub mod guard;
pub mod route;
pub mod fields;
mod known;
pub mod messages;
pub mod tools;
pub mod sampling;
pub mod openai;
pub mod ollama;
pub mod generation;
pub mod oneshot;
pub mod fleet;
pub mod control;
pub mod parsing;
pub mod stream;
pub mod http;
pub mod error;
pub mod wall;
pub mod metrics;
