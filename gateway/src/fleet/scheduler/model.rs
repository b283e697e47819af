//! One model's worker, queue and history: the transitions of `WorkerState`.
//!
//! Called by `Scheduler::handle` alone. Every path ends in `settle` or `start_if_wanted`, which
//! decide what the state is once a worker and its queue have been looked at together; no other
//! place grants a lease, makes a worker idle or spawns one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::LoadStage;
use tokio::time::Instant;

use super::queue::{Queue, ServiceTime};
use super::{Effect, Profile, Refusal, Step, Wants, WorkerNews};
use crate::fleet::worker::{
    ProcessExit, ReadyWorker, SLOTS_MAX, StopReason, TicketId, WorkerFailure, WorkerId, WorkerState,
};
use crate::keep_alive::KeepAlive;

#[derive(Debug)]
pub(super) struct Model {
    name: ModelName,
    pub(super) state: Option<WorkerState>,
    pub(super) queue: Queue,
    pub(super) service: ServiceTime,
    /// What requests asked for since this worker's start; `None` follows the profile.
    keep_alive: Option<KeepAlive>,
    /// Somebody asked for its unloading: it leaves once unused, whatever the policy says of that,
    /// unless a request asks for something else before.
    unload: bool,
    /// What the model was when it was last asked for.
    pub(super) profile: Arc<Profile>,
    pub(super) failures_in_a_row: u32,
    pub(super) last_failure: Option<WorkerFailure>,
    /// How many workers took the place of one that failed.
    pub(super) restarts: u64,
}

impl Model {
    pub(super) fn new(name: ModelName, profile: Arc<Profile>) -> Self {
        Self {
            name,
            state: None,
            queue: Queue::default(),
            service: ServiceTime::default(),
            keep_alive: None,
            unload: false,
            profile,
            failures_in_a_row: 0,
            last_failure: None,
            restarts: 0,
        }
    }

    pub(super) fn name(&self) -> &ModelName {
        &self.name
    }

    pub(super) fn state(&self) -> Option<&WorkerState> {
        self.state.as_ref()
    }

    // === Requests ===

    pub(super) fn acquire(
        &mut self,
        (ticket, wants): (TicketId, Wants),
        keep_alive: Option<KeepAlive>,
        profile: Arc<Profile>,
        step: &mut Step<'_>,
    ) {
        if step.draining {
            return step.refuse(ticket, Refusal::Draining);
        }
        self.forgive(&profile.fingerprint, step.now);
        if let Some(refusal) = self.refusal_while_failed(step.now) {
            return step.refuse(ticket, refusal);
        }
        let waiting = self.queue.len();
        if waiting >= step.rules.queue_max && !self.serves_at_once(wants) {
            let retry_after = self.service.wait_at(waiting, self.slots());
            return step.refuse(ticket, Refusal::QueueFull { waiting, retry_after });
        }
        self.profile = profile;
        if self.queue.is_empty() && matches!(self.state, Some(WorkerState::Stopping { .. })) {
            self.forget_what_was_asked();
        }
        if keep_alive.is_some() {
            self.keep_alive = keep_alive;
            self.unload = false;
        }
        self.queue.push((ticket, wants), step.now);
        self.serve_queue(step);
    }

    pub(super) fn leave(&mut self, ticket: TicketId, step: &mut Step<'_>) {
        if self.queue.remove(ticket) {
            return;
        }
        // A ticket that is not among the leases belonged to a worker that is gone.
        if let Some(WorkerState::Busy { worker, mut leases, stalls_at }) = self.state.take_if(
            |state| matches!(state, WorkerState::Busy { leases, .. } if leases.contains_key(&ticket)),
        ) {
            if let Some(since) = leases.remove(&ticket) {
                self.service.record(step.now - since);
            }
            self.settle(worker, leases, stalls_at, step);
        }
    }

