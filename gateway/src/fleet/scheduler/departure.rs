//! How a worker is sent away: unloaded, evicted, replaced, drained. Pure.
//!
//! Called by `Scheduler::handle`, by `eviction.rs` and by the other transitions of a model. A busy
//! worker always finishes what it has, unless somebody insists or time is up.

use std::sync::Arc;

use tokio::time::Instant;

use super::model::Model;
use super::{Effect, Profile, Refusal, Step, Unloading};
use crate::fleet::worker::{StopReason, WorkerFailure, WorkerId, WorkerState};

impl Model {
    pub(super) fn unload(&mut self, when: Unloading, step: &mut Step<'_>) {
        if when == Unloading::Forced {
            return self.unload_by_force(step);
        }
        match &self.state {
            Some(WorkerState::Idle { worker, .. }) => {
                let worker = worker.id;
                self.stop(worker, StopReason::Unloaded, step);
            }
            // It ends when those who use it, or wait for the next one, have been served.
            Some(WorkerState::Starting { .. } | WorkerState::Busy { .. }) => self.unload = true,
            Some(WorkerState::Stopping { .. }) | None => self.unload = !self.queue.is_empty(),
            Some(WorkerState::Failed { .. }) => {}
        }
    }

    fn unload_by_force(&mut self, step: &mut Step<'_>) {
        self.refuse_all(&Refusal::Unloaded, step);
        match &mut self.state {
            Some(WorkerState::Starting { worker, .. }) => {
                let worker = *worker;
                self.stop(worker, StopReason::Unloaded, step);
            }
            Some(WorkerState::Idle { worker, .. }) => {
                let worker = worker.id;
                self.stop(worker, StopReason::Unloaded, step);
            }
            Some(WorkerState::Busy { worker, .. }) => {
                let worker = worker.id;
                step.effects.push(Effect::CutOff { worker });
                self.stop(worker, StopReason::Unloaded, step);
            }
            Some(WorkerState::Stopping { worker, kill_at, .. }) => {
                if kill_at.take().is_some() {
                    step.effects.push(Effect::Kill { worker: *worker });
                }
            }
            Some(WorkerState::Failed { .. }) | None => {}
        }
    }

    /// The model's files or settings may be others from now on. What runs is finished with the old
    /// ones; nobody new is served by them.
    pub(super) fn revise(&mut self, profile: Option<Arc<Profile>>, step: &mut Step<'_>) {
        match profile {
            Some(profile) => {
                self.forgive(&profile.fingerprint, step.now);
                self.take_profile(profile, step);
            }
            None => self.leave_for(StopReason::Replaced, step),
        }
        let idle_until = self.keep_alive().deadline(self.last_used);
        if let Some(WorkerState::Idle { expires_at, .. }) = &mut self.state {
            *expires_at = idle_until;
        }
        if matches!(self.state, Some(WorkerState::Busy { .. })) {
            self.serve_queue(step);
        }
    }

    pub(super) fn take_profile(&mut self, profile: Arc<Profile>, step: &mut Step<'_>) {
        self.profile = profile;
        let Some(claim) = &self.claim else { return };
        if claim.fingerprint != self.profile.fingerprint {
            self.leave_for(StopReason::Replaced, step);
        } else if self.leaving == Some(StopReason::Replaced) {
            self.leaving = None;
        }
    }

    pub(super) fn drain(&mut self, until: Instant, step: &mut Step<'_>) {
        for ticket in self.queue.take_all() {
            step.refuse(ticket, Refusal::Draining);
        }
        let worker = match &self.state {
            Some(WorkerState::Starting { worker, .. }) => *worker,
            Some(WorkerState::Idle { worker, .. }) => worker.id,
            Some(WorkerState::Busy { worker, .. }) if until <= step.now => worker.id,
            Some(
                WorkerState::Busy { .. }
                | WorkerState::Stopping { .. }
                | WorkerState::Failed { .. },
            )
            | None => return,
        };
        self.stop(worker, StopReason::Drained, step);
    }

    /// Whether its process is going, or will without anybody's doing.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some() || matches!(self.state, Some(WorkerState::Stopping { .. }))
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, Some(WorkerState::Idle { .. }))
    }

    /// Whether stopping it, or waiting until it has stopped, gives memory back to others.
    pub(super) fn may_be_evicted(&self) -> bool {
        self.is_leaving() || (self.is_idle() && !self.profile.pinned)
    }

    /// Sends the worker away as soon as it has finished what it does.
    pub(super) fn leave_for(&mut self, reason: StopReason, step: &mut Step<'_>) {
        match &self.state {
            Some(WorkerState::Starting { worker, .. }) => {
                let worker = *worker;
                self.stop(worker, reason, step);
            }
            Some(WorkerState::Idle { worker, .. }) => {
                let worker = worker.id;
                self.stop(worker, reason, step);
            }
            Some(WorkerState::Busy { .. }) => self.leaving = Some(reason),
            Some(WorkerState::Stopping { .. } | WorkerState::Failed { .. }) | None => {}
        }
    }

    /// Takes back that it shall make room, if that was why it was going. Gives whether it was.
    pub(super) fn stay(&mut self) -> bool {
        self.leaving.take_if(|reason| matches!(reason, StopReason::Evicted(_))).is_some()
    }

    pub(super) fn stop(&mut self, worker: WorkerId, reason: StopReason, step: &mut Step<'_>) {
        // A worker that hangs or lies has shown that asking does not help.
        let hopeless = matches!(
            reason,
            StopReason::Failed(
                WorkerFailure::Hung(_) | WorkerFailure::LoadStalled(_) | WorkerFailure::Protocol(_)
            )
        );
        let kill_at = if hopeless {
            step.effects.push(Effect::Kill { worker });
            None
        } else {
            step.effects.push(Effect::Terminate { worker });
            Some(step.now + step.rules.grace_period)
        };
        self.state = Some(WorkerState::Stopping { worker, reason, kill_at });
    }
}
