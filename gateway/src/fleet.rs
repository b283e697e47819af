//! The fleet: all workers, and the only way to get a request to one of them.
//!
//! A request calls [`Fleet::acquire`] and gets a [`Lease`] or a [`Refusal`]. What is decided is
//! decided by `scheduler.rs`; the [`FleetTask`] of `task.rs` feeds it events in order and carries
//! its effects out, and is the one owner of every worker, with a `crew.rs` for each. `life.rs` owns one
//! process, `child.rs` touches process APIs, `link.rs` the socket, `status.rs` what others may see,
//! `records.rs` what workers took, `devices.rs` who asks the devices. Nothing in here knows HTTP or a
//! dialect.

mod place;
mod task;
mod crew;
mod child;
mod life;
mod link;
mod records;
mod devices;
pub mod memory;
pub mod scheduler;
pub mod status;
pub mod worker;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::Work;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::child::Spawner;
use self::devices::Devices;
use self::link::Link;
pub use self::link::{Loss, Replies, Reply, SendError};
use self::place::Place;
use self::records::Records;
use self::scheduler::{Event, Scheduler, Unloading, Wants};
pub use self::scheduler::{Refusal, Rules};
use self::status::{Snapshot, Transition};
pub use self::task::FleetTask;
use self::worker::TicketId;
use crate::catalog::{self, Model};
use crate::config::Models;
use crate::keep_alive::KeepAlive;
use crate::metrics::FleetMetrics;

/// Requests of the whole gateway that may want something of the fleet at once. Each holds one
/// place in the channel from beginning to end, so that its last word never waits.
const COMMANDS_MAX: usize = 8192;
const REPORTS_MAX: usize = 1024;
/// How many transitions one who listens may be behind.
const TRANSITIONS_MAX: usize = 1024;

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
    /// Where it is kept what workers took.
    pub records: PathBuf,
}

/// What may change while the fleet runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What decisions follow.
    pub rules: Rules,
    /// How each model is loaded and kept.
    pub models: Models,
}

/// A handle on the fleet; clones are cheap and the same fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    transitions: broadcast::Sender<Arc<Transition>>,
    tickets: Arc<AtomicU64>,
}

/// What somebody who asked for a worker is told.
type Answer = Result<Link, Refusal>;

#[derive(Debug)]
enum Command {
    Acquire {
        model: Arc<Model>,
        ticket: TicketId,
        keep_alive: Option<KeepAlive>,
        wants: Wants,
        answer: oneshot::Sender<Answer>,
    },
    Event(Event),
    Configure(Box<Settings>),
    Catalogue(catalog::Models),
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
    /// An I/O error if the threads that spawn workers and ask devices can't be started.
    pub fn new(rules: Rules, workers: WorkerSettings) -> std::io::Result<(Self, FleetTask)> {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (reports, news) = mpsc::channel(REPORTS_MAX);
        let (publisher, snapshot) = watch::channel(Arc::default());
        let (transitions, _nobody_yet) = broadcast::channel(TRANSITIONS_MAX);
        let task = FleetTask {
            scheduler: Scheduler::new(rules.clone()),
            rules,
            records: Records::open(workers.records.clone()),
            workers,
            devices: Devices::start()?,
            spawner: Spawner::start()?,
            crew: HashMap::new(),
            models: HashMap::new(),
            pending: HashMap::new(),
            lives: JoinSet::new(),
            writer: JoinSet::new(),
            tasks: HashMap::new(),
            inbox,
            reports,
            news,
            publisher,
            transitions: transitions.clone(),
            gone: HashMap::new(),
            answers: Vec::new(),
            metrics: FleetMetrics,
            beyond_budget: false,
            draining: false,
        };
        Ok((Self { commands, snapshot, transitions, tickets: Arc::default() }, task))
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

    /// The same for a model that the configuration wants loaded from the start.
    ///
    /// # Errors
    /// As [`Fleet::acquire`].
    ///
    /// # Cancel safety
    /// As [`Fleet::warm`].
    pub async fn preload(&self, model: &Arc<Model>) -> Result<(), Refusal> {
        self.ask(model, None, Wants::Preload).await.map(drop)
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
        self.order(Event::Unload { model: model.clone(), when: Unloading::Unused }).await;
    }

    /// Makes the model's worker leave now. Those whom it serves, and those who wait for it, are
    /// told so.
    pub async fn unload_by_force(&self, model: &ModelName) {
        self.order(Event::Unload { model: model.clone(), when: Unloading::Forced }).await;
    }

    /// Waits until the worker that the model has now is gone and reaped.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub fn gone(&self, model: &ModelName) -> impl Future<Output = ()> + Send + use<> {
        let (mut snapshot, model) = (self.snapshot.clone(), model.clone());
        // Looked up at once and not when the future is first polled: it may be another by then.
        let worker = snapshot.borrow_and_update().worker_of(&model);
        async move {
            if worker.is_some() {
                // An error means that the fleet has ended, and with it the worker.
                drop(snapshot.wait_for(|now| now.worker_of(&model) != worker).await);
            }
        }
    }

    /// Follows other settings from now on. What runs with settings that have changed finishes what
    /// it has and makes place for a worker with the new ones; all others are left alone.
    pub async fn configure(&self, settings: Settings) {
        if self.commands.send(Command::Configure(Box::new(settings))).await.is_err() {
            tracing::debug!("the fleet has ended already");
        }
    }

    /// Compares what is loaded with the models that there are now.
    pub async fn compare(&self, models: catalog::Models) {
        if self.commands.send(Command::Catalogue(models)).await.is_err() {
            tracing::debug!("the fleet has ended already");
        }
    }

    /// The fleet as it is now, and every change of a worker's state from then on. Who falls too far
    /// behind is told how much he missed.
    #[must_use]
    pub fn watch(&self) -> (Arc<Snapshot>, broadcast::Receiver<Arc<Transition>>) {
        // In this order: what happens between the two is told twice and not missed.
        let transitions = self.transitions.subscribe();
        (self.snapshot(), transitions)
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

    /// Waits until the gateway takes no more requests.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn draining(&self) {
        // An error means that the fleet has ended, after a drain.
        drop(self.snapshot.clone().wait_for(|now| now.draining).await);
    }

    async fn order(&self, event: Event) {
        if self.commands.send(Command::Event(event)).await.is_err() {
            tracing::debug!("the fleet has ended already");
        }
    }
}

#[cfg(test)]
mod tests;
