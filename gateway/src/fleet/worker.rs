//! One model's worker as the scheduler sees it: its state, and why it ends.
//!
//! The scheduler alone changes these values. Process handles and sockets live elsewhere, with the
//! task that owns the process; a state here only ever names its worker by id.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hearth_shared::exit_code::WorkerExit;
use hearth_shared::protocol::{LoadFailure, LoadFailureKind, LoadStage};
use tokio::time::Instant;

/// One worker process, never used twice in a gateway's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One request on its way to a worker: first a place in the queue, then a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub u64);

/// No worker serves more requests at once, whatever it says.
pub const SLOTS_MAX: usize = 256;

/// A worker that has loaded its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyWorker {
    /// Its id.
    pub id: WorkerId,
    /// How many requests it takes at once, at least one.
    pub slots: usize,
    /// Since when.
    pub since: Instant,
}

/// What a model's worker is doing. "No worker" is the absence of this value.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerState {
    /// Spawned and loading; requests wait in the model's queue.
    Starting {
        /// Its id.
        worker: WorkerId,
        /// When it was spawned.
        since: Instant,
        /// When it is given up unless it makes progress.
        stalls_at: Instant,
        /// What it last said about its load.
        progress: Option<(LoadStage, f32)>,
    },
    /// Serving. Has no idle deadline.
    Busy {
        /// The worker.
        worker: ReadyWorker,
        /// Who holds a lease, and since when. Never empty.
        leases: BTreeMap<TicketId, Instant>,
        /// When it counts as hung unless it makes progress.
        stalls_at: Instant,
    },
    /// Warm and unused.
    Idle {
        /// The worker.
        worker: ReadyWorker,
        /// When it is stopped; `None` is never.
        expires_at: Option<Instant>,
    },
    /// Told to go. New requests queue for the next worker.
    Stopping {
        /// Its id.
        worker: WorkerId,
        /// Why.
        reason: StopReason,
        /// When it is killed; `None` once it has been.
        kill_at: Option<Instant>,
    },
    /// No process; the last one failed, and the next is not tried yet.
    Failed {
        /// When it will be.
        retry: Retry,
    },
}

impl WorkerState {
    /// The word that `/api/ps`, metrics and logs use.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Busy { .. } => "busy",
            Self::Idle { .. } => "idle",
            Self::Stopping { .. } => "stopping",
            Self::Failed { .. } => "failed",
        }
    }

    /// Every word that [`WorkerState::word`] gives.
    pub const WORDS: [&'static str; 5] = ["starting", "busy", "idle", "stopping", "failed"];

    /// The process behind this state, if there is one.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        match self {
            Self::Starting { worker, .. } | Self::Stopping { worker, .. } => Some(*worker),
            Self::Busy { worker, .. } | Self::Idle { worker, .. } => Some(worker.id),
            Self::Failed { .. } => None,
        }
    }

    /// When the scheduler has to look at this state again; `None` is never.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Starting { stalls_at, .. } | Self::Busy { stalls_at, .. } => Some(*stalls_at),
            Self::Idle { expires_at, .. } => *expires_at,
            Self::Stopping { kill_at, .. } => *kill_at,
            Self::Failed { retry: Retry::At(at) } => Some(*at),
            Self::Failed { retry: Retry::WhenFilesChange } => None,
        }
    }
}

/// When a failed model is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    /// At this instant.
    At(Instant),
    /// Not before the model's files differ: the failure would repeat.
    WhenFilesChange,
}

/// Why a worker was told to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// Its idle deadline passed.
    Expired,
    /// Somebody asked for it.
    Unloaded,
    /// Another model needed its room.
    Evicted(EvictionCause),
    /// Its model's files or settings are not those that it was loaded with.
    Replaced,
    /// The gateway is shutting down.
    Drained,
    /// It failed; what is left of it has to go.
    Failed(WorkerFailure),
}

impl StopReason {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Unloaded => "unloaded",
            Self::Evicted(_) => "evicted",
            Self::Replaced => "replaced",
            Self::Drained => "drained",
            Self::Failed(failure) => failure.label(),
        }
    }
}

/// Why a worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnReason {
    /// A request needs it.
    Request,
    /// Somebody wants the model loaded.
    Load,
    /// The configuration wants it loaded from the start.
    Preload,
    /// The one before it failed.
    Restart,
    /// The load before it ran out of memory, and others have made room since.
    Retry,
}

impl SpawnReason {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Load => "load",
            Self::Preload => "preload",
            Self::Restart => "restart",
            Self::Retry => "retry",
        }
    }
}

