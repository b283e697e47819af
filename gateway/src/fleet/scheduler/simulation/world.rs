//! Processes and tickets as the scheduler's effects make them, and the rules that must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use tokio::time::Instant;

use crate::fleet::scheduler::{
    Budget, Effect, Event, Need, Profile, Refusal, Rules, Scheduler, Unloading, WorkerNews,
};
use crate::fleet::worker::{TicketId, WorkerId};

#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) model: ModelName,
    pub(super) ready: bool,
    pub(super) told_to_go: bool,
    pub(super) killed: bool,
    pub(super) last_progress: Instant,
    /// What the scheduler knows that it takes.
    pub(super) holds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ticket {
    Waiting { since: Instant },
    Leased(WorkerId),
    Over,
}

/// What a carried out effect leads to.
pub(super) enum Outcome {
    Spawned(WorkerId),
    Granted(TicketId),
    ToldToGo(WorkerId),
    Killed(WorkerId),
}

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) rules: Rules,
    pub(super) slots: usize,
    pub(super) now: Instant,
    pub(super) profiles: BTreeMap<ModelName, Arc<Profile>>,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    pub(super) tickets: BTreeMap<TicketId, (ModelName, Ticket)>,
    pub(super) drain: Option<Instant>,
    /// Tickets that are over without having left: their holders say so whenever they get to it.
    pub(super) stale: Vec<TicketId>,
    /// Nobody fails, leaves or insists today: then nobody may wait in vain.
    pub(super) fair_weather: bool,
}

impl World {
    pub(super) fn give(&mut self, event: Event) -> Vec<Outcome> {
        let cause = event.clone();
        let effects = self.scheduler.handle(event, self.now);
        let outcomes =
            effects.into_iter().filter_map(|effect| self.carry_out(effect, &cause)).collect();
        self.check();
        outcomes
    }

    fn carry_out(&mut self, effect: Effect, cause: &Event) -> Option<Outcome> {
        match effect {
            Effect::Spawn { model, worker, .. } => return Some(self.spawn(model, worker)),
            Effect::Terminate { worker } | Effect::Kill { worker } => {
                return self.stop(worker, &effect, cause);
            }
            Effect::CutOff { worker } => {
                let forced = matches!(cause, Event::Unload { when: Unloading::Forced, .. });
                assert!(forced, "requests were cut off by {cause:?}");
                self.end_leases(worker);
            }
            Effect::Grant { ticket, worker } => {
                self.settle(ticket, worker, Ticket::Leased(worker));
                return Some(Outcome::Granted(ticket));
            }
            Effect::Warm { ticket, worker } => {
                self.settle(ticket, worker, Ticket::Over);
                self.stale.push(ticket);
            }
            Effect::Refuse { ticket, refusal } => {
                let fair = !matches!(refusal, Refusal::WaitedTooLong { .. });
                assert!(fair || !self.fair_weather, "in fair weather nobody waits in vain");
                self.stale.push(ticket);
                let (_, state) = self.tickets.get_mut(&ticket).expect("issued");
                assert!(matches!(state, Ticket::Waiting { .. }), "one outcome for each ticket");
                *state = Ticket::Over;
            }
            Effect::Gone { worker, .. } => {
                assert!(!self.processes.contains_key(&worker), "gone only when reaped");
            }
        }
        None
    }

    fn spawn(&mut self, model: ModelName, worker: WorkerId) -> Outcome {
        assert!(self.drain.is_none(), "nothing starts during a drain");
        let alive = self.processes.values().filter(|p| p.model == model).count();
        assert_eq!(alive, 0, "at most one live worker per model");
        let holds = self.profiles[&model].need.memory;
        let process = Process {
            model,
            ready: false,
            told_to_go: false,
            killed: false,
            last_progress: self.now,
            holds,
        };
        assert!(self.processes.insert(worker, process).is_none(), "ids are not reused");
        let Budget { memory, models, .. } = self.rules.budget;
        assert!(memory.is_none_or(|most| self.held() <= most), "no load beyond the budget");
        let count = self.processes.len() as u64;
        assert!(models.is_none_or(|most| count <= most), "no more models than allowed");
        Outcome::Spawned(worker)
    }

    /// What all processes take, going ones included: it is not back before they are reaped.
    fn held(&self) -> u64 {
        self.processes.values().map(|process| process.holds).sum()
    }

    fn settle(&mut self, ticket: TicketId, worker: WorkerId, to: Ticket) {
        let process = &self.processes[&worker];
        assert!(process.ready && !process.told_to_go, "served by a ready worker");
        let (model, state) = self.tickets.get_mut(&ticket).expect("issued");
        assert_eq!(*model, process.model);
        assert!(matches!(state, Ticket::Waiting { .. }), "one outcome for each ticket");
        *state = to;
    }

