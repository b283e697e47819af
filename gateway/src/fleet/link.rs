//! The gateway's end of one worker's socket: handshake, requests out, replies back to whom they
//! belong.
//!
//! `life.rs` opens it and reads from it; a lease sends through it. The worker is not trusted: a
//! frame that no worker may send, or a request id that was never issued, ends it. It never decides
//! about a worker's life; it only reports.

mod handshake;
mod owed;
mod replies;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_shared::codec::{self, EncodeError};
use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FromWorker, ToWorker, Work};
use interprocess::local_socket::tokio::{Listener, Stream};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};

pub(super) use self::handshake::{Inbox, InboxError, accept};
use self::owed::Owed;
pub use self::replies::{Loss, Replies, Reply};
use super::place::Place;
use super::worker::SLOTS_MAX;

/// Frames that wait for the socket: each request in flight owns one place for its cancellation,
/// and may be sending; the rest is for pings and orders.
const OUTBOX_FRAMES_MAX: usize = 2 * SLOTS_MAX + 16;

/// How many replies one request may be behind its worker before it is given up. A completion of
/// this many tokens fits in whole.
const REPLIES_MAX: usize = 4096;

/// A link that is up. Clones are handles on the same link.
#[derive(Debug, Clone)]
pub(super) struct Link {
    outbox: mpsc::Sender<Vec<u8>>,
    table: Arc<Table>,
}

/// Why a request could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The worker is gone.
    #[error("the worker ended before it got the request")]
    Lost,
    /// The request does not fit into a frame.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A worker sent what no worker may send.
#[derive(Debug, thiserror::Error)]
pub(super) enum Breach {
    #[error("it spoke of request {0}, which it was never given")]
    UnknownRequest(RequestId),
    #[error("it answered request {0} with what was not asked for")]
    OtherKind(RequestId),
}

#[derive(Debug, Default)]
struct Table {
    inner: Mutex<TableInner>,
    /// True once the scheduler has been told that the worker is gone.
    closed: watch::Sender<bool>,
    tokens: AtomicU64,
}

#[derive(Debug, Default)]
struct TableInner {
    issued: u64,
    closed: bool,
    routes: HashMap<RequestId, Route>,
}

/// Where a request's replies go. Its place in the fleet ends with it.
#[derive(Debug)]
struct Route {
    replies: mpsc::Sender<Reply>,
    loss: Arc<std::sync::OnceLock<Loss>>,
    owed: Owed,
    /// Dropped with the route: that is how the scheduler hears that the lease is over.
    _place: Place,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, TableInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a route out; its place is given back when the caller drops it, not under the lock.
    fn remove(&self, id: RequestId) -> Option<Route> {
        self.lock().routes.remove(&id)
    }
}

impl Link {
    /// A link over a socket that has shaken hands. The future writes until the link is dropped or the
    /// worker is gone, and has to be polled.
    pub(super) fn new(socket: Arc<Socket>) -> (Self, impl Future<Output = ()> + Send) {
        let (outbox, frames) = mpsc::channel(OUTBOX_FRAMES_MAX);
        (Self { outbox, table: Arc::default() }, write(frames, socket))
    }

    /// Sends a request. Its replies come back until one of them is the last.
    ///
    /// # Errors
    /// [`SendError`]; the place is given back.
    ///
    /// # Cancel safety
    /// Safe: a request that was not sent leaves nothing behind, one that was is cancelled.
    pub(super) async fn send(&self, work: Work, place: Place) -> Result<Replies, SendError> {
        let Ok(cancel) = self.outbox.clone().reserve_owned().await else {
            return self.lost().await;
        };
        let (replies, receiver) = mpsc::channel(REPLIES_MAX);
        let loss = Arc::default();
        let id = {
            let mut table = self.table.lock();
            if table.closed {
                return Err(SendError::Lost);
            }
            table.issued += 1;
            RequestId(table.issued)
        };
        let owed = Owed::by(&work);
        let frame = codec::encode(&ToWorker::Work { id, work })?;
        let Ok(send) = self.outbox.reserve().await else { return self.lost().await };
        let route = Route { replies, loss: Arc::clone(&loss), owed, _place: place };
        let refused = {
            let mut table = self.table.lock();
            if table.closed { Some(route) } else { table.routes.insert(id, route) }
        };
        if refused.is_some() {
            return Err(SendError::Lost);
        }
        send.send(frame);
        Ok(Replies::new(id, receiver, loss, Arc::clone(&self.table), cancel))
    }

