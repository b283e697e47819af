//! One line of an answer, as Ollama's clients read it. Pure but for the date.

use std::time::Duration;

use hearth_shared::protocol::{Finish, FinishReason, Token, TokenLogprob};
use serde::Serialize;
use serde_json::Value;

use super::Shape;
use crate::generation::ToolCall;
use crate::ollama::date;

/// What a line says of the answer, beside that it goes on.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) thinking: String,
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) logprobs: Vec<TokenLogprob>,
}

impl Said {
    pub(super) fn is_nothing(&self) -> bool {
        let Self { text, thinking, tool_calls, logprobs } = self;
        text.is_empty() && thinking.is_empty() && tool_calls.is_empty() && logprobs.is_empty()
    }
}

#[derive(Serialize)]
pub(super) struct Line<'a> {
    model: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Logprob>,
    done: bool,
    #[serde(flatten)]
    end: Option<End>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    /// An object, not a text as OpenAI has it.
    arguments: Value,
}

#[derive(Serialize)]
struct Logprob {
    #[serde(flatten)]
    token: Likely,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<Likely>,
}

#[derive(Serialize)]
struct Likely {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// What the last line has on top. Durations are in nanoseconds.
#[derive(Serialize)]
pub(super) struct End {
    done_reason: &'static str,
    /// Every token so far, which the next request may begin with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    context: Vec<u32>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u32,
    prompt_eval_duration: u64,
    eval_count: u32,
    eval_duration: u64,
}

impl End {
    /// What is neither prompt nor answer was spent waiting for a worker.
    pub(super) fn new(finish: &Finish, context: Vec<u32>, total: Duration) -> Self {
        let total_duration = u64::try_from(total.as_nanos()).unwrap_or(u64::MAX);
        let prompt_eval_duration = finish.prefill_us.saturating_mul(1000);
        let eval_duration = finish.decode_us.saturating_mul(1000);
        Self {
            done_reason: match finish.reason {
                // It has no word of its own for an answer that calls tools.
                FinishReason::Stop | FinishReason::ToolCalls => "stop",
                FinishReason::Length => "length",
            },
            context,
            total_duration,
            load_duration: total_duration
                .saturating_sub(prompt_eval_duration)
                .saturating_sub(eval_duration),
            prompt_eval_count: finish.prompt_tokens,
            prompt_eval_duration,
            eval_count: finish.completion_tokens,
            eval_duration,
        }
    }
}

pub(super) fn line<'a>(shape: Shape, model: &'a str, said: &'a Said, end: Option<End>) -> Line<'a> {
    let thought = Some(said.thinking.as_str()).filter(|thought| !thought.is_empty());
    let (message, response, thinking) = match shape {
        Shape::Chat => {
            let tool_calls = said.tool_calls.iter().map(call).collect();
            let content = said.text.as_str();
            (
                Some(Message { role: "assistant", content, thinking: thought, tool_calls }),
                None,
                None,
            )
        }
        Shape::Generate => (None, Some(said.text.as_str()), thought),
    };
    Line {
        model,
        created_at: date(crate::wall::now()),
        message,
        response,
        thinking,
        logprobs: said.logprobs.iter().map(logprob).collect(),
        done: end.is_some(),
        end,
    }
}

fn call(call: &ToolCall) -> Call<'_> {
    let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_no_json| {
        // Cut off by the end of the answer: what there is must not be lost.
        Value::String(call.arguments.clone())
    });
    Call { id: &call.id, function: Function { name: &call.name, arguments } }
}

fn logprob(told: &TokenLogprob) -> Logprob {
    Logprob {
        token: likely(&told.token, told.logprob),
        top_logprobs: told.top.iter().map(|(token, logprob)| likely(token, *logprob)).collect(),
    }
}

fn likely(token: &Token, logprob: f32) -> Likely {
    let text = String::from_utf8_lossy(&token.bytes).into_owned();
    Likely { token: text, logprob, bytes: token.bytes.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(shape: Shape, said: &Said, end: Option<End>) -> Value {
        let mut line = json!(line(shape, "m", said, end));
        line.as_object_mut().unwrap().shift_remove("created_at").unwrap();
        line
    }

    #[test]
    fn thoughts_and_calls_have_their_places_and_arguments_are_an_object() {
        let call = |arguments: &str| ToolCall {
            id: "call_1".to_owned(),
            name: "f".to_owned(),
            arguments: arguments.to_owned(),
        };
        let said = Said {
            thinking: "hm".to_owned(),
            tool_calls: vec![call(r#"{"x":1}"#), call(r#"{"x":"#)],
            ..Said::default()
        };
        assert_eq!(
            written(Shape::Chat, &said, None),
            json!({
                "model": "m", "done": false,
                "message": {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                    {"id": "call_1", "function": {"name": "f", "arguments": {"x": 1}}},
                    {"id": "call_1", "function": {"name": "f", "arguments": "{\"x\":"}},
                ]},
            })
        );
        assert_eq!(
            written(Shape::Generate, &said, None),
            json!({"model": "m", "response": "", "thinking": "hm", "done": false})
        );
    }

    #[test]
    fn logprobs_stand_beside_the_text() {
        let token = |text: &str| Token { id: 0, bytes: text.as_bytes().to_vec() };
        let told = TokenLogprob {
            token: token("a"),
            logprob: -0.5,
            top: vec![(token("a"), -0.5), (token("b"), -1.5)],
        };
        let said = Said { text: "a".to_owned(), logprobs: vec![told], ..Said::default() };
        let a = json!({"token": "a", "logprob": -0.5, "bytes": [97]});
        let b = json!({"token": "b", "logprob": -1.5, "bytes": [98]});
        assert_eq!(
            written(Shape::Generate, &said, None)["logprobs"],
            json!([{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [a, b]}])
        );
    }

    #[test]
    fn an_answer_that_calls_tools_has_stopped_and_durations_add_up() {
        let finish = Finish {
            reason: FinishReason::ToolCalls,
            prompt_tokens: 3,
            cached_tokens: 1,
            completion_tokens: 2,
            reasoning_tokens: 0,
            prefill_us: 10,
            decode_us: 20,
        };
        let end = End::new(&finish, vec![5, 6], Duration::from_micros(100));
        let line = written(Shape::Generate, &Said::default(), Some(end));
        assert_eq!(
            line,
            json!({
                "model": "m", "response": "", "done": true, "done_reason": "stop",
                "context": [5, 6], "total_duration": 100_000, "load_duration": 70_000, "prompt_eval_count": 3,
                "prompt_eval_duration": 10_000, "eval_count": 2, "eval_duration": 20_000,
            })
        );
    }
}
