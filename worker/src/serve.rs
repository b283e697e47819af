//! The worker's threads, from the first message to the last.
//!
//! The link's thread reads, answers pings at once and hands the rest on; the preparing thread
//! turns requests into tokens; the engine's thread loads the model and runs it. The process ends
//! from the link's thread, whatever the others are doing: an end of the link must end a worker
//! that is deep in a forward pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use hearth_shared::exit_code::WorkerExit;
use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FromWorker, LoadSpec, ModelCard, RequestFailure, ToWorker, Work};

use crate::link::{Inbox, LinkError, Outbox};
use crate::load::load_any;
use crate::work::{AnyEngine, AnyPreparer, Ready};

/// Messages on their way from one thread to the next. Far more than a gateway sends at once; a
/// request that finds no room is refused, a cancellation waits.
const QUEUE_LENGTH: usize = 1024;

/// How long nothing has to be done before memory is given back: a conversation's next turn should
/// find what it needs as it was.
const REST_AFTER: Duration = Duration::from_secs(30);

/// Counts whatever gets done, for the gateway's watchdog.
type Progress = Arc<AtomicU64>;

/// What the preparing thread is told.
enum ToPreparer {
    Work(RequestId, Box<Work>),
    Cancel(RequestId),
}

/// What the engine's thread is told.
enum ToEngine {
    Load(LoadSpec),
    Run(Ready),
    Cancel(RequestId),
}

/// Serves the link until the process ends.
pub(crate) fn serve(inbox: Inbox, outbox: Outbox) -> ! {
    let progress = Progress::default();
    let (to_preparer, preparer_inbox) = sync_channel(QUEUE_LENGTH);
    let (to_engine, engine_inbox) = sync_channel(QUEUE_LENGTH);
    let engine = EngineThread {
        outbox: outbox.clone(),
        progress: Arc::clone(&progress),
        inbox: engine_inbox,
        to_self: to_engine.clone(),
    };
    let spawned =
        thread::Builder::new().name("engine".to_owned()).spawn(move || engine.run(preparer_inbox));
    if let Err(error) = spawned {
        tracing::error!("can't start the engine's thread: {error}");
        exit(WorkerExit::Bug);
    }
    let link = LinkThread { outbox, progress, to_preparer, to_engine, loading: false };
    exit(link.run(inbox))
}

/// Ends the process, whatever its other threads are doing.
#[expect(clippy::exit, reason = "no other thread can be waited for: it may be in a forward pass")]
pub(crate) fn exit(exit: WorkerExit) -> ! {
    std::process::exit(i32::from(exit.code()))
}

struct LinkThread {
    outbox: Outbox,
    progress: Progress,
    to_preparer: SyncSender<ToPreparer>,
    to_engine: SyncSender<ToEngine>,
    /// Whether the load was asked for; nothing else may come before it.
    loading: bool,
}

impl LinkThread {
    fn run(mut self, mut inbox: Inbox) -> WorkerExit {
        loop {
            let message = match inbox.receive() {
                Ok(Some(message)) => message,
                Ok(None) if self.loading => return WorkerExit::Done,
                Ok(None) => return WorkerExit::NoLink,
                Err(error) => {
                    tracing::error!("{}", chain(&error));
                    return WorkerExit::Protocol;
                }
            };
            if let Err(exit) = self.handle(message) {
                return exit;
            }
        }
    }

    fn handle(&mut self, message: ToWorker) -> Result<(), WorkerExit> {
        match message {
            ToWorker::Ping { nonce } => {
                let progress = self.progress.load(Ordering::Relaxed);
                say(&self.outbox, &FromWorker::Pong { nonce, progress });
            }
            ToWorker::Shutdown => return Err(WorkerExit::Done),
            ToWorker::Load(spec) if !self.loading => {
                self.loading = true;
                tell(&self.to_engine, ToEngine::Load(spec))?;
            }
            ToWorker::Work { id, work } if self.loading => self.work(id, work)?,
            ToWorker::Cancel { id } if self.loading => {
                // Both ways: the short one for a request that runs, the long one for a request
                // that is still being prepared and would arrive after the short one.
                tell(&self.to_engine, ToEngine::Cancel(id))?;
                tell(&self.to_preparer, ToPreparer::Cancel(id))?;
            }
            ToWorker::Load(_) | ToWorker::Work { .. } | ToWorker::Cancel { .. } => {
                tracing::error!("the gateway sent a message out of its turn");
                return Err(WorkerExit::Protocol);
            }
        }
        Ok(())
    }

