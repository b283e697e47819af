//! A completion, whole and in chunks, which have the same shape. Pure but for the id and the date.

use async_openai::types::chat::CompletionUsage;
use hearth_shared::protocol::{FinishReason, News, Part, TokenLogprob};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::generation::{Choice, Usage};
use crate::http;
use crate::openai::usage::usage;

/// What all parts of one answer have in common.
#[derive(Debug)]
pub(super) struct Answer {
    id: String,
    created: u32,
    model: String,
    with_logprobs: bool,
}

/// The whole answer, or a chunk of it.
#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u32,
    model: &'a str,
    choices: &'a [TextChoice],
    /// Absent unless it was asked for; then null in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<CompletionUsage>>,
}

/// One choice, or a piece of one.
#[derive(Debug, Serialize)]
pub(super) struct TextChoice {
    text: String,
    index: u32,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

/// The probabilities of tokens, side by side.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Option<Vec<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

impl Answer {
    /// An answer that begins now.
    pub(super) fn new(model: String, with_logprobs: bool) -> Self {
        let (id, created) = (http::new_id("cmpl-"), http::unix_seconds());
        Self { id, created, model, with_logprobs }
    }

    /// One choice as a whole, after the prompt if that is to be echoed.
    pub(super) fn choice(&self, index: u32, echoed: &str, choice: Choice) -> TextChoice {
        let text = text_of(choice.reasoning + &choice.text, echoed);
        TextChoice {
            text,
            index,
            logprobs: self.with_logprobs.then(|| logprobs(&choice.logprobs, &mut 0)),
            finish_reason: Some(finish_reason(choice.finish.reason)),
        }
    }

    /// A piece of a choice, after the prompt if that is to be echoed. `offset` is where in the text
    /// its tokens begin, in characters, and moves on.
    pub(super) fn piece(
        &self,
        index: u32,
        echoed: &str,
        news: News,
        offset: &mut usize,
    ) -> TextChoice {
        let parts = news.parts.into_iter().filter_map(|part| match part {
            Part::Text(text) | Part::Reasoning(text) => Some(text),
            Part::ToolCall { .. } | Part::ToolArguments { .. } => None,
        });
        let tokens = self.with_logprobs && !news.logprobs.is_empty();
        TextChoice {
            text: text_of(parts.collect(), echoed),
            index,
            logprobs: tokens.then(|| logprobs(&news.logprobs, offset)),
            finish_reason: news.finish.map(|finish| finish_reason(finish.reason)),
        }
    }

    /// Everything in one piece.
    pub(super) fn whole<'a>(
        &'a self,
        choices: &'a [TextChoice],
        counts: Usage,
    ) -> impl Serialize + use<'a> {
        self.completion(choices, Some(Some(usage(counts))))
    }

    /// One event of a stream.
    pub(super) fn chunk<'a>(
        &'a self,
        choices: &'a [TextChoice],
        usage: Option<Option<CompletionUsage>>,
    ) -> impl Serialize + use<'a> {
        self.completion(choices, usage)
    }

    /// The counts, in a chunk without choices.
    pub(super) fn usage_chunk(&self, counts: Usage) -> impl Serialize {
        self.completion(&[], Some(Some(usage(counts))))
    }

    fn completion<'a>(
        &'a self,
        choices: &'a [TextChoice],
        usage: Option<Option<CompletionUsage>>,
    ) -> Completion<'a> {
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        }
    }
}

impl TextChoice {
    /// Whether a chunk with it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_none() && self.finish_reason.is_none()
    }
}

fn text_of(text: String, echoed: &str) -> String {
    if echoed.is_empty() { text } else { format!("{echoed}{text}") }
}

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::ToolCalls => "stop",
    }
}

