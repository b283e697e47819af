//! The scheduler against a simulated world, with the rules of the fleet as invariants.
//!
//! The world is made of processes and tickets. It does to the scheduler whatever a real one might,
//! in any order, and checks each effect when it is carried out.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::*;
use crate::fleet::worker::{ProcessExit, WorkerFailure};
use crate::keep_alive::{KeepAlive, KeepAlivePolicy};

const MODELS: [&str; 2] = ["a", "b"];
const SLOTS: usize = 2;
const QUEUE_MAX: usize = 4;

/// One thing that may happen. Indices choose among whatever is there, modulo its number.
#[derive(Debug, Clone)]
enum Happening {
    Acquire { model: usize, keep_alive: Option<u64>, files: u8, warm: bool },
    Leave(usize),
    Unload { model: usize },
    Ready(usize),
    Progress(usize),
    Fail { worker: usize, repeats: bool },
    Exit(usize),
    Advance { millis: u64 },
    Drain { millis: u64 },
}

/// Nothing is known beforehand: every happening may follow every other.
#[derive(Debug, Clone)]
struct Anything;

impl ReferenceStateMachine for Anything {
    type State = ();
    type Transition = Happening;

    fn init_state() -> BoxedStrategy<()> {
        Just(()).boxed()
    }

    fn transitions((): &()) -> BoxedStrategy<Happening> {
        let index = 0_usize..8;
        prop_oneof![
            8 => (0..MODELS.len(), proptest::option::of(0_u64..20), 0_u8..2, prop::bool::weighted(0.2))
                .prop_map(|(model, keep_alive, files, warm)| {
                    Happening::Acquire { model, keep_alive, files, warm }
                }),
            6 => index.clone().prop_map(Happening::Leave),
            1 => (0..MODELS.len()).prop_map(|model| Happening::Unload { model }),
            6 => index.clone().prop_map(Happening::Ready),
            2 => index.clone().prop_map(Happening::Progress),
            1 => (index.clone(), prop::bool::weighted(0.2))
                .prop_map(|(worker, repeats)| Happening::Fail { worker, repeats }),
            4 => index.prop_map(Happening::Exit),
            6 => (0_u64..40_000).prop_map(|millis| Happening::Advance { millis }),
            1 => (0_u64..40_000).prop_map(|millis| Happening::Drain { millis }),
        ]
        .boxed()
    }

    fn apply((): (), _: &Happening) {}
}

#[derive(Debug, Clone)]
struct Process {
    model: ModelName,
    ready: bool,
    told_to_go: bool,
    killed: bool,
    last_progress: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ticket {
    Waiting { since: Instant },
    Leased(WorkerId),
    Over,
}

struct World {
    scheduler: Scheduler,
    now: Instant,
    processes: BTreeMap<WorkerId, Process>,
    tickets: BTreeMap<TicketId, (ModelName, Ticket)>,
    drain: Option<Instant>,
    /// Tickets that are over without having left: their holders say so whenever they get to it.
    stale: Vec<TicketId>,
}

fn tell(model: ModelName, worker: WorkerId, news: WorkerNews) -> Event {
    Event::Worker { model, worker, news }
}

fn rules() -> Rules {
    Rules {
        queue_max: QUEUE_MAX,
        queue_timeout: Duration::from_secs(100),
        load_stall_timeout: Duration::from_secs(30),
        hang_timeout: Duration::from_secs(20),
        grace_period: Duration::from_secs(5),
    }
}

impl World {
    fn give(&mut self, event: Event) {
        let cause = event.clone();
        for effect in self.scheduler.handle(event, self.now) {
            self.carry_out(effect, &cause);
        }
        self.check();
    }

