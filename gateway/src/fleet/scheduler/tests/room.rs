//! Room: who is started beside whom, who has to go for it, and who never does.

use std::collections::BTreeMap;

use hearth_shared::protocol::{LoadFailure, LoadFailureKind};

use super::*;
use crate::fleet::worker::EvictionCause;

/// Several models, each with one slot, within a budget.
struct Town {
    scheduler: Scheduler,
    now: Instant,
    tickets: u64,
    needs: BTreeMap<&'static str, u64>,
    pinned: Option<&'static str>,
}

fn name(model: &str) -> ModelName {
    model.parse().unwrap()
}

impl Town {
    fn new(budget: Budget, needs: &[(&'static str, u64)]) -> Self {
        let scheduler = Scheduler::new(Rules { budget, ..rules() });
        let needs = needs.iter().copied().collect();
        Self { scheduler, now: Instant::now(), tickets: 0, needs, pinned: None }
    }

    fn with_memory(memory: u64, needs: &[(&'static str, u64)]) -> Self {
        Self::new(Budget { memory: Some(memory), ..Budget::default() }, needs)
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.scheduler.handle(event, self.now)
    }

    fn ask(&mut self, model: &str) -> (TicketId, Vec<Effect>) {
        self.tickets += 1;
        let need = Need { memory: self.needs[model], device: 0 };
        let profile = Arc::new(Profile {
            fingerprint: String::new(),
            keep_alive: KeepAlivePolicy::of(KeepAlive::For(seconds(300))),
            pinned: self.pinned == Some(model),
            need,
            settled: Some(need),
        });
        let ticket = TicketId(self.tickets);
        let (model, wants) = (name(model), Wants::Lease);
        (ticket, self.handle(Event::Acquire { model, ticket, keep_alive: None, profile, wants }))
    }

    fn news(&mut self, model: &str, worker: u64, news: WorkerNews) -> Vec<Effect> {
        self.handle(Event::Worker { model: name(model), worker: WorkerId(worker), news })
    }

    fn ready(&mut self, model: &str, worker: u64) -> Vec<Effect> {
        self.news(model, worker, WorkerNews::Ready { slots: 1 })
    }

    fn exited(&mut self, model: &str, worker: u64) -> Vec<Effect> {
        self.news(model, worker, WorkerNews::Exited(ProcessExit::Code(0)))
    }

    fn leave(&mut self, model: &str, ticket: TicketId) -> Vec<Effect> {
        self.handle(Event::Leave { model: name(model), ticket })
    }

    fn after(&mut self, pause: Duration) -> Vec<Effect> {
        self.now += pause;
        self.handle(Event::Tick)
    }

    /// Loads a model and serves one request; it is idle then.
    fn idle(&mut self, model: &str, worker: u64) {
        let (ticket, effects) = self.ask(model);
        assert_eq!(effects, [started(model, worker)]);
        self.ready(model, worker);
        self.leave(model, ticket);
        self.now += seconds(1);
    }
}

fn started(model: &str, worker: u64) -> Effect {
    let reason = SpawnReason::Request;
    Effect::Spawn { model: name(model), worker: WorkerId(worker), reason }
}

fn told(worker: u64) -> Effect {
    Effect::Terminate { worker: WorkerId(worker) }
}

fn granted(ticket: TicketId, worker: u64) -> Effect {
    Effect::Grant { ticket, worker: WorkerId(worker) }
}

fn evicted(model: &str, worker: u64, cause: EvictionCause) -> Effect {
    let reason = StopReason::Evicted(cause);
    Effect::Gone { model: name(model), worker: WorkerId(worker), reason }
}

fn out_of_memory() -> WorkerNews {
    let kind = LoadFailureKind::OutOfMemory;
    WorkerNews::Failed(WorkerFailure::Load(LoadFailure { kind, message: String::new() }))
}

#[test]
fn loads_that_fit_run_side_by_side() {
    let mut town = Town::with_memory(10, &[("a", 5), ("b", 5)]);
    assert_eq!(town.ask("a").1, [started("a", 1)]);
    assert_eq!(town.ask("b").1, [started("b", 2)]);
}

#[test]
fn the_longest_unused_makes_room_and_its_memory_is_waited_for() {
    let mut town = Town::with_memory(10, &[("a", 5), ("b", 5), ("c", 5)]);
    town.idle("a", 1);
    town.idle("b", 2);
    let (again, _) = town.ask("a");
    town.leave("a", again);
    let (ticket, effects) = town.ask("c");
    assert_eq!(effects, [told(2)]);
    let gone = evicted("b", 2, EvictionCause::Memory);
    assert_eq!(town.exited("b", 2), [gone, started("c", 3)]);
    assert_eq!(town.ready("c", 3), [granted(ticket, 3)]);
}

#[test]
fn nobody_goes_whose_going_would_not_help() {
    let mut town = Town::with_memory(10, &[("small", 1), ("big", 8), ("new", 8)]);
    town.idle("small", 1);
    town.idle("big", 2);
    assert_eq!(town.ask("new").1, [told(2)]);
}

#[test]
fn a_number_of_models_is_a_limit_too() {
    let mut town =
        Town::new(Budget { models: Some(1), ..Budget::default() }, &[("a", 1), ("b", 1)]);
    town.idle("a", 1);
    assert_eq!(town.ask("b").1, [told(1)]);
    let gone = evicted("a", 1, EvictionCause::Count);
    assert_eq!(town.exited("a", 1), [gone, started("b", 2)]);
}

#[test]
fn a_busy_model_is_not_evicted_and_those_who_wait_are_served_in_order() {
    let mut town = Town::with_memory(5, &[("a", 5), ("b", 5)]);
    let (busy, _) = town.ask("a");
    town.ready("a", 1);
    let (first, effects) = town.ask("b");
    assert_eq!(effects, []);
    let (second, _) = town.ask("b");
    assert_eq!(town.leave("a", busy), [told(1)]);
    town.exited("a", 1);
    assert_eq!(town.ready("b", 2), [granted(first, 2)]);
    assert_eq!(town.leave("b", first), [granted(second, 2)]);
}

#[test]
fn a_client_that_leaves_while_it_waits_for_room_evicts_nobody() {
    let mut town = Town::with_memory(5, &[("a", 5), ("b", 5)]);
    let (busy, _) = town.ask("a");
    town.ready("a", 1);
    let (waiting, _) = town.ask("b");
    town.leave("b", waiting);
    assert_eq!(town.leave("a", busy), []);
    assert_eq!(town.after(seconds(60)), []);
}

#[test]
fn requests_for_a_loaded_model_never_wait_behind_another_models_load() {
    let mut town = Town::with_memory(10, &[("a", 5), ("b", 5)]);
    town.idle("a", 1);
    town.ask("b");
    let (ticket, effects) = town.ask("a");
    assert_eq!(effects, [granted(ticket, 1)]);
}

#[test]
fn a_busy_model_yields_after_its_turn_finishes_what_it_has_and_comes_back() {
    let mut town = Town::with_memory(5, &[("a", 5), ("b", 5)]);
    let (busy, _) = town.ask("a");
    town.ready("a", 1);
    let (other, _) = town.ask("b");
    let (later, _) = town.ask("a");
    assert_eq!(town.scheduler.next_deadline(), Some(town.now + seconds(10)));
    assert_eq!(town.after(seconds(10)), []);
    // Nobody new is served by it: the one that waits for b came first.
    assert_eq!(town.leave("a", busy), [told(1)]);
    let gone = evicted("a", 1, EvictionCause::Memory);
    assert_eq!(town.exited("a", 1), [gone, started("b", 2)]);
    assert_eq!(town.ready("b", 2), [granted(other, 2)]);
    assert_eq!(town.leave("b", other), [told(2)]);
    town.exited("b", 2);
    assert_eq!(town.ready("a", 3), [granted(later, 3)]);
}

#[test]
fn a_model_that_was_to_yield_stays_when_nobody_needs_its_room_any_more() {
    let mut town = Town::with_memory(5, &[("a", 5), ("b", 5)]);
    let (busy, _) = town.ask("a");
    town.ready("a", 1);
    let (other, _) = town.ask("b");
    town.after(seconds(10));
    let (later, _) = town.ask("a");
    town.leave("b", other);
    assert_eq!(town.leave("a", busy), [granted(later, 1)]);
}

#[test]
fn a_pinned_model_stays_and_what_can_never_fit_beside_it_is_refused_at_once() {
    let mut town = Town::with_memory(10, &[("a", 6), ("b", 5)]);
    town.pinned = Some("a");
    town.idle("a", 1);
    let (ticket, effects) = town.ask("b");
    let refusal = Refusal::NoRoom(NoRoom {
        resource: Resource::Memory,
        need: 5,
        estimated: false,
        limit: 10,
        pinned: 6,
    });
    assert_eq!(effects, [Effect::Refuse { ticket, refusal }]);
}

#[test]
fn a_load_that_runs_out_of_memory_is_tried_once_more_after_the_others_have_gone() {
    let mut town = Town::with_memory(100, &[("a", 5), ("b", 5)]);
    town.idle("a", 1);
    let (ticket, _) = town.ask("b");
    let gone = evicted("a", 1, EvictionCause::LoadFailed);
    assert_eq!(town.news("b", 2, out_of_memory()), [told(2)]);
    let effects = town.exited("b", 2);
    assert_eq!(effects.last(), Some(&told(1)));
    let (model, worker, reason) = (name("b"), WorkerId(3), SpawnReason::Retry);
    assert_eq!(town.exited("a", 1), [gone, Effect::Spawn { model, worker, reason }]);
    // There is no third time.
    let effects = town.news("b", 3, out_of_memory());
    assert!(
        matches!(&effects[..], [Effect::Refuse { ticket: refused, .. }, _] if *refused == ticket)
    );
}

#[test]
fn without_others_to_evict_a_load_that_runs_out_of_memory_fails_at_once() {
    let mut town = Town::with_memory(100, &[("a", 5)]);
    let (ticket, _) = town.ask("a");
    let effects = town.news("a", 1, out_of_memory());
    assert!(
        matches!(&effects[..], [Effect::Refuse { ticket: refused, .. }, _] if *refused == ticket)
    );
}

#[test]
fn workers_that_grow_beyond_the_budget_cost_the_longest_unused_its_place() {
    let mut town = Town::with_memory(10, &[("a", 4), ("b", 4)]);
    town.idle("a", 1);
    let (_busy, _) = town.ask("b");
    town.ready("b", 2);
    let grown = WorkerNews::Measured(Need { memory: 7, device: 0 });
    assert_eq!(town.news("b", 2, grown), [told(1)]);
    assert_eq!(town.exited("a", 1), [evicted("a", 1, EvictionCause::Growth)]);
}

#[test]
fn growth_costs_the_longest_unused_first_and_no_more_than_it_has_to() {
    let mut town = Town::with_memory(10, &[("a", 3), ("b", 3), ("c", 3)]);
    town.idle("b", 1);
    town.idle("a", 2);
    town.ask("c");
    town.ready("c", 3);
    let grown = |memory| WorkerNews::Measured(Need { memory, device: 0 });
    assert_eq!(town.news("c", 3, grown(4)), []);
    assert_eq!(town.news("c", 3, grown(5)), [told(1)]);
    assert_eq!(town.news("c", 3, grown(7)), []);
    assert_eq!(town.news("c", 3, grown(8)), [told(2)]);
    assert_eq!(town.scheduler.excess(), None, "those who leave do not count");
}

#[test]
fn a_worker_that_outgrows_the_budget_finishes_what_it_has_is_told_of_and_leaves() {
    let mut town = Town::with_memory(10, &[("a", 4)]);
    let (busy, _) = town.ask("a");
    town.ready("a", 1);
    assert_eq!(town.scheduler.excess(), None);
    let grown = WorkerNews::Measured(Need { memory: 12, device: 0 });
    assert_eq!(town.news("a", 1, grown), []);
    let excess = Excess { resource: Resource::Memory, held: 12, limit: 10 };
    assert_eq!(town.scheduler.excess(), Some(excess));
    assert_eq!(town.leave("a", busy), [told(1)]);
    assert_eq!(town.scheduler.excess(), None);
    assert_eq!(town.exited("a", 1), [evicted("a", 1, EvictionCause::Growth)]);
}

#[test]
fn a_worker_killed_for_want_of_memory_is_not_started_again_at_once() {
    let mut town = Town::with_memory(10, &[("a", 4)]);
    town.idle("a", 1);
    let effects = town.news("a", 1, WorkerNews::Exited(ProcessExit::OutOfMemory));
    let [Effect::Gone { reason, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(reason.label(), "oom");
    let (_, effects) = town.ask("a");
    assert!(matches!(
        effects[..],
        [Effect::Refuse { refusal: Refusal::BackingOff { retry_after, .. }, .. }]
            if retry_after == seconds(1)
    ));
}

#[test]
fn who_waits_for_the_same_room_shares_one_eviction() {
    let mut town = Town::with_memory(10, &[("a", 10), ("b", 5), ("c", 5)]);
    town.idle("a", 1);
    let (first, effects) = town.ask("b");
    assert_eq!(effects, [told(1)]);
    let (second, effects) = town.ask("b");
    assert_eq!(effects, []);
    let (third, effects) = town.ask("c");
    assert_eq!(effects, []);
    let gone = evicted("a", 1, EvictionCause::Memory);
    assert_eq!(town.exited("a", 1), [gone, started("b", 2), started("c", 3)]);
    assert_eq!(town.ready("b", 2), [granted(first, 2)]);
    assert_eq!(town.ready("c", 3), [granted(third, 3)]);
    assert_eq!(town.leave("b", first), [granted(second, 2)]);
}

#[test]
fn a_model_that_has_loaded_serves_who_waited_for_it_before_anybody_can_have_its_room() {
    let mut town = Town::with_memory(5, &[("a", 5), ("b", 5)]);
    let (waited, _) = town.ask("a");
    let (other, effects) = town.ask("b");
    assert_eq!(effects, []);
    town.now += seconds(60);
    assert_eq!(town.ready("a", 1), [granted(waited, 1)]);
    assert_eq!(town.leave("a", waited), [told(1)]);
    town.exited("a", 1);
    assert_eq!(town.ready("b", 2), [granted(other, 2)]);
}

#[test]
fn a_load_that_fails_fails_its_own_requests_and_nobody_elses() {
    let mut town = Town::with_memory(15, &[("good", 5), ("bad", 5), ("idle", 5)]);
    town.idle("idle", 1);
    let (served, _) = town.ask("good");
    let (failed, _) = town.ask("bad");
    let effects = town.exited("bad", 3);
    let refused = |effect: &Effect| match effect {
        Effect::Refuse { ticket, .. } => Some(*ticket),
        _ => None,
    };
    assert_eq!(effects.iter().filter_map(refused).collect::<Vec<_>>(), [failed]);
    assert!(!effects.contains(&told(1)) && !effects.contains(&told(2)), "{effects:?}");
    assert_eq!(town.ready("good", 2), [granted(served, 2)]);
}
