//! `tools` and `tool_choice` in any of their spellings → what a worker needs. Pure.
//!
//! Chat completions nest a tool in `function`, responses do not, and the first form had `functions`
//! and `function_call`; all three come out in the one form that templates read. A choice of some of
//! the tools is made true by describing only those.

use hearth_shared::protocol::{JsonText, ToolChoice};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, kind_of};

/// More descriptions than this fill any context.
const TOOLS_MAX: usize = 128;
const NAME_BYTES_MAX: usize = 256;

/// The tools of a request, and whether they may, must or must not be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// In the form of chat completions; none at all is empty.
    tools: Vec<Value>,
    /// What to do with them.
    pub choice: ToolChoice,
    /// Whether one answer may call several.
    pub parallel: bool,
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] that names the field.
    pub fn read(fields: Fields<'_>) -> Result<Self, ApiError> {
        let given = fields.array("tools")?.unwrap_or_default();
        let tools = each(given, "tools")?;
        let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
        let mut tools = Self { tools, choice: ToolChoice::Auto, parallel };
        tools.choose(fields.get("tool_choice"), "tool_choice")?;
        Ok(tools)
    }

    /// Reads `functions` and `function_call`, which never call more than one.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] that names the field.
    pub fn read_first_form(fields: Fields<'_>) -> Result<Self, ApiError> {
        let given = fields.array("functions")?.unwrap_or_default();
        let tools = each(given, "functions")?;
        let mut tools = Self { tools, choice: ToolChoice::Auto, parallel: false };
        tools.choose(fields.get("function_call"), "function_call")?;
        Ok(tools)
    }

    /// What a worker reads; `None` without tools.
    #[must_use]
    pub fn json(&self) -> Option<JsonText> {
        (!self.tools.is_empty()).then(|| JsonText(Value::from(self.tools.clone()).to_string()))
    }

    fn choose(&mut self, choice: Option<&Value>, param: &'static str) -> Result<(), ApiError> {
        let wrong = |message: String| Err(ApiError::invalid(param, message));
        let Some(choice) = choice else { return Ok(()) };
        let kind = choice.get("type").and_then(Value::as_str);
        let name = choice.get("function").unwrap_or(choice).get("name").and_then(Value::as_str);
        self.choice = match (choice, kind, name) {
            (Value::String(word), _, _) => return self.choose_by_word(word, param),
            (_, Some("allowed_tools"), _) => {
                return self.allow(choice.get("allowed_tools").unwrap_or(choice), param);
            }
            (_, Some("function") | None, Some(name)) => {
                if !self.has(name) {
                    return wrong(format!("`{param}` names `{}`, which is no tool", shown(name)));
                }
                ToolChoice::Function(name.to_owned())
            }
            _ => {
                return wrong(format!(
                    "`{param}` must be none, auto, required, a function by its name, or \
                     allowed_tools"
                ));
            }
        };
        Ok(())
    }

    fn choose_by_word(&mut self, word: &str, param: &'static str) -> Result<(), ApiError> {
        self.choice = match word {
            "none" => ToolChoice::None,
            "auto" | "" => ToolChoice::Auto,
            // The second is Anthropic's and Mistral's word.
            "required" | "any" if self.tools.is_empty() => {
                let message = format!("`{param}` says {word}, but there are no tools to call");
                return Err(ApiError::invalid(param, message));
            }
            "required" | "any" => ToolChoice::Required,
            other => {
                let other = shown(other);
                let message = format!("`{param}` must be none, auto or required, not `{other}`");
                return Err(ApiError::invalid(param, message));
            }
        };
        Ok(())
    }

    /// Only the tools of `allowed` are described, so that no other can be called.
    fn allow(&mut self, allowed: &Value, param: &'static str) -> Result<(), ApiError> {
        let path = format!("{param}.allowed_tools");
        let Some(tools) = allowed.get("tools").and_then(Value::as_array) else {
            return Err(ApiError::invalid(&path, format!("`{path}` needs an array of `tools`")));
        };
        let names: Vec<&str> = tools
            .iter()
            .filter_map(|tool| tool.get("function").unwrap_or(tool).get("name")?.as_str())
            .collect();
        if let Some(unknown) = names.iter().find(|name| !self.has(name)) {
            let message = format!("`{path}` names `{}`, which is no tool", shown(unknown));
            return Err(ApiError::invalid(&path, message));
        }
        self.tools.retain(|tool| names.iter().any(|name| tool["function"]["name"] == **name));
        let mode = allowed.get("mode").and_then(Value::as_str).unwrap_or("auto");
        self.choose_by_word(mode, param)
    }

    fn has(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool["function"]["name"] == name)
    }
}

