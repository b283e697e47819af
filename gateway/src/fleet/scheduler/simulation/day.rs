//! One day: what happens when, drawn from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{LoadFailure, LoadFailureKind, LoadStage};
use tokio::time::Instant;

use super::chance::Chance;
use super::world::{LONG, Outcome, Process, Ticket, World};
use crate::fleet::scheduler::{
    Budget, Event, Need, Profile, Rules, Scheduler, Unloading, Wants, WorkerNews,
};
use crate::fleet::worker::{ProcessExit, TicketId, WorkerFailure, WorkerId};
use crate::keep_alive::{KeepAlive, KeepAlivePolicy};

/// Requests of a day.
const REQUESTS: u64 = 40;
const MODELS: u64 = 4;

/// Something that will happen, unless what it is of is gone by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrive,
    Give(TicketId),
    GiveUp(TicketId),
    LoadGoesOn(WorkerId),
    Ready(WorkerId),
    Progress(WorkerId),
    Grow(WorkerId),
    Fail(WorkerId),
    Exit(WorkerId),
    Disturb,
    Drain,
}

pub(super) struct Day {
    chance: Chance,
    world: World,
    agenda: BTreeSet<(Instant, u64, Happening)>,
    planned: u64,
    busy_day: Duration,
    rounds_of_clearing: u64,
}

