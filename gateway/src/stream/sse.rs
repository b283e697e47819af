//! Server-sent events, as OpenAI's clients read them. Pure.

use serde::Serialize;

/// The content type of a stream.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// Ends a stream that is complete. A stream that failed never ends with it.
pub const DONE: &str = "data: [DONE]\n\n";

/// Appends one event that says its name.
pub fn push_named(out: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    push_event(out, value);
}

/// Appends one event.
pub fn push_event(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *out, value).expect("our own values are JSON, and memory takes all");
    out.extend_from_slice(b"\n\n");
}
