//! What an answer must look like: `response_format`, `text.format` and vLLM's spellings of the same →
//! a constraint. Pure. Whether it can be enforced is the worker's to say.

use hearth_shared::protocol::{Constraint, JsonText};
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::{Fields, kind_of};

/// A longer schema, expression or grammar is no answer's shape but an attack.
const BYTES_MAX: usize = 64 * 1024;
const CHOICES_MAX: usize = 256;

/// Reads every field that constrains a chat completion or a completion.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field, also if two of them constrain.
pub(super) fn read(fields: Fields<'_>) -> Result<Option<Constraint>, ApiError> {
    let mut found: Option<(&str, Constraint)> = None;
    let mut add = |name: &'static str, constraint: Option<Constraint>| {
        let Some(constraint) = constraint else { return Ok(()) };
        if let Some((other, _)) = &found {
            let message = format!("`{name}` and `{other}` can't both hold; leave one out");
            return Err(ApiError::invalid(name, message));
        }
        found = Some((name, constraint));
        Ok(())
    };
    if let Some(value) = fields.get("response_format") {
        add("response_format", of_format(value, "response_format")?)?;
    }
    for (name, kind) in [
        ("guided_json", "json"),
        ("guided_regex", "regex"),
        ("guided_choice", "choice"),
        ("guided_grammar", "grammar"),
    ] {
        if let Some(value) = fields.get(name) {
            add(name, of_vllm(kind, value, name)?)?;
        }
    }
    if let Some(options) = fields.object("structured_outputs", "structured_outputs.")? {
        for name in options.names() {
            let Some(value) = options.get(name) else { continue };
            add("structured_outputs", of_vllm(name, value, &options.path(name))?)?;
        }
    }
    Ok(found.map(|(_, constraint)| constraint))
}

/// OpenAI's object with a `type`. The schema stands in `json_schema`, or beside the type where a
/// response's `text.format` has it.
///
/// # Errors
/// [`ApiError::Invalid`] that names `param` or what stands in it.
pub(super) fn of_format(format: &Value, param: &str) -> Result<Option<Constraint>, ApiError> {
    let wrong =
        |field: &str, message: String| ApiError::invalid(format!("{param}{field}"), message);
    let Value::Object(map) = format else {
        let found = kind_of(format);
        return Err(wrong("", format!("`{param}` must be an object, not {found}")));
    };
    match map.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Constraint::JsonObject)),
        Some("json_schema") => {
            let (inner, field) = match map.get("json_schema") {
                Some(inner) => (inner, ".json_schema.schema"),
                None => (format, ".schema"),
            };
            match inner.get("schema") {
                // Some clients name a schema without one; any object is what is left of it.
                None | Some(Value::Null) => Ok(Some(Constraint::JsonObject)),
                Some(schema) => Ok(Some(schema_of(schema, &format!("{param}{field}"))?)),
            }
        }
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            let message =
                format!("`{param}.type` must be text, json_object or json_schema, not `{other}`");
            Err(wrong(".type", message))
        }
        None => Err(wrong(".type", format!("`{param}` needs a `type`"))),
    }
}

fn of_vllm(kind: &str, value: &Value, param: &str) -> Result<Option<Constraint>, ApiError> {
    let text = || {
        let text = value.as_str().filter(|text| !text.is_empty());
        let text =
            text.ok_or_else(|| ApiError::invalid(param, format!("`{param}` must be a string")));
        text.and_then(|text| short(text.to_owned(), param))
    };
    match kind {
        "json" => Ok(Some(schema_of(value, param)?)),
        "json_object" => Ok((*value == Value::Bool(true)).then_some(Constraint::JsonObject)),
        "regex" => Ok(Some(Constraint::Regex(text()?))),
        "grammar" => Ok(Some(Constraint::Lark(text()?))),
        "choice" => Ok(Some(Constraint::Regex(one_of(value, param)?))),
        _ => Err(ApiError::invalid(param, format!("`{param}` is not supported; leave it out"))),
    }
}

