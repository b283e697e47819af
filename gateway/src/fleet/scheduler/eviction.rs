//! Who may start, and who has to go for it. Pure.
//!
//! Called at the end of every event, so that whatever made room, or made somebody want it, is acted
//! on in the same step. Models that want a worker are looked at in the order in which their first
//! requests came. Room is made by stopping idle workers, the longest unused first. Busy ones stay,
//! until somebody has waited for a whole turn and they have had theirs: then they take no new
//! requests, finish what they have, and go. Pinned ones stay in any case.

use std::collections::{BTreeMap, BTreeSet};

use hearth_shared::ids::ModelName;
use tokio::time::Instant;

use super::model::{Model, SecondTry};
use super::room::{Budget, Excess, NoRoom, Resource, Sum};
use super::{Refusal, Step};
use crate::fleet::worker::{EvictionCause, StopReason, WorkerState};

type Models = BTreeMap<ModelName, Model>;

/// Starts and stops what has to be; gives when time alone may change the outcome.
pub(super) fn make_room(models: &mut Models, step: &mut Step<'_>) -> Option<Instant> {
    let yielding: Vec<ModelName> =
        models.iter_mut().filter_map(|(name, model)| model.stay().then(|| name.clone())).collect();
    relieve(models, step);
    let mut round = Round { reserved: Sum::default(), check_at: None };
    for name in wanting(models) {
        round.look_at(models, &name, step);
    }
    // Nobody needs their room any more: whoever waits for a slot of theirs may have it.
    for name in yielding {
        if let Some(model) = models.get_mut(&name).filter(|model| !model.is_leaving()) {
            model.serve_queue(step);
        }
    }
    round.check_at
}

/// Models that want a worker, first come first.
fn wanting(models: &Models) -> Vec<ModelName> {
    let mut wanting: Vec<_> = models
        .iter()
        .filter_map(|(name, model)| Some((model.wants_worker_since()?, name.clone())))
        .collect();
    wanting.sort();
    wanting.into_iter().map(|(_, name)| name).collect()
}

/// Workers may have grown beyond the budget after they were let in.
fn relieve(models: &mut Models, step: &mut Step<'_>) {
    let held = Held::by(models);
    let mut staying = held.all.minus(held.leaving);
    for name in idle(models) {
        if step.rules.budget.lacks(staying).is_none() {
            return;
        }
        staying = staying.minus(claim(models, &name));
        stop(models, &name, EvictionCause::Growth, step);
    }
}

/// What there is too little of for the workers that are to stay, as nobody idle was left who could
/// have gone.
pub(super) fn excess(models: &Models, budget: &Budget) -> Option<Excess> {
    let held = Held::by(models);
    let staying = held.all.minus(held.leaving);
    let resource = budget.lacks(staying)?;
    let limit = budget.of(resource)?;
    Some(Excess { resource, held: staying.of(resource), limit })
}

/// One look at all models that want a worker.
struct Round {
    /// What those who were looked at before will take of the room that is being made.
    reserved: Sum,
    check_at: Option<Instant>,
}

/// What the workers hold.
#[derive(Debug, Default)]
struct Held {
    all: Sum,
    /// Of it, what is on its way out.
    leaving: Sum,
    /// Of it, what nothing but its owner's order frees.
    pinned: Sum,
}

impl Held {
    fn by(models: &Models) -> Self {
        let mut held = Self::default();
        for model in models.values() {
            let Some(claim) = model.claimed() else { continue };
            held.all = held.all.plus(claim);
            if model.is_leaving() {
                held.leaving = held.leaving.plus(claim);
            } else if model.profile.pinned {
                held.pinned = held.pinned.plus(claim);
            }
        }
        held
    }
}

