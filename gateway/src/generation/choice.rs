//! The news of one choice, put together. Pure but for the ids of calls.

use hearth_shared::protocol::{Finish, News, Part, TokenLogprob};

use crate::http;

/// One choice of an answer as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The answer itself.
    pub text: String,
    /// The thoughts before it.
    pub reasoning: String,
    /// The tools that it calls.
    pub tool_calls: Vec<ToolCall>,
    /// One for each token, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Every token of the prompt and of the answer, if they were asked for.
    pub context: Vec<u32>,
    /// How it ended.
    pub finish: Finish,
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// By which the client says whose result it sends. The gateway's, because workers know no ids.
    pub id: String,
    /// The tool.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// An id for a call of a tool.
#[must_use]
pub fn new_call_id() -> String {
    http::new_id("call_")
}

/// The counts of an answer. Choices share one reading of the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: u32,
    /// How many of them were in a cache.
    pub cached_tokens: u32,
    /// Tokens generated, all choices together.
    pub completion_tokens: u32,
    /// How many of them were thoughts.
    pub reasoning_tokens: u32,
    /// Tokens of the longest choice.
    pub longest: u32,
}

impl Usage {
    /// All choices together.
    #[must_use]
    pub fn of(choices: &[Choice]) -> Self {
        let mut usage = Self::default();
        choices.iter().for_each(|choice| usage.add(&choice.finish));
        usage
    }

    /// Another choice has finished.
    pub fn add(&mut self, finish: &Finish) {
        self.prompt_tokens = finish.prompt_tokens;
        self.cached_tokens = self.cached_tokens.max(finish.cached_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(finish.completion_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(finish.reasoning_tokens);
        self.longest = self.longest.max(finish.completion_tokens);
    }

    /// Another prompt's counts.
    pub fn join(&mut self, other: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.longest = self.longest.max(other.longest);
    }

    /// Prompt and answer together.
    #[must_use]
    pub fn total_tokens(&self) -> u32 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// A choice whose news still come.
#[derive(Debug, Default)]
pub(super) struct Growing {
    text: String,
    reasoning: String,
    /// By the worker's index, which counts them from 0.
    tool_calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    context: Vec<u32>,
    finish: Option<Finish>,
}

impl Growing {
    pub(super) fn take(&mut self, news: News) {
        for part in news.parts {
            match part {
                Part::Text(text) => self.text.push_str(&text),
                Part::Reasoning(text) => self.reasoning.push_str(&text),
                Part::ToolCall { index: _, name } => {
                    let call = ToolCall { id: new_call_id(), name, arguments: String::new() };
                    self.tool_calls.push(call);
                }
                Part::ToolArguments { index, json } => {
                    let index = usize::try_from(index).unwrap_or(usize::MAX);
                    // Arguments of a call that never began belong to nothing.
                    if let Some(call) = self.tool_calls.get_mut(index) {
                        call.arguments.push_str(&json);
                    }
                }
            }
        }
        self.logprobs.extend(news.logprobs);
        self.context.extend(news.context);
        self.finish = self.finish.or(news.finish);
    }

    /// `None` if it has not finished.
    pub(super) fn whole(self) -> Option<Choice> {
        let Self { text, reasoning, tool_calls, logprobs, context, finish } = self;
        finish.map(|finish| Choice { text, reasoning, tool_calls, logprobs, context, finish })
    }
}

#[cfg(test)]
mod tests {
    use hearth_shared::ids::RequestId;
    use hearth_shared::protocol::FinishReason;

    use super::*;

    fn finish(completion_tokens: u32) -> Finish {
        Finish {
            reason: FinishReason::ToolCalls,
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens,
            reasoning_tokens: 1,
            prefill_us: 0,
            decode_us: 0,
        }
    }

    fn news(parts: Vec<Part>, finish: Option<Finish>) -> News {
        News {
            id: RequestId(1),
            choice: 0,
            parts,
            tokens: 1,
            logprobs: Vec::new(),
            context: Vec::new(),
            finish,
        }
    }

    #[test]
    fn parts_join_into_text_thoughts_and_calls() {
        let mut choice = Growing::default();
        let call = |index, name: &str| Part::ToolCall { index, name: name.to_owned() };
        let arguments = |index, json: &str| Part::ToolArguments { index, json: json.to_owned() };
        choice.take(news(vec![Part::Reasoning("hm".to_owned())], None));
        choice.take(news(vec![Part::Reasoning("m".to_owned()), Part::Text("a".to_owned())], None));
        choice.take(news(vec![call(0, "f"), arguments(0, "{\"x\""), call(1, "g")], None));
        choice.take(news(vec![arguments(0, ":1}"), arguments(1, "{}"), arguments(7, "?")], None));
        assert_eq!(Growing::default().whole(), None);
        choice.take(news(vec![Part::Text("b".to_owned())], Some(finish(5))));
        let choice = choice.whole().unwrap();
        assert_eq!((choice.text.as_str(), choice.reasoning.as_str()), ("ab", "hmm"));
        let calls = choice.tool_calls.iter().map(|c| (c.name.as_str(), c.arguments.as_str()));
        assert_eq!(calls.collect::<Vec<_>>(), [("f", "{\"x\":1}"), ("g", "{}")]);
        assert!(choice.tool_calls.iter().all(|call| call.id.starts_with("call_")));
        assert_ne!(choice.tool_calls[0].id, choice.tool_calls[1].id);
    }

    #[test]
    fn choices_share_the_prompt_and_add_up_their_tokens() {
        let mut usage = Usage::default();
        usage.add(&finish(5));
        usage.add(&finish(7));
        let expected = Usage {
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens: 12,
            reasoning_tokens: 2,
            longest: 7,
        };
        assert_eq!((usage, usage.total_tokens()), (expected, 22));
        usage.join(expected);
        assert_eq!((usage.prompt_tokens, usage.total_tokens()), (20, 44));
    }
}
