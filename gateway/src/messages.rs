//! A conversation as clients of either dialect send it → as chat templates expect it. Pure.
//!
//! Templates are written for messages whose `content` is a string. Clients send `null`, arrays of
//! parts, roles that came later than the templates or went before them, and calls of tools in three
//! spellings; `calls.rs` makes one of those.

mod calls;

use serde_json::{Map, Value};

use self::calls::Calls;
use crate::error::ApiError;
use crate::fields::kind_of;

const MESSAGES_MAX: usize = 10_000;
/// So much of a client's own text is repeated in an error.
const SHOWN_CHARS_MAX: usize = 40;

/// What other servers call the thoughts before an answer; the first is what templates read.
const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

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
    let mut calls = Calls::default();
    let mut normal = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let wrong = |Wrong { field, message }| {
            ApiError::invalid(format!("messages[{index}]{field}"), message)
        };
        normal.push(normalise_one(index, message, &mut calls).map_err(wrong)?);
    }
    Ok(normal)
}

/// What is wrong with a message, and where in it.
#[derive(Debug)]
struct Wrong {
    field: String,
    message: String,
}

impl Wrong {
    fn at(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

fn normalise_one(index: usize, message: &Value, calls: &mut Calls) -> Result<Value, Wrong> {
    let Value::Object(given) = message else {
        let found = kind_of(message);
        return Err(Wrong::at("", format!("a message must be an object, not {found}")));
    };
    let role = role(given.get("role"))?;
    let mut content = content(given.get("content"))?;
    let text = |name: &str| given.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if content.text.is_empty()
        && let Some(refusal) = text("refusal")
    {
        refusal.clone_into(&mut content.text);
    }
    let mut normal = Map::new();
    normal.insert("role".to_owned(), Value::from(role));
    normal.insert("content".to_owned(), Value::from(content.text));
    match role {
        "assistant" => {
            let reasoning = REASONING.into_iter().find_map(text).unwrap_or(&content.reasoning);
            if !reasoning.is_empty() {
                normal.insert(REASONING[0].to_owned(), Value::from(reasoning));
            }
            if let Some(made) = calls.make(index, given)? {
                normal.insert("tool_calls".to_owned(), made);
            }
        }
        "tool" => calls.answer(given, &mut normal),
        _ => {}
    }
    if let Some(name) = text("name") {
        normal.insert("name".to_owned(), Value::from(name));
    }
    Ok(Value::Object(normal))
}

/// The role as templates know it.
fn role(given: Option<&Value>) -> Result<&'static str, Wrong> {
    let Some(given) = given else {
        return Err(Wrong::at(".role", "a message needs a `role`"));
    };
    Ok(match given.as_str() {
        // The newer name of the same role, which templates do not know.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        // The older names: OpenAI's before there were tools, and Llama's.
        Some("tool" | "function" | "ipython") => "tool",
        Some(_) | None => {
            let other: String = given.to_string().chars().take(SHOWN_CHARS_MAX).collect();
            let message =
                format!("`role` must be system, developer, user, assistant or tool, not {other}");
            return Err(Wrong::at(".role", message));
        }
    })
}

#[derive(Debug, Default)]
struct Content {
    text: String,
    reasoning: String,
}

fn content(given: Option<&Value>) -> Result<Content, Wrong> {
    match given {
        None | Some(Value::Null) => Ok(Content::default()),
        Some(Value::String(text)) => Ok(Content { text: text.clone(), ..Content::default() }),
        Some(Value::Array(parts)) => join(parts),
        Some(other) => {
            let found = kind_of(other);
            let message = format!("`content` must be a string or an array of parts, not {found}");
            Err(Wrong::at(".content", message))
        }
    }
}

fn join(parts: &[Value]) -> Result<Content, Wrong> {
    let wrong = |message: String| Err(Wrong::at(".content", message));
    let (mut texts, mut thoughts) = (Vec::with_capacity(parts.len()), Vec::new());
    for part in parts {
        if let Some(text) = part.as_str() {
            texts.push(text);
            continue;
        }
        let (into, name) = match part.get("type").and_then(Value::as_str) {
            Some("text" | "input_text" | "output_text") => (&mut texts, "text"),
            Some("refusal") => (&mut texts, "refusal"),
            Some("thinking") => (&mut thoughts, "thinking"),
            Some("reasoning" | "reasoning_text") => (&mut thoughts, "text"),
            Some(other) => {
                let other: String = other.chars().take(SHOWN_CHARS_MAX).collect();
                return wrong(format!("this model reads text only, no part of type `{other}`"));
            }
            None => return wrong("a part of `content` needs a `type`".to_owned()),
        };
        match part.get(name).and_then(Value::as_str) {
            Some(text) => into.push(text),
            None => return wrong(format!("a part of this type needs a `{name}`")),
        }
    }
    Ok(Content { text: texts.join("\n"), reasoning: thoughts.join("\n") })
}

#[cfg(test)]
mod tests;
