//! One JSON object per line, as Ollama's clients read them. Pure.

use serde::Serialize;

/// The content type of a stream.
pub const CONTENT_TYPE: &str = "application/x-ndjson";

/// One line.
#[must_use]
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line =
        serde_json::to_vec(value).expect("our own values are JSON, and memory takes all");
    line.push(b'\n');
    line
}
