//! The body of a completion → what the worker needs, prompt by prompt. Pure. `fields.rs` says what
//! becomes of each field; here is what the honoured ones mean.

use hearth_shared::protocol::{Generate, Prompt};
use serde_json::{Map, Value};

use super::fields::FIELDS;
use crate::error::ApiError;
use crate::fields::{Fields, kind_of};
use crate::generation::Ask;
use crate::known;
use crate::openai::decoding;
use crate::openai::usage::UsageTold;

const PROMPTS_MAX: usize = 64;
/// As OpenAI has it.
const MAX_TOKENS: u32 = 16;
const LOGPROBS_MAX: i64 = 5;
const BEST_OF_MAX: u32 = 8;

/// What a client wants.
#[derive(Debug)]
pub(super) enum CompletionAsk {
    /// Answers.
    Generate(Box<CompletionRequest>),
    /// An empty prompt and a `keep_alive`: the model loaded, or unloaded.
    Warm(Ask),
}

/// A request for answers to one or more prompts.
#[derive(Debug)]
pub(super) struct CompletionRequest {
    pub(super) ask: Ask,
    pub(super) stream: bool,
    pub(super) usage: UsageTold,
    pub(super) echo: bool,
    pub(super) with_logprobs: bool,
    /// How many of each prompt's choices are given.
    pub(super) kept: u32,
    /// One for each prompt.
    pub(super) bodies: Vec<Generate>,
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<CompletionAsk, ApiError> {
    let fields = Fields::new(map);
    let ask = Ask { model: fields.model()?, keep_alive: fields.keep_alive()? };
    let prompts = prompts(fields)?;
    if ask.keep_alive.is_some()
        && matches!(&prompts[..], [Prompt::Text { text, .. }] if text.is_empty())
    {
        return Ok(CompletionAsk::Warm(ask));
    }
    known::refuse(fields, FIELDS)?;
    let usage = UsageTold::read(fields)?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let echo = fields.flag("echo")?.unwrap_or(false);
    let logprobs = logprobs(fields)?;
    if echo && logprobs.is_some() {
        let message = "`echo` can't show the probabilities of a prompt; leave out `logprobs`";
        return Err(ApiError::invalid("echo", message));
    }
    let mut bodies = Vec::with_capacity(prompts.len());
    let mut kept = 1;
    for prompt in prompts {
        let mut body = decoding::read(fields, prompt)?;
        kept = body.choices;
        body.choices = best_of(fields, kept, stream)?;
        body.max_tokens = match fields.get("max_tokens") {
            None => Some(MAX_TOKENS),
            Some(_) => fields.count("max_tokens")?,
        };
        // The best are those that the model finds likeliest.
        body.logprobs = logprobs.or((body.choices > kept).then_some(0));
        bodies.push(body);
    }
    Ok(CompletionAsk::Generate(Box::new(CompletionRequest {
        ask,
        stream,
        usage,
        echo,
        with_logprobs: logprobs.is_some(),
        kept,
        bodies,
    })))
}

fn logprobs(fields: Fields<'_>) -> Result<Option<u32>, ApiError> {
    match fields.integer("logprobs")? {
        None => Ok(None),
        Some(top) => match u32::try_from(top) {
            Ok(top) if i64::from(top) <= LOGPROBS_MAX => Ok(Some(top)),
            Ok(_) | Err(_) => {
                let message = format!("`logprobs` must be between 0 and {LOGPROBS_MAX}, not {top}");
                Err(ApiError::invalid("logprobs", message))
            }
        },
    }
}

fn best_of(fields: Fields<'_>, n: u32, stream: bool) -> Result<u32, ApiError> {
    let wrong = |message: String| Err(ApiError::invalid("best_of", message));
    let Some(best_of) = fields.integer("best_of")? else { return Ok(n) };
    match u32::try_from(best_of) {
        // OpenAI's description allows it, and it can only mean that there is nothing to choose from.
        Ok(0) => Ok(n),
        Ok(best_of) if best_of > n && stream => {
            wrong("the best can't be told while they are streamed; leave out `best_of`".to_owned())
        }
        Ok(best_of) if (n..=BEST_OF_MAX).contains(&best_of) => Ok(best_of),
        Ok(_) | Err(_) => {
            wrong(format!("`best_of` must be between `n` and {BEST_OF_MAX}, not {best_of}"))
        }
    }
}

fn prompts(fields: Fields<'_>) -> Result<Vec<Prompt>, ApiError> {
    let add_special_tokens = fields.flag("add_special_tokens")?.unwrap_or(true);
    let text = |text: &str| Prompt::Text { text: text.to_owned(), add_special_tokens };
    let items = match fields.get("prompt") {
        None => return Err(ApiError::invalid("prompt", "`prompt` is missing")),
        Some(Value::String(one)) => return Ok(vec![text(one)]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(kind_of(other))),
    };
    match items.first() {
        None => Err(ApiError::invalid("prompt", "`prompt` must hold at least one")),
        Some(Value::Number(_)) => Ok(vec![tokens(items)?]),
        Some(_) if items.len() > PROMPTS_MAX => {
            let message = format!("`prompt` may hold at most {PROMPTS_MAX}, not {}", items.len());
            Err(ApiError::invalid("prompt", message))
        }
        Some(_) => {
            let each = items.iter().map(|item| match item {
                Value::String(one) => Ok(text(one)),
                Value::Array(ids) if !ids.is_empty() => tokens(ids),
                other => Err(wrong(kind_of(other))),
            });
            each.collect()
        }
    }
}

fn tokens(ids: &[Value]) -> Result<Prompt, ApiError> {
    let tokens: Option<Vec<u32>> = ids.iter().map(decoding::token_id).collect();
    tokens.map(Prompt::Tokens).ok_or_else(|| wrong("a mixture"))
}

fn wrong(found: &str) -> ApiError {
    let message =
        format!("`prompt` must be a string, token ids, or an array of either, not {found}");
    ApiError::invalid("prompt", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(extra: &Value) -> Result<CompletionRequest, ApiError> {
        let mut value = json!({"model": "m", "prompt": "x"});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        match parse(value.as_object().unwrap())? {
            CompletionAsk::Generate(request) => Ok(*request),
            CompletionAsk::Warm(ask) => panic!("{ask:?}"),
        }
    }

    #[test]
    fn anything_is_taken_or_refused_by_its_name() {
        known::tests::check_any(FIELDS, &json!({"model": "m", "prompt": "x"}), parse);
    }

    #[test]
    fn every_row_of_the_table_is_true() {
        known::tests::check_each(FIELDS, &json!({"model": "m", "prompt": "x"}), parse);
    }

    #[test]
    fn a_prompt_may_be_text_or_tokens_one_or_many() {
        let prompts = |prompt: Value| {
            let bodies = request(&json!({"prompt": prompt})).unwrap().bodies;
            bodies.into_iter().map(|body| body.prompt).collect::<Vec<_>>()
        };
        let text = |text: &str| Prompt::Text { text: text.to_owned(), add_special_tokens: true };
        assert_eq!(prompts(json!("a")), [text("a")]);
        assert_eq!(prompts(json!(["a", "b"])), [text("a"), text("b")]);
        assert_eq!(prompts(json!([1, 2])), [Prompt::Tokens(vec![1, 2])]);
        let two = [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2])];
        assert_eq!(prompts(json!([[1], [2]])), two);
    }

