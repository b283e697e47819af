//! The fleet: all workers, and the only way to get a request to one of them.
//!
//! A request calls [`Fleet::acquire`] and gets a [`Lease`] or a [`Refusal`]. What is decided is
//! decided by `scheduler.rs`; the [`FleetTask`] here feeds it events in order and carries its
//! effects out, and is the one owner of every worker. `life.rs` owns one process, `child.rs`
//! touches process APIs, `link.rs` the socket, `status.rs` what others may see. Nothing in here
//! knows HTTP or a dialect.

mod place;
mod child;
mod life;
mod link;
pub mod scheduler;
pub mod status;
pub mod worker;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{LoadSpec, ModelCard, Work};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;

use self::child::Spawner;
use self::life::{Life, ORDERS_MAX, Order, Report};
use self::link::Link;
pub use self::link::{Loss, Replies, Reply, SendError};
use self::place::Place;
use self::scheduler::{Effect, Event, Profile, Scheduler, Wants, WorkerNews};
pub use self::scheduler::{Refusal, Rules};
use self::status::{Snapshot, WorkerFacts};
use self::worker::{ProcessExit, TicketId, WorkerId};
use crate::catalog::Model;
use crate::config::Models;
use crate::keep_alive::KeepAlive;
use crate::metrics::FleetMetrics;

/// Requests of the whole gateway that may want something of the fleet at once. Each holds one
/// place in the channel from beginning to end, so that its last word never waits.
const COMMANDS_MAX: usize = 8192;
const REPORTS_MAX: usize = 1024;

/// How workers are started.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The worker's program.
    pub program: PathBuf,
    /// Its environment, apart from the token for its link.
    pub environment: Vec<(OsString, OsString)>,
    /// A directory that is ours alone, for sockets.
    pub run_dir: PathBuf,
    /// ONNX Runtime's library.
    pub runtime_library: PathBuf,
    /// How each model is loaded and kept.
    pub models: Models,
}

/// A handle on the fleet; clones are cheap and the same fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    tickets: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Command {
    Acquire {
        model: Arc<Model>,
        ticket: TicketId,
        keep_alive: Option<KeepAlive>,
        wants: Wants,
        answer: oneshot::Sender<Result<Link, Refusal>>,
    },
    Event(Event),
}

/// The right to send one request to a ready worker.
///
/// The worker is not stopped for idleness or for room while this exists. Dropping it gives the
/// right back.
#[derive(Debug)]
pub struct Lease {
    link: Link,
    place: Place,
}

impl Lease {
    /// Sends the request. The lease lives on in the replies and ends with the last of them.
    ///
    /// # Errors
    /// [`SendError`]; the lease is given back.
    ///
    /// # Cancel safety
    /// Safe: dropping the future cancels the request.
    pub async fn send(self, work: Work) -> Result<Replies, SendError> {
        self.link.send(work, self.place).await
    }
}

impl Fleet {
    /// Prepares a fleet without workers. It does nothing until the task is run.
    ///
    /// # Errors
    /// An I/O error if the thread that spawns workers can't be started.
    pub fn new(rules: Rules, workers: WorkerSettings) -> std::io::Result<(Self, FleetTask)> {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (reports, news) = mpsc::channel(REPORTS_MAX);
        let (publisher, snapshot) = watch::channel(Arc::default());
        let hang_timeout = rules.hang_timeout;
        let task = FleetTask {
            scheduler: Scheduler::new(rules),
            workers,
            spawner: Spawner::start()?,
            crew: HashMap::new(),
            models: HashMap::new(),
            pending: HashMap::new(),
            lives: JoinSet::new(),
            tasks: HashMap::new(),
            hang_timeout,
            inbox,
            reports,
            news,
            publisher,
            metrics: FleetMetrics,
            draining: false,
        };
        Ok((Self { commands, snapshot, tickets: Arc::default() }, task))
    }

