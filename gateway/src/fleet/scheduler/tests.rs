//! The rules of the fleet, one test each, on a clock that the test moves.

mod failures;
mod departures;
mod room;

use super::*;
use crate::fleet::worker::{ProcessExit, SpawnReason, StopReason, WorkerFailure};
use crate::keep_alive::{KeepAlive, KeepAlivePolicy};
use hearth_shared::protocol::LoadStage;

struct Bench {
    scheduler: Scheduler,
    now: Instant,
    tickets: u64,
    profile: Profile,
}

fn model() -> ModelName {
    "m".parse().unwrap()
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn keep(s: u64) -> Option<KeepAlive> {
    Some(KeepAlive::For(seconds(s)))
}

const FIRST: WorkerId = WorkerId(1);
const SECOND: WorkerId = WorkerId(2);

fn rules() -> Rules {
    Rules {
        queue_max: 3,
        queue_timeout: seconds(600),
        load_stall_timeout: seconds(60),
        hang_timeout: seconds(30),
        grace_period: seconds(5),
        budget: Budget::default(),
        swap_after: seconds(10),
    }
}

impl Bench {
    fn new() -> Self {
        let profile = Profile {
            fingerprint: String::new(),
            keep_alive: KeepAlivePolicy::of(KeepAlive::For(seconds(300))),
            pinned: false,
            need: Need::default(),
            settled: None,
        };
        Self { scheduler: Scheduler::new(rules()), now: Instant::now(), tickets: 0, profile }
    }

    /// A bench whose first worker is ready, with nobody using it.
    fn with_idle_worker(slots: usize, keep_alive: Option<KeepAlive>) -> Self {
        let mut bench = Self::new();
        let (ticket, _) = bench.acquire_with(keep_alive);
        bench.ready(FIRST, slots);
        bench.leave(ticket);
        bench
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.scheduler.handle(event, self.now)
    }

    fn acquire(&mut self) -> (TicketId, Vec<Effect>) {
        self.acquire_with(None)
    }

    fn acquire_with(&mut self, keep_alive: Option<KeepAlive>) -> (TicketId, Vec<Effect>) {
        self.acquire_files(keep_alive, "files")
    }

    fn acquire_files(
        &mut self,
        keep_alive: Option<KeepAlive>,
        fingerprint: &str,
    ) -> (TicketId, Vec<Effect>) {
        self.ask(keep_alive, fingerprint, Wants::Lease)
    }

    fn warm(&mut self, keep_alive: Option<KeepAlive>) -> (TicketId, Vec<Effect>) {
        self.ask(keep_alive, "files", Wants::Warmth)
    }

    fn ask(
        &mut self,
        keep_alive: Option<KeepAlive>,
        fingerprint: &str,
        wants: Wants,
    ) -> (TicketId, Vec<Effect>) {
        self.tickets += 1;
        let ticket = TicketId(self.tickets);
        let profile = Profile { fingerprint: fingerprint.to_owned(), ..self.profile.clone() };
        let profile = Arc::new(profile);
        let event = Event::Acquire { model: model(), ticket, keep_alive, profile, wants };
        (ticket, self.handle(event))
    }

    fn leave(&mut self, ticket: TicketId) -> Vec<Effect> {
        self.handle(Event::Leave { model: model(), ticket })
    }

    fn ready(&mut self, worker: WorkerId, slots: usize) -> Vec<Effect> {
        self.handle(tell(worker, WorkerNews::Ready { slots }))
    }

    fn exited(&mut self, worker: WorkerId) -> Vec<Effect> {
        self.handle(tell(worker, WorkerNews::Exited(ProcessExit::Code(101))))
    }

    fn after(&mut self, pause: Duration) -> Vec<Effect> {
        self.now += pause;
        self.handle(Event::Tick)
    }

    fn view(&self) -> ModelView {
        self.scheduler.view().next().expect("the model was asked for")
    }

    fn word(&self) -> Option<&'static str> {
        self.view().phase.map(|phase| phase.word)
    }
}

fn tell(worker: WorkerId, news: WorkerNews) -> Event {
    Event::Worker { model: model(), worker, news }
}

fn spawn(worker: WorkerId) -> Effect {
    spawn_for(SpawnReason::Request, worker)
}

fn spawn_for(reason: SpawnReason, worker: WorkerId) -> Effect {
    Effect::Spawn { model: model(), worker, reason }
}

fn gone(worker: WorkerId, reason: StopReason) -> Effect {
    Effect::Gone { model: model(), worker, reason }
}

#[test]
fn many_requests_for_a_cold_model_start_it_once_and_are_served_in_order() {
    let mut bench = Bench::new();
    let (first, effects) = bench.acquire();
    assert_eq!(effects, [spawn(FIRST)]);
    let (second, effects) = bench.acquire();
    assert_eq!(effects, []);
    let (third, _) = bench.acquire();
    assert_eq!(
        bench.ready(FIRST, 2),
        [
            Effect::Grant { ticket: first, worker: FIRST },
            Effect::Grant { ticket: second, worker: FIRST }
        ]
    );
    assert_eq!(bench.leave(first), [Effect::Grant { ticket: third, worker: FIRST }]);
}

