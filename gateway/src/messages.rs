//! A conversation as clients of either dialect send it → as chat templates expect it. Pure.
//!
//! Templates are written for messages whose `content` is a string. Clients send `null`, arrays of
//! parts, and roles that came later than the templates.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::kind_of;

const MESSAGES_MAX: usize = 10_000;
/// So much of a client's own text is repeated in an error.
const SHOWN_CHARS_MAX: usize = 40;

/// Normalises every message.
///
/// # Errors
/// [`ApiError::Invalid`] with `messages[3].content` or the like as its `param`.
pub fn normalise(messages: &[Value]) -> Result<Vec<Value>, ApiError> {
    if messages.len() > MESSAGES_MAX {
        return Err(ApiError::invalid(
            "messages",
            format!("`messages` may hold at most {MESSAGES_MAX} messages"),
        ));
    }
    messages.iter().enumerate().map(|(index, message)| normalise_one(index, message)).collect()
}

fn normalise_one(index: usize, message: &Value) -> Result<Value, ApiError> {
    let wrong = |field: &str, message: String| {
        ApiError::invalid(format!("messages[{index}]{field}"), message)
    };
    let Value::Object(given) = message else {
        return Err(wrong("", format!("a message must be an object, not {}", kind_of(message))));
    };
    let role = match given.get("role") {
        // The newer name of the same role, which templates do not know.
        Some(Value::String(role)) if role == "developer" => "system",
        Some(Value::String(role))
            if matches!(role.as_str(), "system" | "user" | "assistant" | "tool" | "function") =>
        {
            role
        }
        Some(other) => {
            let other: String = other.to_string().chars().take(SHOWN_CHARS_MAX).collect();
            return Err(wrong(
                ".role",
                format!("`role` must be system, developer, user, assistant or tool, not {other}"),
            ));
        }
        None => return Err(wrong(".role", "a message needs a `role`".to_owned())),
    };
    let content = match given.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => join(parts).map_err(|message| wrong(".content", message))?,
        Some(other) => {
            let found = kind_of(other);
            return Err(wrong(
                ".content",
                format!("`content` must be a string or an array of parts, not {found}"),
            ));
        }
    };
    let mut normal = Map::new();
    normal.insert("role".to_owned(), Value::String(role.to_owned()));
    normal.insert("content".to_owned(), Value::String(content));
    for kept in ["name", "tool_calls", "tool_call_id", "reasoning_content"] {
        if let Some(value) = given.get(kept).filter(|value| !value.is_null()) {
            normal.insert(kept.to_owned(), value.clone());
        }
    }
    Ok(Value::Object(normal))
}

fn join(parts: &[Value]) -> Result<String, String> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str);
        let text = match kind {
            Some("text" | "input_text" | "output_text") => part.get("text"),
            Some("refusal") => part.get("refusal"),
            Some(other) => {
                let other: String = other.chars().take(SHOWN_CHARS_MAX).collect();
                return Err(format!("this model reads text only, no part of type `{other}`"));
            }
            None => return Err("a part of `content` needs a `type`".to_owned()),
        };
        match text.and_then(Value::as_str) {
            Some(text) => texts.push(text),
            None => return Err("a text part needs a `text`".to_owned()),
        }
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(message: Value) -> Value {
        normalise(&[message]).unwrap().remove(0)
    }

    #[test]
    fn content_becomes_one_string_whatever_it_was() {
        for (content, expected) in [
            (json!(null), ""),
            (json!("x"), "x"),
            (json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "a\nb"),
            (json!([]), ""),
        ] {
            let message = one(json!({"role": "user", "content": content}));
            assert_eq!(message, json!({"role": "user", "content": expected}));
        }
    }

    #[test]
    fn tool_calls_stay_and_a_developer_is_the_system() {
        let calls = json!([{"id": "1", "function": {"name": "f", "arguments": "{}"}}]);
        let message = one(json!({"role": "assistant", "content": null, "tool_calls": calls}));
        assert_eq!(message["tool_calls"], calls);
        assert_eq!(one(json!({"role": "developer", "content": "x"}))["role"], "system");
    }

    #[test]
    fn a_long_role_is_not_repeated_at_length() {
        let error = normalise(&[json!({"role": "x".repeat(100_000)})]).unwrap_err().to_string();
        assert!(error.ends_with(&format!("not \"{}", "x".repeat(39))), "{} chars", error.len());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_index() {
        for (message, param) in [
            (json!("hi"), "messages[1]"),
            (json!({"content": "hi"}), "messages[1].role"),
            (json!({"role": "oracle", "content": "hi"}), "messages[1].role"),
            (json!({"role": "user", "content": 5}), "messages[1].content"),
            (json!({"role": "user", "content": [{"type": "image_url"}]}), "messages[1].content"),
            (json!({"role": "user", "content": [{"type": "text"}]}), "messages[1].content"),
        ] {
            let fine = json!({"role": "user", "content": "x"});
            let error = normalise(&[fine, message.clone()]).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{message}");
        }
    }
}
