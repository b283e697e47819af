//! End to end: a real gateway process, real sockets, and a worker that is fake unless said.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod streaming;
mod lifecycle;
mod settings;
mod control;
mod room;
mod failures;
mod deaths;
mod scarcity;
mod devices;
mod clock;
mod quiet;
mod shutdown;
mod door;
mod metrics;
mod ollama;
mod ollama_models;
mod ollama_derived;
mod ollama_prompts;
mod ollama_pull;
mod encoding;
mod command_line;
mod openai_client;
mod clients;
mod clients_node;
mod open_webui;
mod openai_chat;
mod openai_completions;
mod openai_responses;
mod openai_background;
mod openai_suite;
mod schemas;
mod openapi;
mod ignored;
mod keys;
mod real_model;
mod real_encoder;
mod gguf;
mod gpu;

use hearth_tests::gateway::Home;

/// A home with one fake model, `m`.
fn home() -> Home {
    Home::new(hearth_tests::programs!()).with_fake_model("m")
}

/// What a test that can't run says, or how it fails where nothing may be skipped.
#[expect(clippy::disallowed_methods, reason = "tests are told by their script what is there")]
#[expect(clippy::print_stderr, reason = "who runs the tests has to see it")]
fn skip(what: &str) {
    assert!(std::env::var_os("HEARTH_TEST_REQUIRE").is_none(), "may not be skipped: {what}");
    eprintln!("SKIPPED: {what}");
}
