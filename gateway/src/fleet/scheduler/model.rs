//! One model's worker, queue and history: the transitions of `WorkerState`.
//!
//! Called by `Scheduler::handle`; what a worker tells is in `news.rs`, how it is sent away in
//! `departure.rs`. Every path ends in `settle`, which decides what the state is once a worker and
//! its queue have been looked at together; no other place grants a lease or makes a worker idle. A
//! worker is started by `eviction.rs`, which knows whether there is room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use tokio::time::Instant;

use super::queue::{Queue, ServiceTime};
use super::room::{Claim, Sum};
use super::{Effect, Profile, Refusal, Step, Wants};
use crate::fleet::worker::{
    ReadyWorker, SpawnReason, StopReason, TicketId, WorkerFailure, WorkerState,
};
use crate::keep_alive::KeepAlive;

#[derive(Debug)]
pub(super) struct Model {
    pub(super) name: ModelName,
    pub(super) state: Option<WorkerState>,
    pub(super) queue: Queue,
    pub(super) service: ServiceTime,
    /// What requests asked for since this worker's start; `None` follows the profile.
    keep_alive: Option<KeepAlive>,
    /// Somebody asked for its unloading: it leaves once unused, whatever the policy says of that,
    /// unless a request asks for something else before.
    pub(super) unload: bool,
    /// What the model was when it was last asked for.
    pub(super) profile: Arc<Profile>,
    pub(super) failures_in_a_row: u32,
    pub(super) last_failure: Option<WorkerFailure>,
    /// How many workers took the place of one that failed.
    pub(super) restarts: u64,
    /// What the process holds, exactly as long as there is one.
    pub(super) claim: Option<Claim>,
    /// Why a busy worker takes no new requests and goes once it has finished those that it has.
    pub(super) leaving: Option<StopReason>,
    /// When the worker was last of use.
    pub(super) last_used: Instant,
    pub(super) second_try: SecondTry,
}

/// Whether a load that ran out of memory is tried once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecondTry {
    No,
    /// Once the others have made room.
    Wanted,
    /// It is under way, and the last one.
    UnderWay,
}

impl Model {
    pub(super) fn new(name: ModelName, profile: Arc<Profile>, now: Instant) -> Self {
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
            claim: None,
            leaving: None,
            last_used: now,
            second_try: SecondTry::No,
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
        if self.state.is_none() && self.queue.is_empty() {
            self.second_try = SecondTry::No;
        }
        self.take_profile(profile, step);
        let waiting = self.queue.len();
        if waiting >= step.rules.queue_max && !self.serves_at_once(wants) {
            let retry_after = self.service.wait_at(waiting, self.slots());
            return step.refuse(ticket, Refusal::QueueFull { waiting, retry_after });
        }
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
            Some(WorkerState::Failed { .. }) => "no worker could be started",
            None => "other models that are in use have the memory, or the places, that it needs",
        };
        while let Some(waiter) = self.queue.pop_older_than(since) {
            let waited = step.now - waiter.since;
            step.refuse(waiter.ticket, Refusal::WaitedTooLong { waited, reason });
        }
    }

    // === The only ways from one state to another ===

    /// Looks at worker and queue together, once whoever wanted to go has gone.
    pub(super) fn serve_queue(&mut self, step: &mut Step<'_>) {
        match self.state.take() {
            // `make_room` sees to it.
            None => {}
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

    /// Since when somebody has waited for a worker that there is none of, and who.
    pub(super) fn wants_worker_since(&self) -> Option<(Instant, TicketId)> {
        if self.state.is_some() { None } else { self.queue.first() }
    }

    /// Starts the worker that somebody waits for. There must be none.
    pub(super) fn start(&mut self, step: &mut Step<'_>) {
        let worker = step.next_worker();
        let reason = self.spawn_reason();
        step.effects.push(Effect::Spawn { model: self.name.clone(), worker, reason });
        if self.failures_in_a_row > 0 {
            self.restarts += 1;
        }
        if self.second_try == SecondTry::Wanted {
            self.second_try = SecondTry::UnderWay;
            self.restarts += 1;
        }
        self.claim = Some(Claim {
            fingerprint: self.profile.fingerprint.clone(),
            promised: self.profile.need,
            settled: self.profile.settled,
            measured: None,
            ready: false,
        });
        self.state = Some(WorkerState::Starting {
            worker,
            since: step.now,
            stalls_at: step.now + step.rules.load_stall_timeout,
            progress: None,
        });
    }

    fn spawn_reason(&self) -> SpawnReason {
        if self.second_try == SecondTry::Wanted {
            return SpawnReason::Retry;
        }
        if self.failures_in_a_row > 0 {
            return SpawnReason::Restart;
        }
        match self.queue.first_wants() {
            Some(Wants::Preload) => SpawnReason::Preload,
            Some(Wants::Warmth) => SpawnReason::Load,
            Some(Wants::Lease) | None => SpawnReason::Request,
        }
    }

    /// What its process counts for, if it has one.
    pub(super) fn claimed(&self) -> Option<Sum> {
        self.claim.as_ref().map(|claim| Sum::one(claim.need()))
    }

    /// Fills a ready worker's free slots from the queue; what it is then follows.
    pub(super) fn settle(
        &mut self,
        worker: ReadyWorker,
        mut leases: BTreeMap<TicketId, Instant>,
        stalls_at: Instant,
        step: &mut Step<'_>,
    ) {
        for ticket in self.queue.take_warm() {
            step.effects.push(Effect::Warm { ticket, worker: worker.id });
        }
        while self.leaving.is_none() && leases.len() < worker.slots {
            let Some(ticket) = self.queue.pop() else {
                break;
            };
            leases.insert(ticket, step.now);
            step.effects.push(Effect::Grant { ticket, worker: worker.id });
        }
        let keep_alive = self.keep_alive();
        self.last_used = step.now;
        if !leases.is_empty() {
            self.state = Some(WorkerState::Busy { worker, leases, stalls_at });
        } else if step.draining {
            self.stop(worker.id, StopReason::Drained, step);
        } else if let Some(reason) = self.leaving.clone() {
            self.stop(worker.id, reason, step);
        } else if self.unload {
            self.stop(worker.id, StopReason::Unloaded, step);
        } else if keep_alive.is_zero() {
            self.stop(worker.id, StopReason::Expired, step);
        } else {
            let expires_at = keep_alive.deadline(step.now);
            self.state = Some(WorkerState::Idle { worker, expires_at });
        }
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
    pub(super) fn forget_what_was_asked(&mut self) {
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
        if self.leaving.is_some() && wants == Wants::Lease {
            return false;
        }
        match &self.state {
            Some(WorkerState::Idle { .. }) => true,
            Some(WorkerState::Busy { worker, leases, .. }) => {
                wants != Wants::Lease || leases.len() < worker.slots
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