    fn work(&mut self, id: RequestId, work: Work) -> Result<(), WorkerExit> {
        match self.to_preparer.try_send(ToPreparer::Work(id, Box::new(work))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                let message = format!("{QUEUE_LENGTH} requests wait to be prepared already");
                let reason = RequestFailure::Invalid { message };
                say(&self.outbox, &FromWorker::Failed { id, reason });
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(WorkerExit::Bug),
        }
    }
}

fn tell<T>(channel: &SyncSender<T>, message: T) -> Result<(), WorkerExit> {
    // Threads end with the process only; one that is gone has panicked.
    channel.send(message).map_err(|_error| WorkerExit::Bug)
}

/// Sends, or ends the process: nobody is there any more to work for.
fn say(outbox: &Outbox, message: &FromWorker) {
    match outbox.send(message) {
        Ok(()) => {}
        Err(LinkError::Io(_)) => exit(WorkerExit::Done),
        Err(error @ (LinkError::Encode(_) | LinkError::Garbage(_))) => {
            tracing::error!("{}", chain(&error));
            exit(WorkerExit::Bug);
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Turns requests into tokens until the process ends. What needs no engine is answered here.
struct PreparingThread {
    preparer: AnyPreparer,
    inbox: Receiver<ToPreparer>,
    to_engine: SyncSender<ToEngine>,
    outbox: Outbox,
    progress: Progress,
}

impl PreparingThread {
    fn run(self) {
        for message in &self.inbox {
            let told = match message {
                ToPreparer::Cancel(id) => tell(&self.to_engine, ToEngine::Cancel(id)),
                ToPreparer::Work(id, work) => match self.preparer.prepare(id, *work) {
                    Ready::Answer(answer) => {
                        say(&self.outbox, &answer);
                        Ok(())
                    }
                    ready @ (Ready::Generate(_) | Ready::Encode(_)) => {
                        tell(&self.to_engine, ToEngine::Run(ready))
                    }
                },
            };
            self.progress.fetch_add(1, Ordering::Relaxed);
            if told.is_err() {
                return;
            }
        }
    }
}

struct EngineThread {
    outbox: Outbox,
    progress: Progress,
    inbox: Receiver<ToEngine>,
    /// For the preparing thread, which starts when the model is loaded.
    to_self: SyncSender<ToEngine>,
}

impl EngineThread {
    fn run(self, preparer_inbox: Receiver<ToPreparer>) {
        // The link's thread sends the load first.
        let Ok(ToEngine::Load(spec)) = self.inbox.recv() else {
            exit(WorkerExit::Bug);
        };
        let (card, preparer, engine) = self.load(&spec);
        let preparing = PreparingThread {
            preparer,
            inbox: preparer_inbox,
            to_engine: self.to_self.clone(),
            outbox: self.outbox.clone(),
            progress: Arc::clone(&self.progress),
        };
        let spawned =
            thread::Builder::new().name("prepare".to_owned()).spawn(move || preparing.run());
        if let Err(error) = spawned {
            tracing::error!("can't start the preparing thread: {error}");
            exit(WorkerExit::Bug);
        }
        self.work_done();
        say(&self.outbox, &FromWorker::Ready(card));
        self.serve(engine)
    }

    fn load(&self, spec: &LoadSpec) -> (ModelCard, AnyPreparer, AnyEngine) {
        let loaded = load_any(spec, |stage, fraction| {
            self.work_done();
            say(&self.outbox, &FromWorker::LoadProgress { stage, fraction });
        });
        loaded.map(crate::work::parts).unwrap_or_else(|failure| {
            tracing::error!("load failed: {}", failure.message);
            say(&self.outbox, &FromWorker::LoadFailed(failure));
            exit(WorkerExit::LoadFailed)
        })
    }

    fn work_done(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    fn serve(self, mut engine: AnyEngine) -> ! {
        loop {
            if engine.is_idle() {
                let message = self.inbox.recv_timeout(REST_AFTER).or_else(|_error| {
                    engine.rest();
                    self.inbox.recv()
                });
                match message {
                    Ok(message) => self.handle(&mut engine, message),
                    Err(_) => exit(WorkerExit::Bug),
                }
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.handle(&mut engine, message);
            }
            for message in engine.tick() {
                say(&self.outbox, &message);
            }
            self.work_done();
        }
    }

    fn handle(&self, engine: &mut AnyEngine, message: ToEngine) {
        match message {
            ToEngine::Run(request) => {
                if let Some(refusal) = engine.admit(request) {
                    say(&self.outbox, &refusal);
                }
            }
            ToEngine::Cancel(id) => engine.cancel(id),
            // The link's thread lets one load through.
            ToEngine::Load(_) => exit(WorkerExit::Bug),
        }
    }
}
