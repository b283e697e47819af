//! What a model remembers of its workers' failures, and when it is tried again. Pure.
//!
//! Called by the transitions in `model.rs` alone.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use hearth_shared::ids::ModelName;
use tokio::time::Instant;

use super::model::Model;
use super::{Refusal, Step};
use crate::fleet::worker::{ReadyWorker, Retry, WorkerFailure, WorkerState};

/// A worker that was ready for this long has shown that it can live: the count of failures in a
/// row starts anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(5 * 60);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

impl Model {
    pub(super) fn back_off(&mut self, failure: WorkerFailure, step: &mut Step<'_>) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if failure.is_out_of_memory() {
            // Nothing is gained by filling the memory again at once.
            self.failures_in_a_row = self.failures_in_a_row.max(2);
        }
        let retry = if failure.repeats() {
            Some(Retry::WhenFilesChange)
        } else {
            backoff(self.failures_in_a_row, &self.name).map(|pause| Retry::At(step.now + pause))
        };
        self.last_failure = Some(failure);
        if let Some(retry) = retry {
            self.state = Some(WorkerState::Failed { retry });
            if let Some(refusal) = self.refusal_while_failed(step.now) {
                self.refuse_all(&refusal, step);
            }
        }
    }

    /// Ends a backoff that is over, or whose cause may be gone because the files have changed.
    pub(super) fn forgive(&mut self, fingerprint: &str, now: Instant) {
        let Some(WorkerState::Failed { retry }) = &self.state else {
            return;
        };
        let files_changed = self.profile.fingerprint != fingerprint;
        if files_changed {
            self.failures_in_a_row = 0;
        }
        let due = matches!(retry, Retry::At(at) if *at <= now);
        if files_changed || due {
            self.state = None;
        }
    }

    pub(super) fn refusal_while_failed(&self, now: Instant) -> Option<Refusal> {
        let Some(WorkerState::Failed { retry }) = &self.state else {
            return None;
        };
        let failure = self.last_failure.clone()?;
        Some(match retry {
            Retry::At(at) => Refusal::BackingOff {
                failure,
                retry_after: at.saturating_duration_since(now).max(Duration::from_secs(1)),
            },
            Retry::WhenFilesChange => Refusal::LoadFailed(failure),
        })
    }

    pub(super) fn refuse_all(&mut self, refusal: &Refusal, step: &mut Step<'_>) {
        for ticket in self.queue.take_all() {
            step.refuse(ticket, refusal.clone());
        }
    }

    pub(super) fn note_health(&mut self, worker: &ReadyWorker, now: Instant) {
        if now.saturating_duration_since(worker.since) >= HEALTHY_AFTER {
            self.failures_in_a_row = 0;
        }
    }
}

/// How long to wait after this many failures in a row: nothing, then 1, 2, 4 … 60 s, less up to a
/// quarter.
///
/// The first failure costs nothing, so that a request which met it can be tried again at once. How
/// much is taken off differs from model to model and from failure to failure, and from nothing
/// else: models that went down together do not come back in the same moment, time after time.
fn backoff(failures_in_a_row: u32, model: &ModelName) -> Option<Duration> {
    let doublings = failures_in_a_row.checked_sub(2)?;
    let seconds = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
    let pause = Duration::from_secs(seconds).min(BACKOFF_MAX);
    let mut chance = DefaultHasher::new();
    (failures_in_a_row, model).hash(&mut chance);
    let [byte, ..] = chance.finish().to_le_bytes();
    Some(pause - pause / 4 * u32::from(byte) / 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_models_that_failed_together_come_back_apart() {
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(backoff(1, &one), None);
        for (failures, longest) in [(2, 1), (3, 2), (4, 4), (7, 32), (8, 60), (70, 60)] {
            let longest = Duration::from_secs(longest);
            let pauses = [&one, &other].map(|model| backoff(failures, model).unwrap());
            assert!(pauses.iter().all(|pause| (longest * 3 / 4..=longest).contains(pause)));
            assert_ne!(pauses[0], pauses[1], "after {failures}");
        }
    }
}
