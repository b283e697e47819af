//! A request's messages and tools → what a chat template takes.
//!
//! The preparing thread calls it before a template is rendered. Clients write messages in OpenAI's
//! form; templates expect that of Hugging Face's libraries, where arguments are objects. Where a
//! template knows nothing of tools, they and their calls are told in words, in the form of Hermes:
//! the most widely trained one, and one that any chat model can follow.

use hearth_shared::protocol::{JsonText, RequestFailure};
use serde_json::{Map, Value as Json, json};

use super::python::json_text;
use crate::answer::CallFormat;

/// What a template is rendered with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Json>,
    pub(crate) tools: Option<Vec<Json>>,
    /// What the request tells the template beside.
    pub(crate) variables: Map<String, Json>,
}

/// Variables that mean the conversation itself.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// # Errors
/// [`RequestFailure::Invalid`] if the JSON is no array.
pub(crate) fn array(what: &str, json: &str) -> Result<Vec<Json>, RequestFailure> {
    serde_json::from_str(json).map_err(|error| invalid(format!("{what}: {error}")))
}

/// # Errors
/// [`RequestFailure::Invalid`] if the JSON is no object, or if one of the variables is reserved.
pub(crate) fn variables(json: Option<&JsonText>) -> Result<Map<String, Json>, RequestFailure> {
    let Some(JsonText(json)) = json else {
        return Ok(Map::new());
    };
    let variables: Map<String, Json> = serde_json::from_str(json)
        .map_err(|error| invalid(format!("template variables: {error}")))?;
    match RESERVED.iter().find(|&&name| variables.contains_key(name)) {
        Some(name) => Err(invalid(format!("template variables can't set `{name}`"))),
        None => Ok(variables),
    }
}

fn invalid(message: String) -> RequestFailure {
    RequestFailure::Invalid { message }
}

/// Messages in the form that templates with a section for tools expect.
pub(crate) fn for_template(messages: &mut [Json], format: CallFormat) {
    for message in messages.iter_mut().filter_map(Json::as_object_mut) {
        drop_empty_calls(message);
        for call in calls_of(message) {
            if let Some(arguments) = call.pointer_mut("/function/arguments") {
                parse_arguments(arguments);
            }
            if let Some(id) = call.get_mut("id") {
                shorten(id, format);
            }
        }
        if let Some(id) = message.get_mut("tool_call_id") {
            shorten(id, format);
        }
    }
}

fn calls_of(message: &mut Map<String, Json>) -> impl Iterator<Item = &mut Json> {
    message.get_mut("tool_calls").and_then(Json::as_array_mut).into_iter().flatten()
}

/// Templates ask whether there is a list, and then for its first call.
fn drop_empty_calls(message: &mut Map<String, Json>) {
    let is_empty = message.get("tool_calls").is_some_and(|calls| match calls {
        Json::Null => true,
        Json::Array(calls) => calls.is_empty(),
        _ => false,
    });
    if is_empty {
        message.shift_remove("tool_calls");
    }
}

fn parse_arguments(arguments: &mut Json) {
    let parsed = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
    if let Some(object @ Json::Object(_)) = parsed {
        *arguments = object;
    }
}

/// Mistral's templates refuse ids that are not nine letters and digits; the last ones differ most.
fn shorten(id: &mut Json, format: CallFormat) {
    if !matches!(format, CallFormat::Mistral | CallFormat::MistralNamed) {
        return;
    }
    if let Json::String(text) = id {
        let letters: Vec<_> = text.chars().filter(char::is_ascii_alphanumeric).collect();
        let last = &letters[letters.len().saturating_sub(9)..];
        *text = format!("{:0>9}", last.iter().collect::<String>());
    }
}

/// Messages for a template that knows nothing of tools: calls and results become text.
pub(crate) fn as_text(messages: Vec<Json>) -> Vec<Json> {
    let mut told: Vec<Json> = Vec::new();
    let mut follows_result = false;
    for mut message in messages {
        let is_result = matches!(role(&message), "tool" | "function");
        if is_result {
            let text = format!("<tool_response>\n{}\n</tool_response>", content(&message));
            match told.last_mut() {
                // Templates want turns to alternate: several results are one message.
                Some(last) if follows_result => {
                    let all = format!("{}\n{text}", content(last));
                    last["content"] = Json::from(all);
                }
                _ => told.push(json!({"role": "user", "content": text})),
            }
        } else {
            write_calls(&mut message);
            told.push(message);
        }
        follows_result = is_result;
    }
    told
}

fn write_calls(message: &mut Json) {
    let mut text = content(message).to_owned();
    let Some(fields) = message.as_object_mut() else {
        return;
    };
    drop_empty_calls(fields);
    let calls: Vec<String> = calls_of(fields).map(written_call).collect();
    if calls.is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text += &calls.join("\n");
    fields.shift_remove("tool_calls");
    fields.insert("content".to_owned(), Json::from(text));
}

