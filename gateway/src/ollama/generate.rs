//! `POST /api/generate`: one prompt, with the model's template around it unless it is raw.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use hyper::Response;
use serde_json::{Map, Value, json};

use super::answer::{self, Parsed, Request, Shape};
use super::options::{self, Options};
use super::think::{self, Think};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::server::ReadBody;
use crate::stream::Body;

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    answer::serve(app, request_body, Shape::Generate, parse).await
}

/// `None` beside the model where there is nothing to answer, only to load or unload.
fn parse(map: &Map<String, Value>) -> Result<Parsed, ApiError> {
    let fields = Fields::new(map);
    let ask = options::ask(fields)?;
    let text = fields.text("prompt")?.unwrap_or("");
    if text.is_empty() {
        return Ok((ask, None));
    }
    options::refuse_images(fields, "images")?;
    refuse_what_is_not_served(fields)?;
    let Think { variables, must_think } = think::read(fields)?;
    let prompt = if fields.flag("raw")?.unwrap_or(false) {
        Prompt::raw(text)
    } else {
        let system = fields.text("system")?.filter(|system| !system.is_empty());
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        messages.push(json!({ "role": "user", "content": text }));
        let chat = Chat::new(JsonText(Value::Array(messages).to_string()));
        Prompt::Chat(Chat { template_variables: variables, ..chat })
    };
    let Options { sampling, stop, max_tokens, constraint, logprobs } = options::options(fields)?;
    let prompt = Generate::new(prompt);
    let body = Generate { sampling, stop, max_tokens, constraint, logprobs, ..prompt };
    Ok((ask, Some(Request { stream: options::stream(fields)?, must_think, body })))
}

/// Fields that would change the prompt in ways that are not served; what to do instead is said.
fn refuse_what_is_not_served(fields: Fields<'_>) -> Result<(), ApiError> {
    for (name, empty, instead) in [
        ("suffix", json!(""), "models here are not asked to fill in a middle"),
        ("template", json!(""), "send `raw` and a prompt that is rendered already"),
        ("context", json!([]), "send the conversation to /api/chat"),
    ] {
        if fields.get(name).is_some_and(|given| *given != empty) {
            let message = format!("`{name}` is not supported by this server: {instead}");
            return Err(ApiError::invalid(name, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(extra: Value) -> Result<Request, ApiError> {
        let mut value = json!({"model": "m", "prompt": "hi"});
        let Value::Object(extra) = extra else { panic!("an object") };
        let map = value.as_object_mut().unwrap();
        map.extend(extra);
        parse(map).map(|(_, request)| request.unwrap())
    }

    #[test]
    fn a_prompt_is_a_conversation_unless_it_is_raw() {
        let chat = request(json!({"system": "s", "think": false})).unwrap().body.prompt;
        let messages = r#"[{"role":"system","content":"s"},{"role":"user","content":"hi"}]"#;
        let expected = Chat {
            template_variables: Some(JsonText(r#"{"enable_thinking":false}"#.to_owned())),
            ..Chat::new(JsonText(messages.to_owned()))
        };
        assert_eq!(chat, Prompt::Chat(expected));
        let raw = request(json!({"raw": true, "system": "s"})).unwrap().body.prompt;
        assert_eq!(raw, Prompt::raw("hi"));
    }

    #[test]
    fn what_is_not_served_says_what_to_do_instead() {
        for (extra, message) in [
            (json!({"suffix": "x"}), "models here are not asked to fill in a middle"),
            (json!({"template": "x"}), "send `raw` and a prompt that is rendered already"),
            (json!({"context": [1]}), "send the conversation to /api/chat"),
            (json!({"images": ["A"]}), "this model reads text only, no images"),
        ] {
            let error = request(extra.clone()).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
        request(json!({"suffix": "", "template": "", "context": [], "images": []})).unwrap();
    }
}
