//! `POST /api/chat`.

use hearth_shared::protocol::{Chat, JsonText, Prompt};
use hyper::Response;
use serde_json::{Map, Value};

use super::answer::{self, Parsed, Request, Shape};
use super::think::{self, Think};
use super::{fields, options};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, kind_of};
use crate::messages;
use crate::server::ReadBody;
use crate::stream::Body;

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    answer::serve(app, request_body, Shape::Chat, parse).await
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse(map).map(drop)
}

/// `None` beside the model where there is nothing to answer, only to load or unload.
pub(super) fn parse(map: &Map<String, Value>) -> Result<Parsed, ApiError> {
    let fields = Fields::new(map);
    fields::check(fields, fields::CHAT)?;
    let ask = options::ask(fields)?;
    let messages = fields.array("messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Ok((ask, None));
    }
    for (index, message) in messages.iter().enumerate() {
        if let Value::Object(message) = message {
            let path = format!("messages[{index}].images");
            options::refuse_images(Fields::new(message), &path)?;
        }
    }
    let messages = Value::Array(messages::normalise(messages)?);
    let Think { variables, must_think } = think::read(fields)?;
    let prompt = Prompt::Chat(Chat {
        tools: tools(fields)?,
        template_variables: variables,
        ..Chat::new(JsonText(messages.to_string()))
    });
    let body = options::generate(fields, prompt)?;
    Ok((ask, Some(Request { stream: options::stream(fields)?, must_think, body })))
}

/// Tools in OpenAI's form, which is Ollama's too; `type` may be left out.
fn tools(fields: Fields<'_>) -> Result<Option<JsonText>, ApiError> {
    let given = fields.array("tools")?.unwrap_or_default();
    if given.is_empty() {
        return Ok(None);
    }
    let tool = |(index, tool): (usize, &Value)| {
        let function = tool.get("function").filter(|function| function["name"].is_string());
        let Some(function) = function else {
            let path = format!("tools[{index}].function");
            let found = kind_of(&tool["function"]);
            let message = format!("`{path}` must be an object with a `name`, not {found}");
            return Err(ApiError::invalid(&path, message));
        };
        Ok(serde_json::json!({ "type": "function", "function": function }))
    };
    let tools = given.iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(JsonText(Value::Array(tools).to_string())))
}

#[cfg(test)]
mod tests {
    use hearth_shared::protocol::Constraint;
    use serde_json::json;

    use super::*;

    fn request(extra: Value) -> Result<Request, ApiError> {
        let mut value = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let Value::Object(extra) = extra else { panic!("an object") };
        let map = value.as_object_mut().unwrap();
        map.extend(extra);
        parse(map).map(|(_, request)| request.unwrap())
    }

    fn chat(request: &Request) -> &Chat {
        match &request.body.prompt {
            Prompt::Chat(chat) => chat,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_honoured_field_arrives() {
        let request = request(json!({
            "stream": false, "think": "low", "format": {"type": "object"}, "logprobs": true,
            "top_logprobs": 3, "options": {"num_predict": 5, "num_ctx": 99, "mirostat": 2},
            "tools": [{"function": {"name": "f", "parameters": {}}}],
            "messages": [{"role": "tool", "tool_name": "f", "content": "5"}],
        }))
        .unwrap();
        assert!(!request.stream && request.must_think);
        let body = &request.body;
        assert_eq!(
            (body.max_tokens, body.context_max, body.logprobs),
            (Some(5), Some(99), Some(3))
        );
        let schema = JsonText(r#"{"type":"object"}"#.to_owned());
        assert_eq!(body.constraint, Some(Constraint::JsonSchema(schema)));
        let chat = chat(&request);
        assert_eq!(
            chat.tools.as_ref().unwrap().0,
            r#"[{"type":"function","function":{"name":"f","parameters":{}}}]"#
        );
        assert_eq!(
            chat.template_variables.as_ref().unwrap().0,
            r#"{"enable_thinking":true,"reasoning_effort":"low"}"#
        );
        assert_eq!(chat.messages.0, r#"[{"role":"tool","content":"5","name":"f"}]"#);
    }

    #[test]
    fn what_asks_for_nothing_changes_nothing() {
        let plain = request(json!({})).unwrap();
        let empty = json!({"format": "", "tools": [], "options": null, "think": null});
        let empty = request(empty).unwrap();
        assert_eq!(plain.body, empty.body);
        assert!(plain.stream && !plain.must_think);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (extra, param) in [
            (json!({"format": "yaml"}), "format"),
            (json!({"format": 5}), "format"),
            (json!({"think": 5}), "think"),
            (json!({"think": "very"}), "think"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (json!({"tools": {}}), "tools"),
            (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs"),
            (json!({"options": []}), "options"),
            (json!({"options": {"seed": "x"}}), "options.seed"),
            (
                json!({"messages": [{"role": "user", "content": "x", "images": ["A"]}]}),
                "messages[0].images",
            ),
        ] {
            let error = request(extra.clone()).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{extra}");
        }
    }
}
