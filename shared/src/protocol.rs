//! The messages between the gateway and one worker, in the order in which a worker's life sends them.
//!
//! The gateway binds the socket, spawns the worker and waits. The worker connects and says
//! [`FromWorker::Hello`]; the gateway answers [`ToWorker::Load`]; the worker reports
//! [`FromWorker::LoadProgress`] until [`FromWorker::Ready`] or [`FromWorker::LoadFailed`]. From
//! then on requests and their news interleave freely, told apart by [`RequestId`].
//!
//! The encoding is not self-describing: the order of variants and of fields is the wire format.
//! A test pins golden bytes; whoever changes them raises [`PROTOCOL_VERSION`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::RequestId;

/// Both sides must speak exactly this version; gateway and worker are built and shipped together.
pub const PROTOCOL_VERSION: u16 = 2;

/// The environment variable that carries [`LinkToken`] from the gateway to the worker it spawns.
///
/// Not an argument, because other users can read a process's arguments but not its environment.
pub const LINK_TOKEN_VARIABLE: &str = "HEARTH_LINK_TOKEN";

/// A one-time secret that proves that who connects is the process that was spawned.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkToken(pub [u8; 16]);

impl LinkToken {
    /// The form that travels in the environment: 32 lower-case hex digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads [`LinkToken::to_hex`] back; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0_u8; 16];
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkToken(…)")
    }
}

/// JSON as text, because the wire format can't carry a value of unknown shape.
///
/// Who writes it vouches that it parses; who reads it checks all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonText(pub String);

// === To the worker ===

/// What the gateway tells a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Load this model. Sent once, right after the handshake.
    Load(LoadSpec),
    /// Do this work; news of it carry the id.
    Work {
        /// Issued by the gateway, unique on this link.
        id: RequestId,
        /// What to do.
        work: Work,
    },
    /// Drop a request at the next step. No more news of it are owed.
    Cancel {
        /// The request to drop; one that is unknown or over is no error.
        id: RequestId,
    },
    /// Answer with [`FromWorker::Pong`], also while the model runs.
    Ping {
        /// Repeated in the answer.
        nonce: u64,
    },
    /// End now, with [`WorkerExit::Done`](crate::exit_code::WorkerExit::Done).
    Shutdown,
}

/// Everything that a worker needs to know to load its model; it reads no configuration itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// The model's folder or file, an absolute path.
    pub model_path: String,
    /// Which of a folder's graphs, by the suffix of its file: `q4`, `fp16`, …; `None` takes the one
    /// that suits the execution provider best.
    pub variant: Option<String>,
    /// What a graph that is built from a GGUF file shall be good at.
    pub graph: GraphChoice,
    /// ONNX Runtime's library, an absolute path.
    pub runtime_library: String,
    /// Where the model shall run.
    pub execution_provider: ExecutionProvider,
    /// Threads for one forward pass; `None` leaves the choice to the worker.
    pub threads: Option<u32>,
    /// The most tokens in one sequence; `None` takes what the model says.
    pub context_length: Option<u32>,
    /// The most sequences at once; `None` leaves the choice to the worker.
    pub slots: Option<u32>,
}

/// What a graph that is built from a GGUF file shall be good at. Other models have their own graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GraphChoice {
    /// Speed, within a small loss of accuracy.
    #[default]
    Default,
    /// The file's weights to the letter, at some loss of speed.
    Exact,
    /// Little memory, at some loss of speed.
    Memory,
}

impl GraphChoice {
    /// The word that configuration uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Exact => "exact",
            Self::Memory => "memory",
        }
    }
}

/// An execution provider of ONNX Runtime, as a user asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionProvider {
    /// The best one that works here; falls back to the CPU and says why.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, or an error.
    Cuda,
    /// A GPU through DirectML on Windows, or an error.
    DirectMl,
}

impl ExecutionProvider {
    /// The word that configuration and `/api/ps` use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::DirectMl => "directml",
        }
    }
}

/// What a request wants of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Continue a prompt. Answered by [`FromWorker::Step`] until every choice has finished.
    Generate(Generate),
    /// Turn texts into vectors. Answered by [`FromWorker::Embeddings`] until the last one.
    Embed(Embed),
    /// Judge documents by a query. Answered by [`FromWorker::Scores`] until the last one.
    Rerank(Rerank),
    /// Turn a prompt into tokens. Answered by one [`FromWorker::Tokens`].
    Tokenize(Prompt),
    /// Turn tokens into text. Answered by one [`FromWorker::Text`].
    Detokenize(Vec<u32>),
}

/// One request to a language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// What the model continues.
    pub prompt: Prompt,
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
    /// A conversation, rendered with the model's own chat template.
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
    /// A JSON array of tools in OpenAI's form.
    pub tools: Option<JsonText>,
    /// Whether the answer may, must or must not call tools. Without tools it says nothing.
    pub tool_choice: ToolChoice,
    /// Whether one answer may call several tools.
    pub parallel_tool_calls: bool,
    /// A JSON object of further variables for the template: `enable_thinking`, …
    pub template_variables: Option<JsonText>,
    /// Whether a thinking model's thoughts come as [`Part::Reasoning`] and not as text.
    pub split_reasoning: bool,
}

