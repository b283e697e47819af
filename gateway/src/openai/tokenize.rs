//! `POST /tokenize` and `/detokenize`: what a model's tokenizer makes of a text, and back.
//!
//! llama.cpp and vLLM both have these paths and share no field. A request may be either's, and an
//! answer holds the fields of both: `tokens` and `count`, `content` and `prompt`.

use hearth_shared::protocol::{Chat, JsonText, Prompt, Token};
use hyper::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::embeddings::tokens;
use super::fields::{DETOKENIZE, TOKENIZE};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::http;
use crate::keep_alive::KeepAlive;
use crate::known;
use crate::messages;
use crate::metrics::RequestMeter;
use crate::oneshot::{Call, find_or_only};
use crate::server::ReadBody;
use crate::stream::Body;

/// Serves one request to tokenize.
///
/// # Errors
/// [`ApiError`]
pub async fn tokenize(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/tokenize");
    let parsed = known::read(request_body.as_ref(), TOKENIZE, parse_tokenize);
    drop(request_body);
    let (request, ignored) = meter.check(parsed)?;
    let Request { model, keep_alive, prompt, pieces, strings } = request;
    let offer = meter.check(find_or_only(app, model.as_deref()).await)?;
    let name = offer.model.name.clone();
    // As many as a conversation of this name has when it is answered.
    let prompt = offer.laid_around(prompt);
    let tokens = Call::new(app, offer.model, keep_alive, meter).tokenize(prompt).await?;
    let snapshot = app.fleet.snapshot();
    let status = snapshot.models.iter().find(|status| status.view.name == name);
    let card = status.and_then(|status| status.worker.card.as_ref());
    let answer = http::json(&Tokens {
        count: tokens.len(),
        max_model_len: card.map(|card| card.context_length),
        tokens: tokens.iter().map(|token| Listed::of(token, pieces)).collect(),
        token_strs: strings.then(|| tokens.iter().map(text_of).collect()),
    });
    Ok(known::mark(answer, ignored))
}

