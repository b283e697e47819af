//! Who is started, who is served, who waits and who must go: every decision about the fleet.
//!
//! Pure. It takes an event and the time and gives effects; it has no clock, does no I/O and knows
//! no async. `fleet.rs` is its only caller: it feeds events in order, from one task, and carries
//! the effects out. So whatever happens between a request, a deadline and a dying process happens
//! in one order here, and the tests can try them all.

mod model;
mod failure;
mod queue;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::LoadStage;
use tokio::time::Instant;

use self::model::Model;
pub use self::view::{ModelView, NextView, PhaseView};
use super::worker::{ProcessExit, StopReason, TicketId, WorkerFailure, WorkerId, WorkerState};
use crate::keep_alive::KeepAlive;

/// The durations and limits that the decisions follow.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How long a worker stays when no request said otherwise.
    pub keep_alive: KeepAlive,
    /// How many requests may wait for one model.
    pub queue_max: usize,
    /// How long one may wait.
    pub queue_timeout: Duration,
    /// How long a load may go without progress.
    pub load_stall_timeout: Duration,
    /// How long a busy worker may go without progress.
    pub hang_timeout: Duration,
    /// From TERM to KILL.
    pub grace_period: Duration,
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
        /// What the model's files look like now.
        fingerprint: String,
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
    /// Somebody wants the model out of memory, once it is unused.
    Unload {
        /// The model.
        model: ModelName,
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
    /// It can't go on, though its process may still be there.
    Failed(WorkerFailure),
    /// Its process is gone and reaped.
    Exited(ProcessExit),
}

/// What a ticket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A slot.
    Lease,
    /// The model loaded, and no slot.
    Warmth,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Start a worker for this model.
    Spawn {
        /// The model.
        model: ModelName,
        /// The id of the new worker.
        worker: WorkerId,
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
    #[error("{failure}; the next try is in {} s", .retry_after.as_secs())]
    BackingOff {
        /// What went wrong last.
        failure: WorkerFailure,
        /// When the next try is due.
        retry_after: Duration,
    },
    /// The gateway is shutting down.
    #[error("the server is shutting down")]
    Draining,
}

/// Every model that was ever asked for, and what its worker does.
#[derive(Debug)]
pub struct Scheduler {
    rules: Rules,
    models: BTreeMap<ModelName, Model>,
    workers_started: u64,
    draining_until: Option<Instant>,
}

impl Scheduler {
    /// A fleet without workers.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, models: BTreeMap::new(), workers_started: 0, draining_until: None }
    }

    /// Decides. Effects are to be carried out in their order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut step = Step {
            rules: &self.rules,
            now,
            draining: self.draining_until.is_some(),
            workers_started: &mut self.workers_started,
            effects: Vec::new(),
        };
        match event {
            Event::Acquire { model, ticket, keep_alive, fingerprint, wants } => {
                let entry = self.models.entry(model.clone()).or_insert_with(|| Model::new(model));
                entry.acquire((ticket, wants), keep_alive, fingerprint, &mut step);
            }
            Event::Leave { model, ticket } => {
                if let Some(entry) = self.models.get_mut(&model) {
                    entry.leave(ticket, &mut step);
                }
            }
            Event::Unload { model } => {
                if let Some(entry) = self.models.get_mut(&model) {
                    entry.unload(&mut step);
                }
            }
            Event::Drain { until } => {
                // A second order may only bring the end nearer.
                let until = self.draining_until.map_or(until, |before| before.min(until));
                self.draining_until = Some(until);
                step.draining = true;
                self.models.values_mut().for_each(|entry| entry.drain(until, &mut step));
            }
            Event::Tick => {
                let drain_over = self.draining_until.filter(|until| *until <= now);
                for entry in self.models.values_mut() {
                    entry.tick(&mut step);
                    if let Some(until) = drain_over {
                        entry.drain(until, &mut step);
                    }
                }
            }
            Event::Worker { model, worker, news } => {
                let entry = self.models.get_mut(&model);
                let own = |entry: &&mut Model| {
                    entry.state().and_then(WorkerState::worker) == Some(worker)
                };
                if let Some(entry) = entry.filter(own) {
                    entry.hear(news, &mut step);
                }
            }
        }
        step.effects
    }

    /// When [`Event::Tick`] is due next; `None` is never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let of_models =
            self.models.values().filter_map(|model| model.next_deadline(self.rules.queue_timeout));
        // Once the drain's deadline has passed nothing waits for it any more.
        let of_drain = self.draining_until.filter(|_| {
            self.models.values().any(|m| matches!(m.state(), Some(WorkerState::Busy { .. })))
        });
        of_models.chain(of_drain).min()
    }

    /// Whether no worker process is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.models.values().all(|model| model.state().and_then(WorkerState::worker).is_none())
    }

    /// What there is to tell about every model that was ever asked for, by name.
    pub fn view(&self) -> impl Iterator<Item = ModelView> {
        self.models.values().map(|model| ModelView::of(model, &self.rules))
    }
}

/// What one call of [`Scheduler::handle`] hands to the model concerned.
struct Step<'a> {
    rules: &'a Rules,
    now: Instant,
    draining: bool,
    workers_started: &'a mut u64,
    effects: Vec<Effect>,
}

impl Step<'_> {
    fn next_worker(&mut self) -> WorkerId {
        *self.workers_started += 1;
        WorkerId(*self.workers_started)
    }

    fn refuse(&mut self, ticket: TicketId, refusal: Refusal) {
        self.effects.push(Effect::Refuse { ticket, refusal });
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod machine;