impl Day {
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let fair_weather = chance.one_in(3);
        let budget = match chance.below(4) {
            0 => Budget::default(),
            1 => Budget { models: Some(1 + chance.below(3)), ..Budget::default() },
            2 => Budget { memory: Some(100), ..Budget::default() },
            _ => Budget { memory: Some(60 + chance.below(100)), models: Some(3), device: None },
        };
        let rules = Rules {
            queue_max: if fair_weather { 1000 } else { 1 + usize(chance.below(8)) },
            queue_timeout: Duration::from_secs(if fair_weather { 1200 } else { 90 }),
            load_stall_timeout: Duration::from_secs(30),
            hang_timeout: Duration::from_secs(20),
            grace_period: Duration::from_secs(5),
            budget,
            swap_after: Duration::from_secs(10),
        };
        let profiles = profiles(&mut chance, fair_weather);
        let now = Instant::now();
        let world = World {
            scheduler: Scheduler::new(rules.clone()),
            rules,
            slots: 1 + usize(chance.below(3)),
            now,
            profiles,
            processes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            drain: None,
            stale: Vec::new(),
            fair_weather,
        };
        let busy_day = Duration::from_secs(5 + chance.below(200));
        let mut day = Self {
            chance,
            world,
            agenda: BTreeSet::new(),
            planned: 0,
            busy_day,
            rounds_of_clearing: 0,
        };
        day.plan_the_day();
        day
    }

    fn plan_the_day(&mut self) {
        let length = u64::try_from(self.busy_day.as_millis()).expect("minutes");
        for _ in 0..REQUESTS {
            let at = self.chance.millis(length);
            self.plan(at, Happening::Arrive);
        }
        if !self.world.fair_weather {
            for _ in 0..self.chance.below(12) {
                let at = self.chance.millis(length);
                self.plan(at, Happening::Disturb);
            }
            if self.chance.one_in(4) {
                let at = self.chance.millis(length);
                self.plan(at, Happening::Drain);
            }
        }
    }

    fn plan(&mut self, from_now: Duration, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((self.world.now + from_now, self.planned, happening));
    }

    /// Lives it, and then lets everything come to rest: nothing may remain.
    pub(super) fn run(mut self) {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 50_000, "the day comes to an end");
            let next = self.agenda.first().map(|(at, _, _)| *at);
            let target = next.unwrap_or(self.world.now + LONG);
            let outcomes = self.world.tick_until(target);
            if !outcomes.is_empty() {
                self.follow(outcomes);
                continue;
            }
            match self.agenda.pop_first() {
                Some((_, _, happening)) => self.happen(happening),
                None if self.at_rest() => return,
                None => self.clear_away(),
            }
        }
    }

    fn at_rest(&self) -> bool {
        let waits = self.world.tickets.values().any(|(_, ticket)| *ticket != Ticket::Over);
        assert!(!waits, "every ticket has an outcome");
        self.world.processes.is_empty() && self.world.scheduler.is_empty()
    }

    /// What stays for ever leaves when it is told to.
    fn clear_away(&mut self) {
        for model in self.world.profiles.keys().cloned().collect::<Vec<_>>() {
            self.give(Event::Unload { model, when: Unloading::Unused });
        }
        self.rounds_of_clearing += 1;
        assert!(self.rounds_of_clearing < 4, "whoever is unused leaves when told to");
    }

    fn give(&mut self, event: Event) {
        let outcomes = self.world.give(event);
        self.follow(outcomes);
    }

    /// What the effects lead to in time.
    fn follow(&mut self, outcomes: Vec<Outcome>) {
        let fair = self.world.fair_weather;
        for outcome in outcomes {
            match outcome {
                Outcome::Spawned(worker) => self.load(worker, fair),
                Outcome::Granted(ticket) => {
                    let takes = self.chance.millis(8000);
                    self.plan(takes, Happening::Give(ticket));
                    if let Ticket::Leased(worker) = self.world.tickets[&ticket].1 {
                        self.plan(takes / 2, Happening::Progress(worker));
                    }
                }
                Outcome::ToldToGo(worker) => {
                    let deaf = !fair && self.chance.one_in(6);
                    let takes = self.chance.millis(900);
                    if !deaf {
                        self.plan(takes, Happening::Exit(worker));
                    }
                }
                Outcome::Killed(worker) => {
                    let takes = self.chance.millis(50);
                    self.plan(takes, Happening::Exit(worker));
                }
            }
        }
    }

    fn load(&mut self, worker: WorkerId, fair: bool) {
        let takes = self.chance.millis(6000);
        self.plan(takes / 2, Happening::LoadGoesOn(worker));
        match self.chance.below(if fair { 1 } else { 10 }) {
            1 => self.plan(takes, Happening::Fail(worker)),
            2 => self.plan(takes, Happening::Exit(worker)),
            // It hangs: the stall timeout ends it.
            3 => {}
            _ => self.plan(takes, Happening::Ready(worker)),
        }
        if !fair && self.chance.one_in(6) {
            let later = takes + self.chance.millis(20_000);
            let happening = if self.chance.one_in(2) {
                Happening::Exit(worker)
            } else {
                Happening::Fail(worker)
            };
            self.plan(later, happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive => self.arrive(),
            Happening::Give(ticket) | Happening::GiveUp(ticket) => self.leave(ticket),
            Happening::LoadGoesOn(worker) => {
                let news = WorkerNews::LoadProgress { stage: LoadStage::Session, fraction: 0.5 };
                self.tell(worker, news);
            }
            Happening::Ready(worker) => self.ready(worker),
            Happening::Progress(worker) => {
                if let Some(process) = self.world.processes.get_mut(&worker) {
                    process.last_progress = self.world.now;
                }
                self.tell(worker, WorkerNews::Progress);
            }
            Happening::Grow(worker) => self.measure(worker),
            Happening::Fail(worker) => self.fail(worker),
            Happening::Exit(worker) => self.exit(worker),
            Happening::Disturb => self.disturb(),
            Happening::Drain => {
                let until = self.world.now + self.chance.millis(20_000);
                self.world.drain = Some(self.world.drain.map_or(until, |before| before.min(until)));
                self.give(Event::Drain { until });
            }
        }
        // Whoever was told that it is over says so late, and it must change nothing.
        if self.chance.one_in(2)
            && let Some(ticket) = self.world.stale.pop()
        {
            let model = self.world.tickets[&ticket].0.clone();
            self.give(Event::Leave { model, ticket });
        }
    }

    fn arrive(&mut self) {
        let model = self.any_model();
        let ticket = TicketId(self.world.tickets.len() as u64);
        let since = self.world.now;
        self.world.tickets.insert(ticket, (model.clone(), Ticket::Waiting { since }));
        let keep_alive = match self.chance.below(6) {
            0 => Some(KeepAlive::For(Duration::ZERO)),
            1 => Some(KeepAlive::For(self.chance.millis(20_000))),
            2 => Some(KeepAlive::Forever),
            _ => None,
        };
        let wants = if self.chance.one_in(8) { Wants::Warmth } else { Wants::Lease };
        if !self.world.fair_weather && self.chance.one_in(4) {
            let patience = self.chance.millis(12_000);
            self.plan(patience, Happening::GiveUp(ticket));
        }
        let profile = Arc::clone(&self.world.profiles[&model]);
        self.give(Event::Acquire { model, ticket, keep_alive, profile, wants });
    }

    fn leave(&mut self, ticket: TicketId) {
        let (model, state) = self.world.tickets.get_mut(&ticket).expect("issued");
        if std::mem::replace(state, Ticket::Over) != Ticket::Over {
            let model = model.clone();
            self.give(Event::Leave { model, ticket });
        }
    }

    fn any_model(&mut self) -> ModelName {
        let index = self.chance.below(MODELS);
        self.world.profiles.keys().nth(usize(index)).expect("there are as many").clone()
    }

    fn tell(&mut self, worker: WorkerId, news: WorkerNews) {
        if let Some(Process { model, .. }) = self.world.processes.get(&worker) {
            let model = model.clone();
            self.give(Event::Worker { model, worker, news });
        }
    }

    fn ready(&mut self, worker: WorkerId) {
        let Some(process) = self.world.processes.get_mut(&worker) else { return };
        if process.told_to_go || process.ready {
            return;
        }
        process.ready = true;
        process.last_progress = self.world.now;
        let settled = self.world.profiles[&process.model].settled;
        process.holds = settled.map_or(process.holds, |need| need.memory);
        let slots = self.world.slots;
        self.tell(worker, WorkerNews::Ready { slots });
        self.measure(worker);
        let later = self.chance.millis(30_000);
        self.plan(later, Happening::Grow(worker));
    }

    /// It may take less than was thought; on a bad day also more.
    fn measure(&mut self, worker: WorkerId) {
        let Some(process) = self.world.processes.get(&worker) else { return };
        let promised = self.world.profiles[&process.model].need.memory;
        let more = if self.world.fair_weather { 0 } else { self.chance.below(promised) / 2 };
        let takes = (promised + more).saturating_sub(self.chance.below(promised + 1));
        let outcomes = self.world.measure(worker, takes);
        self.follow(outcomes);
    }

    fn fail(&mut self, worker: WorkerId) {
        let kind = match self.chance.below(3) {
            0 => LoadFailureKind::BadFiles,
            1 => LoadFailureKind::OutOfMemory,
            _ => LoadFailureKind::Runtime,
        };
        let failure = WorkerFailure::Load(LoadFailure { kind, message: String::new() });
        self.tell(worker, WorkerNews::Failed(failure));
    }

    fn exit(&mut self, worker: WorkerId) {
        let Some(process) = self.world.processes.remove(&worker) else { return };
        self.world.end_leases(worker);
        let exit = match self.chance.below(3) {
            0 => ProcessExit::OutOfMemory,
            1 => ProcessExit::Signal(15),
            _ => ProcessExit::Code(1),
        };
        let news = WorkerNews::Exited(exit);
        self.give(Event::Worker { model: process.model, worker, news });
    }

    fn disturb(&mut self) {
        let model = self.any_model();
        match self.chance.below(4) {
            0 => self.give(Event::Unload { model, when: Unloading::Unused }),
            1 => self.give(Event::Unload { model, when: Unloading::Forced }),
            2 => self.give(Event::Revise { model, profile: None }),
            _ => {
                let profile = &self.world.profiles[&model];
                let fingerprint = format!("{}'", profile.fingerprint);
                let profile = Arc::new(Profile { fingerprint, ..(**profile).clone() });
                self.world.profiles.insert(model.clone(), Arc::clone(&profile));
                self.give(Event::Revise { model, profile: Some(profile) });
            }
        }
    }
}

fn profiles(chance: &mut Chance, fair_weather: bool) -> BTreeMap<ModelName, Arc<Profile>> {
    let profile = |chance: &mut Chance| {
        let need = Need { memory: 10 + chance.below(50), device: 0 };
        let settled =
            chance.one_in(2).then(|| Need { memory: 1 + chance.below(need.memory), ..need });
        let pinned = !fair_weather && chance.one_in(10);
        let keep_alive = KeepAlivePolicy::of(KeepAlive::For(Duration::from_secs(10)));
        Arc::new(Profile { fingerprint: String::new(), keep_alive, pinned, need, settled })
    };
    (0..MODELS)
        .map(|index| (format!("m{index}").parse().expect("a name"), profile(chance)))
        .collect()
}

fn usize(number: u64) -> usize {
    usize::try_from(number).expect("small")
}