/// A schema, also one that was made a string on the way.
fn schema_of(schema: &Value, param: &str) -> Result<Constraint, ApiError> {
    let text = match schema {
        Value::Object(_) | Value::Bool(true) => schema.to_string(),
        Value::String(text) if serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object()) => {
            text.clone()
        }
        other => {
            let found = kind_of(other);
            let message = format!("`{param}` must be a JSON schema, an object, not {found}");
            return Err(ApiError::invalid(param, message));
        }
    };
    Ok(Constraint::JsonSchema(JsonText(short(text, param)?)))
}

fn short(text: String, param: &str) -> Result<String, ApiError> {
    if text.len() <= BYTES_MAX {
        return Ok(text);
    }
    let message = format!("`{param}` may have at most {BYTES_MAX} bytes, not {}", text.len());
    Err(ApiError::invalid(param, message))
}

/// An expression that matches exactly these texts.
fn one_of(value: &Value, param: &str) -> Result<String, ApiError> {
    let texts: Option<Vec<String>> = value
        .as_array()
        .filter(|items| (1..=CHOICES_MAX).contains(&items.len()))
        .and_then(|items| items.iter().map(|item| item.as_str().map(escaped)).collect());
    let Some(texts) = texts else {
        let message = format!("`{param}` must be an array of 1 to {CHOICES_MAX} strings");
        return Err(ApiError::invalid(param, message));
    };
    short(texts.join("|"), param)
}

/// Every character that could mean something in a regular expression means itself.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => {
                if c.is_ascii_punctuation() {
                    out.push('\\');
                }
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn constraint(value: &Value) -> Result<Option<Constraint>, ApiError> {
        read(Fields::new(value.as_object().unwrap()))
    }

    fn schema(text: &str) -> Option<Constraint> {
        Some(Constraint::JsonSchema(JsonText(text.to_owned())))
    }

    #[test]
    fn every_spelling_says_the_same() {
        let object = json!({"type": "object"});
        let text = r#"{"type":"object"}"#;
        let named = json!({"name": "n", "strict": true, "schema": object});
        for (request, expected) in [
            (json!({}), None),
            (json!({"response_format": {"type": "text"}}), None),
            (json!({"response_format": {"type": "json_object"}}), Some(Constraint::JsonObject)),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": named}}),
                schema(text),
            ),
            (json!({"response_format": {"type": "json_schema", "schema": object}}), schema(text)),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
                Some(Constraint::JsonObject),
            ),
            (json!({"guided_json": text}), schema(text)),
            (json!({"structured_outputs": {"json": object}}), schema(text)),
            (json!({"guided_regex": "[a-z]+"}), Some(Constraint::Regex("[a-z]+".to_owned()))),
            (
                json!({"guided_choice": ["a.b", "c\nd"]}),
                Some(Constraint::Regex(r"a\.b|c\nd".to_owned())),
            ),
            (
                json!({"structured_outputs": {"grammar": "start: X"}}),
                Some(Constraint::Lark("start: X".to_owned())),
            ),
            (json!({"structured_outputs": {"json_object": false}}), None),
        ] {
            assert_eq!(constraint(&request).unwrap(), expected, "{request}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(BYTES_MAX + 1);
        for (request, param) in [
            (json!({"response_format": "json"}), "response_format"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"type": "grammar"}}), "response_format.type"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"guided_json": "no json"}), "guided_json"),
            (json!({"guided_regex": 5}), "guided_regex"),
            (json!({"guided_regex": long}), "guided_regex"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": [1]}), "guided_choice"),
            (
                json!({"structured_outputs": {"structural_tag": "x"}}),
                "structured_outputs.structural_tag",
            ),
            (
                json!({"response_format": {"type": "json_object"}, "guided_regex": "x"}),
                "guided_regex",
            ),
        ] {
            let error = constraint(&request).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{request}");
        }
    }
}
