//! The news of a chat completion → the chunks of its stream. Pure but for the ids of calls.
//!
//! Of each choice the role comes first, then what the model says part by part, then the reason for
//! its end in a chunk of its own; after all choices the usage, if it was asked for. The chunk is our
//! own structure: async-openai's writes every absent field as `null` into each of thousands.

use async_openai::types::chat::{ChatChoiceLogprobs, CompletionUsage};
use hearth_shared::protocol::{News, Part, TokenLogprob};
use serde::Serialize;

use super::response::{Answer, CallForm, logprobs};
use crate::generation::{Usage, new_call_id};
use crate::openai::usage::{UsageTold, usage};
use crate::stream::sse;

/// Writes one stream.
#[derive(Debug)]
pub(super) struct Chunks {
    answer: Answer,
    told: UsageTold,
    /// The counts so far.
    so_far: Usage,
    with_logprobs: bool,
    choices: Vec<Begun>,
}

/// What has been written of a choice.
#[derive(Debug, Default)]
struct Begun {
    role: bool,
    /// Of tokens whose text has not come yet, as when a character was not whole.
    logprobs: Vec<TokenLogprob>,
}

/// One event. Hot: there is one per token.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u32,
    model: &'a str,
    /// One, but none in the chunk with the usage.
    choices: &'a [ChunkChoice<'a>],
    /// Absent unless usage was asked for; then null in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<CompletionUsage>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChatChoiceLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionDelta<'a>>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl Chunks {
    pub(super) fn new(answer: Answer, choices: u32, with_logprobs: bool) -> Self {
        let choices = (0..choices).map(|_| Begun::default()).collect();
        let (told, so_far) = (UsageTold::Never, Usage::default());
        Self { answer, told, so_far, with_logprobs, choices }
    }

    /// Which counts it tells; of a prompt of so many tokens, if that is known from the beginning.
    pub(super) fn telling(self, told: UsageTold, prompt_tokens: u32) -> Self {
        Self { told, so_far: Usage { prompt_tokens, ..self.so_far }, ..self }
    }

    /// Appends the events of these news.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, news: News) {
        let index = news.choice;
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let begun = self.choices.get_mut(place).expect("the link lets only known choices through");
        let first = !std::mem::replace(&mut begun.role, true);
        begun.logprobs.extend(news.logprobs);
        self.so_far.completion_tokens = self.so_far.completion_tokens.saturating_add(news.tokens);
        if first {
            let role = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            self.write(out, ChunkChoice::new(index, role));
        }
        for part in &news.parts {
            let Some(delta) = delta(part, self.answer.calls) else { continue };
            let logprobs = self.take_logprobs(place);
            self.write(out, ChunkChoice { logprobs, ..ChunkChoice::new(index, delta) });
        }
        if let Some(finish) = news.finish {
            let finish_reason = Some(self.answer.finish_reason(finish.reason));
            let logprobs = self.take_logprobs(place);
            let delta = Delta::default();
            self.write(out, ChunkChoice { index, delta, logprobs, finish_reason });
        }
    }

    /// Appends the end of a stream that is complete.
    pub(super) fn end(&self, out: &mut Vec<u8>, counts: Usage) {
        if self.told != UsageTold::Never {
            let usage = Some(Some(usage(counts)));
            sse::push_event(out, &Chunk { usage, ..self.chunk(&[]) });
        }
        out.extend_from_slice(sse::DONE.as_bytes());
    }

    fn take_logprobs(&mut self, place: usize) -> Option<ChatChoiceLogprobs> {
        let tokens = std::mem::take(&mut self.choices[place].logprobs);
        (self.with_logprobs && !tokens.is_empty()).then(|| logprobs(&tokens))
    }

    fn write(&self, out: &mut Vec<u8>, choice: ChunkChoice<'_>) {
        let usage = self.told.in_chunk(self.so_far);
        let choices = [choice];
        sse::push_event(out, &Chunk { usage, ..self.chunk(&choices) });
    }

    fn chunk<'a>(&'a self, choices: &'a [ChunkChoice<'a>]) -> Chunk<'a> {
        Chunk {
            id: &self.answer.id,
            object: "chat.completion.chunk",
            created: self.answer.created,
            model: &self.answer.model,
            choices,
            usage: None,
        }
    }
}

impl<'a> ChunkChoice<'a> {
    fn new(index: u32, delta: Delta<'a>) -> Self {
        Self { index, delta, logprobs: None, finish_reason: None }
    }
}