fn written_call(call: &mut Json) -> String {
    let function = call.get_mut("function").map(Json::take).unwrap_or_default();
    let mut arguments = function.get("arguments").cloned().unwrap_or_else(|| json!({}));
    parse_arguments(&mut arguments);
    let name = function.get("name").cloned().unwrap_or_default();
    let call = json!({"name": name, "arguments": arguments});
    format!("<tool_call>\n{}\n</tool_call>", json_text(&call))
}

/// What tells a model of tools whose template does not.
pub(crate) fn description(tools: &[Json], must_call: bool) -> String {
    let tools: Vec<String> =
        tools.iter().map(|tool| json_text(tool.get("function").unwrap_or(tool))).collect();
    let when = if must_call { "Answer by calling" } else { "If it helps, call" };
    format!(
        "You have these tools, one in each line, with their arguments as JSON schemas:\n{}\n\n\
         {when} one of them like this:\n<tool_call>\n\
         {{\"name\": \"name of the tool\", \"arguments\": {{\"argument\": \"value\"}}}}\n\
         </tool_call>",
        tools.join("\n")
    )
}

/// Where a description goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Teller {
    /// The system message, which is put there if there is none.
    System,
    /// The first message of the user: some templates know no system message.
    User,
}

/// Puts a description into the messages.
pub(crate) fn tell(messages: &mut Vec<Json>, description: &str, teller: Teller) {
    let (wanted, new) = match teller {
        Teller::System => ("system", "system"),
        Teller::User => ("user", "user"),
    };
    let found = messages.iter_mut().find(|message| role(message) == wanted);
    match found {
        Some(message) => {
            let told = match teller {
                Teller::System => format!("{}\n\n{description}", content(message)),
                Teller::User => format!("{description}\n\n{}", content(message)),
            };
            message["content"] = Json::from(told);
        }
        None => messages.insert(0, json!({"role": new, "content": description})),
    }
}

fn role(message: &Json) -> &str {
    message.get("role").and_then(Json::as_str).unwrap_or_default()
}

fn content(message: &Json) -> &str {
    message.get("content").and_then(Json::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(json: &str) -> Vec<Json> {
        array("messages", json).unwrap()
    }

    #[test]
    fn arguments_become_objects_and_empty_lists_go() {
        let mut given = messages(
            r#"[{"role": "assistant", "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
                {"role": "assistant", "content": "x", "tool_calls": []},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "oops"}}]}]"#,
        );
        for_template(&mut given, CallFormat::Hermes);
        let expected = messages(
            r#"[{"role": "assistant", "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": {"a": 1}}}]},
                {"role": "assistant", "content": "x"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "oops"}}]}]"#,
        );
        assert_eq!(given, expected);
    }

    #[test]
    fn mistrals_ids_are_nine_letters() {
        let mut given = messages(
            r#"[{"role": "assistant", "tool_calls": [{"id": "call_abcDEF123456"}, {"id": "7"}]},
                {"role": "tool", "tool_call_id": "call_abcDEF123456", "content": "1"}]"#,
        );
        for_template(&mut given, CallFormat::Mistral);
        let expected = messages(
            r#"[{"role": "assistant", "tool_calls": [{"id": "DEF123456"}, {"id": "000000007"}]},
                {"role": "tool", "tool_call_id": "DEF123456", "content": "1"}]"#,
        );
        assert_eq!(given, expected);
    }

    #[test]
    fn calls_and_results_become_text_where_nothing_else_is_known() {
        let given = messages(
            r#"[{"role": "user", "content": "?"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"function": {"name": "f", "arguments": "{\"a\": 1}"}}, {"function": {"name": "g"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "one"},
                {"role": "tool", "tool_call_id": "2", "content": "two"},
                {"role": "assistant", "content": "Done."}]"#,
        );
        let calls = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
                     <tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
        let results =
            "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>";
        let expected = json!([
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": calls},
            {"role": "user", "content": results},
            {"role": "assistant", "content": "Done."},
        ]);
        assert_eq!(Json::from(as_text(given)), expected);
    }

    #[test]
    fn tools_are_described_to_the_system_or_to_the_user() {
        let described = description(&[json!({"function": {"name": "f"}})], true);
        assert!(described.contains("{\"name\": \"f\"}") && described.contains("Answer by calling"));
        let mut one = messages(r#"[{"role": "user", "content": "hi"}]"#);
        let mut two = messages(r#"[{"role": "system", "content": "Be brief."}]"#);
        let mut three = one.clone();
        tell(&mut one, "D", Teller::System);
        tell(&mut two, "D", Teller::System);
        tell(&mut three, "D", Teller::User);
        assert_eq!(one[0], json!({"role": "system", "content": "D"}));
        assert_eq!(two[0], json!({"role": "system", "content": "Be brief.\n\nD"}));
        assert_eq!(three[0], json!({"role": "user", "content": "D\n\nhi"}));
    }

    #[test]
    fn variables_are_an_object_that_leaves_the_conversation_alone() {
        let variables = |json: &str| variables(Some(&JsonText(json.to_owned())));
        assert_eq!(variables(r#"{"enable_thinking": false}"#).unwrap().len(), 1);
        for json in ["[]", "{", r#"{"messages": []}"#] {
            assert!(matches!(variables(json), Err(RequestFailure::Invalid { .. })), "{json}");
        }
    }
}