    fn carry_out(&mut self, effect: Effect, cause: &Event) {
        match effect {
            Effect::Spawn { model, worker } => {
                assert!(self.drain.is_none(), "nothing starts during a drain");
                let alive = self.processes.values().filter(|p| p.model == model).count();
                assert_eq!(alive, 0, "at most one live worker per model");
                let process = Process {
                    model,
                    ready: false,
                    told_to_go: false,
                    killed: false,
                    last_progress: self.now,
                };
                assert!(self.processes.insert(worker, process).is_none(), "ids are not reused");
            }
            Effect::Terminate { worker } | Effect::Kill { worker } => {
                self.stop(worker, &effect, cause)
            }
            Effect::Grant { ticket, worker } => {
                let process = &self.processes[&worker];
                assert!(process.ready && !process.told_to_go, "a lease is for a ready worker");
                let (model, state) = self.tickets.get_mut(&ticket).expect("issued");
                assert_eq!(*model, process.model);
                assert!(matches!(state, Ticket::Waiting { .. }), "one outcome for each ticket");
                *state = Ticket::Leased(worker);
            }
            Effect::Warm { ticket, worker } => {
                let process = &self.processes[&worker];
                assert!(process.ready && !process.told_to_go, "warm is a ready worker");
                let (_, state) = self.tickets.get_mut(&ticket).expect("issued");
                assert!(matches!(state, Ticket::Waiting { .. }), "one outcome for each ticket");
                *state = Ticket::Over;
                self.stale.push(ticket);
            }
            Effect::Refuse { ticket, .. } => {
                self.stale.push(ticket);
                let (_, state) = self.tickets.get_mut(&ticket).expect("issued");
                assert!(matches!(state, Ticket::Waiting { .. }), "one outcome for each ticket");
                *state = Ticket::Over;
            }
            Effect::Gone { worker, .. } => {
                assert!(!self.processes.contains_key(&worker), "gone only when reaped");
            }
        }
    }

    fn stop(&mut self, worker: WorkerId, effect: &Effect, cause: &Event) {
        let leased = self.leases(worker) > 0;
        let drain_over = self.drain.is_some_and(|until| until <= self.now);
        let process = self.processes.get_mut(&worker).expect("only live workers are stopped");
        let first_order = !process.told_to_go;
        if leased && first_order {
            let hung = process.last_progress + rules().hang_timeout <= self.now;
            let allowed = match cause {
                Event::Worker { news: WorkerNews::Failed(_), .. } => true,
                Event::Tick => hung || drain_over,
                Event::Drain { .. } => drain_over,
                _ => false,
            };
            assert!(allowed, "a leased worker was stopped by {cause:?}");
        }
        process.told_to_go = true;
        if matches!(effect, Effect::Kill { .. }) {
            assert!(!process.killed, "one kill is enough");
            process.killed = true;
        }
        self.end_leases(worker);
    }

    /// What the lease holders of a worker that is going see: their lease is over.
    fn end_leases(&mut self, worker: WorkerId) {
        for (id, (_, ticket)) in &mut self.tickets {
            if *ticket == Ticket::Leased(worker) {
                *ticket = Ticket::Over;
                self.stale.push(*id);
            }
        }
    }

    fn leases(&self, worker: WorkerId) -> usize {
        self.tickets.values().filter(|(_, t)| *t == Ticket::Leased(worker)).count()
    }

    fn check(&self) {
        for name in MODELS {
            let model: ModelName = name.parse().unwrap();
            let waiting: Vec<_> = self
                .tickets
                .values()
                .filter_map(|(m, t)| match t {
                    Ticket::Waiting { since } if *m == model => Some(*since),
                    _ => None,
                })
                .collect();
            let process = self.processes.iter().find(|(_, p)| p.model == model);
            assert!(waiting.len() <= QUEUE_MAX, "the queue is bounded");
            assert!(waiting.is_empty() || process.is_some(), "who waits waits for a process");
            if let Some((id, process)) = process {
                let free = process.ready && !process.told_to_go && self.leases(*id) < SLOTS;
                assert!(!free || waiting.is_empty(), "nobody waits beside a free slot");
                assert!(self.leases(*id) <= SLOTS);
            }
            let deadline = self.scheduler.next_deadline();
            for since in waiting {
                let latest = since + rules().queue_timeout;
                assert!(deadline.is_some_and(|d| d <= latest), "every wait has a deadline");
            }
            let view = self.scheduler.view().find(|view| view.name == model);
            let shown = view.and_then(|view| view.phase).and_then(|phase| phase.worker);
            assert_eq!(shown, process.map(|(id, _)| *id), "what is told is what is");
        }
    }

    fn nth_process(&self, index: usize) -> Option<(WorkerId, ModelName)> {
        let count = self.processes.len().max(1);
        self.processes.iter().nth(index % count).map(|(id, p)| (*id, p.model.clone()))
    }

    fn leave(&mut self, index: usize) {
        // What leaves late must change nothing for anybody else.
        if let Some(ticket) = self.stale.pop() {
            let model = self.tickets[&ticket].0.clone();
            self.give(Event::Leave { model, ticket });
            return;
        }
        let open: Vec<_> = self
            .tickets
            .iter()
            .filter(|(_, (_, t))| *t != Ticket::Over)
            .map(|(id, _)| *id)
            .collect();
        if open.is_empty() {
            return;
        }
        let ticket = open[index % open.len()];
        let (model, state) = self.tickets.get_mut(&ticket).expect("open");
        *state = Ticket::Over;
        let model = model.clone();
        self.give(Event::Leave { model, ticket });
    }