#[test]
fn the_idle_clock_runs_from_the_end_of_the_last_request() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire_with(keep(10));
    bench.ready(FIRST, 1);
    for _ in 0..10 {
        bench.now += seconds(20);
        bench.handle(tell(FIRST, WorkerNews::Progress));
        assert_eq!(bench.after(Duration::ZERO), []);
    }
    bench.leave(ticket);
    assert_eq!(bench.scheduler.next_deadline(), Some(bench.now + seconds(10)));
    assert_eq!(bench.after(Duration::from_millis(9_999)), []);
    assert_eq!(bench.after(Duration::from_millis(1)), [Effect::Terminate { worker: FIRST }]);
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Expired)]);
    assert!(bench.scheduler.is_empty());
    assert_eq!(bench.word(), None);
}

#[test]
fn an_absent_keep_alive_keeps_the_present_value_and_an_explicit_one_wins() {
    let mut bench = Bench::with_idle_worker(1, keep(10));
    let (ticket, _) = bench.acquire_with(None);
    bench.leave(ticket);
    assert_eq!(bench.view().keep_alive, KeepAlive::For(seconds(10)));
    let (ticket, _) = bench.acquire_with(Some(KeepAlive::Forever));
    bench.leave(ticket);
    assert_eq!(bench.scheduler.next_deadline(), None);
}

#[test]
fn a_policy_bounds_what_a_request_asks_for_and_an_unload_is_obeyed_all_the_same() {
    let mut bench = Bench::new();
    bench.profile.keep_alive.min = Some(KeepAlive::For(seconds(60)));
    let (ticket, _) = bench.acquire_with(keep(0));
    bench.ready(FIRST, 1);
    bench.leave(ticket);
    assert_eq!(bench.scheduler.next_deadline(), Some(bench.now + seconds(60)));
    let (ticket, _) = bench.acquire();
    bench.handle(Event::Unload { model: model(), when: Unloading::Unused });
    assert_eq!(bench.leave(ticket), [Effect::Terminate { worker: FIRST }]);
}

#[test]
fn a_pinned_worker_never_expires() {
    let mut bench = Bench::new();
    bench.profile.pinned = true;
    let (ticket, _) = bench.acquire_with(keep(1));
    bench.ready(FIRST, 1);
    bench.leave(ticket);
    assert_eq!(bench.scheduler.next_deadline(), None);
    let unloaded = bench.handle(Event::Unload { model: model(), when: Unloading::Unused });
    assert_eq!(unloaded, [Effect::Terminate { worker: FIRST }]);
}

#[test]
fn the_next_worker_starts_with_the_default_again() {
    let mut bench = Bench::with_idle_worker(1, keep(0));
    let (ticket, effects) = bench.acquire();
    assert_eq!(effects, []);
    bench.exited(FIRST);
    bench.ready(SECOND, 1);
    bench.leave(ticket);
    assert_eq!(bench.view().keep_alive, KeepAlive::For(seconds(300)));
}

#[test]
fn keep_alive_zero_stops_the_worker_with_the_request() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire_with(keep(0));
    bench.ready(FIRST, 1);
    assert_eq!(bench.leave(ticket), [Effect::Terminate { worker: FIRST }]);
}

#[test]
fn a_request_that_meets_a_stopping_worker_waits_for_the_next_one() {
    let mut bench = Bench::with_idle_worker(1, keep(10));
    bench.after(seconds(10));
    let (ticket, effects) = bench.acquire();
    assert_eq!((effects, bench.word()), (vec![], Some("stopping")));
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Expired), spawn(SECOND)]);
    assert_eq!(bench.ready(SECOND, 1), [Effect::Grant { ticket, worker: SECOND }]);
}

#[test]
fn a_request_at_the_deadline_itself_is_served_by_whoever_the_owner_heard_first() {
    let mut bench = Bench::with_idle_worker(1, keep(10));
    bench.now += seconds(11);
    let (ticket, effects) = bench.acquire();
    assert_eq!(effects, [Effect::Grant { ticket, worker: FIRST }]);
    assert_eq!(bench.after(Duration::ZERO), []);
}

#[test]
fn a_load_goes_on_when_its_client_leaves() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire();
    assert_eq!(bench.leave(ticket), []);
    assert_eq!(bench.word(), Some("starting"));
    bench.ready(FIRST, 1);
    assert_eq!(bench.word(), Some("idle"));
}