impl Chat {
    /// A conversation without tools; thoughts are told apart.
    #[must_use]
    pub fn new(messages: JsonText) -> Self {
        Self {
            messages,
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

// === From the worker ===

/// What a worker tells the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The first message on the link.
    Hello {
        /// The worker's [`PROTOCOL_VERSION`].
        protocol_version: u16,
        /// The worker's process id.
        pid: u32,
        /// What the gateway put into [`LINK_TOKEN_VARIABLE`].
        token: LinkToken,
    },
    /// The load goes on. Each one pushes the gateway's stall deadline back.
    LoadProgress {
        /// What is being done.
        stage: LoadStage,
        /// How much of the whole load is done, 0 to 1.
        fraction: f32,
    },
    /// The model can be used.
    Ready(ModelCard),
    /// The model can't be used; the worker ends right after.
    LoadFailed(LoadFailure),
    /// One step's news, of every sequence that has any.
    Step(Vec<News>),
    /// Vectors for some of an [`Embed`]'s inputs, in their order.
    Embeddings {
        /// The request.
        id: RequestId,
        /// The first one's index among the inputs.
        first: u32,
        /// One for each input from there on.
        vectors: Vec<Vec<f32>>,
        /// Tokens read for these, special ones included.
        prompt_tokens: u32,
        /// Whether these were the last.
        last: bool,
    },
    /// Scores for some of a [`Rerank`]'s documents, in their order.
    Scores {
        /// The request.
        id: RequestId,
        /// The first one's index among the documents.
        first: u32,
        /// Logits as the model gives them, one for each document from there on.
        scores: Vec<f32>,
        /// Tokens read for these, the query's and special ones included.
        prompt_tokens: u32,
        /// Whether these were the last.
        last: bool,
    },
    /// The answer to [`Work::Tokenize`].
    Tokens {
        /// The request.
        id: RequestId,
        /// The prompt's tokens.
        tokens: Vec<Token>,
    },
    /// The answer to [`Work::Detokenize`].
    Text {
        /// The request.
        id: RequestId,
        /// What the tokens spell; bytes that are no UTF-8 are replaced.
        text: String,
    },
    /// A request ended without an answer, or in the middle of one.
    Failed {
        /// The request.
        id: RequestId,
        /// Why.
        reason: RequestFailure,
    },
    /// The answer to [`ToWorker::Ping`].
    Pong {
        /// As in the ping.
        nonce: u64,
        /// Grows whenever the engine gets anything done; the gateway's watchdog reads it.
        progress: u64,
    },
}

/// What a loading worker is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadStage {
    /// Reading the model's files: configuration, tokenizer, template.
    Files,
    /// Loading ONNX Runtime and choosing the execution provider.
    Runtime,
    /// Building the session: weights, graph optimisation.
    Session,
    /// A first run, so that the first request finds everything warm.
    WarmUp,
}

impl LoadStage {
    /// The word that `/api/ps` and logs use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Runtime => "runtime",
            Self::Session => "session",
            Self::WarmUp => "warm-up",
        }
    }
}

/// What a loaded model is, as the worker found it in the files and in the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// What it can do.
    pub kind: ModelKind,
    /// The family, as the files name it: `llama`, `qwen3`, …
    pub architecture: String,
    /// The most tokens in one sequence, prompt and answer together.
    pub context_length: u32,
    /// How many sequences run at once.
    pub slots: u32,
    /// Where it runs: never `auto`.
    pub execution_provider: ExecutionProvider,
    /// Why `auto` took no better one, if it looked for one.
    pub execution_provider_note: Option<String>,
    /// ONNX Runtime's own version string.
    pub runtime_version: String,
    /// Whether its chat template takes tools, and calls of them can be told from text.
    pub tools: bool,
    /// Whether it can think before it answers, and thoughts can be told from text.
    pub thinking: bool,
    /// How long its vectors are, of an embedding model.
    pub embedding_length: Option<u32>,
    /// Bytes of device memory that it takes, where that could be measured.
    pub device_bytes: Option<u64>,
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// [`Work::Generate`].
    Generate,
    /// [`Work::Embed`].
    Embed,
    /// [`Work::Rerank`].
    Rerank,
}

/// Why a model can't be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailure {
    /// Decides whether another try can help.
    pub kind: LoadFailureKind,
    /// One line for the user: what is wrong and what to do. Lower case, no full stop.
    pub message: String,
}

/// What sort of reason stopped a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadFailureKind {
    /// A file is missing or can't be understood.
    BadFiles,
    /// The files are sound, but this is no kind of model that Hearth runs.
    Unsupported,
    /// ONNX Runtime's library can't be loaded, or is too old.
    NoRuntime,
    /// The execution provider that was asked for by name can't be had.
    NoProvider,
    /// Memory ran out.
    OutOfMemory,
    /// ONNX Runtime refused for another reason.
    Runtime,
}

impl LoadFailureKind {
    /// Whether the same files will fail again in the same way.
    #[must_use]
    pub fn repeats(self) -> bool {
        match self {
            Self::BadFiles | Self::Unsupported => true,
            // A library that is missing may be put in its place, and memory may come free.
            Self::NoRuntime | Self::NoProvider | Self::OutOfMemory | Self::Runtime => false,
        }
    }
}

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
