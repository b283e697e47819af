//! A chat completion in one piece, and what it has in common with the chunks of a stream. Pure but
//! for the id and the date.
//!
//! The message is our own structure: async-openai's leaves a `content` of `null` out, where OpenAI
//! writes it, and has no place for thoughts.

use async_openai::types::chat::{
    ChatChoiceLogprobs, ChatCompletionTokenLogprob, CompletionUsage, TopLogprobs,
};
use hearth_shared::protocol::{FinishReason, TokenLogprob};
use serde::Serialize;

use crate::generation::{Choice, ToolCall, Usage};
use crate::http;
use crate::openai::usage::usage;

/// What all parts of one answer have in common.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) created: u32,
    pub(super) model: String,
    pub(super) calls: CallForm,
}

/// How calls of tools are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallForm {
    /// `tool_calls`
    Tools,
    /// `function_call`, for who asked with `functions`.
    Functions,
}

#[derive(Serialize)]
struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u32,
    model: &'a str,
    choices: Vec<WholeChoice>,
    usage: CompletionUsage,
}

#[derive(Serialize)]
struct WholeChoice {
    index: usize,
    message: Message,
    logprobs: Option<ChatChoiceLogprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    /// Never ours, but clients look for it.
    refusal: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WholeCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Function>,
}

#[derive(Serialize)]
struct WholeCall {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: String,
}

impl From<ToolCall> for WholeCall {
    fn from(call: ToolCall) -> Self {
        let function = Function { name: call.name, arguments: call.arguments };
        Self { id: call.id, r#type: "function", function }
    }
}

impl Answer {
    /// An answer that begins now.
    pub(super) fn new(model: String, calls: CallForm) -> Self {
        Self { id: http::new_id("chatcmpl-"), created: http::unix_seconds(), model, calls }
    }

    /// The answer in one piece.
    pub(super) fn whole(&self, choices: Vec<Choice>, with_logprobs: bool) -> impl Serialize {
        let usage = usage(Usage::of(&choices));
        let choices = choices.into_iter().enumerate();
        let choices = choices.map(|(index, choice)| WholeChoice {
            index,
            finish_reason: self.finish_reason(choice.finish.reason),
            logprobs: with_logprobs.then(|| logprobs(&choice.logprobs)),
            message: self.message(choice),
        });
        Whole {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: choices.collect(),
            usage,
        }
    }

    fn message(&self, choice: Choice) -> Message {
        let mut calls: Vec<WholeCall> = choice.tool_calls.into_iter().map(Into::into).collect();
        let silent = choice.text.is_empty() && !calls.is_empty();
        let function_call = match self.calls {
            CallForm::Tools => None,
            CallForm::Functions => calls.drain(..).next().map(|call| call.function),
        };
        Message {
            role: "assistant",
            content: (!silent).then_some(choice.text),
            refusal: None,
            reasoning_content: choice.reasoning,
            tool_calls: calls,
            function_call,
        }
    }

    pub(super) fn finish_reason(&self, reason: FinishReason) -> &'static str {
        match (reason, self.calls) {
            (FinishReason::ToolCalls, CallForm::Functions) => "function_call",
            (reason, CallForm::Tools | CallForm::Functions) => reason.as_str(),
        }
    }
}

/// The probabilities of some tokens.
pub(super) fn logprobs(tokens: &[TokenLogprob]) -> ChatChoiceLogprobs {
    ChatChoiceLogprobs { content: Some(token_logprobs(tokens)), refusal: None }
}

/// Token by token; a response has them in the same shape.
pub(in crate::openai) fn token_logprobs(
    tokens: &[TokenLogprob],
) -> Vec<ChatCompletionTokenLogprob> {
    let told = tokens.iter().map(|chosen| ChatCompletionTokenLogprob {
        token: lossy(&chosen.token.bytes),
        logprob: finite(chosen.logprob),
        bytes: Some(chosen.token.bytes.clone()),
        top_logprobs: chosen
            .top
            .iter()
            .map(|(token, logprob)| TopLogprobs {
                token: lossy(&token.bytes),
                logprob: finite(*logprob),
                bytes: Some(token.bytes.clone()),
            })
            .collect(),
    });
    told.collect()
}