fn each(given: &[Value], field: &str) -> Result<Vec<Value>, ApiError> {
    if given.len() > TOOLS_MAX {
        let message = format!("`{field}` may hold at most {TOOLS_MAX}, not {}", given.len());
        return Err(ApiError::invalid(field, message));
    }
    let mut tools: Vec<Value> = Vec::with_capacity(given.len());
    for (index, tool) in given.iter().enumerate() {
        let place = format!("{field}[{index}]");
        let tool = normalise(tool, &place)?;
        let name = &tool["function"]["name"];
        if tools.iter().any(|other| other["function"]["name"] == *name) {
            let message = format!("`{place}` has the name of another tool: {name}");
            return Err(ApiError::invalid(place, message));
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn normalise(tool: &Value, place: &str) -> Result<Value, ApiError> {
    let wrong =
        |field: &str, message: String| ApiError::invalid(format!("{place}{field}"), message);
    let Value::Object(map) = tool else {
        let found = kind_of(tool);
        return Err(wrong("", format!("a tool must be an object, not {found}")));
    };
    match map.get("type").and_then(Value::as_str) {
        None | Some("function") => {}
        Some(other) => {
            let other = shown(other);
            let message = format!("this server has no tool `{other}`; it takes functions only");
            return Err(wrong(".type", message));
        }
    }
    let function = match map.get("function") {
        Some(Value::Object(function)) => function,
        Some(_) => return Err(wrong(".function", "`function` must be an object".to_owned())),
        None => map,
    };
    let Some(name) = function.get("name").and_then(Value::as_str) else {
        return Err(wrong(".function.name", "a function needs a `name`".to_owned()));
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let message = format!("a function's name has from 1 to {NAME_BYTES_MAX} bytes");
        return Err(wrong(".function.name", message));
    }
    let mut normal = Map::from_iter([("name".to_owned(), Value::from(name))]);
    if let Some(Value::String(description)) = function.get("description") {
        normal.insert("description".to_owned(), Value::from(description.as_str()));
    }
    match function.get("parameters") {
        None | Some(Value::Null) => {}
        Some(parameters @ Value::Object(_)) => {
            normal.insert("parameters".to_owned(), parameters.clone());
        }
        Some(other) => {
            let found = kind_of(other);
            let message = format!("`parameters` must be a JSON schema, not {found}");
            return Err(wrong(".function.parameters", message));
        }
    }
    if let Some(Value::Bool(strict)) = function.get("strict") {
        normal.insert("strict".to_owned(), Value::from(*strict));
    }
    Ok(json!({ "type": "function", "function": normal }))
}

/// A client's text, short enough for an error message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<Tools, ApiError> {
        Tools::read(Fields::new(value.as_object().unwrap()))
    }

    fn names(tools: &Tools) -> Vec<&str> {
        tools.tools.iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect()
    }

    const F: &str = r#"{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}"#;

    fn f_and_g() -> Value {
        let f: Value = serde_json::from_str(F).unwrap();
        json!([f, {"name": "g", "description": "d", "strict": true}])
    }

    #[test]
    fn tools_have_one_form_however_they_were_spelled() {
        let tools = read(&json!({"tools": f_and_g()})).unwrap();
        let g = json!({"type": "function",
                       "function": {"name": "g", "description": "d", "strict": true}});
        assert_eq!(tools.json().unwrap().0, format!("[{F},{g}]"));
        assert_eq!((tools.choice, tools.parallel), (ToolChoice::Auto, true));
        let map = json!({"functions": [{"name": "f"}], "function_call": {"name": "f"}});
        let first = Tools::read_first_form(Fields::new(map.as_object().unwrap())).unwrap();
        assert_eq!(names(&first), ["f"]);
        assert_eq!((first.choice, first.parallel), (ToolChoice::Function("f".to_owned()), false));
        assert_eq!(read(&json!({})).unwrap().json(), None);
    }

    #[test]
    fn every_choice_is_understood() {
        let chosen = |choice: Value| {
            let tools = read(&json!({"tools": f_and_g(), "tool_choice": choice})).unwrap();
            (tools.choice.clone(), names(&tools).join("+"))
        };
        let both = || "f+g".to_owned();
        let f = || ToolChoice::Function("f".to_owned());
        assert_eq!(chosen(json!(null)), (ToolChoice::Auto, both()));
        assert_eq!(chosen(json!("none")), (ToolChoice::None, both()));
        assert_eq!(chosen(json!("any")), (ToolChoice::Required, both()));
        assert_eq!(chosen(json!({"type": "function", "function": {"name": "f"}})), (f(), both()));
        assert_eq!(chosen(json!({"type": "function", "name": "f"})), (f(), both()));
        let allowed = json!({"mode": "required", "tools": [{"function": {"name": "g"}}]});
        assert_eq!(
            chosen(json!({"type": "allowed_tools", "allowed_tools": allowed})),
            (ToolChoice::Required, "g".to_owned())
        );
        assert_eq!(
            chosen(json!({"type": "allowed_tools", "tools": [{"name": "f"}]})),
            (ToolChoice::Auto, "f".to_owned())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let f = json!([{"function": {"name": "f"}}]);
        for (request, param) in [
            (json!({"tools": {}}), "tools"),
            (json!({"tools": [5]}), "tools[0]"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function.name"),
            (json!({"tools": [{"name": ""}]}), "tools[0].function.name"),
            (json!({"tools": [{"name": "f", "parameters": 5}]}), "tools[0].function.parameters"),
            (json!({"tools": [{"name": "f"}, {"name": "f"}]}), "tools[1]"),
            (json!({"tools": vec![json!({}); 129]}), "tools"),
            (json!({"tools": f, "tool_choice": "always"}), "tool_choice"),
            (json!({"tools": f, "tool_choice": {"name": "g"}}), "tool_choice"),
            (json!({"tools": f, "tool_choice": {"type": "mcp"}}), "tool_choice"),
            (json!({"tools": f, "tool_choice": 5}), "tool_choice"),
            (
                json!({"tools": f, "tool_choice": {"type": "allowed_tools", "tools": [{"name": "g"}]}}),
                "tool_choice.allowed_tools",
            ),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
        ] {
            let error = read(&request).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{request}");
        }
    }
}
