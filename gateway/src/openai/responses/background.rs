//! Responses that are made whether or not anybody listens.
//!
//! A task of its own runs each to its end and tells its events to a log. Whoever streams the response,
//! from its beginning or later on, reads the log; whoever asks for it gets what it is by then. The
//! store holds the only other handle, so that a response which nobody can ask for any more, because
//! it was deleted or made room for others, is given up.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::making::{Making, Writing};
use super::object::{Frame, Numbered};
use super::output::Output;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::stream::{self as body, Body};

/// One response that is made in the background, or was.
#[derive(Debug)]
pub struct Job {
    state: Mutex<State>,
    /// Rung after every change of the state.
    told: watch::Sender<()>,
    cancelled: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    response: Value,
    /// Every event so far; its place is its number.
    events: Vec<Bytes>,
    over: bool,
}

impl Job {
    /// One that waits for its turn.
    pub(super) fn new(frame: &Frame) -> Self {
        let state = State { response: frame.queued(), events: Vec::new(), over: false };
        Self {
            state: Mutex::new(state),
            told: watch::Sender::new(()),
            cancelled: watch::Sender::new(false),
        }
    }

    /// The response as it is now.
    #[must_use]
    pub fn response(&self) -> Value {
        self.lock().response.clone()
    }

    /// Has it given up, if it is not over.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Returns once it is over.
    pub(super) async fn ended(&self) {
        let mut told = self.told.subscribe();
        while !self.lock().over && told.changed().await.is_ok() {}
    }

    /// How much room its events take.
    pub(super) fn bytes(&self) -> usize {
        self.lock().events.iter().map(Bytes::len).sum()
    }

    /// Its events from number `next` on, those to come as they come.
    pub(super) fn streamed(self: Arc<Self>, next: usize) -> Body {
        let told = self.told.subscribe();
        body::parts(stream::unfold((self, told, next), |(job, mut told, next)| async move {
            loop {
                told.mark_unchanged();
                let (bytes, after, over) = job.since(next);
                if after > next {
                    return Some((bytes, (job, told, after)));
                }
                if over || told.changed().await.is_err() {
                    return None;
                }
            }
        }))
    }

    /// The events from number `next` on, the number after the last of them, and whether that is all.
    fn since(&self, next: usize) -> (Bytes, usize, bool) {
        let state = self.lock();
        let events = state.events.get(next..).unwrap_or_default();
        (events.concat().into(), next + events.len(), state.over)
    }

    /// Takes events in, and the response as it is after them.
    fn tell(&self, events: &[u8], response: Option<Value>, over: bool) {
        let mut state = self.lock();
        state.events.extend(separate(events));
        if let Some(response) = response {
            state.response = response;
        }
        state.over = over;
        drop(state);
        self.told.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever waits for a job is told that it is over, whatever became of its task.
struct Ending(Arc<Job>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.tell(&[], None, true);
    }
}

/// Events end with an empty line, and hold none: their JSON is on one line.
fn separate(mut events: &[u8]) -> Vec<Bytes> {
    let mut all = Vec::new();
    while let Some(end) = events.windows(2).position(|two| two == b"\n\n") {
        let (event, rest) = events.split_at(end + 2);
        all.push(Bytes::copy_from_slice(event));
        events = rest;
    }
    all
}

/// What a job is made of.
pub(super) struct Work<F> {
    pub(super) job: Arc<Job>,
    pub(super) frame: Frame,
    pub(super) output: Output,
    /// The generation, once it has begun.
    pub(super) start: F,
    /// There are only so many at once.
    pub(super) place: OwnedSemaphorePermit,
}

impl<F: Future<Output = Result<Generation, ApiError>>> Work<F> {
    /// Makes the response. It ends by itself or because the job is cancelled.
    pub(super) async fn run(self) {
        let Self { job, frame, output, start, place } = self;
        let _ending = Ending(Arc::clone(&job));
        let mut numbered = Numbered::default();
        let mut out = Vec::new();
        for name in ["response.created", "response.queued"] {
            numbered.push(&mut out, name, json!({ "response": frame.queued() }));
        }
        job.tell(&out, None, false);
        let mut cancelled = job.cancelled.subscribe();
        out.clear();
        let started = tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => None,
            started = start => Some(started),
        };
        let generation = match started {
            Some(Ok(generation)) => generation,
            Some(Err(error)) => {
                let response = frame.failed(&[], &error);
                numbered.push_error(&mut out, &error);
                numbered.push(&mut out, "response.failed", json!({ "response": response }));
                return job.tell(&out, Some(response), true);
            }
            None => {
                let response = frame.cancelled(&[]);
                numbered.push(&mut out, "response.incomplete", json!({ "response": response }));
                return job.tell(&out, Some(response), true);
            }
        };
        let in_progress = frame.in_progress();
        job.tell(&[], Some(in_progress), false);
        let making = Making { generation, frame, output, keep: None };
        let mut writing = Writing::new(making, numbered);
        loop {
            let mut out = Vec::with_capacity(512);
            let goes_on = tokio::select! {
                biased;
                _ = cancelled.wait_for(|cancelled| *cancelled) => {
                    writing.push_cancelled(&mut out);
                    false
                }
                goes_on = writing.push_next(&mut out) => goes_on,
            };
            job.tell(&out, writing.over.take(), !goes_on);
            if !goes_on {
                break;
            }
        }
        drop(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_by_the_empty_lines_between_them() {
        let events = separate(b"event: a\ndata: {\"x\":\"\\n\\n\"}\n\nevent: b\ndata: 2\n\n");
        assert_eq!(
            events,
            [&b"event: a\ndata: {\"x\":\"\\n\\n\"}\n\n"[..], b"event: b\ndata: 2\n\n"]
        );
        assert!(separate(b"").is_empty());
    }
}
