//! The messages between the gateway and one worker, in the order in which a worker's life sends them.
//!
//! The gateway binds the socket, spawns the worker and waits. The worker connects and says
//! [`FromWorker::Hello`]; the gateway answers [`ToWorker::Load`]; the worker reports
//! [`FromWorker::LoadProgress`] until [`FromWorker::Ready`] or [`FromWorker::LoadFailed`]. From
//! then on requests and their news interleave freely, told apart by [`RequestId`].
//!
//! The encoding is not self-describing: the order of variants and of fields is the wire format.
//! A test pins golden bytes; whoever changes them raises [`PROTOCOL_VERSION`].

mod answer;
mod work;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::RequestId;

pub use self::answer::{Finish, FinishReason, News, Part, RequestFailure, Token, TokenLogprob};
pub use self::work::{
    Chat, Constraint, Embed, EmbedInput, Generate, Prompt, Rerank, Sampling, ToolChoice, Work,
};

/// Both sides must speak exactly this version; gateway and worker are built and shipped together.
pub const PROTOCOL_VERSION: u16 = 3;

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
    /// Whether CUDA shall capture decode steps, where the graph allows it.
    pub cuda_graphs: bool,
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
    /// What of it runs and lies where, where ONNX Runtime says it.
    pub placement: Option<Placement>,
}

/// What of a model runs and lies on a device, and what on the CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Nodes of the graph, as ONNX Runtime divided it between execution providers.
    pub nodes: u32,
    /// Of them, those that run on another one than the CPU's.
    pub device_nodes: u32,
    /// The first few operators that a device's model leaves to the CPU, in alphabetical order.
    pub cpu_operators: Vec<String>,
    /// Bytes that the weights took of the device's memory, where that could be measured.
    pub device_weight_bytes: Option<u64>,
    /// Whether the keys and values lie in the device's memory.
    pub cache_on_device: bool,
    /// Whether decode steps are captured and repeated as a whole.
    pub captured: bool,
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
