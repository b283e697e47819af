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
pub const PROTOCOL_VERSION: u16 = 1;

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
    /// Run a language model on a prompt.
    Generate(Generate),
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

/// One request to a language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Issued by the gateway, unique on this link.
    pub id: RequestId,
    /// What the model continues.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The most tokens to generate; `None` goes on until the model ends or the context is full.
    pub max_tokens: Option<u32>,
}

/// What a language model continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// A conversation, rendered with the model's own chat template.
    Chat {
        /// A JSON array of messages in OpenAI's form; `content` is a string or absent.
        messages: JsonText,
        /// A JSON array of tools in OpenAI's form.
        tools: Option<JsonText>,
    },
    /// Text that is encoded as it stands, special tokens recognised, none added.
    Text(String),
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

/// What one step brought for one sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The request.
    pub id: RequestId,
    /// New text, whole characters only; may be empty.
    pub text: String,
    /// How many tokens were generated since the last news of this request.
    pub tokens: u32,
    /// Set on the request's last news.
    pub finish: Option<Finish>,
}

/// How and with what counts a request ended.
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
}

impl FinishReason {
    /// The word in `finish_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
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
