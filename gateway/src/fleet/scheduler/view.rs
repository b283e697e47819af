//! What the scheduler tells about one model. Reading it changes nothing.

use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::LoadStage;
use tokio::time::Instant;

use super::model::Model;
use super::room::{Claim, Need};
use crate::fleet::worker::{Retry, StopReason, WorkerFailure, WorkerId, WorkerState};
use crate::keep_alive::KeepAlive;

/// One model at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelView {
    /// Its name.
    pub name: ModelName,
    /// What its worker does; `None` where there is none.
    pub phase: Option<PhaseView>,
    /// Requests that wait.
    pub queued: usize,
    /// How long the worker stays after its last request.
    pub keep_alive: KeepAlive,
    /// How many workers took the place of one that failed.
    pub restarts: u64,
    /// What went wrong last, since the last worker that ended well.
    pub last_failure: Option<WorkerFailure>,
    /// Whether the worker never leaves by itself.
    pub pinned: bool,
    /// What its process counts for in the budget, if there is one.
    pub holds: Option<Need>,
}

/// What a worker does, in the terms of `/api/ps`.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseView {
    /// The state's word.
    pub word: &'static str,
    /// The process, if there is one.
    pub worker: Option<WorkerId>,
    /// Requests that hold a lease.
    pub in_flight: usize,
    /// The load's stage and fraction, while it loads and once it has told.
    pub progress: Option<(LoadStage, f32)>,
    /// What will happen, and when.
    pub next: NextView,
    /// Why it goes, if it does: now, or once it has finished what it has.
    pub leaving: Option<&'static str>,
}

/// The word for a model that somebody waits for and that there is no room for.
pub const WAITING: &str = "waiting";

/// The instant that a client of `/api/ps` wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextView {
    /// It leaves this long after its last request, which is not over or has not come yet.
    After(KeepAlive),
    /// It leaves at this instant; `None` is never.
    At(Option<Instant>),
    /// It is leaving.
    Leaving,
    /// It is tried again then; `None` waits for its files to change.
    Retry(Option<Instant>),
}

impl ModelView {
    pub(super) fn of(model: &Model) -> Self {
        let keep_alive = model.keep_alive();
        Self {
            name: model.name().clone(),
            phase: PhaseView::of(model, keep_alive),
            queued: model.queue.len(),
            keep_alive,
            restarts: model.restarts,
            last_failure: model.last_failure.clone(),
            pinned: model.profile.pinned,
            holds: model.claim.as_ref().map(Claim::need),
        }
    }
}

impl PhaseView {
    fn of(model: &Model, keep_alive: KeepAlive) -> Option<Self> {
        let Some(state) = model.state() else {
            return model.wants_worker_since().map(|_| Self::waiting(keep_alive));
        };
        let (in_flight, progress, next) = match state {
            WorkerState::Starting { progress, .. } => (0, *progress, NextView::After(keep_alive)),
            WorkerState::Busy { leases, .. } => (leases.len(), None, NextView::After(keep_alive)),
            WorkerState::Idle { expires_at, .. } => (0, None, NextView::At(*expires_at)),
            WorkerState::Stopping { .. } => (0, None, NextView::Leaving),
            WorkerState::Failed { retry: Retry::At(at) } => (0, None, NextView::Retry(Some(*at))),
            WorkerState::Failed { retry: Retry::WhenFilesChange } => {
                (0, None, NextView::Retry(None))
            }
        };
        let leaving = match state {
            WorkerState::Stopping { reason, .. } => Some(reason.label()),
            WorkerState::Busy { .. } => model.leaving.as_ref().map(StopReason::label),
            WorkerState::Starting { .. }
            | WorkerState::Idle { .. }
            | WorkerState::Failed { .. } => None,
        };
        Some(Self {
            word: state.word(),
            worker: state.worker(),
            in_flight,
            progress,
            next,
            leaving,
        })
    }

    fn waiting(keep_alive: KeepAlive) -> Self {
        Self {
            word: WAITING,
            worker: None,
            in_flight: 0,
            progress: None,
            next: NextView::After(keep_alive),
            leaving: None,
        }
    }
}

impl NextView {
    /// How long from `now` until the worker leaves; `None` is never, or not a leaving at all.
    #[must_use]
    pub fn leaves_in(self, now: Instant) -> Option<Duration> {
        match self {
            Self::After(KeepAlive::For(duration)) => Some(duration),
            Self::After(KeepAlive::Forever) | Self::At(None) | Self::Retry(_) => None,
            Self::At(Some(at)) => Some(at.saturating_duration_since(now)),
            Self::Leaving => Some(Duration::ZERO),
        }
    }
}
