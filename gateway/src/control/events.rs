//! `GET /api/events`: every change of a model's state, as it happens.
//!
//! Server-sent events. The first is the fleet as it is, with what `/api/ps` shows; from then on
//! one for each change. Whoever reads too slowly is told how many he missed and goes on from there,
//! so one slow reader costs no more than a bounded queue. A caller hears of the models that it may
//! use. Reading wakes and changes nothing.

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
use crate::guard::caller::Caller;
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
    caller: Arc<Caller>,
}

/// Begins a stream.
pub fn stream(app: &App) -> Response<Body> {
    let (snapshot, transitions) = app.fleet.watch();
    let mut first = ps::as_json(&snapshot, &app.caller);
    if let Value::Object(first) = &mut first {
        first.insert("type".to_owned(), json!("snapshot"));
    }
    let (fleet, caller) = (app.fleet.clone(), Arc::clone(&app.caller));
    let feed = Feed { fleet, transitions, first: Some(first), caller };
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
            change = next_change(&mut self.transitions, &self.caller) => {
                change.map(|change| event(&change))
            }
            () = self.fleet.draining() => None,
            () = tokio::time::sleep(HEARTBEAT_EVERY) => Some(HEARTBEAT.into()),
        }
    }
}

/// The next change that the caller may hear of, or how many it missed; `None` once the fleet has
/// ended.
async fn next_change(
    transitions: &mut Receiver<Arc<Transition>>,
    caller: &Caller,
) -> Option<Value> {
    loop {
        match transitions.recv().await {
            Ok(transition) if caller.may_use(&transition.now.view.name) => {
                return Some(describe(&transition));
            }
            Ok(_of_others) => {}
            Err(RecvError::Lagged(count)) => {
                return Some(json!({ "type": "missed", "count": count }));
            }
            Err(RecvError::Closed) => return None,
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

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::fleet::scheduler::NextView;
    use crate::ollama::ps::tests::status;

    fn change(model: &str) -> Arc<Transition> {
        let now = status(model, NextView::Leaving, "stopping");
        Arc::new(Transition { at: jiff::Timestamp::UNIX_EPOCH, before: None, now, gone: None })
    }

    async fn heard(transitions: &mut Receiver<Arc<Transition>>, caller: &Caller) -> Value {
        let change = next_change(transitions, caller).await.unwrap();
        if change["type"] == "missed" { change } else { change["model"].clone() }
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_how_many_it_missed_and_goes_on_from_there() {
        let (sender, mut transitions) = broadcast::channel(2);
        let caller = Caller::unlimited("a");
        for model in ["a", "b", "c", "d", "e"] {
            sender.send(change(model)).unwrap();
        }
        let missed = json!({"type": "missed", "count": 3});
        assert_eq!(heard(&mut transitions, &caller).await, missed);
        assert_eq!(heard(&mut transitions, &caller).await, "d:latest");
        assert_eq!(heard(&mut transitions, &caller).await, "e:latest");
        drop(sender);
        assert_eq!(next_change(&mut transitions, &caller).await, None);
    }
}
