//! Server-sent events, as OpenAI's clients read them. Pure.

use serde::Serialize;

/// The content type of a stream.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// Ends a stream that is complete. A stream that failed never ends with it.
pub const DONE: &str = "data: [DONE]\n\n";

/// Appends one event.
pub fn push_event(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *out, value).expect("our own values are JSON, and memory takes all");
    out.extend_from_slice(b"\n\n");
}
