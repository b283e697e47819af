//! What belongs to one worker beside its state: its orders, its process, its link, and what it is
//! seen to take and to do.
//!
//! `task.rs` has one for each worker, from its spawn until it is reaped. It looks and remembers; it
//! decides nothing and touches no process.

use std::sync::Arc;
use std::time::Duration;

use hearth_shared::protocol::{ExecutionProvider, ModelCard};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::child;
use super::devices::Figures;
use super::life::Order;
use super::link::{Link, Loss};
use super::scheduler::Need;
use super::status::WorkerFacts;
use super::worker::WorkerId;
use crate::catalog::Model;

/// Tokens are counted over no less.
const RATE_OVER_MIN: Duration = Duration::from_millis(500);

/// One worker's belongings.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) model: Arc<Model>,
    pub(super) fingerprint: String,
    pub(super) spawned: Instant,
    orders: mpsc::Sender<Order>,
    pid: Option<u32>,
    loaded: Option<Loaded>,
    takes: Need,
    /// What devices say that it holds, once one has.
    device: Option<u64>,
    rate: Rate,
}

#[derive(Debug)]
struct Loaded {
    link: Link,
    card: Arc<ModelCard>,
    at: jiff::Timestamp,
    /// The most that it took until then.
    load_peak: u64,
    /// Whether the system's count of the most it took began anew then.
    peak_is_of_serving: bool,
}

/// What one look at a loaded worker told for the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) load_peak: u64,
    pub(super) takes: Need,
}

impl Crew {
    pub(super) fn new(model: Arc<Model>, fingerprint: String, orders: mpsc::Sender<Order>) -> Self {
        let spawned = Instant::now();
        Self {
            model,
            fingerprint,
            spawned,
            orders,
            pid: None,
            loaded: None,
            takes: Need::default(),
            device: None,
            rate: Rate { tokens: 0, since: spawned, per_second: 0.0 },
        }
    }

    pub(super) fn has_process(&mut self, pid: u32) {
        self.pid = Some(pid);
    }

    pub(super) fn has_loaded(&mut self, worker: WorkerId, link: Link, card: ModelCard) {
        tracing::info!(
            model = %self.model.name,
            worker = %worker,
            architecture = card.architecture,
            provider = card.execution_provider.as_str(),
            context_length = card.context_length,
            slots = card.slots,
            runtime = card.runtime_version,
            "worker ready"
        );
        let load_peak = self.pid.and_then(child::peak_resident_bytes).unwrap_or(0);
        let peak_is_of_serving = self.pid.is_some_and(child::forget_peak);
        let (card, at) = (Arc::new(card), crate::wall::now());
        self.loaded = Some(Loaded { link, card, at, load_peak, peak_is_of_serving });
    }

    /// Its link, once it has loaded.
    pub(super) fn link(&self) -> Option<&Link> {
        self.loaded.as_ref().map(|loaded| &loaded.link)
    }

    /// Ends the requests that it serves.
    pub(super) fn cut_off(&self) {
        if let Some(link) = self.link() {
            link.close(Loss::Unloaded);
        }
    }

    pub(super) fn order(&self, worker: WorkerId, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            tracing::debug!(worker = %worker, %error, "the worker is gone already");
        }
    }

    /// Whether it computes on a device, so that devices have something to say of it.
    pub(super) fn is_on_a_device(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| match loaded.card.execution_provider {
            ExecutionProvider::Cuda | ExecutionProvider::DirectMl => true,
            ExecutionProvider::Cpu | ExecutionProvider::Auto => false,
        })
    }

    /// Looks at the process. Gives what it takes, if that is something else than the last time, and
    /// what there is to write down, once it has loaded.
    pub(super) fn look(&mut self, devices: &Figures) -> (Option<Need>, Option<Seen>) {
        let Some(pid) = self.pid else { return (None, None) };
        let resident = child::resident_bytes(pid);
        let Some(loaded) = &self.loaded else {
            let takes = resident.map(|memory| Need { memory, device: 0 });
            return (takes.filter(|takes| self.take(*takes)), None);
        };
        self.rate.count(loaded.link.tokens(), Instant::now());
        let load_peak = loaded.load_peak;
        // What it took for a moment it will take again, and between two looks nobody would see it.
        let peak = loaded.peak_is_of_serving.then(|| child::peak_resident_bytes(pid)).flatten();
        let Some(memory) = peak.or(resident) else { return (None, None) };
        // A driver that is silent for once has not taken anything away.
        self.device = devices.held_by(pid).or(loaded.card.device_bytes).or(self.device);
        // Where nobody tells, the weights are the least that is there.
        let estimate = if self.is_on_a_device() { self.model.size_bytes } else { 0 };
        let takes = Need { memory, device: self.device.unwrap_or(estimate) };
        let news = self.take(takes).then_some(takes);
        (news, Some(Seen { load_peak, takes }))
    }

    /// Notes what it takes; gives whether that is new.
    fn take(&mut self, takes: Need) -> bool {
        std::mem::replace(&mut self.takes, takes) != takes
    }

    /// What others may know of it.
    pub(super) fn facts(&self) -> WorkerFacts {
        WorkerFacts {
            pid: self.pid,
            card: self.loaded.as_ref().map(|loaded| Arc::clone(&loaded.card)),
            loaded_at: self.loaded.as_ref().map(|loaded| loaded.at),
            device_bytes: self.device,
            tokens_per_second: self.rate.per_second,
        }
    }
}

/// How fast tokens come.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    /// That it had generated at the last count.
    tokens: u64,
    since: Instant,
    per_second: f64,
}

impl Rate {
    fn count(&mut self, tokens: u64, now: Instant) {
        let elapsed = now.duration_since(self.since);
        if elapsed >= RATE_OVER_MIN {
            #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
            let per_second = (tokens - self.tokens) as f64 / elapsed.as_secs_f64();
            *self = Self { tokens, since: now, per_second };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_since_the_last_count_and_none_is_made_of_a_moment() {
        let start = Instant::now();
        let mut rate = Rate { tokens: 10, since: start, per_second: 3.0 };
        rate.count(20, start + Duration::from_millis(499));
        assert_eq!((rate.tokens, rate.per_second), (10, 3.0));
        rate.count(30, start + Duration::from_secs(2));
        assert_eq!((rate.tokens, rate.per_second), (30, 10.0));
        rate.count(30, start + Duration::from_secs(4));
        assert_eq!(rate.per_second, 0.0);
    }
}
