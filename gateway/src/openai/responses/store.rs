//! Responses that were made, for who continues them or asks again. In memory, for a while, and only so
//! many; a caller finds its own alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// So long a response is kept.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// All responses together, as JSON.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const RESPONSES_MAX: usize = 4096;

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
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
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
}

impl Store {
    /// Keeps a response; the oldest make room for it.
    pub fn put(&self, id: &str, caller: &str, stored: Stored, now: Instant) {
        let parts = stored.input.iter().chain(&stored.before).chain([&stored.response]);
        let bytes = parts.map(|part| part.to_string().len()).sum();
        let mut inner = self.lock();
        inner.forget_old(now);
        if bytes > BYTES_MAX {
            return;
        }
        while inner.bytes + bytes > BYTES_MAX || inner.by_id.len() >= RESPONSES_MAX {
            inner.forget_oldest();
        }
        inner.bytes += bytes;
        inner.order.push_back((now, id.to_owned()));
        inner.by_id.insert(id.to_owned(), Entry { caller: caller.to_owned(), bytes, stored });
    }

    /// A response of this caller.
    pub fn get(&self, id: &str, caller: &str, now: Instant) -> Option<Stored> {
        let mut inner = self.lock();
        inner.forget_old(now);
        let entry = inner.by_id.get(id).filter(|entry| entry.caller == caller)?;
        Some(entry.stored.clone())
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
