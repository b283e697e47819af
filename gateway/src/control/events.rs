//! `GET /api/events`: every change of a model's state, as it happens.
//!
//! Server-sent events. The first is the fleet as it is, with what `/api/ps` shows; from then on
//! one for each change. Whoever reads too slowly is told how many he missed and goes on from there,
//! so one slow reader costs no more than a bounded queue. Reading wakes and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::app::App;
use crate::fleet::Fleet;
use crate::fleet::status::{STOPPED, Transition};
use crate::http;
use crate::ollama::ps;
use crate::stream::{Body, parts, sse};

/// So often a silent stream shows that it is alive, and finds out whether its reader is.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// What SSE clients pass over.
const HEARTBEAT: &str = ": still here\n\n";

struct Feed {
    fleet: Fleet,
    transitions: Receiver<Arc<Transition>>,
    first: Option<Value>,
}

/// Begins a stream.
pub fn stream(app: &App) -> Response<Body> {
    let (snapshot, transitions) = app.fleet.watch();
    let mut first = ps::as_json(&snapshot);
    if let Value::Object(first) = &mut first {
        first.insert("type".to_owned(), json!("snapshot"));
    }
    let feed = Feed { fleet: app.fleet.clone(), transitions, first: Some(first) };
    let events = stream::unfold(feed, |mut feed| async move {
        let bytes = feed.next().await?;
        Some((bytes, feed))
    });
    http::streamed(sse::CONTENT_TYPE, parts(events))
}

impl Feed {
    /// The next event; `None` once the gateway is shutting down.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(event(&first));
        }
        tokio::select! {
            biased;
            transition = self.transitions.recv() => match transition {
                Ok(transition) => Some(event(&describe(&transition))),
                Err(RecvError::Lagged(count)) => {
                    Some(event(&json!({ "type": "missed", "count": count })))
                }
                Err(RecvError::Closed) => None,
            },
            () = self.fleet.draining() => None,
            () = tokio::time::sleep(HEARTBEAT_EVERY) => Some(HEARTBEAT.into()),
        }
    }
}

fn event(value: &Value) -> Bytes {
    let mut out = Vec::new();
    sse::push_event(&mut out, value);
    out.into()
}

fn describe(transition: &Transition) -> Value {
    let Transition { at, before, now, gone } = transition;
    let view = &now.view;
    let phase = view.phase.as_ref();
    let leaves_in = phase.and_then(|phase| phase.next.leaves_in(Instant::now()));
    json!({
        "type": "transition",
        "time": ps::date(*at),
        "model": view.name.with_tag(),
        "from": before.as_ref().map_or(STOPPED, |before| before.word()),
        "to": now.word(),
        "worker": now.worker_id().map(|worker| worker.0),
        "pid": now.worker.pid,
        // Why a worker went, and why one is going.
        "gone": gone.as_ref().map(|reason| reason.label()),
        "leaving": phase.and_then(|phase| phase.leaving),
        "in_flight": phase.map_or(0, |phase| phase.in_flight),
        "queued": view.queued,
        "expires_in": leaves_in.map(|left| left.as_secs_f64()),
        "restarts": view.restarts,
        "last_error": view.last_failure.as_ref().map(ToString::to_string),
    })
}
