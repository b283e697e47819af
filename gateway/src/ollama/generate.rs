//! `POST /api/generate`: one prompt, with the model's template around it unless it is raw.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use hyper::Response;
use serde_json::{Map, Value, json};

use super::answer::{self, Parsed, Request, Shape};
use super::think::{self, Think};
use super::{fields, options};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::recipe;
use crate::server::ReadBody;
use crate::stream::Body;

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    answer::serve(app, request_body, Shape::Generate, parse).await
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
    // Before the table would, in words that say more.
    options::refuse_images(fields, "images")?;
    fields::check(fields, fields::GENERATE)?;
    let ask = options::ask(fields)?;
    let text = fields.text("prompt")?.unwrap_or("");
    let suffix = fields.text("suffix")?.filter(|suffix| !suffix.is_empty());
    if text.is_empty() && suffix.is_none() {
        return Ok((ask, None));
    }
    let Think { variables, must_think } = think::read(fields)?;
    let is_raw = fields.flag("raw")?.unwrap_or(false);
    let system = fields.text("system")?.filter(|system| !system.is_empty());
    let template = template(fields)?;
    let prompt = if let Some(suffix) = suffix {
        // A system message or a template would have no place in it.
        Prompt::Infill { prefix: text.to_owned(), suffix: suffix.to_owned() }
    } else if is_raw {
        Prompt::raw(text)
    } else {
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        messages.push(json!({ "role": "user", "content": text }));
        let chat = Chat::new(JsonText(Value::Array(messages).to_string()));
        Prompt::Chat(Chat { template, template_variables: variables, ..chat })
    };
    let body = Generate {
        before: context(fields)?,
        // As in Ollama: who sends prompts as they stand has no use for it.
        tells_context: !is_raw,
        ..options::generate(fields, prompt)?
    };
    Ok((ask, Some(Request { stream: options::stream(fields)?, must_think, body })))
}

/// A template for this request alone.
fn template(fields: Fields<'_>) -> Result<Option<String>, ApiError> {
    let template = fields.text("template")?.filter(|template| !template.is_empty());
    if template.is_some_and(recipe::is_of_go) {
        let message = "`template` is in Go's language, and templates here are in Jinja: leave it \
                       out, or send one in Jinja, or `raw` and a prompt that is rendered already";
        return Err(ApiError::invalid("template", message));
    }
    Ok(template.map(str::to_owned))
}

/// The tokens of an earlier answer that this one continues.
fn context(fields: Fields<'_>) -> Result<Vec<u32>, ApiError> {
    let given = fields.array("context")?.unwrap_or_default();
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let tokens: Option<Vec<u32>> = given.iter().map(token).collect();
    tokens.ok_or_else(|| {
        let message = "`context` must be an array of token ids, as an answer has it";
        ApiError::invalid("context", message)
    })
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
    fn a_suffix_makes_it_a_gap_to_be_filled_in() {
        let infill =
            |prefix: &str| Prompt::Infill { prefix: prefix.to_owned(), suffix: "b".to_owned() };
        assert_eq!(request(json!({"suffix": "b"})).unwrap().body.prompt, infill("hi"));
        let at_the_beginning = json!({"prompt": "", "suffix": "b"});
        assert_eq!(request(at_the_beginning).unwrap().body.prompt, infill(""));
    }

    #[test]
    fn the_context_of_an_answer_goes_before_the_prompt_and_comes_back_unless_it_is_raw() {
        let body = request(json!({"context": [5, 6]})).unwrap().body;
        assert_eq!((body.before, body.tells_context), (vec![5, 6], true));
        let body = request(json!({"context": [], "raw": true})).unwrap().body;
        assert_eq!((body.before, body.tells_context), (vec![], false));
    }

    #[test]
    fn a_template_is_the_requests_own() {
        let Prompt::Chat(chat) = request(json!({"template": "{{ x }}"})).unwrap().body.prompt
        else {
            panic!("a chat");
        };
        assert_eq!(chat.template.as_deref(), Some("{{ x }}"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (extra, param) in [
            (json!({"suffix": 5}), "suffix"),
            (json!({"template": "{{ .Prompt }}"}), "template"),
            (json!({"template": 5}), "template"),
            (json!({"context": [-1]}), "context"),
            (json!({"context": ["a"]}), "context"),
            (json!({"context": 5}), "context"),
            (json!({"images": ["A"]}), "images"),
            (json!({"raw": "yes"}), "raw"),
            (json!({"options": {"num_ctx": "all"}}), "options.num_ctx"),
        ] {
            let error = request(extra.clone()).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{extra}");
        }
        request(json!({"suffix": "", "template": "", "context": [], "images": []})).unwrap();
    }
}
