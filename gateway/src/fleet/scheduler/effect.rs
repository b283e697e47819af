//! What the scheduler wants done, and why it refuses.

use std::time::Duration;

use hearth_shared::ids::ModelName;

use super::room::NoRoom;
use crate::fleet::worker::{SpawnReason, StopReason, TicketId, WorkerFailure, WorkerId};

/// What has to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Start a worker for this model.
    Spawn {
        /// The model.
        model: ModelName,
        /// The id of the new worker.
        worker: WorkerId,
        /// Why.
        reason: SpawnReason,
    },
    /// Ask a worker to end: it has the grace period.
    Terminate {
        /// The worker.
        worker: WorkerId,
    },
    /// End a worker now.
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// End the requests that a worker serves: somebody wants it gone, whoever uses it.
    CutOff {
        /// The worker.
        worker: WorkerId,
    },
    /// The ticket is a lease on this worker from now on.
    Grant {
        /// The ticket.
        ticket: TicketId,
        /// The worker.
        worker: WorkerId,
    },
    /// The ticket wanted the model loaded, and it is: the ticket is over.
    Warm {
        /// The ticket.
        ticket: TicketId,
        /// The worker.
        worker: WorkerId,
    },
    /// The ticket is over, and this is why.
    Refuse {
        /// The ticket.
        ticket: TicketId,
        /// Why.
        refusal: Refusal,
    },
    /// For logs and metrics: a worker is gone, and this is why it went.
    Gone {
        /// Its model.
        model: ModelName,
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: StopReason,
    },
}

/// Why a request gets no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many wait already.
    #[error("{waiting} requests are waiting for this model already")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// It waited as long as a request may.
    #[error("no worker was free for {waited:?}: {reason}")]
    WaitedTooLong {
        /// How long.
        waited: Duration,
        /// What it waited for.
        reason: &'static str,
    },
    /// The worker failed while the request waited for it to load.
    #[error("{0}")]
    LoadFailed(WorkerFailure),
    /// The last worker failed, and the next is not tried yet.
    #[error("{failure}; the next try is in {:.0} s", .retry_after.as_secs_f64().ceil())]
    BackingOff {
        /// What went wrong last.
        failure: WorkerFailure,
        /// When the next try is due.
        retry_after: Duration,
    },
    /// It can't be loaded beside what must stay, ever.
    #[error("{0}")]
    NoRoom(NoRoom),
    /// Somebody wanted the model gone, whoever waited for it.
    #[error("the model was unloaded by force")]
    Unloaded,
    /// The gateway is shutting down.
    #[error("the server is shutting down")]
    Draining,
}
