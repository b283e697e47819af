//! The body of a chat completion → what the worker needs. Pure.
//!
//! Every field that OpenAI documents is honoured, accepted because ignoring it changes nothing a
//! client could see, or refused by its name. None is dropped in silence.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Ask;
use crate::messages;
use crate::sampling::{self, Spelling};

/// More stop texts than OpenAI takes, because others take more.
const STOP_MAX: usize = 16;

/// OpenAI's fields, and those that vLLM and others added.
const SPELLING: Spelling =
    Spelling { repetition_penalty: "repetition_penalty", temperature_max: 2.0 };

/// What a client wants.
#[derive(Debug)]
pub(super) enum ChatAsk {
    /// An answer.
    Generate(Box<ChatRequest>),
    /// No messages but a `keep_alive`: the model loaded, or unloaded.
    Warm(Ask),
}

/// A request for an answer.
#[derive(Debug)]
pub(super) struct ChatRequest {
    pub(super) ask: Ask,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) body: Generate,
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<ChatAsk, ApiError> {
    let fields = Fields::new(map);
    let model = fields
        .text("model")?
        .filter(|model| !model.is_empty())
        .ok_or_else(|| ApiError::invalid("model", "`model` is missing: say which model to use"))?;
    let ask = Ask { model: model.to_owned(), keep_alive: fields.keep_alive()? };
    let messages = fields
        .array("messages")?
        .ok_or_else(|| ApiError::invalid("messages", "`messages` is missing"))?;
    if messages.is_empty() {
        return match ask.keep_alive {
            Some(_) => Ok(ChatAsk::Warm(ask)),
            None => Err(ApiError::invalid(
                "messages",
                "`messages` must hold at least one message; to load or unload a model, send none \
                 and a `keep_alive`",
            )),
        };
    }
    refuse_what_is_not_served(fields)?;
    let options = fields.object("stream_options", "stream_options.")?;
    let include_usage = options.map(|options| options.flag("include_usage")).transpose()?.flatten();
    // The newer name wins over the one it replaced.
    let max_tokens = match fields.count("max_completion_tokens")? {
        Some(max) => Some(max),
        None => fields.count("max_tokens")?,
    };
    let messages = Value::Array(messages::normalise(messages)?);
    let prompt = Prompt::Chat(Chat::new(JsonText(messages.to_string())));
    let body = Generate {
        sampling: sampling::read(fields, SPELLING)?,
        stop: fields.texts("stop", STOP_MAX)?,
        max_tokens,
        ..Generate::new(prompt)
    };
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = include_usage.unwrap_or(false);
    Ok(ChatAsk::Generate(Box::new(ChatRequest { ask, stream, include_usage, body })))
}

