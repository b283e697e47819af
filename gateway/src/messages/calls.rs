//! Calls of tools in a conversation, and the results that answer them → OpenAI's form. Pure.
//!
//! Clients leave out `type` and `id`, send arguments as an object (Ollama's form) or not at all,
//! call one function without an id (OpenAI's first form), and send results that do not say of
//! which call they are. Templates want an id, a name and arguments, each in its place.

use serde_json::{Map, Value, json};

use super::Wrong;
use crate::fields::kind_of;

/// The calls so far that have no result yet, in order.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    id: String,
    name: String,
}

impl Calls {
    /// The calls that message number `index` makes, normalised; `None` if it makes none.
    pub(super) fn make(
        &mut self,
        index: usize,
        message: &Map<String, Value>,
    ) -> Result<Option<Value>, Wrong> {
        let given = |name| message.get(name).filter(|value: &&Value| !value.is_null());
        let first_form = given("function_call").map(|call| [json!({ "function": call })]);
        let calls = match given("tool_calls") {
            Some(Value::Array(calls)) => &calls[..],
            Some(other) => {
                let message = format!("`tool_calls` must be an array, not {}", kind_of(other));
                return Err(Wrong::at(".tool_calls", message));
            }
            None => first_form.as_ref().map_or(&[][..], |calls| calls),
        };
        let mut made = Vec::with_capacity(calls.len());
        for (number, call) in calls.iter().enumerate() {
            let place = format!(".tool_calls[{number}]");
            let Call { id, name } =
                self.begin(call, &place, || format!("call_{index}_{number}"))?;
            let arguments = arguments(&call["function"]["arguments"], &place)?;
            made.push(json!({
                "id": id,
                "type": "function",
                "function": { "name": name, "arguments": arguments },
            }));
        }
        Ok((!made.is_empty()).then_some(Value::Array(made)))
    }

    fn begin(
        &mut self,
        call: &Value,
        place: &str,
        new_id: impl Fn() -> String,
    ) -> Result<&Call, Wrong> {
        let Some(name) = call["function"]["name"].as_str().filter(|name| !name.is_empty()) else {
            let field = format!("{place}.function.name");
            return Err(Wrong::at(field, "a call needs the name of its function"));
        };
        let id = call["id"].as_str().filter(|id| !id.is_empty());
        // Made of its place, so that the same conversation always renders to the same prompt.
        let id = id.map_or_else(new_id, str::to_owned);
        self.open.push(Call { id, name: name.to_owned() });
        Ok(self.open.last().expect("just pushed"))
    }

    /// Says in `normal` of which call `message` is the result, as well as it can be told.
    pub(super) fn answer(&mut self, message: &Map<String, Value>, normal: &mut Map<String, Value>) {
        let text = |name: &str| message.get(name).and_then(Value::as_str);
        let id = text("tool_call_id").filter(|id| !id.is_empty());
        // The second is Ollama's.
        let name = text("name").or_else(|| text("tool_name")).filter(|name| !name.is_empty());
        let place = match (id, name) {
            (Some(id), _) => self.open.iter().position(|call| call.id == id),
            (None, Some(name)) => self.open.iter().position(|call| call.name == name),
            (None, None) => (!self.open.is_empty()).then_some(0),
        };
        let call = place.map(|place| self.open.remove(place));
        let id = id.or(call.as_ref().map(|call| call.id.as_str()));
        let name = name.or(call.as_ref().map(|call| call.name.as_str()));
        for (field, value) in [("tool_call_id", id), ("name", name)] {
            if let Some(value) = value {
                normal.insert(field.to_owned(), Value::from(value));
            }
        }
    }
}

/// As text, which is OpenAI's form.
fn arguments(given: &Value, place: &str) -> Result<String, Wrong> {
    match given {
        Value::Null => Ok("{}".to_owned()),
        Value::String(text) if text.trim().is_empty() => Ok("{}".to_owned()),
        Value::String(text) => Ok(text.clone()),
        Value::Object(_) => Ok(given.to_string()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            let message = format!("`arguments` must be an object, not {}", kind_of(given));
            Err(Wrong::at(format!("{place}.function.arguments"), message))
        }
    }
}