/// What there was too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictionCause {
    /// Memory, for another model.
    Memory,
    /// Device memory, for another model.
    Device,
    /// More models than may be loaded at once.
    Count,
    /// Another model's load ran out of memory, whatever had been reckoned.
    LoadFailed,
    /// Workers took more than they had been let in for.
    Growth,
}

impl EvictionCause {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Device => "device_memory",
            Self::Count => "max_models",
            Self::LoadFailed => "load_out_of_memory",
            Self::Growth => "growth",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessExit {
    /// With an exit code.
    Code(i32),
    /// By a signal, with its number.
    Signal(i32),
    /// The system killed it because memory had run out.
    OutOfMemory,
    /// It gave up because it was not given the memory that it asked for, and said so.
    AllocationFailed,
    /// Nobody knows: waiting for it failed.
    Unknown,
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => match WorkerExit::from_code(*code) {
                Some(exit) => write!(f, "exit code {code}: it {}", exit.describe()),
                None => write!(f, "exit code {code}"),
            },
            Self::OutOfMemory => f.write_str("the system killed it, because memory ran out"),
            Self::AllocationFailed => {
                f.write_str("it was not given the memory that it asked for, and gave up")
            }
            Self::Signal(number) => match meaning(*number) {
                Some(meaning) => write!(f, "signal {number}, {meaning}"),
                None => write!(f, "signal {number}"),
            },
            Self::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// What a signal that ends a process mostly means, by its number on Linux, where numbers are told.
fn meaning(signal: i32) -> Option<&'static str> {
    match signal {
        4 => Some(
            "SIGILL: it used an instruction that this processor does not have; was ONNX Runtime, or \
             Hearth itself, made for another machine? run `scripts/setup` on this one",
        ),
        6 => Some("SIGABRT: it gave itself up; its last lines in the log say why"),
        7 => Some(
            "SIGBUS: a file that it had open was cut short or can't be read; bring the model's files \
             anew, and put new ones in the place of old ones by moving them there, not by writing \
             over them",
        ),
        9 => Some("SIGKILL: somebody killed it, or the system did because memory ran out"),
        11 => Some("SIGSEGV: it touched memory that is not its own"),
        _ => None,
    }
}

impl ProcessExit {
    /// Whether it ended for want of memory.
    fn is_out_of_memory(self) -> bool {
        match self {
            Self::OutOfMemory | Self::AllocationFailed => true,
            Self::Code(_) | Self::Signal(_) | Self::Unknown => false,
        }
    }
}

/// What went wrong with a worker. The text is for users: one line, and what to do where we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerFailure {
    /// The process could not be started.
    #[error("the worker could not be started: {0}")]
    Spawn(String),
    /// It said itself why it can't load the model.
    #[error("the model can't be loaded: {}", .0.message)]
    Load(LoadFailure),
    /// It ended before it was ready and did not say why.
    #[error("the worker ended while it loaded the model ({0})")]
    ExitedDuringLoad(ProcessExit),
    /// It made no progress while loading.
    #[error("the worker made no progress in loading for {0:?}")]
    LoadStalled(Duration),
    /// It ended while it was ready.
    #[error("the worker ended unexpectedly ({0})")]
    Crashed(ProcessExit),
    /// It made no progress though it had work.
    #[error("the worker made no progress for {0:?} and was killed")]
    Hung(Duration),
    /// It sent what no worker may send.
    #[error("the worker broke the protocol: {0}")]
    Protocol(String),
}

impl WorkerFailure {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Spawn(_) => "spawn_failed",
            Self::Load(_) => "load_failed",
            Self::ExitedDuringLoad(exit) | Self::Crashed(exit) if exit.is_out_of_memory() => "oom",
            Self::ExitedDuringLoad(_) | Self::Crashed(_) => "crashed",
            Self::LoadStalled(_) => "load_stalled",
            Self::Hung(_) => "hung",
            Self::Protocol(_) => "protocol",
        }
    }

    /// Whether there was too little memory.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Load(failure) => failure.kind == LoadFailureKind::OutOfMemory,
            Self::ExitedDuringLoad(exit) | Self::Crashed(exit) => exit.is_out_of_memory(),
            Self::Spawn(_) | Self::LoadStalled(_) | Self::Hung(_) | Self::Protocol(_) => false,
        }
    }

    /// Whether the same files will fail in the same way again.
    #[must_use]
    pub fn repeats(&self) -> bool {
        match self {
            Self::Load(failure) => failure.kind.repeats(),
            Self::Spawn(_)
            | Self::ExitedDuringLoad(_)
            | Self::LoadStalled(_)
            | Self::Crashed(_)
            | Self::Hung(_)
            | Self::Protocol(_) => false,
        }
    }
}
