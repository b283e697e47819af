//! Who is started, who is served, who waits and who must go: every decision about the fleet.
//!
//! Pure. It takes an event and the time and gives effects; it has no clock, does no I/O and knows
//! no async. `fleet.rs` is its only caller: it feeds events in order, from one task, and carries
//! the effects out. So whatever happens between a request, a deadline and a dying process happens
//! in one order here, and the tests can try them all.

mod event;
mod effect;
mod model;
mod failure;
mod queue;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use tokio::time::Instant;

pub use self::effect::{Effect, Refusal};
pub use self::event::{Event, Profile, Wants, WorkerNews};
use self::model::Model;
pub use self::view::{ModelView, NextView, PhaseView};
use super::worker::{TicketId, WorkerId, WorkerState};

/// The durations and limits that the decisions follow.
#[derive(Debug, Clone)]
pub struct Rules {
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
            Event::Acquire { model, ticket, keep_alive, profile, wants } => {
                let entry = self
                    .models
                    .entry(model.clone())
                    .or_insert_with(|| Model::new(model, Arc::clone(&profile)));
                entry.acquire((ticket, wants), keep_alive, profile, &mut step);
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
        self.models.values().map(ModelView::of)
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
