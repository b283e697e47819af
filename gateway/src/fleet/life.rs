//! One worker process from spawn to reap: the task that owns its socket, its child and its link.
//!
//! `fleet.rs` starts one life per `Effect::Spawn` and gives it the scheduler's orders; it answers
//! with events. It decides nothing: it does not know keep_alive, queues or other models.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::endpoint;
use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{
    FromWorker, LINK_TOKEN_VARIABLE, LinkToken, LoadSpec, ModelCard, ToWorker,
};
use interprocess::local_socket::tokio::Listener;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use super::child::{Child, Launch, Spawner};
use super::link::{self, Expected, Inbox, InboxError, Link, Loss, Socket};
use super::scheduler::{Event, WorkerNews};
use super::worker::{ProcessExit, WorkerFailure, WorkerId};

/// A worker with requests is asked at least this often whether it gets anything done.
const PING_EVERY_MAX: Duration = Duration::from_secs(5);
/// Progress is reported at least this often, while there is any.
const REPORT_EVERY_MAX: Duration = Duration::from_secs(1);
/// How long what a dead worker had sent may take to be read, and how long a worker that closed
/// its link may take to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the scheduler wants of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Terminate,
    Kill,
}

/// Scheduler's orders to one worker: at most one of each kind.
pub(super) const ORDERS_MAX: usize = 4;

/// What a life tells the fleet.
#[derive(Debug)]
pub(super) enum Report {
    /// For the scheduler.
    Event(Event),
    /// The process exists.
    Spawned { worker: WorkerId, pid: u32 },
    /// The model is loaded. Goes before the scheduler's own `Ready`.
    Loaded { worker: WorkerId, link: Link, card: Box<ModelCard> },
}

/// Everything one life needs.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) worker: WorkerId,
    pub(super) model: ModelName,
    /// The directory for its socket.
    pub(super) run_dir: PathBuf,
    pub(super) program: PathBuf,
    pub(super) environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    pub(super) spec: LoadSpec,
    pub(super) spawner: Spawner,
    /// What the rhythm of pings and reports has to be faster than.
    pub(super) hang_timeout: Duration,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) orders: mpsc::Receiver<Order>,
}

impl Life {
    /// Lives it. The last report is always that the process is gone.
    pub(super) async fn live(mut self) {
        let link = LinkCell::default();
        let exit = match self.begin().await {
            Ok((listener, child, token)) => self.run(listener, child, token, &link).await,
            Err(failure) => {
                self.reporter().tell(WorkerNews::Failed(failure)).await;
                ProcessExit::Unknown
            }
        };
        // Only now, with the exit on its way, may requests learn that they lost their worker, as
        // they do when the cell is dropped: one that tries again at once must not be sent to this
        // one a second time.
        self.reporter().tell(WorkerNews::Exited(exit)).await;
    }