/// Serves one request to detokenize.
///
/// # Errors
/// [`ApiError`]
pub async fn detokenize(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/detokenize");
    let parsed = known::read(request_body.as_ref(), DETOKENIZE, parse_detokenize);
    drop(request_body);
    let (Spelling { model, keep_alive, tokens }, ignored) = meter.check(parsed)?;
    let model = meter.check(find_or_only(app, model.as_deref()).await)?.model;
    let text = Call::new(app, model, keep_alive, meter).detokenize(tokens).await?;
    Ok(known::mark(http::json(&json!({ "content": text, "prompt": text })), ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_tokenize(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_tokenize(map).map(drop)
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_detokenize(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_detokenize(map).map(drop)
}

/// Tokens that are to be spelled.
#[derive(Debug)]
pub(super) struct Spelling {
    model: Option<String>,
    keep_alive: Option<KeepAlive>,
    tokens: Vec<u32>,
}

pub(super) fn parse_detokenize(map: &Map<String, Value>) -> Result<Spelling, ApiError> {
    let fields = Fields::new(map);
    let missing = || ApiError::invalid("tokens", "`tokens` is missing: say which tokens to spell");
    let tokens = tokens("tokens", fields.array("tokens")?.ok_or_else(missing)?)?;
    let model = fields.text("model")?.map(str::to_owned);
    Ok(Spelling { model, keep_alive: fields.keep_alive()?, tokens })
}

#[derive(Debug)]
pub(super) struct Request {
    model: Option<String>,
    keep_alive: Option<KeepAlive>,
    prompt: Prompt,
    /// llama.cpp's `with_pieces`.
    pieces: bool,
    /// vLLM's `return_token_strs`.
    strings: bool,
}

#[derive(Serialize)]
struct Tokens<'a> {
    count: usize,
    max_model_len: Option<u32>,
    tokens: Vec<Listed<'a>>,
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Listed<'a> {
    Id(u32),
    WithPiece { id: u32, piece: Piece<'a> },
}

/// As llama.cpp does: text where the bytes are text, else the bytes.
#[derive(Serialize)]
#[serde(untagged)]
enum Piece<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Listed<'a> {
    fn of(token: &'a Token, pieces: bool) -> Self {
        if !pieces {
            return Self::Id(token.id);
        }
        let piece = match std::str::from_utf8(&token.bytes) {
            Ok(text) => Piece::Text(text),
            Err(_) => Piece::Bytes(&token.bytes),
        };
        Self::WithPiece { id: token.id, piece }
    }
}

fn text_of(token: &Token) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

pub(super) fn parse_tokenize(map: &Map<String, Value>) -> Result<Request, ApiError> {
    let fields = Fields::new(map);
    known::refuse(fields, TOKENIZE)?;
    let prompt = match (fields.text("content")?, fields.text("prompt")?) {
        (Some(content), _) => {
            let add_special_tokens = fields.flag("add_special")?.unwrap_or(false);
            Prompt::Text { text: content.to_owned(), add_special_tokens }
        }
        (None, Some(prompt)) => {
            let add_special_tokens = fields.flag("add_special_tokens")?.unwrap_or(true);
            Prompt::Text { text: prompt.to_owned(), add_special_tokens }
        }
        (None, None) => Prompt::Chat(chat(fields)?),
    };
    Ok(Request {
        model: fields.text("model")?.map(str::to_owned),
        keep_alive: fields.keep_alive()?,
        prompt,
        pieces: fields.flag("with_pieces")?.unwrap_or(false),
        strings: fields.flag("return_token_strs")?.unwrap_or(false),
    })
}

fn chat(fields: Fields<'_>) -> Result<Chat, ApiError> {
    let messages = fields.array("messages")?.ok_or_else(|| {
        ApiError::invalid(
            "prompt",
            "there is nothing to tokenize: send `content`, `prompt` or `messages`",
        )
    })?;
    if messages.is_empty() {
        let message = "`messages` must hold at least one message";
        return Err(ApiError::invalid("messages", message));
    }
    let messages = Value::Array(messages::normalise(messages)?);
    let text = |value: &[Value]| JsonText(Value::Array(value.to_vec()).to_string());
    let variables = fields.object("chat_template_kwargs", "chat_template_kwargs.")?;
    Ok(Chat {
        tools: fields.array("tools")?.filter(|tools| !tools.is_empty()).map(text),
        template_variables: variables
            .and_then(|_| fields.get("chat_template_kwargs"))
            .map(|variables| JsonText(variables.to_string())),
        ..Chat::new(JsonText(messages.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: Value) -> Result<Request, ApiError> {
        let Value::Object(map) = value else { panic!("an object") };
        parse_tokenize(&map)
    }

    #[test]
    fn each_dialect_has_its_own_default_for_special_tokens() {
        let text = |add_special_tokens| Prompt::Text { text: "a".to_owned(), add_special_tokens };
        for (body, expected) in [
            (json!({"content": "a"}), text(false)),
            (json!({"content": "a", "add_special": true}), text(true)),
            (json!({"prompt": "a"}), text(true)),
            (json!({"prompt": "a", "add_special_tokens": false}), text(false)),
        ] {
            assert_eq!(parsed(body.clone()).unwrap().prompt, expected, "{body}");
        }
    }

    #[test]
    fn a_conversation_is_rendered_with_its_tools_and_variables() {
        let request = parsed(json!({
            "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}],
            "chat_template_kwargs": {"enable_thinking": false},
        }))
        .unwrap();
        let Prompt::Chat(chat) = request.prompt else { panic!("{:?}", request.prompt) };
        assert_eq!(chat.messages.0, r#"[{"role":"user","content":"hi"}]"#);
        assert_eq!(chat.tools.unwrap().0, r#"[{"type":"function"}]"#);
        assert_eq!(chat.template_variables.unwrap().0, r#"{"enable_thinking":false}"#);
    }

    #[test]
    fn pieces_are_text_where_they_are_text() {
        let token = |bytes: &[u8]| Token { id: 5, bytes: bytes.to_vec() };
        let written = |token: &Token, pieces| json!(Listed::of(token, pieces));
        assert_eq!(written(&token(b"a"), false), json!(5));
        assert_eq!(written(&token("é".as_bytes()), true), json!({"id": 5, "piece": "é"}));
        assert_eq!(written(&token(&[0xc3]), true), json!({"id": 5, "piece": [195]}));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, param) in [
            (json!({}), "prompt"),
            (json!({"prompt": 5}), "prompt"),
            (json!({"content": "a", "parse_special": false}), "parse_special"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"role": "user", "content": "a"}], "tools": {}}), "tools"),
        ] {
            let error = parsed(body.clone()).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{body}");
        }
    }
}