    /// The worker does not read any more. Only once the scheduler knows it may the request know it
    /// too: it will try again, and must not be given the same worker.
    async fn lost(&self) -> Result<Replies, SendError> {
        // The sender lives in the table, which we hold.
        drop(self.table.closed.subscribe().wait_for(|closed| *closed).await);
        Err(SendError::Lost)
    }

    /// Whether any request waits for replies.
    pub(super) fn is_in_use(&self) -> bool {
        !self.table.lock().routes.is_empty()
    }

    /// Sends a frame that nobody waits for; one too many is dropped.
    pub(super) fn post(&self, message: &ToWorker) {
        match codec::encode(message) {
            // A full outbox means that the worker does not read: the watchdog will see to it.
            Ok(frame) => drop(self.outbox.try_send(frame)),
            Err(error) => tracing::error!(%error, "a message of our own can't be encoded"),
        }
    }

    /// Hands out what a worker said of its requests.
    ///
    /// # Errors
    /// [`Breach`] if the worker made something up; what came before was handed out.
    ///
    /// # Panics
    /// If the message is of no request.
    pub(super) fn deliver(&self, message: FromWorker) -> Result<(), Breach> {
        if let FromWorker::Step(step) = &message {
            let tokens = step.iter().map(|news| u64::from(news.tokens)).sum();
            self.table.tokens.fetch_add(tokens, Ordering::Relaxed);
            crate::metrics::stepped(step.len());
        }
        for (id, reply) in Reply::all_of(message) {
            self.deliver_one(id, reply)?;
        }
        Ok(())
    }

    fn deliver_one(&self, id: RequestId, reply: Reply) -> Result<(), Breach> {
        let mut table = self.table.lock();
        let issued = table.issued;
        let Some(route) = table.routes.get_mut(&id) else {
            // It may have been cancelled while this was on its way.
            return if id.0 <= issued { Ok(()) } else { Err(Breach::UnknownRequest(id)) };
        };
        let Some(last) = route.owed.pay(&reply) else {
            return Err(Breach::OtherKind(id));
        };
        let overrun =
            matches!(route.replies.try_send(reply), Err(mpsc::error::TrySendError::Full(_)));
        let ended = if last || overrun { table.routes.remove(&id) } else { None };
        drop(table);
        if overrun && let Some(route) = &ended {
            // The first reason stands, and there is none yet.
            let _ = route.loss.set(Loss::TooSlow);
            self.post(&ToWorker::Cancel { id });
        }
        Ok(())
    }

    /// How many tokens its worker has generated.
    pub(super) fn tokens(&self) -> u64 {
        self.table.tokens.load(Ordering::Relaxed)
    }

    /// Ends every request: the worker is gone or going, and the scheduler has known it before.
    pub(super) fn close(&self, why: Loss) {
        let routes = {
            let mut table = self.table.lock();
            table.closed = true;
            std::mem::take(&mut table.routes)
        };
        for route in routes.values() {
            // Only an overrun sets another reason, and it takes its route out.
            let _ = route.loss.set(why);
        }
        self.table.closed.send_replace(true);
    }
}

async fn write(mut frames: mpsc::Receiver<Vec<u8>>, socket: Arc<Socket>) {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = (&*socket).write_all(&frame).await {
            // The reader meets the end of the same socket and reports it.
            tracing::debug!(%error, "a worker's link can't be written to");
            return;
        }
    }
}

/// What `accept` needs to know the worker by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) pid: u32,
    pub(super) token: hearth_shared::protocol::LinkToken,
}

/// The types of the socket, named once.
pub(super) type Socket = Stream;
type SocketListener = Listener;
