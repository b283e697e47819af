//! The items of a response's input → messages as chat completions have them. Pure.

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::kind_of;
use crate::http;

/// An input as items, whichever way it was given.
///
/// # Errors
/// [`ApiError::Invalid`] that names `input`.
pub(super) fn of_input(input: &Value) -> Result<Vec<Value>, ApiError> {
    match input {
        Value::String(text) => Ok(vec![with_id(&json!({"role": "user", "content": text}))]),
        Value::Array(items) if !items.is_empty() => Ok(items.iter().map(with_id).collect()),
        Value::Array(_) => Err(ApiError::invalid("input", "`input` must hold at least one item")),
        other => {
            let found = kind_of(other);
            let message = format!("`input` must be a string or an array of items, not {found}");
            Err(ApiError::invalid("input", message))
        }
    }
}

/// As it is listed later: with an id, a type, and its text in a part.
fn with_id(item: &Value) -> Value {
    let Value::Object(given) = item else { return item.clone() };
    let mut item = given.clone();
    let kind = item.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
    item.insert("type".to_owned(), Value::from(kind.as_str()));
    if kind == "message" {
        let part = match item.get("role").and_then(Value::as_str) {
            Some("assistant") => "output_text",
            _ => "input_text",
        };
        if let Some(Value::String(text)) = item.get("content") {
            let mut content = json!({"type": part, "text": text});
            if part == "output_text" {
                content["annotations"] = json!([]);
            }
            item.insert("content".to_owned(), json!([content]));
        }
        item.entry("status").or_insert(json!("completed"));
    }
    if !item.get("id").is_some_and(Value::is_string) {
        let prefix = match kind.as_str() {
            "message" => "msg_",
            "function_call" => "fc_",
            "function_call_output" => "fco_",
            "reasoning" => "rs_",
            _ => "item_",
        };
        item.insert("id".to_owned(), Value::from(http::new_id(prefix)));
    }
    Value::Object(item)
}

/// Items → messages; also the output of an earlier response, which has the same items.
///
/// # Errors
/// [`ApiError::Invalid`] with `input[3].type` or the like as its `param`.
pub(super) fn messages(items: &[Value]) -> Result<Vec<Value>, ApiError> {
    let mut messages: Vec<Value> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let wrong = |field: &str, message: String| {
            Err(ApiError::invalid(format!("input[{index}]{field}"), message))
        };
        let Value::Object(item) = item else {
            return wrong("", format!("an item must be an object, not {}", kind_of(item)));
        };
        match item.get("type").and_then(Value::as_str) {
            Some("message") | None => {
                let role = item.get("role").cloned().unwrap_or(Value::Null);
                let content = item.get("content").cloned().unwrap_or(Value::Null);
                // What a model said after its thoughts, and before its calls, is one message.
                match messages.last_mut() {
                    Some(last) if role == "assistant" && is_only_thought(last) => {
                        last["content"] = content;
                    }
                    _ => messages.push(json!({"role": role, "content": content})),
                }
            }
            Some("function_call") => {
                let function =
                    json!({"name": item.get("name"), "arguments": item.get("arguments")});
                let call = json!({"id": item.get("call_id"), "function": function});
                calling(&mut messages).push(call);
            }
            Some("function_call_output") => messages.push(json!({
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": item.get("output"),
            })),
            Some("reasoning") => messages.push(json!({
                "role": "assistant",
                "reasoning_content": thoughts(item),
            })),
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                return wrong(".type", format!("this server knows no item of type `{other}`"));
            }
        }
    }
    Ok(messages)
}

fn is_only_thought(message: &Value) -> bool {
    message["role"] == "assistant"
        && message["content"].is_null()
        && message["tool_calls"].is_null()
}

/// The calls of the last message, which is the assistant's; one is begun if it is not.
fn calling(messages: &mut Vec<Value>) -> &mut Vec<Value> {
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        messages.push(json!({"role": "assistant"}));
    }
    let last = messages.last_mut().expect("there is one now");
    if !last["tool_calls"].is_array() {
        last["tool_calls"] = json!([]);
    }
    last["tool_calls"].as_array_mut().expect("it is an array now")
}

fn thoughts(item: &Map<String, Value>) -> String {
    let texts = ["content", "summary"].into_iter().filter_map(|name| item.get(name)?.as_array());
    let texts = texts.flatten().filter_map(|part| part.get("text")?.as_str());
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_a_message_of_the_user() {
        let items = of_input(&json!("hi")).unwrap();
        assert_eq!(items[0]["content"], json!([{"type": "input_text", "text": "hi"}]));
        assert!(items[0]["id"].as_str().unwrap().starts_with("msg_"));
        assert_eq!(messages(&items).unwrap()[0]["role"], "user");
    }

    #[test]
    fn thoughts_words_and_calls_of_one_turn_are_one_message() {
        let items = json!([
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": "wait"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
        ]);
        let call =
            |id: &str, name: &str| json!({"id": id, "function": {"name": name, "arguments": "{}"}});
        assert_eq!(
            messages(items.as_array().unwrap()).unwrap(),
            [
                json!({"role": "user", "content": "hi"}),
                json!({"role": "assistant", "reasoning_content": "hm", "content": "wait",
                       "tool_calls": [call("c1", "f"), call("c2", "g")]}),
                json!({"role": "tool", "tool_call_id": "c1", "content": "1"}),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (input, param) in [
            (json!(5), "input"),
            (json!([]), "input"),
            (json!([5]), "input[0]"),
            (json!([{"type": "computer_call"}]), "input[0].type"),
        ] {
            let error = of_input(&input).and_then(|items| messages(&items)).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{input}");
        }
    }
}
