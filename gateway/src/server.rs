//! Listen, accept, limit, read one request, answer it; and drain when it is time to go.
//!
//! The first and the last step of every request's walk. What may be asked is `guard`'s business,
//! what is served where `route`'s, and what it means the dialects'.

mod body;
mod dispatch;
mod write_timeout;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::body::{ReadBody, Room};
use self::write_timeout::WriteTimeout;
use crate::app::App;

/// A request's head has to arrive within this time; so long an unused connection is kept, too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// More headers than this are answered with 431.
const HEADERS_MAX: usize = 100;
/// So are heads longer than this. It also bounds what one connection may make us buffer.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long accepting rests when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// A client that takes nothing of its answer for this long has lost it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The order to end: `None` until it is given, then when the last connection has to be gone.
pub type Shutdown = Option<Instant>;

/// Serves until `shutdown` is ordered, then lets what is in flight finish.
///
/// Returns when the last connection has ended, at the order's instant at the latest. Whoever gives
/// it drains the fleet with an earlier deadline, so that streams which outlive that one end with
/// an error and not in silence; only clients that don't read or write are cut off.
pub async fn run(
    app: Arc<App>,
    listener: TcpListener,
    connections_max: usize,
    mut shutdown: watch::Receiver<Shutdown>,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    let end = loop {
        tokio::select! {
            accepted = accept(&listener, &places) => {
                let Some((stream, local, place)) = accepted else { continue };
                let connection = Connection { app: Arc::clone(&app), local, place };
                connections.spawn(connection.serve(stream, shutdown.clone()));
            }
            Some(ended) = connections.join_next() => report(ended),
            end = told(&mut shutdown) => break end,
        }
    };
    // Whoever connects from now on is refused by the system, and a balancer goes elsewhere.
    drop(listener);
    let finished = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout_at(end, finished).await.is_err() {
        let left = connections.len();
        tracing::warn!(connections = left, "cut off: they neither finished nor failed in time");
        connections.shutdown().await;
    }
}

/// Waits for the order; gives its instant. Whoever gives it being gone is one, too.
async fn told(shutdown: &mut watch::Receiver<Shutdown>) -> Instant {
    let order = shutdown.wait_for(Option::is_some).await;
    order.ok().and_then(|order| *order).unwrap_or_else(Instant::now)
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a connection panicked");
    }
}

/// Waits for a place first, so that clients over the limit wait in the system's backlog.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    let error = match listener.accept().await {
        Ok((stream, _peer)) => match stream.local_addr() {
            Ok(local) => return Some((stream, local, place)),
            Err(error) => error,
        },
        Err(error) => error,
    };
    // A connection that was reset before it was accepted is that client's affair alone.
    let of_one_client =
        matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !of_one_client {
        tracing::warn!(%error, "can't accept a connection; resting");
        // Without an event to wait for when another process holds what is missing. A connection of
        // our own that ends cuts the rest short, because it has freed a socket.
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    None
}

struct Connection {
    app: Arc<App>,
    local: SocketAddr,
    place: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, mut shutdown: watch::Receiver<Shutdown>) {
        // Tokens are small and should leave at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection is gone already");
        }
        let count = Counted::new(&self.app);
        let (app, local): (_, IpAddr) = (Arc::clone(&self.app), self.local.ip());
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move {
                Ok::<_, std::convert::Infallible>(dispatch::handle(&app, request, local).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(WriteTimeout::new(stream, WRITE_TIMEOUT)), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            _end = told(&mut shutdown) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Mostly clients that left; balancers' probes do nothing else.
            tracing::debug!(%error, "a connection ended early");
        }
        drop((count, self.place));
    }
}

/// Counts a connection for as long as it lives, also if its task panics.
struct Counted(Arc<App>);

impl Counted {
    fn new(app: &Arc<App>) -> Self {
        app.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(app))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
