//! The response itself, and the events of its stream. Pure but for ids and dates.

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::generation::Usage;
use crate::http;
use crate::stream::sse;

/// What a response is from its beginning to its end.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) id: String,
    created: u32,
    model: String,
    echo: Map<String, Value>,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Completed,
    /// `max_output_tokens` was reached, or the context is full.
    Incomplete,
}

impl End {
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
        }
    }

    /// The event that ends a stream.
    pub(super) fn event(self) -> &'static str {
        match self {
            Self::Completed => "response.completed",
            Self::Incomplete => "response.incomplete",
        }
    }
}

impl Frame {
    /// A response that begins now.
    pub(super) fn new(model: String, echo: Map<String, Value>) -> Self {
        Self { id: http::new_id("resp_"), created: http::unix_seconds(), model, echo }
    }

    /// While it waits for its turn.
    pub(super) fn queued(&self) -> Value {
        self.object("queued", json!({}))
    }

    /// While it is being made.
    pub(super) fn in_progress(&self) -> Value {
        self.object("in_progress", json!({}))
    }

    /// Once it is there.
    pub(super) fn finished(&self, end: End, output: &[Value], counts: Usage) -> Value {
        let mut rest = json!({ "output": output, "usage": usage(counts) });
        match end {
            End::Completed => rest["completed_at"] = json!(http::unix_seconds()),
            End::Incomplete => {
                rest["incomplete_details"] = json!({ "reason": "max_output_tokens" });
            }
        }
        self.object(end.status(), rest)
    }

    /// Once it has broken off.
    pub(super) fn failed(&self, output: &[Value], error: &ApiError) -> Value {
        let error = json!({ "code": "server_error", "message": error.to_string() });
        self.object("failed", json!({ "output": output, "error": error }))
    }

    /// Once somebody has had it given up.
    pub(super) fn cancelled(&self, output: &[Value]) -> Value {
        self.object("cancelled", json!({ "output": output }))
    }

    fn object(&self, status: &str, rest: Value) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "completed_at": null,
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": [],
            "usage": null,
            "user": null,
        });
        if let (Value::Object(object), Value::Object(rest)) = (&mut object, rest) {
            object.extend(self.echo.clone());
            object.extend(rest);
        }
        object
    }
}

/// A response as it was while it was being made.
pub(super) fn in_progress(response: &Value) -> Value {
    let mut begun = response.clone();
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    for later in ["completed_at", "incomplete_details", "usage"] {
        begun[later] = Value::Null;
    }
    begun
}

/// What was not found in a cache is in one afterwards.
fn usage(counts: Usage) -> Value {
    let written = counts.prompt_tokens.saturating_sub(counts.cached_tokens);
    json!({
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": counts.cached_tokens, "cache_write_tokens": written,
        },
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": counts.reasoning_tokens },
        "total_tokens": counts.total_tokens(),
    })
}

/// Numbers the events of one stream.
#[derive(Debug, Default)]
pub(super) struct Numbered(u64);

impl Numbered {
    /// Appends one event.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, name: &str, rest: Value) {
        let mut event = json!({ "type": name, "sequence_number": self.0 });
        if let (Value::Object(event), Value::Object(rest)) = (&mut event, rest) {
            event.extend(rest);
        }
        self.0 += 1;
        sse::push_named(out, name, &event);
    }

    /// Appends what went wrong in a stream that breaks off.
    pub(super) fn push_error(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        let body = error.openai_body();
        let of_error = |name: &str| body["error"][name].clone();
        let rest = json!({
            "code": of_error("code"), "message": of_error("message"), "param": of_error("param"),
        });
        self.push(out, "error", rest);
    }
}
