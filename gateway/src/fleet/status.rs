//! The fleet at one moment, for `/api/ps`, the metrics and whoever else wants to know.
//!
//! The fleet's task publishes a new snapshot after everything that happens; readers take it
//! without asking anybody, so that looking never wakes or changes a worker.

use std::sync::Arc;

use hearth_shared::protocol::ModelCard;

use std::collections::HashMap;

use hearth_shared::ids::ModelName;

use super::scheduler::{Budget, ModelView, Need, NextView};
use super::worker::{StopReason, WorkerId};
use crate::catalog::Model;

/// Every model that was asked for since the gateway started.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By name.
    pub models: Vec<ModelStatus>,
    /// Whether the gateway takes no more requests.
    pub draining: bool,
    /// What all workers together may take.
    pub budget: Budget,
    /// Bytes that each device has, where their driver tells.
    pub devices: Vec<u64>,
}

impl Snapshot {
    /// What a model does, in one word.
    #[must_use]
    pub fn word_of(&self, model: &ModelName) -> &'static str {
        self.models
            .iter()
            .find(|status| status.view.name == *model)
            .map_or(STOPPED, ModelStatus::word)
    }

    /// What all processes count for in the budget: all of it, and what of that is on its way back.
    #[must_use]
    pub fn held(&self) -> (Need, Need) {
        let (mut held, mut reclaiming) = (Need::default(), Need::default());
        for status in &self.models {
            let Some(need) = status.view.holds else { continue };
            held = Need { memory: held.memory + need.memory, device: held.device + need.device };
            if status.is_reclaiming() {
                let memory = reclaiming.memory + need.memory;
                reclaiming = Need { memory, device: reclaiming.device + need.device };
            }
        }
        (held, reclaiming)
    }

    /// The process that serves a model, if there is one.
    #[must_use]
    pub fn worker_of(&self, model: &ModelName) -> Option<WorkerId> {
        let status = self.models.iter().find(|status| status.view.name == *model)?;
        status.view.phase.as_ref()?.worker
    }
}

/// A change of a model's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// When it was seen.
    pub at: jiff::Timestamp,
    /// The model as it was before; `None` was never asked for.
    pub before: Option<ModelStatus>,
    /// The model as it is now.
    pub now: ModelStatus,
    /// Why its worker went, if one did.
    pub gone: Option<StopReason>,
}

/// What changed of each model between two moments, numbers aside.
pub(super) fn transitions(
    before: &Snapshot,
    now: &Snapshot,
    gone: &HashMap<ModelName, StopReason>,
) -> Vec<Transition> {
    let mut old = before.models.iter().peekable();
    let mut changes = Vec::new();
    for status in &now.models {
        // Both are in the order of names, and no name ever goes.
        let before = old.next_if(|old| old.view.name == status.view.name);
        let same = before.map_or(status.word() == STOPPED, |before| {
            before.word() == status.word() && before.worker_id() == status.worker_id()
        });
        let gone = gone.get(&status.view.name).cloned();
        if !same || gone.is_some() {
            let at = crate::wall::now();
            changes.push(Transition { at, before: before.cloned(), now: status.clone(), gone });
        }
    }
    changes
}

/// The word for a model without a worker that nobody waits for.
pub const STOPPED: &str = "stopped";

/// One model and its worker, if it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelStatus {
    /// What the scheduler says.
    pub view: ModelView,
    /// What the catalogue says.
    pub model: Arc<Model>,
    /// What the process says.
    pub worker: WorkerFacts,
}

/// What is known of a worker's process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerFacts {
    /// Its process id, once it was spawned.
    pub pid: Option<u32>,
    /// What it loaded, once it has.
    pub card: Option<Arc<ModelCard>>,
    /// When it had loaded it.
    pub loaded_at: Option<jiff::Timestamp>,
    /// Bytes of the devices' memory, as their driver tells.
    pub device_bytes: Option<u64>,
    /// Tokens that it generated in the last second.
    pub tokens_per_second: f64,
}

impl ModelStatus {
    /// What the model does, in one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.view.phase.as_ref().map_or(STOPPED, |phase| phase.word)
    }

    /// Whether its memory is on its way back and not back yet.
    #[must_use]
    pub fn is_reclaiming(&self) -> bool {
        self.view.phase.as_ref().is_some_and(|phase| phase.next == NextView::Leaving)
    }

    /// Its process, if there is one.
    #[must_use]
    pub fn worker_id(&self) -> Option<WorkerId> {
        self.view.phase.as_ref().and_then(|phase| phase.worker)
    }

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