    fn advance(&mut self, pause: Duration) {
        let target = self.now + pause;
        let mut rounds = 0;
        while let Some(deadline) = self.scheduler.next_deadline().filter(|d| *d <= target) {
            self.now = self.now.max(deadline);
            self.give(Event::Tick);
            rounds += 1;
            assert!(rounds < 1000, "a deadline that has been handled is gone");
        }
        self.now = target;
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Acquire { model, keep_alive, files, warm } => {
                let model: ModelName = MODELS[model].parse().unwrap();
                let ticket = TicketId(self.tickets.len() as u64);
                self.tickets.insert(ticket, (model.clone(), Ticket::Waiting { since: self.now }));
                let keep_alive = keep_alive.map(|s| KeepAlive::For(Duration::from_secs(s)));
                let keep_alive_default = KeepAlive::For(Duration::from_secs(10));
                let profile = Arc::new(Profile {
                    fingerprint: files.to_string(),
                    keep_alive: KeepAlivePolicy::of(keep_alive_default),
                    pinned: false,
                });
                let wants = if warm { Wants::Warmth } else { Wants::Lease };
                self.give(Event::Acquire { model, ticket, keep_alive, profile, wants });
            }
            Happening::Leave(index) => self.leave(index),
            Happening::Unload { model } => {
                let model = MODELS[model].parse().unwrap();
                self.give(Event::Unload { model });
            }
            Happening::Ready(index) => {
                let Some((worker, model)) = self.nth_process(index) else {
                    return;
                };
                let process = self.processes.get_mut(&worker).expect("it was just found");
                if !process.ready && !process.told_to_go {
                    process.ready = true;
                    process.last_progress = self.now;
                    self.give(tell(model, worker, WorkerNews::Ready { slots: SLOTS }));
                }
            }
            Happening::Progress(index) => {
                let Some((worker, model)) = self.nth_process(index) else {
                    return;
                };
                self.processes.get_mut(&worker).expect("it was just found").last_progress =
                    self.now;
                self.give(tell(model, worker, WorkerNews::Progress));
            }
            Happening::Fail { worker, repeats } => self.fail(worker, repeats),
            Happening::Exit(index) => {
                let Some((worker, model)) = self.nth_process(index) else {
                    return;
                };
                self.processes.remove(&worker);
                self.end_leases(worker);
                self.give(tell(model, worker, WorkerNews::Exited(ProcessExit::Code(1))));
            }
            Happening::Advance { millis } => self.advance(Duration::from_millis(millis)),
            Happening::Drain { millis } => {
                let until = self.now + Duration::from_millis(millis);
                self.drain = Some(self.drain.map_or(until, |before| before.min(until)));
                self.give(Event::Drain { until });
            }
        }
    }

    fn fail(&mut self, index: usize, repeats: bool) {
        use hearth_shared::protocol::{LoadFailure, LoadFailureKind};
        let Some((worker, model)) = self.nth_process(index) else {
            return;
        };
        let kind = if repeats { LoadFailureKind::BadFiles } else { LoadFailureKind::Runtime };
        let failure = WorkerFailure::Load(LoadFailure { kind, message: String::new() });
        self.give(tell(model, worker, WorkerNews::Failed(failure)));
    }

    /// Lets everybody leave and every process obey. Whatever happened before, nothing may remain.
    fn wind_down(&mut self) {
        while self.tickets.values().any(|(_, t)| *t != Ticket::Over) {
            self.leave(0);
        }
        for _ in 0..10 {
            self.advance(Duration::from_secs(40));
            let going: Vec<_> =
                self.processes.iter().filter(|(_, p)| p.told_to_go).map(|(id, _)| *id).collect();
            for worker in going {
                let process = self.processes.remove(&worker).expect("it was just found");
                let news = WorkerNews::Exited(ProcessExit::Signal(15));
                self.give(tell(process.model, worker, news));
            }
        }
        assert!(self.processes.is_empty() && self.scheduler.is_empty(), "everything winds down");
    }
}

struct Fleet;

impl StateMachineTest for Fleet {
    type SystemUnderTest = World;
    type Reference = Anything;

    fn init_test((): &()) -> World {
        World {
            scheduler: Scheduler::new(rules()),
            now: Instant::now(),
            processes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            drain: None,
            stale: Vec::new(),
        }
    }

    fn apply(mut world: World, (): &(), happening: Happening) -> World {
        world.happen(&happening);
        world
    }

    fn teardown(mut world: World, (): ()) {
        world.wind_down();
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_rules_of_the_fleet_hold(sequential 1..80 => Fleet);
}