    pub(super) fn unload(&mut self, step: &mut Step<'_>) {
        match &self.state {
            Some(WorkerState::Idle { worker, .. }) => {
                let worker = worker.id;
                self.stop(worker, StopReason::Unloaded, step);
            }
            // It ends when those who use it, or wait for the next one, have been served.
            Some(WorkerState::Starting { .. } | WorkerState::Busy { .. }) => {
                self.unload = true;
            }
            Some(WorkerState::Stopping { .. }) if !self.queue.is_empty() => {
                self.unload = true;
            }
            Some(WorkerState::Stopping { .. } | WorkerState::Failed { .. }) | None => {}
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

    // === News of the worker ===

    pub(super) fn hear(&mut self, news: WorkerNews, step: &mut Step<'_>) {
        match news {
            WorkerNews::LoadProgress { stage, fraction } => {
                self.load_progress(stage, fraction, step);
            }
            WorkerNews::Ready { slots } => self.ready(slots, step),
            WorkerNews::Progress => self.progress(step),
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
            self.settle(worker, BTreeMap::new(), step.now + step.rules.hang_timeout, step);
        }
    }

    fn failed(&mut self, failure: WorkerFailure, step: &mut Step<'_>) {
        match &self.state {
            Some(WorkerState::Starting { worker, .. }) => {
                let worker = *worker;
                self.refuse_all(&Refusal::LoadFailed(failure.clone()), step);
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
        let reason = match state {
            WorkerState::Stopping { reason, .. } => reason,
            WorkerState::Starting { .. } => {
                let failure = WorkerFailure::ExitedDuringLoad(exit);
                self.refuse_all(&Refusal::LoadFailed(failure.clone()), step);
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
            StopReason::Failed(failure) => self.back_off(failure, step),
            StopReason::Expired | StopReason::Unloaded | StopReason::Drained => {
                self.failures_in_a_row = 0;
                self.last_failure = None;
            }
        }
        if self.queue.is_empty() {
            self.forget_what_was_asked();
        }
        self.serve_queue(step);
    }

    // === Time ===

    pub(super) fn next_deadline(&self, queue_timeout: Duration) -> Option<Instant> {
        let of_state = self.state.as_ref().and_then(WorkerState::deadline);
        let of_queue = self.queue.oldest().map(|since| since + queue_timeout);
        of_state.into_iter().chain(of_queue).min()
    }

    pub(super) fn tick(&mut self, step: &mut Step<'_>) {
        self.refuse_the_overdue(step);
        let Some(state) = &mut self.state else { return };
        if state.deadline().is_none_or(|deadline| deadline > step.now) {
            return;
        }
        match state {
            WorkerState::Starting { worker, .. } => {
                let worker = *worker;
                let failure = WorkerFailure::LoadStalled(step.rules.load_stall_timeout);
                self.refuse_all(&Refusal::LoadFailed(failure.clone()), step);
                self.stop(worker, StopReason::Failed(failure), step);
            }
            WorkerState::Busy { worker, .. } => {
                let worker = *worker;
                self.note_health(&worker, step.now);
                let failure = WorkerFailure::Hung(step.rules.hang_timeout);
                self.stop(worker.id, StopReason::Failed(failure), step);
            }
            WorkerState::Idle { worker, .. } => {
                let worker = worker.id;
                self.stop(worker, StopReason::Expired, step);
            }
            WorkerState::Stopping { worker, kill_at, .. } => {
                step.effects.push(Effect::Kill { worker: *worker });
                *kill_at = None;
            }
            WorkerState::Failed { .. } => {
                self.state = None;
                self.serve_queue(step);
            }
        }
    }

    fn refuse_the_overdue(&mut self, step: &mut Step<'_>) {
        let Some(since) = step.now.checked_sub(step.rules.queue_timeout) else {
            return;
        };
        let reason = match self.state {
            Some(WorkerState::Starting { .. }) => "the model is still loading",
            Some(WorkerState::Stopping { .. }) => "the model's last worker has not ended yet",
            Some(WorkerState::Busy { .. } | WorkerState::Idle { .. }) => "every slot is in use",
            Some(WorkerState::Failed { .. }) | None => "no worker could be started",
        };
        while let Some(waiter) = self.queue.pop_older_than(since) {
            let waited = step.now - waiter.since;
            step.refuse(waiter.ticket, Refusal::WaitedTooLong { waited, reason });
        }
    }

    // === The only ways from one state to another ===

    /// Looks at worker and queue together, once whoever wanted to go has gone.
    fn serve_queue(&mut self, step: &mut Step<'_>) {
        match self.state.take() {
            None => self.start_if_wanted(step),
            Some(WorkerState::Idle { worker, .. }) => {
                self.settle(worker, BTreeMap::new(), step.now + step.rules.hang_timeout, step);
            }
            Some(WorkerState::Busy { worker, leases, stalls_at }) => {
                self.settle(worker, leases, stalls_at, step);
            }
            waiting @ Some(
                WorkerState::Starting { .. }
                | WorkerState::Stopping { .. }
                | WorkerState::Failed { .. },
            ) => self.state = waiting,
        }
    }

    fn start_if_wanted(&mut self, step: &mut Step<'_>) {
        if self.queue.is_empty() {
            return;
        }
        let worker = step.next_worker();
        step.effects.push(Effect::Spawn { model: self.name.clone(), worker });
        if self.failures_in_a_row > 0 {
            self.restarts += 1;
        }
        self.state = Some(WorkerState::Starting {
            worker,
            since: step.now,
            stalls_at: step.now + step.rules.load_stall_timeout,
            progress: None,
        });
    }

    /// Fills a ready worker's free slots from the queue; what it is then follows.
    fn settle(
        &mut self,
        worker: ReadyWorker,
        mut leases: BTreeMap<TicketId, Instant>,
        stalls_at: Instant,
        step: &mut Step<'_>,
    ) {
        for ticket in self.queue.take_warm() {
            step.effects.push(Effect::Warm { ticket, worker: worker.id });
        }
        while leases.len() < worker.slots {
            let Some(ticket) = self.queue.pop() else {
                break;
            };
            leases.insert(ticket, step.now);
            step.effects.push(Effect::Grant { ticket, worker: worker.id });
        }
        let keep_alive = self.keep_alive();
        if !leases.is_empty() {
            self.state = Some(WorkerState::Busy { worker, leases, stalls_at });
        } else if step.draining {
            self.stop(worker.id, StopReason::Drained, step);
        } else if keep_alive.is_zero() {
            self.stop(worker.id, StopReason::Expired, step);
        } else {
            let expires_at = keep_alive.deadline(step.now);
            self.state = Some(WorkerState::Idle { worker, expires_at });
        }
    }

    fn stop(&mut self, worker: WorkerId, reason: StopReason, step: &mut Step<'_>) {
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

    /// How long the worker stays once unused.
    pub(super) fn keep_alive(&self) -> KeepAlive {
        if self.unload {
            KeepAlive::For(Duration::ZERO)
        } else {
            self.profile.settle(self.keep_alive)
        }
    }

    /// What was asked of one worker does not bind the next.
    fn forget_what_was_asked(&mut self) {
        self.keep_alive = None;
        self.unload = false;
    }

    fn slots(&self) -> usize {
        match &self.state {
            Some(WorkerState::Busy { worker, .. } | WorkerState::Idle { worker, .. }) => {
                worker.slots
            }
            Some(
                WorkerState::Starting { .. }
                | WorkerState::Stopping { .. }
                | WorkerState::Failed { .. },
            )
            | None => 1,
        }
    }

    fn serves_at_once(&self, wants: Wants) -> bool {
        match &self.state {
            Some(WorkerState::Idle { .. }) => true,
            Some(WorkerState::Busy { worker, leases, .. }) => {
                wants == Wants::Warmth || leases.len() < worker.slots
            }
            Some(
                WorkerState::Starting { .. }
                | WorkerState::Stopping { .. }
                | WorkerState::Failed { .. },
            )
            | None => false,
        }
    }
}
