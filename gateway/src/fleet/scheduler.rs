//! Who is started, who is served, who waits and who must go: every decision about the fleet.
//!
//! Pure. It takes an event and the time and gives effects; it has no clock, does no I/O and knows
//! no async. `fleet.rs` is its only caller: it feeds events in order, from one task, and carries
//! the effects out. So whatever happens between a request, a deadline and a dying process happens
//! in one order here, and the tests can try them all.

mod event;
mod effect;
mod model;
mod news;
mod departure;
mod failure;
mod queue;
mod room;
mod eviction;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use tokio::time::Instant;

pub use self::effect::{Effect, Refusal};
pub use self::event::{Event, Profile, Unloading, Wants, WorkerNews};
use self::model::Model;
pub use self::room::{Budget, Excess, Need, NoRoom, Resource};
pub use self::view::{ModelView, NextView, PhaseView, WAITING};
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
    /// What all workers together may take.
    pub budget: Budget,
    /// How long a model waits for room before busy ones have to make it; so long each of them has
    /// at least.
    pub swap_after: Duration,
}

/// Every model that was ever asked for, and what its worker does.
#[derive(Debug)]
pub struct Scheduler {
    rules: Rules,
    models: BTreeMap<ModelName, Model>,
    workers_started: u64,
    draining_until: Option<Instant>,
    /// When time alone may make room for somebody.
    room_check_at: Option<Instant>,
}

impl Scheduler {
    /// A fleet without workers.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            models: BTreeMap::new(),
            workers_started: 0,
            draining_until: None,
            room_check_at: None,
        }
    }

    /// Decides. Effects are to be carried out in their order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if let Event::Drain { until } = &event {
            // A second order may only bring the end nearer.
            let until = self.draining_until.map_or(*until, |before| before.min(*until));
            self.draining_until = Some(until);
        }
        let Self { rules, models, workers_started, draining_until, .. } = self;
        let draining = *draining_until;
        let mut step = Step {
            rules,
            now,
            draining: draining.is_some(),
            others_idle: false,
            workers_started,
            effects: Vec::new(),
        };
        dispatch(models, event, draining, &mut step);
        self.room_check_at =
            if step.draining { None } else { eviction::make_room(models, &mut step) };
        step.effects
    }

    /// Follows other rules from now on.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
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
        of_models.chain(of_drain).chain(self.room_check_at).min()
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

    /// How far the workers that stay are beyond the budget. Whoever is idle has been told to go by
    /// then; those in use finish what they have.
    #[must_use]
    pub fn excess(&self) -> Option<Excess> {
        eviction::excess(&self.models, &self.rules.budget)
    }

    /// What all workers together may take.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.rules.budget
    }
}

/// Hands an event to the model that it is of, or to all.
fn dispatch(
    models: &mut BTreeMap<ModelName, Model>,
    event: Event,
    draining_until: Option<Instant>,
    step: &mut Step<'_>,
) {
    match event {
        Event::Acquire { model, ticket, keep_alive, profile, wants } => {
            let entry = models
                .entry(model.clone())
                .or_insert_with(|| Model::new(model, Arc::clone(&profile), step.now));
            entry.acquire((ticket, wants), keep_alive, profile, step);
        }
        Event::Leave { model, ticket } => {
            if let Some(entry) = models.get_mut(&model) {
                entry.leave(ticket, step);
            }
        }
        Event::Unload { model, when } => {
            if let Some(entry) = models.get_mut(&model) {
                entry.unload(when, step);
            }
        }
        Event::Revise { model, profile } => {
            if let Some(entry) = models.get_mut(&model) {
                entry.revise(profile, step);
            }
        }
        Event::Drain { until } => {
            let until = draining_until.unwrap_or(until);
            models.values_mut().for_each(|entry| entry.drain(until, step));
        }
        Event::Tick => {
            let drain_over = draining_until.filter(|until| *until <= step.now);
            for entry in models.values_mut() {
                entry.tick(step);
                if let Some(until) = drain_over {
                    entry.drain(until, step);
                }
            }
        }
        Event::Worker { model, worker, news } => {
            step.others_idle =
                models.values().any(|other| *other.name() != model && other.may_be_evicted());
            let entry = models.get_mut(&model);
            let own =
                |entry: &&mut Model| entry.state().and_then(WorkerState::worker) == Some(worker);
            if let Some(entry) = entry.filter(own) {
                entry.hear(news, step);
            }
        }
    }
}

/// What one call of [`Scheduler::handle`] hands to the model concerned.
struct Step<'a> {
    rules: &'a Rules,
    now: Instant,
    draining: bool,
    /// Whether stopping others would give back memory.
    others_idle: bool,
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
mod simulation;