    fn reporter(&self) -> Reporter<'_> {
        Reporter { model: &self.model, worker: self.worker, reports: &self.reports }
    }

    async fn begin(&self) -> Result<(Listener, Child, LinkToken), WorkerFailure> {
        let spawn_failed = |reason: String| WorkerFailure::Spawn(reason);
        // Where sockets are no files but names that all can see, nobody shall know this one.
        let salt = new_token().map_err(|error| spawn_failed(error.to_string()))?.to_hex();
        let socket = self.run_dir.join(format!("{:x}-{}.sock", self.worker.0, &salt[..8]));
        let listener = endpoint::bind(&socket)
            .map_err(|error| spawn_failed(format!("can't bind {}: {error}", socket.display())))?;
        let token = new_token().map_err(|error| spawn_failed(error.to_string()))?;
        let mut environment = self.environment.clone();
        environment.push((LINK_TOKEN_VARIABLE.into(), token.to_hex().into()));
        let launch = Launch {
            program: self.program.clone(),
            arguments: vec![
                "--socket".into(),
                socket.into(),
                "--gateway-pid".into(),
                std::process::id().to_string().into(),
            ],
            environment,
            label: format!("{}#{}", self.model, self.worker),
        };
        let child = self.spawner.spawn(launch).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|source| format!(": {source}"));
            spawn_failed(format!("{error}{}", cause.unwrap_or_default()))
        })?;
        Ok((listener, child, token))
    }

    async fn run(
        &mut self,
        listener: Listener,
        mut child: Child,
        token: LinkToken,
        link: &LinkCell,
    ) -> ProcessExit {
        let (pid, worker) = (child.pid(), self.worker);
        self.reporter().send(Report::Spawned { worker, pid }).await;
        let reporter = Reporter { model: &self.model, worker, reports: &self.reports };
        let talk =
            Talk { reporter, spec: self.spec.clone(), hang_timeout: self.hang_timeout, link };
        let mut talking = pin!(talk.talk(listener, Expected { pid, token }));
        let mut talk_over = false;
        // When a worker that has closed its link has to be gone.
        let mut leave_by = None;
        let exit = loop {
            tokio::select! {
                exit = child.exited() => break exit,
                // Nobody left to give orders means that the gateway is ending.
                order = self.orders.recv() => match order {
                    Some(Order::Terminate) => {
                        if let Some(link) = link.0.get() {
                            link.post(&ToWorker::Shutdown);
                        }
                        child.terminate();
                    }
                    Some(Order::Kill) | None => {
                        child.kill();
                        break child.exited().await;
                    }
                },
                end = &mut talking, if !talk_over => {
                    talk_over = true;
                    match end {
                        Err(failure) => reporter.tell(WorkerNews::Failed(failure)).await,
                        // It is ending, and how it ends says more than that its link did.
                        Ok(()) => leave_by = Some(Instant::now() + LAST_WORDS),
                    }
                }
                () = tokio::time::sleep_until(leave_by.unwrap_or_else(Instant::now)),
                    if leave_by.is_some() =>
                {
                    leave_by = None;
                    let failure =
                        WorkerFailure::Protocol("it closed its link and goes on".to_owned());
                    reporter.tell(WorkerNews::Failed(failure)).await;
                }
            }
        };
        // What it said before it died still counts: above all, why it can't load its model.
        if !talk_over && let Ok(Err(failure)) = tokio::time::timeout(LAST_WORDS, talking).await {
            reporter.tell(WorkerNews::Failed(failure)).await;
        }
        exit
    }
}

/// The link, once there is one. Dropping it tells everybody on the link that the worker is lost.
#[derive(Debug, Default)]
struct LinkCell(OnceCell<Link>);

impl Drop for LinkCell {
    fn drop(&mut self) {
        if let Some(link) = self.0.get() {
            link.close(Loss::WorkerGone);
        }
    }
}

/// Where one worker's news go.
#[derive(Debug, Clone, Copy)]
struct Reporter<'a> {
    model: &'a ModelName,
    worker: WorkerId,
    reports: &'a mpsc::Sender<Report>,
}

impl Reporter<'_> {
    async fn tell(self, news: WorkerNews) {
        let (model, worker) = (self.model.clone(), self.worker);
        self.send(Report::Event(Event::Worker { model, worker, news })).await;
    }

    async fn send(self, report: Report) {
        if self.reports.send(report).await.is_err() {
            tracing::debug!(worker = %self.worker, "nobody listens any more: the gateway is ending");
        }
    }
}

fn new_token() -> Result<LinkToken, getrandom::Error> {
    let mut token = [0; 16];
    getrandom::fill(&mut token)?;
    Ok(LinkToken(token))
}

/// The conversation over the link: handshake, load, then replies until the end.
struct Talk<'a> {
    reporter: Reporter<'a>,
    spec: LoadSpec,
    hang_timeout: Duration,
    link: &'a LinkCell,
}

