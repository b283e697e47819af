//! The body of a chat completion → what the worker needs. Pure. `fields.rs` says what becomes of each
//! field; here is what the honoured ones mean.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use serde_json::{Map, Value};

use super::fields::FIELDS;
use super::response::CallForm;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Ask;
use crate::known;
use crate::messages;
use crate::openai::usage::UsageTold;
use crate::openai::{decoding, thinking};
use crate::tools::Tools;

const TOP_LOGPROBS_MAX: i64 = 20;

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
    pub(super) usage: UsageTold,
    pub(super) calls: CallForm,
    pub(super) body: Generate,
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<ChatAsk, ApiError> {
    let fields = Fields::new(map);
    let ask = Ask { model: fields.model()?, keep_alive: fields.keep_alive()? };
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
    known::refuse(fields, FIELDS)?;
    let usage = UsageTold::read(fields)?;
    // The newer name wins over the one it replaced.
    let max_tokens = match fields.count("max_completion_tokens")? {
        Some(max) => Some(max),
        None => fields.count("max_tokens")?,
    };
    let (chat, calls) = chat(fields, messages)?;
    let body = Generate {
        max_tokens,
        logprobs: logprobs(fields)?,
        ..decoding::read(fields, Prompt::Chat(chat))?
    };
    let stream = fields.flag("stream")?.unwrap_or(false);
    Ok(ChatAsk::Generate(Box::new(ChatRequest { ask, stream, usage, calls, body })))
}

fn chat(fields: Fields<'_>, messages: &[Value]) -> Result<(Chat, CallForm), ApiError> {
    let messages = JsonText(Value::Array(messages::normalise(messages)?).to_string());
    let in_first_form = ["functions", "function_call"].map(|name| fields.get(name).is_some());
    let (tools, calls) = if fields.get("tools").is_none() && in_first_form.contains(&true) {
        (Tools::read_first_form(fields)?, CallForm::Functions)
    } else {
        (Tools::read(fields)?, CallForm::Tools)
    };
    let chat = Chat {
        tools: tools.json(),
        tool_choice: tools.choice,
        parallel_tool_calls: tools.parallel,
        template_variables: thinking::template_variables(fields)?,
        split_reasoning: thinking::is_split(fields)?,
        ..Chat::new(messages)
    };
    Ok((chat, calls))
}