fn refuse_what_is_not_served(fields: Fields<'_>) -> Result<(), ApiError> {
    let (none, off, empty) = (json!("none"), json!(false), json!([]));
    fields.refuse("n", &[json!(1), json!(1.0)])?;
    fields.refuse("logprobs", std::slice::from_ref(&off))?;
    fields.refuse("top_logprobs", &[json!(0)])?;
    fields.refuse("logit_bias", &[json!({})])?;
    fields.refuse("response_format", &[json!({ "type": "text" })])?;
    fields.refuse("audio", &[])?;
    fields.refuse("modalities", &[json!(["text"])])?;
    fields.refuse("web_search_options", &[])?;
    // Tools that may not be used ask for nothing.
    let tools_unused = fields.get("tool_choice") == Some(&none);
    if !tools_unused {
        fields.refuse("tools", std::slice::from_ref(&empty))?;
        fields.refuse("tool_choice", &[none.clone(), json!("auto")])?;
    }
    if fields.get("function_call") != Some(&none) {
        fields.refuse("functions", &[empty])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keep_alive::KeepAlive;

    fn parse_value(value: Value) -> Result<ChatAsk, ApiError> {
        let Value::Object(map) = value else { panic!("an object") };
        parse(&map)
    }

    fn request(extra: Value) -> Result<ChatRequest, ApiError> {
        let mut value = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let Value::Object(extra) = extra else { panic!("an object") };
        value.as_object_mut().unwrap().extend(extra);
        match parse_value(value)? {
            ChatAsk::Generate(request) => Ok(*request),
            ChatAsk::Warm(ask) => panic!("{ask:?}"),
        }
    }

    fn refused_param(extra: Value) -> String {
        request(extra).unwrap_err().openai_body()["error"]["param"].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_honoured_field_arrives() {
        let request = request(json!({
            "stream": true, "stream_options": {"include_usage": true},
            "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": -1,
            "presence_penalty": 1, "frequency_penalty": -1.5, "repetition_penalty": 1.5,
            "stop": ["a", "b"], "max_tokens": 5, "max_completion_tokens": 6.0, "keep_alive": "10s",
        }))
        .unwrap();
        assert!(request.stream && request.include_usage);
        let sampling = request.body.sampling;
        assert_eq!(
            (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed),
            (0.5, 0.25, 7, 0.125, Some(u64::MAX))
        );
        assert_eq!(
            (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty),
            (1.0, -1.5, 1.5)
        );
        assert_eq!((request.body.stop.len(), request.body.max_tokens), (2, Some(6)));
        assert_eq!(request.ask.keep_alive, Some(KeepAlive::For(Duration::from_secs(10))));
        assert_eq!(
            request.body.prompt,
            Prompt::Chat(Chat::new(JsonText(r#"[{"role":"user","content":"hi"}]"#.to_owned())))
        );
    }

    #[test]
    fn what_is_not_said_of_sampling_suits_small_models_and_what_is_said_holds() {
        let of = |extra| {
            let sampling = request(extra).unwrap().body.sampling;
            (sampling.temperature, sampling.top_k, sampling.top_p)
        };
        assert_eq!(of(json!({})), (0.8, 40, 0.9));
        assert_eq!(of(json!({"temperature": 1, "top_k": -1, "top_p": 1})), (1.0, 0, 1.0));
    }

    #[test]
    fn a_wrong_value_is_refused_by_its_name() {
        for (extra, param) in [
            (json!({"temperature": 3}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": 1.5}), "top_p"),
            (json!({"max_tokens": 1.5}), "max_tokens"),
            (json!({"stop": 5}), "stop"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": true}), "stream_options"),
            (json!({"stream_options": {"include_usage": 1}}), "stream_options.include_usage"),
            (json!({"keep_alive": "soon"}), "keep_alive"),
            (json!({"ttl": true}), "ttl"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"model": ""}), "model"),
        ] {
            assert_eq!(refused_param(extra.clone()), param, "{extra}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused_by_its_name_unless_it_asks_for_nothing() {
        let tool = json!([{"type": "function", "function": {"name": "f"}}]);
        for (extra, param) in [
            (json!({"n": 2}), "n"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"logit_bias": {"5": 1}}), "logit_bias"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"tools": tool}), "tools"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"functions": [{"name": "f"}]}), "functions"),
            (json!({"audio": {}}), "audio"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
        ] {
            assert_eq!(refused_param(extra.clone()), param, "{extra}");
        }
        request(json!({
            "n": 1, "logprobs": false, "top_logprobs": null, "logit_bias": {}, "tools": tool,
            "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"],
            "user": "u", "metadata": {}, "store": false, "service_tier": "auto", "prediction": {},
            "parallel_tool_calls": true, "reasoning_effort": "low", "verbosity": "low",
        }))
        .unwrap();
    }

    #[test]
    fn no_messages_and_a_keep_alive_load_or_unload() {
        let warm = parse_value(json!({"model": "m", "messages": [], "keep_alive": 0})).unwrap();
        assert!(matches!(warm, ChatAsk::Warm(ask) if ask.keep_alive.unwrap().is_zero()));
        let error = parse_value(json!({"model": "m", "messages": []})).unwrap_err();
        assert_eq!(error.openai_body()["error"]["param"], "messages");
    }
}
