//! Responses that were made, for who continues them or asks again. In memory, for a while, and only so
//! many; a caller finds its own alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::background::Job;

/// So long a response is kept.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// All responses together, as JSON.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const RESPONSES_MAX: usize = 4096;
/// Responses that are made in the background at once.
pub const JOBS_MAX: usize = 64;

/// One response and what it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The response itself, as it was sent.
    pub response: Value,
    /// The items of its own input.
    pub input: Vec<Value>,
    /// The items of the conversation before that.
    pub before: Vec<Value>,
}

/// The responses of one gateway.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    jobs: Arc<Semaphore>,
}

impl Default for Store {
    fn default() -> Self {
        Self { inner: Mutex::default(), jobs: Arc::new(Semaphore::new(JOBS_MAX)) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<String, Entry>,
    /// Ids from the oldest on; those of deleted ones may still be among them.
    order: VecDeque<(Instant, String)>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    caller: String,
    bytes: usize,
    stored: Stored,
    /// Who makes it in the background, or has made it there: what it is, only that one knows.
    job: Option<Arc<Job>>,
}

impl Store {
    /// Keeps a response; the oldest make room for it.
    pub fn put(&self, id: &str, caller: &str, stored: Stored, now: Instant) {
        self.keep(id, Entry::new(caller, stored, None), now);
    }

    /// Keeps a response that is made in the background. It is given up when it is forgotten.
    pub fn put_job(&self, id: &str, caller: &str, made: (Stored, Arc<Job>), now: Instant) {
        let (stored, job) = made;
        self.keep(id, Entry::new(caller, stored, Some(job)), now);
    }

    fn keep(&self, id: &str, entry: Entry, now: Instant) {
        let mut inner = self.lock();
        inner.forget_old(now);
        if entry.bytes > BYTES_MAX {
            entry.give_up();
            return;
        }
        while inner.bytes + entry.bytes > BYTES_MAX || inner.by_id.len() >= RESPONSES_MAX {
            inner.forget_oldest();
        }
        inner.bytes += entry.bytes;
        inner.order.push_back((now, id.to_owned()));
        inner.by_id.insert(id.to_owned(), entry);
    }

    /// Counts what a response that was made in the background has become; the oldest make room.
    pub fn settle(&self, id: &str) {
        let mut inner = self.lock();
        let Some(entry) = inner.by_id.get_mut(id) else { return };
        let more = entry.job.as_ref().map_or(0, |job| job.bytes());
        entry.bytes += more;
        inner.bytes += more;
        while inner.bytes > BYTES_MAX {
            inner.forget_oldest();
        }
    }

    /// A place for one more response in the background, until it is dropped.
    #[must_use]
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.jobs).try_acquire_owned().ok()
    }

    /// A response of this caller, as it is now.
    pub fn get(&self, id: &str, caller: &str, now: Instant) -> Option<Stored> {
        let mut inner = self.lock();
        inner.forget_old(now);
        let entry = inner.by_id.get(id).filter(|entry| entry.caller == caller)?;
        let mut stored = entry.stored.clone();
        if let Some(job) = &entry.job {
            stored.response = job.response();
        }
        Some(stored)
    }

    /// Who makes this response of this caller in the background, or has made it there.
    pub fn job(&self, id: &str, caller: &str, now: Instant) -> Option<Arc<Job>> {
        let mut inner = self.lock();
        inner.forget_old(now);
        let entry = inner.by_id.get(id).filter(|entry| entry.caller == caller)?;
        entry.job.clone()
    }

    /// Forgets a response of this caller; gives whether there was one.
    pub fn delete(&self, id: &str, caller: &str, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.forget_old(now);
        let there = inner.by_id.get(id).is_some_and(|entry| entry.caller == caller);
        if there {
            inner.forget(id);
        }
        there
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(caller: &str, stored: Stored, job: Option<Arc<Job>>) -> Self {
        let parts = stored.input.iter().chain(&stored.before).chain([&stored.response]);
        let bytes = parts.map(|part| part.to_string().len()).sum();
        Self { caller: caller.to_owned(), bytes, stored, job }
    }

    /// Nobody can ask for it any more.
    fn give_up(&self) {
        if let Some(job) = &self.job {
            job.cancel();
        }
    }
}

impl Inner {
    fn forget_old(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| now.duration_since(*at) >= KEPT_FOR) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.forget(&id);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(entry) = self.by_id.remove(id) {
            self.bytes -= entry.bytes;
            entry.give_up();
        }
        // Its place in the order is left where it is, unless nothing else would ever shorten it.
        if self.by_id.is_empty() {
            self.order.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored(text: &str) -> Stored {
        Stored { response: json!(text), input: Vec::new(), before: Vec::new() }
    }

    #[test]
    fn a_caller_finds_its_own_until_it_deletes_them() {
        let (store, now) = (Store::default(), Instant::now());
        store.put("a", "alice", stored("1"), now);
        assert_eq!(store.get("a", "alice", now), Some(stored("1")));
        assert_eq!(store.get("a", "bob", now), None);
        assert!(!store.delete("a", "bob", now));
        assert!(store.delete("a", "alice", now));
        assert!(!store.delete("a", "alice", now));
        assert_eq!(store.get("a", "alice", now), None);
        let inner = store.lock();
        assert_eq!((inner.bytes, inner.order.len()), (0, 0));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (store, now) = (Store::default(), Instant::now());
        store.put("a", "x", stored("1"), now);
        store.put("b", "x", stored("2"), now + KEPT_FOR / 2);
        assert_eq!(store.get("a", "x", now + KEPT_FOR), None);
        assert_eq!(store.get("b", "x", now + KEPT_FOR), Some(stored("2")));
    }

    #[test]
    fn the_oldest_make_room() {
        let (store, now) = (Store::default(), Instant::now());
        let large = "x".repeat(BYTES_MAX / 3);
        for id in ["a", "b", "c"] {
            store.put(id, "x", stored(&large), now);
        }
        let kept = ["a", "b", "c"].map(|id| store.get(id, "x", now).is_some());
        assert_eq!(kept, [false, true, true]);
        store.put("d", "x", stored(&"x".repeat(BYTES_MAX)), now);
        assert!(store.get("d", "x", now).is_none() && store.get("c", "x", now).is_some());
    }
}