    /// Waits for the right to send one request to the model's worker, starting it if need be.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is left behind, except that a load that was started goes on.
    ///
    /// # Cancel safety
    /// Safe: dropping the future gives the place in the queue back.
    pub async fn acquire(
        &self,
        model: &Arc<Model>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Lease, Refusal> {
        let (link, place) = self.ask(model, keep_alive, Wants::Lease).await?;
        Ok(Lease { link, place })
    }

    /// Waits until the model is loaded; takes no slot of it, so it never waits for other requests.
    ///
    /// # Errors
    /// As [`Fleet::acquire`].
    ///
    /// # Cancel safety
    /// Safe, and the load goes on.
    pub async fn warm(
        &self,
        model: &Arc<Model>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<(), Refusal> {
        self.ask(model, keep_alive, Wants::Warmth).await.map(drop)
    }

    async fn ask(
        &self,
        model: &Arc<Model>,
        keep_alive: Option<KeepAlive>,
        wants: Wants,
    ) -> Result<(Link, Place), Refusal> {
        let ticket = TicketId(self.tickets.fetch_add(1, Ordering::Relaxed));
        let leave =
            self.commands.clone().reserve_owned().await.map_err(|_ended| Refusal::Draining)?;
        let place = Place::new(model.name.clone(), ticket, leave);
        let (answer, granted) = oneshot::channel();
        let model = Arc::clone(model);
        self.commands
            .send(Command::Acquire { model, ticket, keep_alive, wants, answer })
            .await
            .map_err(|_ended| Refusal::Draining)?;
        let link = granted.await.map_err(|_ended| Refusal::Draining)??;
        Ok((link, place))
    }

    /// Asks the model's worker to leave once it is unused; does not wait until it has.
    pub async fn unload(&self, model: &ModelName) {
        self.order(Event::Unload { model: model.clone() }).await;
    }

    /// Waits until the model has no worker.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn gone(&self, model: &ModelName) {
        let has_none = |snapshot: &Arc<Snapshot>| {
            let mut its = snapshot.models.iter().filter(|status| status.view.name == *model);
            its.all(|status| !status.has_worker())
        };
        // A fleet that has ended has no workers.
        drop(self.snapshot.clone().wait_for(has_none).await);
    }

    /// Takes no more requests, and stops what still runs at `until`. The task ends when the last
    /// worker is gone.
    pub async fn drain(&self, until: Instant) {
        self.order(Event::Drain { until }).await;
    }

    /// The fleet as it is now. Reading it wakes nothing and changes nothing.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    async fn order(&self, event: Event) {
        if self.commands.send(Command::Event(event)).await.is_err() {
            tracing::debug!("the fleet has ended already");
        }
    }
}

/// The one task that owns every worker.
#[derive(Debug)]
pub struct FleetTask {
    scheduler: Scheduler,
    workers: WorkerSettings,
    spawner: Spawner,
    crew: HashMap<WorkerId, Crew>,
    /// The catalogue's entry that each model was last asked for with.
    models: HashMap<ModelName, Arc<Model>>,
    pending: HashMap<TicketId, oneshot::Sender<Result<Link, Refusal>>>,
    lives: JoinSet<()>,
    /// Whose life each task is.
    tasks: HashMap<task::Id, (ModelName, WorkerId)>,
    inbox: mpsc::Receiver<Command>,
    reports: mpsc::Sender<Report>,
    news: mpsc::Receiver<Report>,
    publisher: watch::Sender<Arc<Snapshot>>,
    metrics: FleetMetrics,
    hang_timeout: Duration,
    draining: bool,
}

/// What belongs to one worker beside its state.
#[derive(Debug)]
struct Crew {
    model: Arc<Model>,
    orders: mpsc::Sender<Order>,
    spawned: Instant,
    pid: Option<u32>,
    loaded: Option<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    link: Link,
    card: Arc<ModelCard>,
    at: jiff::Timestamp,
}