impl Round {
    fn look_at(&mut self, models: &mut Models, name: &ModelName, step: &mut Step<'_>) {
        let need = Sum::one(models[name].profile.need);
        let held = Held::by(models);
        if let Some(resource) = step.rules.budget.lacks(held.pinned.plus(need)) {
            let model = models.get_mut(name).expect("it wants a worker");
            let refusal = Refusal::NoRoom(no_room(model, resource, held.pinned, step));
            return model.refuse_all(&refusal, step);
        }
        if models[name].second_try == SecondTry::Wanted {
            for victim in idle(models) {
                stop(models, &victim, EvictionCause::LoadFailed, step);
            }
            if models.values().any(Model::is_leaving) {
                self.reserved = self.reserved.plus(need);
                return;
            }
        }
        let wanted = need.plus(self.reserved);
        let Some(short) = step.rules.budget.lacks(held.all.plus(wanted)) else {
            return models.get_mut(name).expect("it wants a worker").start(step);
        };
        let staying = held.all.minus(held.leaving);
        if let Some(victims) = self.victims(models, name, staying.plus(wanted), step) {
            self.reserved = wanted;
            for victim in victims {
                stop(models, &victim, short.into(), step);
            }
        }
    }

    /// Whose leaving makes room for all that `total` is made of; `None` if nobody's does, now.
    fn victims(
        &mut self,
        models: &Models,
        name: &ModelName,
        total: Sum,
        step: &Step<'_>,
    ) -> Option<Vec<ModelName>> {
        let budget = &step.rules.budget;
        let patience = models[name].wants_worker_since()?.0 + step.rules.swap_after;
        let mut candidates = idle(models);
        if patience <= step.now {
            candidates.extend(self.busy_long_enough(models, step));
        } else {
            self.check_at = earlier(self.check_at, patience);
        }
        let mut left = total;
        let mut victims = Vec::new();
        for candidate in candidates {
            if budget.lacks(left).is_none() {
                break;
            }
            left = left.minus(claim(models, &candidate));
            victims.push(candidate);
        }
        if budget.lacks(left).is_some() {
            return None;
        }
        // The last ones may have freed so much that earlier ones can stay.
        victims.retain(|victim| {
            let with = left.plus(claim(models, victim));
            let spared = budget.lacks(with).is_none();
            if spared {
                left = with;
            }
            !spared
        });
        Some(victims)
    }

    /// Busy workers that have had their turn, the longest first.
    fn busy_long_enough(&mut self, models: &Models, step: &Step<'_>) -> Vec<ModelName> {
        let mut busy = BTreeSet::new();
        for (name, model) in models {
            let Some(WorkerState::Busy { worker, .. }) = model.state() else { continue };
            if model.profile.pinned || model.is_leaving() {
                continue;
            }
            let turn_over = worker.since + step.rules.swap_after;
            if turn_over <= step.now {
                busy.insert((worker.since, name.clone()));
            } else {
                self.check_at = earlier(self.check_at, turn_over);
            }
        }
        busy.into_iter().map(|(_, name)| name).collect()
    }
}

fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// Idle workers that may be stopped, the longest unused first.
fn idle(models: &Models) -> Vec<ModelName> {
    let mut idle: Vec<_> = models
        .iter()
        .filter(|(_, model)| model.is_idle() && !model.profile.pinned)
        .map(|(name, model)| (model.last_used, name.clone()))
        .collect();
    idle.sort();
    idle.into_iter().map(|(_, name)| name).collect()
}

fn claim(models: &Models, name: &ModelName) -> Sum {
    models[name].claimed().unwrap_or_default()
}

fn stop(models: &mut Models, name: &ModelName, cause: EvictionCause, step: &mut Step<'_>) {
    if let Some(model) = models.get_mut(name) {
        model.leave_for(StopReason::Evicted(cause), step);
    }
}

fn no_room(model: &Model, resource: Resource, pinned: Sum, step: &Step<'_>) -> NoRoom {
    NoRoom {
        resource,
        need: Sum::one(model.profile.need).of(resource),
        estimated: model.profile.settled.is_none(),
        limit: step.rules.budget.of(resource).unwrap_or(u64::MAX),
        pinned: pinned.of(resource),
    }
}

impl From<Resource> for EvictionCause {
    fn from(short: Resource) -> Self {
        match short {
            Resource::Memory => Self::Memory,
            Resource::Device => Self::Device,
            Resource::Models => Self::Count,
        }
    }
}