impl Talk<'_> {
    async fn talk(self, listener: Listener, expected: Expected) -> Result<(), WorkerFailure> {
        let (socket, inbox) = match link::accept(&listener, expected).await {
            Ok(halves) => halves,
            // It ended in the middle of the handshake; its exit code says more.
            Err(InboxError::NoHello("nothing")) => return Ok(()),
            Err(error) => return Err(broken(&error)),
        };
        // The socket's file has done its work.
        drop(listener);
        self.converse(socket, inbox).await
    }

    async fn converse(self, socket: Arc<Socket>, mut inbox: Inbox) -> Result<(), WorkerFailure> {
        let (link, writing) = Link::new(socket);
        let mut writing = pin!(writing);
        let mut written = false;
        let link = self.link.0.get_or_init(|| async { link }).await;
        link.post(&ToWorker::Load(self.spec.clone()));
        let mut ping = tokio::time::interval((self.hang_timeout / 4).min(PING_EVERY_MAX));
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch { ready: false, pings: 0, progress: 0, reported: Instant::now() };
        loop {
            tokio::select! {
                message = inbox.next() => match message {
                    Ok(Some(message)) => self.hear(message, link, &mut watch).await?,
                    Ok(None) => return Ok(()),
                    // A process that dies resets its socket: its exit says more.
                    Err(InboxError::Io(_)) => return Ok(()),
                    Err(error) => return Err(broken(&error)),
                },
                () = &mut writing, if !written => written = true,
                _tick = ping.tick() => if link.is_in_use() {
                    watch.pings += 1;
                    link.post(&ToWorker::Ping { nonce: watch.pings });
                },
            }
        }
    }

    async fn hear(
        &self,
        message: FromWorker,
        link: &Link,
        watch: &mut Watch,
    ) -> Result<(), WorkerFailure> {
        match message {
            FromWorker::Step(_)
            | FromWorker::Embeddings { .. }
            | FromWorker::Scores { .. }
            | FromWorker::Tokens { .. }
            | FromWorker::Text { .. }
            | FromWorker::Failed { .. } => {
                link.deliver(message).map_err(|error| broken(&error))?;
                self.note_progress(watch).await;
            }
            FromWorker::Pong { progress, .. } => {
                if progress != watch.progress {
                    watch.progress = progress;
                    self.note_progress(watch).await;
                }
            }
            FromWorker::LoadProgress { stage, fraction } => {
                self.reporter.tell(WorkerNews::LoadProgress { stage, fraction }).await;
            }
            FromWorker::Ready(_) if watch.ready => {
                return Err(WorkerFailure::Protocol("it was ready twice".to_owned()));
            }
            FromWorker::Ready(card) => {
                watch.ready = true;
                let slots = usize::try_from(card.slots).unwrap_or(usize::MAX);
                let link = link.clone();
                let worker = self.reporter.worker;
                self.reporter.send(Report::Loaded { worker, link, card: Box::new(card) }).await;
                self.reporter.tell(WorkerNews::Ready { slots }).await;
            }
            FromWorker::LoadFailed(failure) => {
                let failure = WorkerFailure::Load(failure);
                self.reporter.tell(WorkerNews::Failed(failure)).await;
            }
            FromWorker::Hello { .. } => {
                return Err(WorkerFailure::Protocol("it said hello twice".to_owned()));
            }
        }
        Ok(())
    }

    async fn note_progress(&self, watch: &mut Watch) {
        let now = Instant::now();
        if now.duration_since(watch.reported) >= (self.hang_timeout / 4).min(REPORT_EVERY_MAX) {
            watch.reported = now;
            self.reporter.tell(WorkerNews::Progress).await;
        }
    }
}

fn broken(error: &dyn std::error::Error) -> WorkerFailure {
    WorkerFailure::Protocol(error.to_string())
}

/// What one conversation remembers between messages.
struct Watch {
    ready: bool,
    pings: u64,
    progress: u64,
    reported: Instant,
}
