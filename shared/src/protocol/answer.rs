//! What a worker says of a request: news of its choices, how they ended, why there is no answer.

use serde::{Deserialize, Serialize};

use crate::ids::RequestId;

/// What one step brought for one choice of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct News {
    /// The request.
    pub id: RequestId,
    /// Which of the request's choices, from 0.
    pub choice: u32,
    /// What is new of the answer, in order; may be empty.
    pub parts: Vec<Part>,
    /// How many tokens were generated since the last news of this choice.
    pub tokens: u32,
    /// One for each of these tokens, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// On the choice's last news, if it was asked for: every token of the prompt and of the answer.
    pub context: Vec<u32>,
    /// Set on the choice's last news. The request ends when every choice has finished.
    pub finish: Option<Finish>,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// More text, whole characters only.
    Text(String),
    /// More of the thoughts before the answer.
    Reasoning(String),
    /// A call of a tool begins.
    ToolCall {
        /// Counts the answer's calls from 0.
        index: u32,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments; together they are one JSON object.
    ToolArguments {
        /// The call.
        index: u32,
        /// A piece of JSON.
        json: String,
    },
}

/// A token of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// What it spells; no whole characters perhaps.
    pub bytes: Vec<u8>,
}

/// How likely a token was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub token: Token,
    /// The natural logarithm of its probability, before any sampling rule.
    pub logprob: f32,
    /// The likeliest tokens, best first.
    pub top: Vec<(Token, f32)>,
}

/// How and with what counts a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens in the prompt.
    pub prompt_tokens: u32,
    /// How many of the prompt's tokens were found in a slot's cache.
    pub cached_tokens: u32,
    /// Tokens generated, the end token and those of a stop text included.
    pub completion_tokens: u32,
    /// How many of them were thoughts.
    pub reasoning_tokens: u32,
    /// Microseconds from admission to the first token.
    pub prefill_us: u64,
    /// Microseconds from the first token to the last.
    pub decode_us: u64,
}

/// Why a sequence ended, as OpenAI spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinishReason {
    /// The model ended it, or a stop text came up.
    Stop,
    /// `max_tokens` was reached, or the context is full.
    Length,
    /// The answer calls tools and waits for what they give.
    ToolCalls,
}

impl FinishReason {
    /// The word in `finish_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// Why a request got no answer, or none to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestFailure {
    /// The prompt alone does not fit into the context.
    ContextOverflow {
        /// Tokens in the prompt.
        prompt_tokens: u32,
        /// The most that the context takes, one generated token included.
        context_length: u32,
    },
    /// The chat template refused the messages, or can't be rendered.
    Template {
        /// What the template said, or what is wrong with it.
        message: String,
    },
    /// The model has no chat template.
    NoTemplate,
    /// The model can't do this: no embedding model, no tools in its template, …
    Unsupported {
        /// What it can't do, and what could be done instead.
        message: String,
    },
    /// The constraint can't be enforced: it is wrong, or too large.
    Constraint {
        /// What is wrong with it.
        message: String,
    },
    /// The request makes no sense to the worker; the gateway should have refused it.
    Invalid {
        /// What is wrong.
        message: String,
    },
    /// ONNX Runtime failed; other requests may still succeed.
    Engine {
        /// What it said.
        message: String,
    },
}