#[test]
fn a_full_queue_refuses_with_a_computed_pause() {
    let mut bench = Bench::new();
    let tickets: Vec<_> = (0..3).map(|_| bench.acquire().0).collect();
    let (fourth, effects) = bench.acquire();
    let full = |waiting, pause| Refusal::QueueFull { waiting, retry_after: seconds(pause) };
    assert_eq!(effects, [Effect::Refuse { ticket: fourth, refusal: full(3, 3) }]);
    // A lease of ten seconds teaches it how long one takes.
    bench.ready(FIRST, 1);
    bench.now += seconds(10);
    bench.leave(tickets[0]);
    bench.acquire();
    bench.acquire();
    let (last, effects) = bench.acquire();
    assert_eq!(effects, [Effect::Refuse { ticket: last, refusal: full(3, 30) }]);
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let mut bench = Bench::new();
    let tickets: Vec<_> = (0..3).map(|_| bench.acquire().0).collect();
    bench.leave(tickets[1]);
    assert_eq!(bench.view().queued, 2);
    let (_, effects) = bench.acquire();
    assert_eq!(effects, []);
}

#[test]
fn nobody_waits_longer_than_allowed_and_the_answer_says_for_what() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire();
    for _ in 0..20 {
        bench.now += seconds(30);
        let stage = LoadStage::Session;
        bench.handle(tell(FIRST, WorkerNews::LoadProgress { stage, fraction: 0.5 }));
    }
    let refusal =
        Refusal::WaitedTooLong { waited: seconds(600), reason: "the model is still loading" };
    assert_eq!(bench.after(Duration::ZERO), [Effect::Refuse { ticket, refusal }]);
    assert_eq!(bench.word(), Some("starting"));
}

#[test]
fn unloading_waits_for_requests() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire();
    bench.ready(FIRST, 1);
    let unload = || Event::Unload { model: model(), when: Unloading::Unused };
    assert_eq!(bench.handle(unload()), []);
    assert_eq!(bench.leave(ticket), [Effect::Terminate { worker: FIRST }]);
    // Whoever waits for the next worker is served, and then that one leaves as well.
    let (waiting, _) = bench.acquire();
    assert_eq!(bench.handle(unload()), []);
    bench.exited(FIRST);
    bench.ready(SECOND, 1);
    assert_eq!(bench.leave(waiting), [Effect::Terminate { worker: SECOND }]);
}

#[test]
fn who_wants_the_model_loaded_waits_for_no_slot() {
    let mut bench = Bench::new();
    let (early, effects) = bench.warm(None);
    assert_eq!(effects, [spawn_for(SpawnReason::Load, FIRST)]);
    let (first, _) = bench.acquire();
    assert_eq!(
        bench.ready(FIRST, 1),
        [
            Effect::Warm { ticket: early, worker: FIRST },
            Effect::Grant { ticket: first, worker: FIRST }
        ]
    );
    for _ in 0..3 {
        bench.acquire();
    }
    let (late, effects) = bench.warm(keep(7));
    assert_eq!(effects, [Effect::Warm { ticket: late, worker: FIRST }]);
    assert_eq!(bench.view().keep_alive, KeepAlive::For(seconds(7)));
}

#[test]
fn loading_an_idle_model_begins_its_idle_time_anew() {
    let mut bench = Bench::with_idle_worker(1, keep(10));
    bench.now += seconds(9);
    bench.warm(None);
    assert_eq!(bench.scheduler.next_deadline(), Some(bench.now + seconds(10)));
}

#[test]
fn unloading_a_model_that_is_not_there_starts_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.handle(Event::Unload { model: model(), when: Unloading::Unused }), []);
    assert!(bench.scheduler.is_empty());
}

#[test]
fn draining_stops_the_idle_refuses_the_waiting_and_lets_the_busy_finish() {
    let mut bench = Bench::new();
    let (busy, _) = bench.acquire();
    let (waiting, _) = bench.acquire();
    bench.ready(FIRST, 1);
    let until = bench.now + seconds(30);
    assert_eq!(
        bench.handle(Event::Drain { until }),
        [Effect::Refuse { ticket: waiting, refusal: Refusal::Draining }]
    );
    let (late, effects) = bench.acquire();
    assert_eq!(effects, [Effect::Refuse { ticket: late, refusal: Refusal::Draining }]);
    assert_eq!(bench.leave(busy), [Effect::Terminate { worker: FIRST }]);
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Drained)]);
    assert!(bench.scheduler.is_empty());
}

#[test]
fn the_drain_deadline_ends_the_busy() {
    let mut bench = Bench::new();
    bench.acquire();
    bench.ready(FIRST, 1);
    let until = bench.now + seconds(20);
    assert_eq!(bench.handle(Event::Drain { until }), []);
    assert_eq!(bench.scheduler.next_deadline(), Some(until));
    assert_eq!(bench.after(seconds(20)), [Effect::Terminate { worker: FIRST }]);
}

#[test]
fn news_of_a_former_worker_change_nothing() {
    let mut bench = Bench::with_idle_worker(1, keep(0));
    bench.exited(FIRST);
    bench.acquire();
    assert_eq!(bench.ready(FIRST, 1), []);
    assert_eq!(bench.exited(FIRST), []);
    assert_eq!(bench.word(), Some("starting"));
    assert_eq!(bench.leave(TicketId(99)), []);
}
