//! Calls as a grammar, for answers that have to call.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::CallFormat;
use crate::generate::grammar::{lark_of_schema, literal};
use crate::tokenizer::Tokenizer;

/// More calls than anyone means, where a small model would not stop.
const CALLS_MAX: u32 = 16;

/// A tool, as far as calling it is concerned.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// The schema of its arguments.
    pub(crate) parameters: Value,
}

impl Tool {
    /// Reads one of a request's tools, in OpenAI's form.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn read(tool: &Value) -> Result<Self, String> {
        let function = tool.get("function").unwrap_or(tool);
        let Some(name) = function.get("name").and_then(Value::as_str) else {
            return Err("a tool has no name".to_owned());
        };
        let parameters = match function.get("parameters") {
            None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
            Some(parameters) => as_object(parameters.clone()),
        };
        Ok(Self { name: name.to_owned(), parameters })
    }
}

/// Arguments are an object, also where a schema forgets to say so.
fn as_object(mut schema: Value) -> Value {
    if let Value::Object(keywords) = &mut schema {
        let described = ["type", "$ref", "anyOf", "oneOf", "allOf", "const", "enum"];
        if !described.iter().any(|&word| keywords.contains_key(word)) {
            let mut typed = Map::new();
            typed.insert("type".to_owned(), json!("object"));
            typed.append(keywords);
            *keywords = typed;
        }
    }
    schema
}

/// One call of one of the tools, or several unless `single`, in Lark.
///
/// # Errors
/// Which tool's schema can't be enforced, and why.
pub(crate) fn calls_grammar(
    format: CallFormat,
    tools: &[Tool],
    single: bool,
    tokenizer: &Tokenizer,
) -> Result<String, String> {
    let open = literal(tokenizer, format.open());
    let close = format.close().map(|close| literal(tokenizer, close)).unwrap_or_default();
    let more = CALLS_MAX - 1;
    let many = |separator: &str| match single {
        true => "call".to_owned(),
        false => format!("call ({separator} call){{0,{more}}}"),
    };
    let start = match format {
        CallFormat::Hermes => {
            let tagged = format!("call: {open} \"\\n\" object \"\\n\" {close}");
            format!("start: {}\n{tagged}", many("\"\\n\""))
        }
        // Its template takes one call in an answer and no more.
        CallFormat::Llama => "start: object".to_owned(),
        CallFormat::Mistral => {
            format!("start: {open} \"[\" {} \"]\"\ncall: object", many("\", \""))
        }
        CallFormat::MistralNamed => format!("start: {}\ncall: {open} object", many("\"\"")),
        CallFormat::Phi => {
            format!("start: {open} \"[\" {} \"]\" {close}\ncall: object", many("\", \""))
        }
    };
    let names: Vec<_> = (0..tools.len()).map(|index| format!("tool{index}")).collect();
    let mut grammar = format!("{start}\nobject: {}\n", names.join(" | "));
    for (name, tool) in names.iter().zip(tools) {
        let schema = lark_of_schema(tool.parameters.clone())
            .map_err(|why| format!("the parameters of tool `{}`: {why}", tool.name))?;
        let written = written(format, tool, tokenizer);
        let end = if format.names_first() { "" } else { "\"}\"" };
        // Writing to a string doesn't fail.
        let _infallible = writeln!(grammar, "{name}: {written} {name}a {end}\n{name}a: {schema}");
    }
    Ok(grammar)
}

/// All of a call that stands before its arguments.
fn written(format: CallFormat, tool: &Tool, tokenizer: &Tokenizer) -> String {
    let text = |text: String| Value::from(text).to_string();
    let name = Value::from(tool.name.as_str());
    match format {
        CallFormat::MistralNamed => {
            let arguments = literal(tokenizer, super::dialect::ARGUMENTS);
            format!("{} {arguments}", text(tool.name.clone()))
        }
        CallFormat::Llama => text(format!("{{\"name\": {name}, \"parameters\": ")),
        CallFormat::Hermes | CallFormat::Mistral | CallFormat::Phi => {
            text(format!("{{\"name\": {name}, \"arguments\": "))
        }
    }
}
