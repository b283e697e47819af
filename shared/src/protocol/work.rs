//! What a request wants of a model: prompts, rules for the answer, texts to embed or to rank.
//!
//! Built by the gateway's dialects, carried out by the worker. Nothing here decides what is allowed;
//! both sides check what they need.

use serde::{Deserialize, Serialize};

use super::JsonText;

/// What a request wants of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Continue a prompt. Answered by [`FromWorker::Step`](super::FromWorker::Step) until every choice has finished.
    Generate(Box<Generate>),
    /// Turn texts into vectors. Answered by [`FromWorker::Embeddings`](super::FromWorker::Embeddings) until the last one.
    Embed(Embed),
    /// Judge documents by a query. Answered by [`FromWorker::Scores`](super::FromWorker::Scores) until the last one.
    Rerank(Rerank),
    /// Turn a prompt into tokens. Answered by one [`FromWorker::Tokens`](super::FromWorker::Tokens).
    Tokenize(Prompt),
    /// Turn tokens into text. Answered by one [`FromWorker::Text`](super::FromWorker::Text).
    Detokenize(Vec<u32>),
}

/// One request to a language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// What the model continues.
    pub prompt: Prompt,
    /// Tokens that stand before the prompt: all that an earlier answer told of itself.
    pub before: Vec<u32>,
    /// Whether each answer's last news tell all tokens, of the prompt and of the answer.
    pub tells_context: bool,
    /// The most tokens in the sequence, where that is less than the model's context takes.
    pub context_max: Option<u32>,
    /// How many independent answers, at least 1; they share the reading of the prompt.
    pub choices: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Added to the logits of these tokens before anything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// What the answer must look like.
    pub constraint: Option<Constraint>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer beside the model's own; they are not part of it.
    pub stop_token_ids: Vec<u32>,
    /// Whether the model's own end tokens are tokens like any other.
    pub ignore_eos: bool,
    /// No end token and no stop text ends the answer before this many tokens.
    pub min_tokens: u32,
    /// The most tokens to generate; `None` goes on until the model ends or the context is full.
    pub max_tokens: Option<u32>,
    /// How many of the likeliest tokens to tell beside each token's own probability; `None` tells
    /// neither.
    pub logprobs: Option<u32>,
}

impl Generate {
    /// One answer to a prompt, without any rule.
    #[must_use]
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            before: Vec::new(),
            tells_context: false,
            context_max: None,
            choices: 1,
            sampling: Sampling::NEUTRAL,
            logit_bias: Vec::new(),
            constraint: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            max_tokens: None,
            logprobs: None,
        }
    }
}

/// What a language model continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// A conversation, rendered with a chat template.
    Chat(Chat),
    /// Text, special tokens recognised.
    Text {
        /// What is encoded.
        text: String,
        /// Whether the tokens that the model wants around any text (a beginning, an end) are added.
        add_special_tokens: bool,
    },
    /// Tokens as they stand.
    Tokens(Vec<u32>),
    /// What the model is to put between two texts, for models that were trained to.
    Infill {
        /// The text before the gap.
        prefix: String,
        /// The text after it.
        suffix: String,
    },
}

impl Prompt {
    /// Text that is encoded as it stands, nothing added.
    #[must_use]
    pub fn raw(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), add_special_tokens: false }
    }
}

/// A conversation, and how its answer is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// A JSON array of messages in OpenAI's form; `content` is a string or absent.
    pub messages: JsonText,
    /// A chat template instead of the model's own, in Jinja.
    pub template: Option<String>,
    /// A JSON array of tools in OpenAI's form.
    pub tools: Option<JsonText>,
    /// Whether the answer may, must or must not call tools. Without tools it says nothing.
    pub tool_choice: ToolChoice,
    /// Whether one answer may call several tools.
    pub parallel_tool_calls: bool,
    /// A JSON object of further variables for the template: `enable_thinking`, …
    pub template_variables: Option<JsonText>,
    /// Whether a thinking model's thoughts come as [`Part::Reasoning`](super::Part::Reasoning) and not as text.
    pub split_reasoning: bool,
}

impl Chat {
    /// A conversation without tools; thoughts are told apart.
    #[must_use]
    pub fn new(messages: JsonText) -> Self {
        Self {
            messages,
            template: None,
            tools: None,
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            template_variables: None,
            split_reasoning: true,
        }
    }
}

/// Whether an answer calls tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolChoice {
    /// It must not: tools are described, and calls are text.
    None,
    /// As the model likes.
    Auto,
    /// It must call one or more.
    Required,
    /// It must call this one.
    Function(String),
}

/// What an answer must look like; enforced token by token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that this JSON schema allows.
    JsonSchema(JsonText),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Text that this grammar, in llguidance's dialect of Lark, derives.
    Lark(String),
}

/// One request to an embedding model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embed {
    /// At least one.
    pub inputs: Vec<EmbedInput>,
    /// Keep so many dimensions and normalise again; `None` keeps all.
    pub dimensions: Option<u32>,
    /// Whether an input that is too long loses its end; otherwise it fails the request.
    pub truncate: bool,
}

/// What becomes one vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmbedInput {
    /// Text; the model's special tokens are added.
    Text(String),
    /// Tokens as they stand.
    Tokens(Vec<u32>),
}

/// One request to a reranker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerank {
    /// What the documents are judged by.
    pub query: String,
    /// At least one.
    pub documents: Vec<String>,
    /// The most tokens of a document that are read; `None` reads what fits.
    pub document_tokens_max: Option<u32>,
    /// Whether a document that is too long loses its end; otherwise it fails the request.
    pub truncate: bool,
}

/// How the next token is chosen from the logits, in the order in which the rules apply.
///
/// The defaults change nothing: plain sampling from the model's own distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides (positive logit) or multiplies (negative) tokens seen so far; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from each token already generated; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted per occurrence from each token already generated; 0 is off.
    pub frequency_penalty: f32,
    /// 0 is greedy; otherwise the logits are divided by it.
    pub temperature: f32,
    /// Keep only the most likely tokens; 0 is off.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 is off.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the best; 0 is off.
    pub min_p: f32,
    /// Keep the tokens whose surprise is nearest to the expected one until their probability
    /// reaches this (locally typical sampling); 1 is off.
    pub typical_p: f32,
    /// The same seed and prompt give the same text; `None` draws one.
    pub seed: Option<u64>,
}

impl Sampling {
    /// Changes nothing: plain sampling from the model's own distribution.
    pub const NEUTRAL: Self = Self {
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        seed: None,
    };
}

impl Default for Sampling {
    fn default() -> Self {
        Self::NEUTRAL
    }
}
