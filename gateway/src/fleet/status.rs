//! The fleet at one moment, for `/api/ps`, the metrics and whoever else wants to know.
//!
//! The fleet's task publishes a new snapshot after everything that happens; readers take it
//! without asking anybody, so that looking never wakes or changes a worker.

use std::sync::Arc;

use hearth_shared::protocol::ModelCard;

use super::scheduler::ModelView;
use crate::catalog::Model;

/// Every model that was asked for since the gateway started.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By name.
    pub models: Vec<ModelStatus>,
    /// Whether the gateway takes no more requests.
    pub draining: bool,
}

/// One model and its worker, if it has one.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// What the scheduler says.
    pub view: ModelView,
    /// What the catalogue says.
    pub model: Arc<Model>,
    /// What the process says.
    pub worker: WorkerFacts,
}

/// What is known of a worker's process.
#[derive(Debug, Clone, Default)]
pub struct WorkerFacts {
    /// Its process id, once it was spawned.
    pub pid: Option<u32>,
    /// What it loaded, once it has.
    pub card: Option<Arc<ModelCard>>,
    /// When it had loaded it.
    pub loaded_at: Option<jiff::Timestamp>,
}

impl ModelStatus {
    /// Whether there is a process.
    #[must_use]
    pub fn has_worker(&self) -> bool {
        self.view.phase.as_ref().is_some_and(|phase| phase.worker.is_some())
    }

    /// The worker's memory in RAM, in bytes, read now.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        super::child::resident_bytes(self.worker.pid?)
    }
}
