//! How much a model shall think before it answers, and where its thoughts go. Pure.

use hearth_shared::protocol::JsonText;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::Fields;

const BYTES_MAX: usize = 16 * 1024;

/// What a template is given by us alone.
const RESERVED: [&str; 8] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception",
    "strftime_now",
];

/// Variables for the chat template, out of `reasoning_effort`, `reasoning.effort` and
/// `chat_template_kwargs`; the last says it most exactly and wins.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(super) fn template_variables(fields: Fields<'_>) -> Result<Option<JsonText>, ApiError> {
    let mut variables = Map::new();
    if let Some(effort) = effort(fields)? {
        // The first is what templates with one switch call it. Words that we do not know may mean
        // something to a template.
        variables.insert("enable_thinking".to_owned(), Value::from(effort != "none"));
        variables.insert("reasoning_effort".to_owned(), Value::from(effort));
    }
    match fields.get("chat_template_kwargs") {
        None => {}
        Some(Value::Object(given)) => {
            if let Some(name) = given.keys().find(|name| RESERVED.contains(&name.as_str())) {
                return Err(refused(format!("`chat_template_kwargs` may not set `{name}`")));
            }
            variables.extend(given.clone());
        }
        Some(_) => return Err(refused("`chat_template_kwargs` must be an object".to_owned())),
    }
    if variables.is_empty() {
        return Ok(None);
    }
    let text = Value::from(variables).to_string();
    if text.len() > BYTES_MAX {
        return Err(refused(format!("`chat_template_kwargs` may have at most {BYTES_MAX} bytes")));
    }
    Ok(Some(JsonText(text)))
}

/// Whether thoughts stand apart from the answer.
///
/// # Errors
/// [`ApiError::Invalid`] for what is no string.
pub(super) fn is_split(fields: Fields<'_>) -> Result<bool, ApiError> {
    Ok(fields.text("reasoning_format")? != Some("none"))
}

fn effort(fields: Fields<'_>) -> Result<Option<&str>, ApiError> {
    if let Some(effort) = fields.text("reasoning_effort")? {
        return Ok(Some(effort));
    }
    match fields.object("reasoning", "reasoning.")? {
        Some(reasoning) => reasoning.text("effort"),
        None => Ok(None),
    }
}

fn refused(message: String) -> ApiError {
    ApiError::invalid("chat_template_kwargs", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variables(value: &Value) -> Result<Option<String>, ApiError> {
        let variables = template_variables(Fields::new(value.as_object().unwrap()))?;
        Ok(variables.map(|JsonText(text)| text))
    }

    #[test]
    fn an_effort_reaches_templates_of_both_kinds() {
        let low = r#"{"enable_thinking":true,"reasoning_effort":"low"}"#;
        for (request, expected) in [
            (json!({}), None),
            (json!({"reasoning_effort": "low"}), Some(low)),
            (json!({"reasoning": {"effort": "low", "summary": "auto"}}), Some(low)),
            (
                json!({"reasoning_effort": "none"}),
                Some(r#"{"enable_thinking":false,"reasoning_effort":"none"}"#),
            ),
            (
                json!({"chat_template_kwargs": {"enable_thinking": false, "x": [1]}}),
                Some(r#"{"enable_thinking":false,"x":[1]}"#),
            ),
            (json!({"chat_template_kwargs": {}}), None),
        ] {
            assert_eq!(variables(&request).unwrap().as_deref(), expected, "{request}");
        }
    }

    #[test]
    fn what_is_ours_can_not_be_set() {
        for (request, param) in [
            (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs"),
            (json!({"chat_template_kwargs": "x"}), "chat_template_kwargs"),
            (json!({"chat_template_kwargs": {"x": "y".repeat(BYTES_MAX)}}), "chat_template_kwargs"),
            (json!({"reasoning_effort": 5}), "reasoning_effort"),
            (json!({"reasoning": "low"}), "reasoning"),
            (json!({"reasoning": {"effort": 5}}), "reasoning.effort"),
        ] {
            let error = variables(&request).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{request}");
        }
    }
}