fn logprobs(fields: Fields<'_>) -> Result<Option<u32>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let wrong = |message: String| Err(ApiError::invalid("top_logprobs", message));
    match fields.integer("top_logprobs")? {
        Some(top) if !(0..=TOP_LOGPROBS_MAX).contains(&top) => {
            wrong(format!("`top_logprobs` must be between 0 and {TOP_LOGPROBS_MAX}, not {top}"))
        }
        Some(1..) if !wanted => wrong("`top_logprobs` needs `logprobs` to be true".to_owned()),
        top => Ok(wanted.then(|| top.and_then(|top| u32::try_from(top).ok()).unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keep_alive::KeepAlive;
    use hearth_shared::protocol::{Constraint, ToolChoice};
    use serde_json::json;

    fn parse_value(value: &Value) -> Result<ChatAsk, ApiError> {
        parse(value.as_object().unwrap())
    }

    fn request(extra: &Value) -> Result<ChatRequest, ApiError> {
        let mut value = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        match parse_value(&value)? {
            ChatAsk::Generate(request) => Ok(*request),
            ChatAsk::Warm(ask) => panic!("{ask:?}"),
        }
    }

    fn chat_of(extra: &Value) -> Chat {
        let Prompt::Chat(chat) = request(extra).unwrap().body.prompt else { panic!("a chat") };
        chat
    }

    #[test]
    fn anything_is_taken_or_refused_by_its_name() {
        known::tests::check_any(
            FIELDS,
            &json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
            parse,
        );
    }

    #[test]
    fn every_row_of_the_table_is_true() {
        let base = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        known::tests::check_each(FIELDS, &base, parse);
    }

    #[test]
    fn every_honoured_field_arrives() {
        let request = request(&json!({
            "stream": true, "stream_options": {"include_usage": true},
            "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": -1,
            "presence_penalty": 1, "frequency_penalty": -1.5, "repetition_penalty": 1.5,
            "typical_p": 0.75, "n": 3, "logprobs": true, "top_logprobs": 20, "min_tokens": 2,
            "ignore_eos": true, "stop_token_ids": [9], "logit_bias": {"4": 2},
            "response_format": {"type": "json_object"},
            "stop": ["a", "b"], "max_tokens": 5, "max_completion_tokens": 6.0, "keep_alive": "10s",
        }))
        .unwrap();
        assert!(request.stream && request.usage == UsageTold::AtEnd);
        let body = request.body;
        let sampling = body.sampling;
        assert_eq!(
            (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed),
            (0.5, 0.25, 7, 0.125, Some(u64::MAX))
        );
        assert_eq!(
            (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty),
            (1.0, -1.5, 1.5)
        );
        assert_eq!((sampling.typical_p, body.choices, body.logprobs), (0.75, 3, Some(20)));
        assert_eq!((body.min_tokens, body.ignore_eos, body.stop_token_ids), (2, true, vec![9]));
        assert_eq!(body.logit_bias, [(4, 2.0)]);
        assert_eq!(body.constraint, Some(Constraint::JsonObject));
        assert_eq!((body.stop.len(), body.max_tokens), (2, Some(6)));
        assert_eq!(request.ask.keep_alive, Some(KeepAlive::For(Duration::from_secs(10))));
        assert_eq!(
            body.prompt,
            Prompt::Chat(Chat::new(JsonText(r#"[{"role":"user","content":"hi"}]"#.to_owned())))
        );
    }

    #[test]
    fn what_is_not_said_of_sampling_suits_small_models_and_what_is_said_holds() {
        let of = |extra| {
            let sampling = request(&extra).unwrap().body.sampling;
            (sampling.temperature, sampling.top_k, sampling.top_p)
        };
        assert_eq!(of(json!({})), (0.8, 40, 0.9));
        assert_eq!(of(json!({"temperature": 1, "top_k": -1, "top_p": 1})), (1.0, 0, 1.0));
    }

    #[test]
    fn tools_win_over_the_functions_that_they_replaced() {
        let both = json!({
            "tools": [{"function": {"name": "f"}}], "tool_choice": "required",
            "functions": [{"name": "g"}], "function_call": "none",
        });
        let chat = chat_of(&both);
        assert_eq!(chat.tool_choice, ToolChoice::Required);
        assert_eq!(chat.tools.unwrap().0, r#"[{"type":"function","function":{"name":"f"}}]"#);
        assert_eq!(request(&both).unwrap().calls, CallForm::Tools);
        let first = json!({"functions": [{"name": "g"}]});
        assert_eq!(request(&first).unwrap().calls, CallForm::Functions);
        assert!(!chat_of(&first).parallel_tool_calls);
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
            (
                json!({"stream_options": {"continuous_usage_stats": 1}}),
                "stream_options.continuous_usage_stats",
            ),
            (json!({"keep_alive": "soon"}), "keep_alive"),
            (json!({"ttl": true}), "ttl"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"model": ""}), "model"),
            (json!({"logprobs": 5}), "logprobs"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        ] {
            let error = request(&extra).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{extra}");
        }
    }

    #[test]
    fn no_messages_and_a_keep_alive_load_or_unload() {
        let warm = parse_value(&json!({"model": "m", "messages": [], "keep_alive": 0})).unwrap();
        assert!(matches!(warm, ChatAsk::Warm(ask) if ask.keep_alive.unwrap().is_zero()));
        let error = parse_value(&json!({"model": "m", "messages": []})).unwrap_err();
        assert_eq!(error.openai_body()["error"]["param"], "messages");
    }
}