/// `None` for what the form of calls that was asked for has no words for.
fn delta(part: &Part, calls: CallForm) -> Option<Delta<'_>> {
    let nothing = Delta::default();
    Some(match (part, calls) {
        (Part::Text(text), _) => Delta { content: Some(text), ..nothing },
        (Part::Reasoning(text), _) => Delta { reasoning_content: Some(text), ..nothing },
        (Part::ToolCall { index, name }, CallForm::Tools) => {
            let function = FunctionDelta { name: Some(name), arguments: "" };
            let (id, r#type) = (Some(new_call_id()), Some("function"));
            let call = CallDelta { index: *index, id, r#type, function };
            Delta { tool_calls: Some([call]), ..nothing }
        }
        (Part::ToolArguments { index, json }, CallForm::Tools) => {
            let function = FunctionDelta { name: None, arguments: json };
            let call = CallDelta { index: *index, id: None, r#type: None, function };
            Delta { tool_calls: Some([call]), ..nothing }
        }
        (Part::ToolCall { index: 0, name }, CallForm::Functions) => {
            let call = FunctionDelta { name: Some(name), arguments: "" };
            Delta { function_call: Some(call), ..nothing }
        }
        (Part::ToolArguments { index: 0, json }, CallForm::Functions) => {
            let call = FunctionDelta { name: None, arguments: json };
            Delta { function_call: Some(call), ..nothing }
        }
        (Part::ToolCall { .. } | Part::ToolArguments { .. }, CallForm::Functions) => return None,
    })
}

#[cfg(test)]
mod tests {
    use hearth_shared::ids::RequestId;
    use hearth_shared::protocol::{Finish, FinishReason, Token};
    use serde_json::{Value, json};

    use super::*;

    fn chunks(calls: CallForm, with_logprobs: bool) -> Chunks {
        let answer =
            Answer { id: "chatcmpl-1".to_owned(), created: 5, model: "m".to_owned(), calls };
        Chunks::new(answer, 2, with_logprobs)
    }

    fn news(choice: u32, parts: Vec<Part>) -> News {
        let (logprobs, context) = (Vec::new(), Vec::new());
        News { id: RequestId(1), choice, parts, tokens: 1, logprobs, context, finish: None }
    }

    fn finish(reason: FinishReason) -> Option<Finish> {
        Some(Finish {
            reason,
            prompt_tokens: 3,
            cached_tokens: 1,
            completion_tokens: 2,
            reasoning_tokens: 0,
            prefill_us: 0,
            decode_us: 0,
        })
    }

    fn events(bytes: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(bytes).unwrap();
        let events = text.split_terminator("\n\n").map(|event| &event["data: ".len()..]);
        events.map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    #[test]
    fn a_chunk_holds_what_clients_need_and_nothing_else() {
        let (mut chunks, mut out) = (chunks(CallForm::Tools, false), Vec::new());
        chunks.push(&mut out, news(0, vec![text("hé")]));
        let base = |choice| {
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk",
                                   "created": 5, "model": "m", "choices": [choice]})
        };
        let role = json!({"role": "assistant", "content": ""});
        assert_eq!(
            events(&out),
            [
                base(json!({"index": 0, "delta": role, "finish_reason": null})),
                base(json!({"index": 0, "delta": {"content": "hé"}, "finish_reason": null})),
            ]
        );
    }

    #[test]
    fn every_choice_has_its_role_and_its_end() {
        let (mut chunks, mut out) = (chunks(CallForm::Tools, false), Vec::new());
        chunks.push(&mut out, news(1, vec![text("b")]));
        chunks.push(&mut out, news(0, vec![text("a")]));
        chunks.push(&mut out, News { finish: finish(FinishReason::Length), ..news(1, vec![]) });
        let seen: Vec<_> = events(&out)
            .iter()
            .map(|event| event["choices"][0].clone())
            .map(|c| (c["index"].clone(), c["delta"].clone(), c["finish_reason"].clone()))
            .collect();
        let role = json!({"role": "assistant", "content": ""});
        let (null, length) = (json!(null), json!("length"));
        assert_eq!(
            seen,
            [
                (json!(1), role.clone(), null.clone()),
                (json!(1), json!({"content": "b"}), null.clone()),
                (json!(0), role, null.clone()),
                (json!(0), json!({"content": "a"}), null),
                (json!(1), json!({}), length),
            ]
        );
    }

    #[test]
    fn calls_begin_with_an_id_and_go_on_with_their_index() {
        let parts = || {
            let call = Part::ToolCall { index: 0, name: "f".to_owned() };
            let arguments = Part::ToolArguments { index: 0, json: "{\"x\":".to_owned() };
            let other = Part::ToolCall { index: 1, name: "g".to_owned() };
            vec![Part::Reasoning("hm".to_owned()), call, arguments, other]
        };
        let deltas = |form| {
            let (mut chunks, mut out) = (chunks(form, false), Vec::new());
            let finish = finish(FinishReason::ToolCalls);
            chunks.push(&mut out, News { finish, ..news(0, parts()) });
            let events = events(&out);
            let reason = events.last().unwrap()["choices"][0]["finish_reason"].clone();
            let deltas = events[1..events.len() - 1].iter();
            let deltas: Vec<_> = deltas.map(|event| event["choices"][0]["delta"].clone()).collect();
            (deltas, reason)
        };
        let (mut tools, reason) = deltas(CallForm::Tools);
        assert_eq!(reason, "tool_calls");
        let id = tools[1]["tool_calls"][0].as_object_mut().unwrap().remove("id").unwrap();
        assert!(id.as_str().unwrap().starts_with("call_"), "{id}");
        let f = json!({"index": 0, "type": "function", "function": {"name": "f", "arguments": ""}});
        let more = json!({"index": 0, "function": {"arguments": "{\"x\":"}});
        assert_eq!(
            tools[..3],
            [
                json!({"reasoning_content": "hm"}),
                json!({"tool_calls": [f]}),
                json!({"tool_calls": [more]})
            ]
        );
        assert_eq!(tools[3]["tool_calls"][0]["function"]["name"], "g");
        let (functions, reason) = deltas(CallForm::Functions);
        assert_eq!(reason, "function_call");
        assert_eq!(
            functions[1..],
            [
                json!({"function_call": {"name": "f", "arguments": ""}}),
                json!({"function_call": {"arguments": "{\"x\":"}}),
            ]
        );
    }

    #[test]
    fn probabilities_come_with_the_text_that_they_are_of() {
        let (mut chunks, mut out) = (chunks(CallForm::Tools, true), Vec::new());
        let logprobs = |id| {
            vec![TokenLogprob { token: Token { id, bytes: vec![97] }, logprob: -1.0, top: vec![] }]
        };
        chunks.push(&mut out, News { logprobs: logprobs(1), ..news(0, vec![]) });
        chunks.push(&mut out, News { logprobs: logprobs(2), ..news(0, vec![text("a")]) });
        let counts: Vec<_> = events(&out)
            .iter()
            .map(|e| e["choices"][0]["logprobs"]["content"].as_array().map(Vec::len))
            .collect();
        assert_eq!(counts, [None, Some(2)]);
    }

    #[test]
    fn the_counts_so_far_stand_in_every_chunk_if_they_are_wanted() {
        let mut chunks = chunks(CallForm::Tools, false).telling(UsageTold::Always, 3);
        let mut out = Vec::new();
        chunks.push(&mut out, news(0, vec![text("a")]));
        chunks.push(&mut out, news(1, vec![text("b")]));
        let counts = |event: &Value| {
            let usage = &event["usage"];
            ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| usage[name].as_u64())
        };
        let seen: Vec<_> = events(&out).iter().map(counts).collect();
        let of = |said| [Some(3), Some(said), Some(3 + said)];
        assert_eq!(seen, [of(1), of(1), of(2), of(2)]);
    }

    #[test]
    fn the_usage_stands_in_a_chunk_without_choices() {
        let mut chunks = chunks(CallForm::Tools, false).telling(UsageTold::AtEnd, 0);
        let mut out = Vec::new();
        chunks.push(&mut out, news(0, vec![text("a")]));
        assert!(events(&out).iter().all(|e| e.as_object().unwrap().contains_key("usage")));
        out.clear();
        let mut counts = Usage::default();
        counts.add(&finish(FinishReason::Stop).unwrap());
        chunks.end(&mut out, counts);
        let event = String::from_utf8(out).unwrap();
        let event = event.strip_suffix("data: [DONE]\n\n").unwrap();
        let event = &events(event.as_bytes())[0];
        assert_eq!((&event["choices"], &event["usage"]["total_tokens"]), (&json!([]), &json!(5)));
    }
}