    fn stop(&mut self, worker: WorkerId, effect: &Effect, cause: &Event) -> Option<Outcome> {
        let leased = self.leases(worker) > 0;
        let drain_over = self.drain.is_some_and(|until| until <= self.now);
        let hang_timeout = self.rules.hang_timeout;
        let process = self.processes.get_mut(&worker).expect("only live workers are stopped");
        if leased && !process.told_to_go {
            let hung = process.last_progress + hang_timeout <= self.now;
            let allowed = match cause {
                Event::Worker { news: WorkerNews::Failed(_), .. } => true,
                Event::Tick => hung || drain_over,
                Event::Drain { .. } => drain_over,
                _ => false,
            };
            assert!(allowed, "a leased worker was stopped by {cause:?}");
        }
        let first = !std::mem::replace(&mut process.told_to_go, true);
        let kill = matches!(effect, Effect::Kill { .. });
        if kill {
            assert!(!process.killed, "one kill is enough");
            process.killed = true;
        }
        self.end_leases(worker);
        match (kill, first) {
            (true, _) => Some(Outcome::Killed(worker)),
            (false, true) => Some(Outcome::ToldToGo(worker)),
            (false, false) => panic!("one TERM is enough"),
        }
    }

    /// What the lease holders of a worker that is going see: their lease is over.
    pub(super) fn end_leases(&mut self, worker: WorkerId) {
        for (id, (_, ticket)) in &mut self.tickets {
            if *ticket == Ticket::Leased(worker) {
                *ticket = Ticket::Over;
                self.stale.push(*id);
            }
        }
    }

    pub(super) fn leases(&self, worker: WorkerId) -> usize {
        self.tickets.values().filter(|(_, t)| *t == Ticket::Leased(worker)).count()
    }

    /// Every rule that can be seen from outside.
    fn check(&self) {
        let mut oldest = None;
        for view in self.scheduler.view() {
            let waiting: Vec<_> = self
                .tickets
                .values()
                .filter_map(|(model, ticket)| match ticket {
                    Ticket::Waiting { since } if *model == view.name => Some(*since),
                    _ => None,
                })
                .collect();
            let process = self.processes.iter().find(|(_, p)| p.model == view.name);
            let phase = view.phase.as_ref();
            assert_eq!(view.queued, waiting.len(), "who waits is in the queue");
            assert!(waiting.len() <= self.rules.queue_max, "the queue is bounded");
            assert_eq!(phase.and_then(|p| p.worker), process.map(|(id, _)| *id), "told is what is");
            assert_eq!(view.holds.map(|need| need.memory), process.map(|(_, p)| p.holds));
            if let Some((id, process)) = process {
                let leaving = phase.is_some_and(|phase| phase.leaving.is_some());
                let serves = process.ready && !process.told_to_go && !leaving;
                let free = serves && self.leases(*id) < self.slots;
                assert!(!free || waiting.is_empty(), "nobody waits beside a free slot");
                assert!(self.leases(*id) <= self.slots);
            } else {
                let nobody = self.processes.is_empty();
                assert!(waiting.is_empty() || !nobody, "who waits for room waits for somebody");
            }
            oldest = waiting.into_iter().chain(oldest).min();
        }
        if let Some(since) = oldest {
            let latest = since + self.rules.queue_timeout;
            let deadline = self.scheduler.next_deadline();
            assert!(deadline.is_some_and(|at| at <= latest), "every wait has a deadline");
        }
        self.check_budget();
    }

    fn check_budget(&self) {
        let Some(most) = self.rules.budget.memory else { return };
        let views = self.scheduler.view().filter_map(|view| view.phase);
        let leaving: BTreeSet<_> = views
            .filter(|phase| phase.leaving.is_some())
            .filter_map(|phase| phase.worker)
            .collect();
        let staying = self.processes.iter().filter(|(id, _)| !leaving.contains(id));
        let staying = staying.map(|(_, process)| process);
        if staying.map(|process| process.holds).sum::<u64>() <= most || self.drain.is_some() {
            return;
        }
        // They have grown since they were let in; whoever can go must have been sent.
        for (id, process) in &self.processes {
            let idle = process.ready && !process.told_to_go && self.leases(*id) == 0;
            let pinned = self.profiles[&process.model].pinned;
            assert!(!idle || pinned, "an idle worker stays while there is too little room");
        }
    }

    pub(super) fn measure(&mut self, worker: WorkerId, takes: u64) -> Vec<Outcome> {
        let process = self.processes.get_mut(&worker).expect("it is there");
        let model = process.model.clone();
        let profile = &self.profiles[&model];
        // As documented: what was seen once counts at least.
        let least = match (process.ready, profile.settled) {
            (false, _) => profile.need.memory,
            (true, Some(settled)) => settled.memory,
            (true, None) => 0,
        };
        process.holds = takes.max(least);
        let news = WorkerNews::Measured(Need { memory: takes, device: 0 });
        self.give(Event::Worker { model, worker, news })
    }

    pub(super) fn tick_until(&mut self, target: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut rounds = 0;
        while let Some(deadline) = self.scheduler.next_deadline().filter(|at| *at <= target) {
            self.now = self.now.max(deadline);
            outcomes.extend(self.give(Event::Tick));
            rounds += 1;
            assert!(rounds < 1000, "a deadline that has been handled is gone");
            if !outcomes.is_empty() {
                // What follows from these may come before the target.
                return outcomes;
            }
        }
        self.now = self.now.max(target);
        outcomes
    }
}

/// Long enough for everything that is under way to end.
pub(super) const LONG: Duration = Duration::from_secs(3600);
