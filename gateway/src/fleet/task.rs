//! The one task that owns every worker: it feeds the scheduler events in order, carries its effects
//! out, has workers and devices looked at, and publishes what others may see.
//!
//! Started once, by `cli/serve.rs`. It decides nothing itself. What belongs to a single worker is in
//! `crew.rs`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::LoadSpec;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::child::Spawner;
use super::crew::{Crew, Seen};
use super::devices::Devices;
use super::life::{Life, ORDERS_MAX, Order, Report};
use super::records::{self, Records};
use super::scheduler::{Effect, Event, Profile, Rules, Scheduler, WorkerNews};
use super::status::{self, Snapshot, Transition};
use super::worker::{ProcessExit, SpawnReason, StopReason, TicketId, WorkerId};
use super::{Answer, Command, Settings, WorkerSettings};
use crate::catalog::{self, Model};
use crate::metrics::FleetMetrics;

/// How often workers are looked at while there are any.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The one task that owns every worker.
#[derive(Debug)]
pub struct FleetTask {
    pub(super) scheduler: Scheduler,
    /// As they are configured; what they leave open is filled in for the scheduler.
    pub(super) rules: Rules,
    pub(super) workers: WorkerSettings,
    pub(super) spawner: Spawner,
    pub(super) records: Records,
    pub(super) devices: Devices,
    pub(super) crew: HashMap<WorkerId, Crew>,
    /// The catalogue's entry that each model was last asked for with.
    pub(super) models: HashMap<ModelName, Arc<Model>>,
    pub(super) pending: HashMap<TicketId, oneshot::Sender<Answer>>,
    pub(super) lives: JoinSet<()>,
    /// Writes the records, one at a time.
    pub(super) writer: JoinSet<io::Result<()>>,
    /// Whose life each task is.
    pub(super) tasks: HashMap<task::Id, (ModelName, WorkerId)>,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) news: mpsc::Receiver<Report>,
    pub(super) publisher: watch::Sender<Arc<Snapshot>>,
    pub(super) transitions: broadcast::Sender<Arc<Transition>>,
    /// Why workers went since the last time that something was published.
    pub(super) gone: HashMap<ModelName, StopReason>,
    /// What to tell those who asked, once it is published.
    pub(super) answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    pub(super) metrics: FleetMetrics,
    /// Whether workers hold more than they may, which is told once.
    pub(super) beyond_budget: bool,
    pub(super) draining: bool,
}

