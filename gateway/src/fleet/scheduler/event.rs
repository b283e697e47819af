//! What the scheduler is told.

use std::sync::Arc;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::LoadStage;
use tokio::time::Instant;

use super::room::Need;
use crate::fleet::worker::{ProcessExit, TicketId, WorkerFailure, WorkerId};
use crate::keep_alive::{KeepAlive, KeepAlivePolicy};

/// A model as it is now: what is known before a worker of it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Differs whenever the files or the settings for loading them do.
    pub fingerprint: String,
    /// How long its worker stays unused.
    pub keep_alive: KeepAlivePolicy,
    /// Whether its worker never leaves by itself.
    pub pinned: bool,
    /// What loading it will take.
    pub need: Need,
    /// What its worker will take once it is loaded; `None` if that was never seen, and `need` only
    /// reckoned from its files.
    pub settled: Option<Need>,
}

impl Profile {
    /// How long its worker stays after a request that asked for `asked`.
    #[must_use]
    pub fn settle(&self, asked: Option<KeepAlive>) -> KeepAlive {
        if self.pinned { KeepAlive::Forever } else { self.keep_alive.settle(asked) }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request wants a lease.
    Acquire {
        /// For this model.
        model: ModelName,
        /// Its ticket; the answer names it.
        ticket: TicketId,
        /// The request's own `keep_alive`, if it has one.
        keep_alive: Option<KeepAlive>,
        /// What the model is now.
        profile: Arc<Profile>,
        /// What for.
        wants: Wants,
    },
    /// A ticket is over: its client left the queue, or its lease ended.
    Leave {
        /// The ticket's model.
        model: ModelName,
        /// The ticket.
        ticket: TicketId,
    },
    /// Somebody wants the model out of memory.
    Unload {
        /// The model.
        model: ModelName,
        /// When.
        when: Unloading,
    },
    /// A model's files or settings have changed since it was last asked for.
    Revise {
        /// The model.
        model: ModelName,
        /// What it is now; `None` is there no more.
        profile: Option<Arc<Profile>>,
    },
    /// A worker has something to tell. News of former workers change nothing.
    Worker {
        /// Its model.
        model: ModelName,
        /// The worker.
        worker: WorkerId,
        /// What it tells.
        news: WorkerNews,
    },
    /// Take no more requests; let those in flight finish until the deadline.
    Drain {
        /// When the rest is stopped.
        until: Instant,
    },
    /// A deadline may have passed.
    Tick,
}

/// What became known of a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerNews {
    /// Its load goes on.
    LoadProgress {
        /// What it does.
        stage: LoadStage,
        /// How far it is, 0 to 1.
        fraction: f32,
    },
    /// It can serve.
    Ready {
        /// How many requests at once, at least one.
        slots: usize,
    },
    /// It got something done.
    Progress,
    /// What it takes now.
    Measured(Need),
    /// It can't go on, though its process may still be there.
    Failed(WorkerFailure),
    /// Its process is gone and reaped.
    Exited(ProcessExit),
}

/// When a model that is to be unloaded leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unloading {
    /// Once nobody uses it.
    Unused,
    /// Now, whoever uses it.
    Forced,
}

/// What a ticket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A slot.
    Lease,
    /// The model loaded, and no slot.
    Warmth,
    /// The same, because the configuration says so.
    Preload,
}