/// A token may be part of a character; its `bytes` tell which.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// JSON has no infinity; this is what OpenAI writes for a token that can't be.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    use hearth_shared::protocol::{Finish, Token};
    use serde_json::{json, to_value};

    use super::*;

    fn answer(calls: CallForm) -> Answer {
        Answer { id: "chatcmpl-1".to_owned(), created: 5, model: "m".to_owned(), calls }
    }

    fn choice(text: &str, reason: FinishReason) -> Choice {
        Choice {
            text: text.to_owned(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            logprobs: Vec::new(),
            context: Vec::new(),
            finish: Finish {
                reason,
                prompt_tokens: 3,
                cached_tokens: 1,
                completion_tokens: 2,
                reasoning_tokens: 1,
                prefill_us: 0,
                decode_us: 0,
            },
        }
    }

    #[test]
    fn a_whole_answer_is_a_chat_completion() {
        let choices = vec![choice("hi", FinishReason::Length), choice("ho", FinishReason::Stop)];
        let whole = to_value(answer(CallForm::Tools).whole(choices, false)).unwrap();
        let message = |text| json!({"role": "assistant", "content": text, "refusal": null});
        assert_eq!(
            whole["choices"],
            json!([
                {"index": 0, "message": message("hi"), "logprobs": null, "finish_reason": "length"},
                {"index": 1, "message": message("ho"), "logprobs": null, "finish_reason": "stop"},
            ])
        );
        assert_eq!(
            (&whole["id"], &whole["object"]),
            (&json!("chatcmpl-1"), &json!("chat.completion"))
        );
        let usage = &whole["usage"];
        let counts = ["prompt_tokens", "completion_tokens", "total_tokens"];
        assert_eq!(counts.map(|count| usage[count].as_u64().unwrap()), [3, 4, 7]);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 1);
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 2);
    }

    #[test]
    fn an_answer_that_only_calls_has_no_content() {
        let call =
            ToolCall { id: "c".to_owned(), name: "f".to_owned(), arguments: "{}".to_owned() };
        let choice = Choice {
            reasoning: "hm".to_owned(),
            tool_calls: vec![call],
            ..choice("", FinishReason::ToolCalls)
        };
        let written = |form: CallForm| {
            to_value(answer(form).whole(vec![choice.clone()], false)).unwrap()["choices"][0].clone()
        };
        let function = json!({"name": "f", "arguments": "{}"});
        let tools = written(CallForm::Tools);
        assert_eq!(tools["finish_reason"], "tool_calls");
        assert_eq!(
            tools["message"],
            json!({"role": "assistant", "content": null, "refusal": null, "reasoning_content": "hm",
                   "tool_calls": [{"id": "c", "type": "function", "function": function}]})
        );
        let functions = written(CallForm::Functions);
        assert_eq!(functions["finish_reason"], "function_call");
        assert_eq!(functions["message"]["function_call"], function);
        assert_eq!(functions["message"]["tool_calls"], json!(null));
    }

    #[test]
    fn probabilities_tell_the_bytes_of_half_a_character_and_no_infinity() {
        let token = |id, bytes: &[u8]| Token { id, bytes: bytes.to_vec() };
        let chosen = TokenLogprob {
            token: token(1, "é".as_bytes()),
            logprob: -0.5,
            top: vec![(token(2, &[0xc3]), f32::NEG_INFINITY)],
        };
        assert_eq!(
            to_value(logprobs(&[chosen])).unwrap(),
            json!({"content": [{"token": "é", "logprob": -0.5, "bytes": [195, 169],
                "top_logprobs": [{"token": "\u{fffd}", "logprob": -9999.0, "bytes": [195]}]}],
                "refusal": null})
        );
    }
}