    #[test]
    fn tokens_are_sixteen_unless_said() {
        let max = |extra| request(&extra).unwrap().bodies[0].max_tokens;
        assert_eq!(max(json!({})), Some(16));
        assert_eq!(max(json!({"max_tokens": null})), Some(16));
        assert_eq!(max(json!({"max_tokens": 0})), Some(0));
        assert_eq!(max(json!({"max_tokens": -1})), None);
    }

    #[test]
    fn the_best_are_chosen_among_more() {
        let best = request(&json!({"n": 2, "best_of": 4})).unwrap();
        let body = &best.bodies[0];
        assert_eq!((best.kept, body.choices, body.logprobs), (2, 4, Some(0)));
        assert!(!best.with_logprobs);
        assert_eq!(request(&json!({"n": 2, "best_of": 0})).unwrap().bodies[0].choices, 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (extra, param) in [
            (json!({"prompt": null}), "prompt"),
            (json!({"prompt": {}}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": [1, "a"]}), "prompt"),
            (json!({"prompt": [-1]}), "prompt"),
            (json!({"prompt": [[]]}), "prompt"),
            (json!({"prompt": vec!["a"; 65]}), "prompt"),
            (json!({"logprobs": 6}), "logprobs"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"n": 3, "best_of": 2}), "best_of"),
            (json!({"best_of": 2, "stream": true}), "best_of"),
            (json!({"best_of": 9}), "best_of"),
            (json!({"echo": true, "logprobs": 1}), "echo"),
            (
                json!({"stream_options": {"continuous_usage_stats": 1}}),
                "stream_options.continuous_usage_stats",
            ),
        ] {
            let error = request(&extra).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{extra}");
        }
    }

    #[test]
    fn an_empty_prompt_and_a_keep_alive_load_or_unload() {
        let value = json!({"model": "m", "prompt": "", "keep_alive": 0});
        let ask = parse(value.as_object().unwrap()).unwrap();
        assert!(matches!(ask, CompletionAsk::Warm(ask) if ask.keep_alive.unwrap().is_zero()));
        assert_eq!(request(&json!({"prompt": ""})).unwrap().bodies.len(), 1);
    }
}
