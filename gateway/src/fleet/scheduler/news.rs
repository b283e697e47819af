//! What a worker tells, and what its model makes of it. Pure.
//!
//! Called by `Scheduler::handle`, and only with news of the model's present worker.

use std::collections::BTreeMap;

use hearth_shared::protocol::LoadStage;

use super::model::{Model, SecondTry};
use super::{Effect, Refusal, Step, WorkerNews};
use crate::fleet::worker::{
    ProcessExit, ReadyWorker, SLOTS_MAX, StopReason, WorkerFailure, WorkerState,
};

impl Model {
    pub(super) fn hear(&mut self, news: WorkerNews, step: &mut Step<'_>) {
        match news {
            WorkerNews::LoadProgress { stage, fraction } => {
                self.load_progress(stage, fraction, step);
            }
            WorkerNews::Ready { slots } => self.ready(slots, step),
            WorkerNews::Progress => self.progress(step),
            WorkerNews::Measured(need) => {
                if let Some(claim) = &mut self.claim {
                    claim.measured = Some(need);
                }
            }
            WorkerNews::Failed(failure) => self.failed(failure, step),
            WorkerNews::Exited(exit) => self.exited(exit, step),
        }
    }

    fn load_progress(&mut self, stage: LoadStage, fraction: f32, step: &Step<'_>) {
        if let Some(WorkerState::Starting { stalls_at, progress, .. }) = &mut self.state {
            *progress = Some((stage, fraction.clamp(0.0, 1.0)));
            *stalls_at = step.now + step.rules.load_stall_timeout;
        }
    }

    fn progress(&mut self, step: &Step<'_>) {
        if let Some(WorkerState::Busy { stalls_at, .. }) = &mut self.state {
            *stalls_at = step.now + step.rules.hang_timeout;
        }
    }

    fn ready(&mut self, slots: usize, step: &mut Step<'_>) {
        if let Some(WorkerState::Starting { worker, .. }) = self.state {
            let worker =
                ReadyWorker { id: worker, slots: slots.clamp(1, SLOTS_MAX), since: step.now };
            self.second_try = SecondTry::No;
            if let Some(claim) = &mut self.claim {
                claim.ready = true;
            }
            self.settle(worker, BTreeMap::new(), step.now + step.rules.hang_timeout, step);
        }
    }

    fn failed(&mut self, failure: WorkerFailure, step: &mut Step<'_>) {
        match &self.state {
            Some(WorkerState::Starting { worker, .. }) => {
                let worker = *worker;
                self.load_failed(&failure, step);
                self.stop(worker, StopReason::Failed(failure), step);
            }
            Some(WorkerState::Busy { worker, .. } | WorkerState::Idle { worker, .. }) => {
                let worker = *worker;
                self.note_health(&worker, step.now);
                self.stop(worker.id, StopReason::Failed(failure), step);
            }
            // It was going anyway, and the first reason stands.
            Some(WorkerState::Stopping { .. } | WorkerState::Failed { .. }) | None => {}
        }
    }

    fn exited(&mut self, exit: ProcessExit, step: &mut Step<'_>) {
        let Some(state) = self.state.take() else {
            return;
        };
        let Some(worker) = state.worker() else { return };
        self.claim = None;
        self.leaving = None;
        let reason = match state {
            WorkerState::Stopping { reason, .. } => reason,
            WorkerState::Starting { .. } => {
                let failure = WorkerFailure::ExitedDuringLoad(exit);
                self.load_failed(&failure, step);
                StopReason::Failed(failure)
            }
            WorkerState::Busy { worker, .. } | WorkerState::Idle { worker, .. } => {
                self.note_health(&worker, step.now);
                StopReason::Failed(WorkerFailure::Crashed(exit))
            }
            WorkerState::Failed { .. } => return,
        };
        step.effects.push(Effect::Gone {
            model: self.name.clone(),
            worker,
            reason: reason.clone(),
        });
        match reason {
            // It is tried again as soon as the others have gone.
            StopReason::Failed(failure) if self.second_try == SecondTry::Wanted => {
                self.last_failure = Some(failure);
            }
            StopReason::Failed(failure) => self.back_off(failure, step),
            StopReason::Expired
            | StopReason::Unloaded
            | StopReason::Evicted(_)
            | StopReason::Replaced
            | StopReason::Drained => {
                self.failures_in_a_row = 0;
                self.last_failure = None;
            }
        }
        if self.queue.is_empty() {
            self.forget_what_was_asked();
        }
        self.serve_queue(step);
    }

    /// A load that ran out of memory is worth one more try if others can make room for it; whoever
    /// waits goes on waiting.
    pub(super) fn load_failed(&mut self, failure: &WorkerFailure, step: &mut Step<'_>) {
        let again =
            failure.is_out_of_memory() && self.second_try == SecondTry::No && step.others_idle;
        if again {
            self.second_try = SecondTry::Wanted;
        } else {
            self.second_try = SecondTry::No;
            self.refuse_all(&Refusal::LoadFailed(failure.clone()), step);
        }
    }
}