impl FleetTask {
    /// Runs until the fleet was drained and the last worker is gone.
    pub async fn run(mut self) {
        while !(self.draining && self.scheduler.is_empty() && self.lives.is_empty()) {
            let deadline = self.scheduler.next_deadline();
            tokio::select! {
                // What workers report is heard first: a request that has just lost its worker
                // must find the scheduler knowing it.
                biased;
                Some(report) = self.news.recv() => self.hear(report),
                Some(command) = self.inbox.recv() => self.obey(command),
                Some(ended) = self.lives.join_next_with_id() => self.bury(ended),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)),
                    if deadline.is_some() => self.give(Event::Tick),
            }
            self.publish();
        }
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
        }
    }

    fn load_spec(&self, model: &Model) -> LoadSpec {
        let settings = self.workers.models.of(&model.name);
        settings.load_spec(&model.name, &model.path, &self.workers.runtime_library)
    }

    fn profile(&self, model: &Model) -> Profile {
        let settings = self.workers.models.of(&model.name);
        let spec = self.load_spec(model);
        Profile {
            fingerprint: format!("{} {spec:?}", model.digest),
            keep_alive: settings.keep_alive,
            pinned: settings.pinned,
        }
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Event(event) => {
                if let Event::Worker { worker, news: WorkerNews::Ready { .. }, .. } = &event
                    && let Some(crew) = self.crew.get(worker)
                {
                    self.metrics.loaded(&crew.model.name, crew.spawned.elapsed());
                }
                self.give(event);
            }
            Report::Spawned { worker, pid } => {
                if let Some(crew) = self.crew.get_mut(&worker) {
                    crew.pid = Some(pid);
                }
            }
            Report::Loaded { worker, link, card } => {
                if let Some(crew) = self.crew.get_mut(&worker) {
                    tracing::info!(
                        model = %crew.model.name,
                        worker = %worker,
                        architecture = card.architecture,
                        provider = card.execution_provider.as_str(),
                        context_length = card.context_length,
                        slots = card.slots,
                        runtime = card.runtime_version,
                        "worker ready"
                    );
                    let at = jiff::Timestamp::now();
                    crew.loaded = Some(Loaded { link, card: Arc::new(*card), at });
                }
            }
        }
    }

    fn give(&mut self, event: Event) {
        for effect in self.scheduler.handle(event, Instant::now()) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { model, worker } => self.spawn(&model, worker),
            Effect::Terminate { worker } => self.send_order(worker, Order::Terminate),
            Effect::Kill { worker } => self.send_order(worker, Order::Kill),
            Effect::Grant { ticket, worker } | Effect::Warm { ticket, worker } => {
                let link = self.crew.get(&worker).and_then(|crew| crew.loaded.as_ref());
                let answer = self.pending.remove(&ticket);
                if let (Some(answer), Some(loaded)) = (answer, link) {
                    // Whoever stopped waiting gives the place back by himself.
                    drop(answer.send(Ok(loaded.link.clone())));
                }
            }
            Effect::Refuse { ticket, refusal } => {
                if let Some(answer) = self.pending.remove(&ticket) {
                    drop(answer.send(Err(refusal)));
                }
            }
            Effect::Gone { model, worker, reason } => {
                self.crew.remove(&worker);
                self.metrics.exited(&model, reason.label());
                match reason {
                    worker::StopReason::Failed(failure) => {
                        tracing::warn!(%model, worker = %worker, %failure, "worker failed");
                    }
                    worker::StopReason::Expired
                    | worker::StopReason::Unloaded
                    | worker::StopReason::Drained => {
                        tracing::info!(%model, worker = %worker, reason = reason.label(), "worker gone");
                    }
                }
            }
        }
    }

    fn spawn(&mut self, name: &ModelName, worker: WorkerId) {
        let model =
            Arc::clone(self.models.get(name).expect("only models that were asked for start"));
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let spec = self.load_spec(&model);
        let life = Life {
            worker,
            model: name.clone(),
            run_dir: self.workers.run_dir.clone(),
            program: self.workers.program.clone(),
            environment: self.workers.environment.clone(),
            spec,
            spawner: self.spawner.clone(),
            hang_timeout: self.hang_timeout,
            reports: self.reports.clone(),
            orders: inbox,
        };
        tracing::info!(model = %name, worker = %worker, "starting a worker");
        self.metrics.spawned(name);
        let spawned = Instant::now();
        self.crew.insert(worker, Crew { model, orders, spawned, pid: None, loaded: None });
        let id = self.lives.spawn(life.live()).id();
        self.tasks.insert(id, (name.clone(), worker));
    }

    fn send_order(&self, worker: WorkerId, order: Order) {
        if let Some(crew) = self.crew.get(&worker)
            && let Err(error) = crew.orders.try_send(order)
        {
            tracing::debug!(worker = %worker, %error, "the worker is gone already");
        }
    }

    fn publish(&self) {
        let facts = |worker: WorkerId| {
            self.crew.get(&worker).map(|crew| WorkerFacts {
                pid: crew.pid,
                card: crew.loaded.as_ref().map(|loaded| Arc::clone(&loaded.card)),
                loaded_at: crew.loaded.as_ref().map(|loaded| loaded.at),
            })
        };
        let models = self.scheduler.view().map(|view| {
            let facts = view.phase.as_ref().and_then(|phase| phase.worker).and_then(facts);
            let entry = Arc::clone(self.models.get(&view.name).expect("it was asked for"));
            status::ModelStatus { view, model: entry, worker: facts.unwrap_or_default() }
        });
        let snapshot = Snapshot { models: models.collect(), draining: self.draining };
        self.publisher.send_replace(Arc::new(snapshot));
    }
}
