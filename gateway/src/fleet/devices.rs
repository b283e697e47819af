//! What the devices say of their memory: how much each has, and which process holds how much of it.
//!
//! The fleet's task asks and hears; `devices/nvml.rs` reads, on a thread of its own, because a
//! driver that hangs would hang whoever called it. It holds up that thread and nobody else: what
//! was told last, or estimated, stands until it answers again.

mod nvml;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::memory;

/// How long a driver may take to answer. Most take a millisecond.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// One device as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    /// Bytes that it has.
    total: u64,
    /// Processes that compute on it, with the bytes that each holds, where the driver knows.
    processes: Vec<(u32, Option<u64>)>,
}

/// All devices at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Figures {
    /// Bytes that each has, in the driver's order.
    pub(super) totals: Vec<u64>,
    by_pid: HashMap<u32, u64>,
}

impl Figures {
    fn of(readings: &[Reading]) -> Self {
        let totals = readings.iter().map(|device| device.total).collect();
        let mut by_pid = HashMap::new();
        for (pid, bytes) in readings.iter().flat_map(|device| &device.processes) {
            if let Some(bytes) = bytes {
                *by_pid.entry(*pid).or_default() += bytes;
            }
        }
        Self { totals, by_pid }
    }

    /// What a process holds of all devices; `None` if they do not know it, as when it runs in a
    /// container whose process ids are not theirs.
    pub(super) fn held_by(&self, pid: u32) -> Option<u64> {
        self.by_pid.get(&pid).copied()
    }

    /// What all workers may take where nobody says. Each of them takes the first device that CUDA
    /// shows it, which is the fastest, and the largest among equals: so it is one device's memory
    /// and not the sum.
    pub(super) fn default_budget(&self) -> Option<u64> {
        self.totals.iter().copied().max().map(memory::less_a_reserve)
    }
}

/// Who asks the thread that reads.
#[derive(Debug)]
pub(super) struct Devices {
    questions: SyncSender<()>,
    answers: mpsc::Receiver<Figures>,
    last: Arc<Figures>,
    patience: Patience,
}

impl Devices {
    /// Starts the thread, which reads once unasked. Where there is no driver, it ends.
    ///
    /// # Errors
    /// What the system says if it has no room for a thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (questions, inbox) = sync_channel(1);
        let (outbox, answers) = mpsc::channel(1);
        let read = move || nvml::read_when_asked(&inbox, &outbox);
        std::thread::Builder::new().name("devices".to_owned()).spawn(read)?;
        Ok(Self { questions, answers, last: Arc::default(), patience: Patience::default() })
    }

    /// Asks for new figures, unless an answer is still due.
    pub(super) fn ask(&mut self, now: Instant) {
        // A thread that has ended had no driver to ask, and never will.
        if self.patience.may_ask() && self.questions.try_send(()).is_ok() {
            self.patience = Patience::Waits { since: now };
        } else if self.patience.is_over(now) {
            tracing::warn!(
                seconds = ANSWERS_WITHIN.as_secs(),
                "the devices' driver does not answer; what their memory holds is not known any more"
            );
        }
    }

    /// The next answer.
    ///
    /// # Cancel safety
    /// Safe: an answer is either returned or still there.
    pub(super) async fn answered(&mut self) -> Option<Arc<Figures>> {
        let figures = self.answers.recv().await?;
        self.patience = Patience::Satisfied;
        self.last = Arc::new(figures);
        Some(Arc::clone(&self.last))
    }

    /// The last answer.
    pub(super) fn figures(&self) -> &Arc<Figures> {
        &self.last
    }
}

/// How a question stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Patience {
    #[default]
    Satisfied,
    Waits {
        since: Instant,
    },
    /// The answer is overdue, and that was told.
    Lost,
}

impl Patience {
    fn may_ask(self) -> bool {
        self == Self::Satisfied
    }

    /// Whether patience ends now; says so once.
    fn is_over(&mut self, now: Instant) -> bool {
        let over = matches!(*self, Self::Waits { since } if now >= since + ANSWERS_WITHIN);
        if over {
            *self = Self::Lost;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_process_holds_the_sum_of_what_it_holds_on_each_device() {
        let reading = |total, processes: &[_]| Reading { total, processes: processes.to_vec() };
        let figures = Figures::of(&[
            reading(24 * GIB, &[(7, Some(3)), (8, None), (9, Some(1))]),
            reading(80 * GIB, &[(7, Some(4))]),
        ]);
        assert_eq!((figures.held_by(7), figures.held_by(9)), (Some(7), Some(1)));
        assert_eq!((figures.held_by(8), figures.held_by(1)), (None, None));
        assert_eq!(figures.totals, [24 * GIB, 80 * GIB]);
        assert_eq!(figures.default_budget(), Some(76 * GIB));
        assert_eq!(Figures::default().default_budget(), None);
    }

    #[test]
    fn an_answer_that_is_overdue_is_complained_of_once_and_asked_for_no_more() {
        let start = Instant::now();
        let mut patience = Patience::Waits { since: start };
        assert!(!patience.may_ask());
        assert!(!patience.is_over(start + ANSWERS_WITHIN - Duration::from_millis(1)));
        assert!(patience.is_over(start + ANSWERS_WITHIN));
        assert!(!patience.is_over(start + ANSWERS_WITHIN * 2));
        assert!(!patience.may_ask());
        assert!(Patience::Satisfied.may_ask());
    }
}