impl FleetTask {
    /// Runs until the fleet was drained and the last worker is gone.
    pub async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !(self.draining && self.scheduler.is_empty() && self.lives.is_empty()) {
            let deadline = self.scheduler.next_deadline();
            tokio::select! {
                // What workers report is heard first: a request that has just lost its worker
                // must find the scheduler knowing it.
                biased;
                Some(report) = self.news.recv() => self.hear(report),
                Some(command) = self.inbox.recv() => self.obey(command),
                Some(ended) = self.lives.join_next_with_id() => self.bury(ended),
                Some(written) = self.writer.join_next() => {
                    self.records.written(written.unwrap_or_else(|panic| Err(panic.into())));
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)),
                    if deadline.is_some() => self.give(Event::Tick),
                Some(_figures) = self.devices.answered() => self.heed_devices(),
                _look = looks.tick(), if !self.crew.is_empty() => self.look_at_all(),
            }
            self.publish();
            // Whoever is told something finds it published when he looks.
            for (answer, told) in self.answers.drain(..) {
                // Whoever stopped waiting gives the place back by himself.
                drop(answer.send(told));
            }
        }
        // What is being written now may be older than what is known.
        while self.writer.join_next().await.is_some() {}
        self.write_records();
        while self.writer.join_next().await.is_some() {}
    }

    /// A life that ended has reported so itself, unless it panicked.
    fn bury(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some((model, worker)) = self.tasks.remove(&id) else { return };
        if let Err(error) = ended {
            tracing::error!(%model, worker = %worker, %error, "the task of a worker panicked");
            let news = WorkerNews::Exited(ProcessExit::Unknown);
            self.give(Event::Worker { model, worker, news });
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Its client has left already: it must start nothing, and evict nobody.
            Command::Acquire { answer, .. } if answer.is_closed() => {}
            Command::Acquire { model, ticket, keep_alive, wants, answer } => {
                self.pending.insert(ticket, answer);
                let profile = Arc::new(self.profile(&model));
                let name = model.name.clone();
                self.models.insert(name.clone(), model);
                let event = Event::Acquire { model: name, ticket, keep_alive, profile, wants };
                self.give(event);
            }
            Command::Event(event) => {
                self.draining |= matches!(event, Event::Drain { .. });
                if let Event::Leave { ticket, .. } = &event {
                    self.pending.remove(ticket);
                }
                self.give(event);
            }
            Command::Configure(settings) => {
                let Settings { rules, models } = *settings;
                self.rules = rules;
                self.follow_rules();
                self.workers.models = models;
                for model in self.models.values().cloned().collect::<Vec<_>>() {
                    self.revise(&model);
                }
                self.give(Event::Tick);
            }
            Command::Catalogue(models) => self.compare(&models),
        }
    }

    /// The models directory as it is now: what was loaded from other files than these is not kept.
    fn compare(&mut self, found: &catalog::Models) {
        for known in self.models.values().cloned().collect::<Vec<_>>() {
            match catalog::pick(found, &known.name) {
                Some(model) if model.digest == known.digest => {}
                Some(model) => {
                    tracing::info!(model = %model.name, "its files have changed");
                    self.models.insert(model.name.clone(), Arc::clone(&model));
                    self.revise(&model);
                }
                None => self.give(Event::Revise { model: known.name.clone(), profile: None }),
            }
        }
    }

    fn revise(&mut self, model: &Model) {
        let profile = Some(Arc::new(self.profile(model)));
        self.give(Event::Revise { model: model.name.clone(), profile });
    }

    fn load_spec(&self, model: &Model) -> LoadSpec {
        let settings = self.workers.models.of(&model.name);
        settings.load_spec(&model.name, &model.path, &self.workers.runtime_library)
    }

    fn profile(&self, model: &Model) -> Profile {
        let settings = self.workers.models.of(&model.name);
        let spec = self.load_spec(model);
        let fingerprint = fingerprint(model, &spec);
        let record = self.records.of(&model.name, &fingerprint);
        Profile {
            keep_alive: settings.keep_alive,
            pinned: settings.pinned,
            need: record.map_or_else(|| records::reckon(model, &spec), records::Record::load),
            settled: record.map(records::Record::settled),
            fingerprint,
        }
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Event(event) => {
                let ready = match &event {
                    Event::Worker { worker, news: WorkerNews::Ready { .. }, .. } => Some(*worker),
                    _ => None,
                };
                self.give(event);
                if let Some(worker) = ready
                    && let Some(crew) = self.crew.get(&worker)
                {
                    self.metrics.loaded(&crew.model.name, crew.spawned.elapsed());
                    self.look_at(worker);
                }
            }
            Report::Spawned { worker, pid } => {
                if let Some(crew) = self.crew.get_mut(&worker) {
                    crew.has_process(pid);
                }
            }
            Report::Loaded { worker, link, card } => {
                if let Some(crew) = self.crew.get_mut(&worker) {
                    crew.has_loaded(worker, link, *card);
                }
            }
        }
    }

    /// The rules as the scheduler needs them: what nobody said is what the devices have.
    fn follow_rules(&mut self) {
        let mut rules = self.rules.clone();
        rules.budget.device = rules.budget.device.or(self.devices.figures().default_budget());
        self.scheduler.set_rules(rules);
    }

    fn heed_devices(&mut self) {
        self.follow_rules();
        self.look_at_each();
        self.give(Event::Tick);
    }

    fn look_at_all(&mut self) {
        // Nobody else's memory is on a device, and an idle driver is best left alone.
        if self.crew.values().any(Crew::is_on_a_device) {
            self.devices.ask(Instant::now());
        }
        self.look_at_each();
        self.write_records();
    }

    fn look_at_each(&mut self) {
        for worker in self.crew.keys().copied().collect::<Vec<_>>() {
            self.look_at(worker);
        }
        self.heed_budget();
    }

    fn heed_budget(&mut self) {
        let excess = self.scheduler.excess();
        match excess {
            Some(excess) if !self.beyond_budget => {
                tracing::warn!("workers in use hold {excess}; they leave once they are unused");
            }
            None if self.beyond_budget => tracing::info!("workers keep within the budget again"),
            Some(_) | None => {}
        }
        self.beyond_budget = excess.is_some();
    }

    fn look_at(&mut self, worker: WorkerId) {
        let Some(crew) = self.crew.get_mut(&worker) else { return };
        let (takes, seen) = crew.look(self.devices.figures());
        let model = crew.model.name.clone();
        if let Some(Seen { load_peak, takes }) = seen {
            self.records.note(&model, &crew.fingerprint, load_peak, takes);
        }
        if let Some(takes) = takes {
            self.give(Event::Worker { model, worker, news: WorkerNews::Measured(takes) });
        }
    }

    fn write_records(&mut self) {
        // One at a time, so that the last one written is the last one.
        if self.writer.is_empty()
            && let Some((file, bytes)) = self.records.take_unwritten()
        {
            self.writer.spawn_blocking(move || records::write(&file, &bytes));
        }
    }

    fn give(&mut self, event: Event) {
        for effect in self.scheduler.handle(event, Instant::now()) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { model, worker, reason } => self.spawn(&model, worker, reason),
            Effect::Terminate { worker } => self.send_order(worker, Order::Terminate),
            Effect::Kill { worker } => self.send_order(worker, Order::Kill),
            Effect::CutOff { worker } => {
                if let Some(crew) = self.crew.get(&worker) {
                    crew.cut_off();
                }
            }
            Effect::Grant { ticket, worker } | Effect::Warm { ticket, worker } => {
                let link = self.crew.get(&worker).and_then(Crew::link);
                let answer = self.pending.remove(&ticket);
                if let (Some(answer), Some(link)) = (answer, link) {
                    self.answers.push((answer, Ok(link.clone())));
                }
            }
            Effect::Refuse { ticket, refusal } => {
                if let Some(answer) = self.pending.remove(&ticket) {
                    self.answers.push((answer, Err(refusal)));
                }
            }
            Effect::Gone { model, worker, reason } => self.gone(model, worker, reason),
        }
    }

    fn gone(&mut self, model: ModelName, worker: WorkerId, reason: StopReason) {
        self.crew.remove(&worker);
        self.metrics.exited(&model, &reason);
        match &reason {
            StopReason::Failed(failure) => {
                tracing::warn!(%model, worker = %worker, %failure, "worker failed");
            }
            StopReason::Evicted(cause) => {
                tracing::info!(%model, worker = %worker, cause = cause.label(), "worker evicted");
            }
            StopReason::Expired
            | StopReason::Unloaded
            | StopReason::Replaced
            | StopReason::Drained => {
                tracing::info!(%model, worker = %worker, reason = reason.label(), "worker gone");
            }
        }
        self.gone.insert(model, reason);
    }

    fn spawn(&mut self, name: &ModelName, worker: WorkerId, reason: SpawnReason) {
        let model =
            Arc::clone(self.models.get(name).expect("only models that were asked for start"));
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let spec = self.load_spec(&model);
        let fingerprint = fingerprint(&model, &spec);
        let life = Life {
            worker,
            model: name.clone(),
            run_dir: self.workers.run_dir.clone(),
            program: self.workers.program.clone(),
            environment: self.workers.environment.clone(),
            spec,
            spawner: self.spawner.clone(),
            hang_timeout: self.rules.hang_timeout,
            reports: self.reports.clone(),
            orders: inbox,
        };
        let why = reason.label();
        tracing::info!(model = %name, worker = %worker, reason = why, "starting a worker");
        self.metrics.spawned(name, reason);
        self.crew.insert(worker, Crew::new(model, fingerprint, orders));
        let id = self.lives.spawn(life.live()).id();
        self.tasks.insert(id, (name.clone(), worker));
    }

    fn send_order(&self, worker: WorkerId, order: Order) {
        if let Some(crew) = self.crew.get(&worker) {
            crew.order(worker, order);
        }
    }

    fn publish(&mut self) {
        let facts = |worker: WorkerId| self.crew.get(&worker).map(Crew::facts);
        let models = self.scheduler.view().map(|view| {
            let facts = view.phase.as_ref().and_then(|phase| phase.worker).and_then(facts);
            let entry = Arc::clone(self.models.get(&view.name).expect("it was asked for"));
            status::ModelStatus { view, model: entry, worker: facts.unwrap_or_default() }
        });
        let snapshot = Snapshot {
            models: models.collect(),
            draining: self.draining,
            budget: self.scheduler.budget(),
            devices: self.devices.figures().totals.clone(),
        };
        let gone = std::mem::take(&mut self.gone);
        let before = self.publisher.send_replace(Arc::new(snapshot));
        for transition in status::transitions(&before, &self.publisher.borrow(), &gone) {
            // Nobody may be listening.
            drop(self.transitions.send(Arc::new(transition)));
        }
    }
}

/// Differs whenever a worker would load something else.
fn fingerprint(model: &Model, spec: &LoadSpec) -> String {
    format!("{} {spec:?}", model.digest)
}