/// The `kept` choices that the model itself finds likeliest, token for token, best first.
pub(super) fn best(mut choices: Vec<Choice>, kept: usize) -> Vec<Choice> {
    if choices.len() > kept {
        let mean = |choice: &Choice| {
            let sum: f32 = choice.logprobs.iter().map(|token| token.logprob).sum();
            let count = u16::try_from(choice.logprobs.len().max(1)).unwrap_or(u16::MAX);
            sum / f32::from(count)
        };
        choices.sort_by(|one, other| mean(other).total_cmp(&mean(one)));
        choices.truncate(kept);
    }
    choices
}

fn logprobs(tokens: &[TokenLogprob], offset: &mut usize) -> Logprobs {
    let mut out = Logprobs::default();
    for chosen in tokens {
        out.tokens.push(spelled(&chosen.token.bytes));
        out.token_logprobs.push(finite(chosen.logprob));
        out.text_offset.push(*offset);
        // A character counts where it begins.
        *offset += chosen.token.bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        if !chosen.top.is_empty() {
            let top = chosen
                .top
                .iter()
                .map(|(token, logprob)| (spelled(&token.bytes), Value::from(finite(*logprob))));
            out.top_logprobs.get_or_insert_default().push(top.collect());
        }
    }
    out
}

/// A token that is no text is spelled byte by byte, as OpenAI does.
fn spelled(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let bytes = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", bytes.collect::<String>())
        }
    }
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

    fn token(bytes: &[u8], logprob: f32) -> TokenLogprob {
        let token = Token { id: 1, bytes: bytes.to_vec() };
        TokenLogprob { token: token.clone(), logprob, top: vec![(token, logprob)] }
    }

    fn choice(text: &str, logprobs: Vec<TokenLogprob>) -> Choice {
        let finish = Finish {
            reason: FinishReason::Length,
            prompt_tokens: 3,
            cached_tokens: 0,
            completion_tokens: 2,
            reasoning_tokens: 0,
            prefill_us: 0,
            decode_us: 0,
        };
        let (text, reasoning, tool_calls) = (text.to_owned(), String::new(), Vec::new());
        Choice { text, reasoning, tool_calls, logprobs, context: Vec::new(), finish }
    }

    fn answer(with_logprobs: bool) -> Answer {
        Answer { id: "cmpl-1".to_owned(), created: 5, model: "m".to_owned(), with_logprobs }
    }

    #[test]
    fn an_echo_stands_before_the_text() {
        let answer = answer(false);
        let choices = [answer.choice(1, "Say: ", choice("hi", Vec::new()))];
        let counts = Usage { prompt_tokens: 3, completion_tokens: 2, ..Usage::default() };
        let whole = to_value(answer.whole(&choices, counts)).unwrap();
        assert_eq!(
            whole["choices"],
            json!([{"text": "Say: hi", "index": 1, "logprobs": null, "finish_reason": "length"}])
        );
        assert_eq!((&whole["object"], &whole["id"]), (&json!("text_completion"), &json!("cmpl-1")));
        assert_eq!(whole["usage"]["total_tokens"], 5);
    }

    #[test]
    fn probabilities_stand_side_by_side_with_offsets_in_characters() {
        let tokens = vec![token(b"h", -0.5), token("é".as_bytes(), -1.0), token(&[0xc3], f32::NAN)];
        let choice = answer(true).choice(0, "", choice("hé", tokens));
        assert_eq!(
            to_value(choice).unwrap()["logprobs"],
            json!({
                "tokens": ["h", "é", "bytes:\\xc3"],
                "token_logprobs": [-0.5, -1.0, -9999.0],
                "top_logprobs": [{"h": -0.5}, {"é": -1.0}, {"bytes:\\xc3": -9999.0}],
                "text_offset": [0, 1, 2],
            })
        );
    }

    #[test]
    fn the_best_are_the_likeliest_per_token() {
        let choices = vec![
            choice("long", vec![token(b"a", -1.0), token(b"b", -1.0)]),
            choice("bad", vec![token(b"a", -3.0)]),
            choice("good", vec![token(b"a", -0.5)]),
        ];
        let best: Vec<String> = best(choices, 2).into_iter().map(|choice| choice.text).collect();
        assert_eq!(best, ["good", "long"]);
    }
}
