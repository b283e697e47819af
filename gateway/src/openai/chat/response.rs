//! What a chat completion answers, whole and in chunks. Pure but for the id and the date.

use async_openai::types::chat::{
    ChatChoice, ChatCompletionResponseMessage, CompletionUsage, CreateChatCompletionResponse,
    FinishReason as OpenAiFinishReason, PromptTokensDetails, Role,
};
use hearth_shared::protocol::{Finish, FinishReason};
use serde::Serialize;

use crate::http;

/// What all parts of one answer have in common.
#[derive(Debug)]
pub(super) struct Answer {
    id: String,
    created: u32,
    model: String,
}

/// One event of a stream. Hot: there is one per token.
#[derive(Debug, Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u32,
    model: &'a str,
    /// None in the chunk with the usage.
    #[serde(serialize_with = "as_array")]
    choices: Option<ChunkChoice<'a>>,
    /// Absent unless usage was asked for; then null in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<CompletionUsage>>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl Answer {
    /// An answer that begins now.
    pub(super) fn new(model: String) -> Self {
        Self { id: http::new_id("chatcmpl-"), created: http::unix_seconds(), model }
    }

    /// The answer in one piece.
    pub(super) fn whole(&self, text: String, finish: &Finish) -> CreateChatCompletionResponse {
        #[expect(deprecated, reason = "the type has these fields whether one uses them or not")]
        CreateChatCompletionResponse {
            id: self.id.clone(),
            choices: vec![ChatChoice {
                index: 0,
                message: ChatCompletionResponseMessage {
                    content: Some(text),
                    refusal: None,
                    tool_calls: None,
                    annotations: None,
                    role: Role::Assistant,
                    function_call: None,
                    audio: None,
                },
                finish_reason: Some(match finish.reason {
                    FinishReason::Stop => OpenAiFinishReason::Stop,
                    FinishReason::Length => OpenAiFinishReason::Length,
                    FinishReason::ToolCalls => OpenAiFinishReason::ToolCalls,
                }),
                logprobs: None,
            }],
            created: self.created,
            model: self.model.clone(),
            service_tier: None,
            system_fingerprint: None,
            object: "chat.completion".to_owned(),
            usage: Some(usage(finish)),
            metadata: None,
            moderation: None,
        }
    }

    pub(super) fn role_chunk(&self, usage_later: bool) -> impl Serialize {
        self.chunk(Delta { role: Some("assistant"), content: Some("") }, None, usage_later)
    }

    pub(super) fn text_chunk<'a>(&'a self, text: &'a str, usage_later: bool) -> impl Serialize {
        self.chunk(Delta { role: None, content: Some(text) }, None, usage_later)
    }

    pub(super) fn finish_chunk(&self, finish: &Finish, usage_later: bool) -> impl Serialize {
        self.chunk(Delta::default(), Some(finish.reason.as_str()), usage_later)
    }

    /// The counts, in a chunk without choices.
    pub(super) fn usage_chunk(&self, finish: &Finish) -> impl Serialize {
        Chunk { usage: Some(Some(usage(finish))), ..self.chunk_of(None) }
    }

    fn chunk<'a>(
        &'a self,
        delta: Delta<'a>,
        finish_reason: Option<&'static str>,
        usage_later: bool,
    ) -> Chunk<'a> {
        let choice = ChunkChoice { index: 0, delta, finish_reason };
        Chunk { usage: usage_later.then_some(None), ..self.chunk_of(Some(choice)) }
    }

    fn chunk_of<'a>(&'a self, choices: Option<ChunkChoice<'a>>) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage: None,
        }
    }
}

#[expect(clippy::ref_option, reason = "serde gives the field as it is")]
fn as_array<S: serde::Serializer>(
    choice: &Option<ChunkChoice<'_>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    choice.as_slice().serialize(serializer)
}

fn usage(finish: &Finish) -> CompletionUsage {
    CompletionUsage {
        prompt_tokens: finish.prompt_tokens,
        completion_tokens: finish.completion_tokens,
        total_tokens: finish.prompt_tokens.saturating_add(finish.completion_tokens),
        prompt_tokens_details: Some(PromptTokensDetails {
            cached_tokens: Some(finish.cached_tokens),
            ..PromptTokensDetails::default()
        }),
        completion_tokens_details: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    fn answer() -> Answer {
        Answer { id: "chatcmpl-1".to_owned(), created: 5, model: "m".to_owned() }
    }

    const FINISH: Finish = Finish {
        reason: FinishReason::Length,
        prompt_tokens: 3,
        cached_tokens: 1,
        completion_tokens: 2,
        reasoning_tokens: 0,
        prefill_us: 0,
        decode_us: 0,
    };

    #[test]
    fn a_chunk_holds_what_clients_need_and_nothing_else() {
        assert_eq!(
            to_value(answer().text_chunk("hé", false)).unwrap(),
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m",
                   "choices": [{"index": 0, "delta": {"content": "hé"}, "finish_reason": null}]})
        );
        let first = to_value(answer().role_chunk(true)).unwrap();
        assert_eq!(first["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
        assert_eq!(first["usage"], json!(null));
        assert!(first.as_object().unwrap().contains_key("usage"));
        let last = to_value(answer().finish_chunk(&FINISH, false)).unwrap();
        assert_eq!(last["choices"], json!([{"index": 0, "delta": {}, "finish_reason": "length"}]));
    }

    #[test]
    fn the_usage_chunk_has_no_choices() {
        let chunk = to_value(answer().usage_chunk(&FINISH)).unwrap();
        assert_eq!(chunk["choices"], json!([]));
        let usage = &chunk["usage"];
        assert_eq!(
            (&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]),
            (&json!(3), &json!(2), &json!(5))
        );
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 1);
    }

    #[test]
    fn a_whole_answer_is_a_chat_completion() {
        let whole = to_value(answer().whole("hi".to_owned(), &FINISH)).unwrap();
        assert_eq!(whole["object"], "chat.completion");
        assert_eq!(whole["choices"][0]["message"], json!({"role": "assistant", "content": "hi"}));
        assert_eq!(whole["choices"][0]["finish_reason"], "length");
    }
}
