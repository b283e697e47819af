//! Which inputs share a run.
//!
//! Pure. A batch costs its rows times its longest row, so inputs of about the same length belong
//! together, whoever sent them. The requests take turns in having their longest waiting input
//! lead a batch: so a short request waits for a few batches, and not for all of a long one.

use std::collections::{BTreeSet, VecDeque};

use hearth_shared::ids::RequestId;

/// How much one run takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Rows times the longest row's tokens. An input longer than this runs alone.
    pub(super) tokens: usize,
    pub(super) rows: usize,
}

/// Up to here rows are cheap, however little of them is used: a run has a cost of its own.
const CHEAP_TOKENS: usize = 256;

/// One input of a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: RequestId,
    /// Among the request's inputs.
    pub(super) index: usize,
}

/// The inputs that wait, by request.
#[derive(Debug, Default)]
pub(super) struct Queue {
    requests: VecDeque<(RequestId, Waiting)>,
}

/// Lengths in tokens and indices.
type Waiting = BTreeSet<(usize, usize)>;

impl Queue {
    /// Lets a request's inputs wait; `lengths` are theirs in order.
    pub(super) fn push(&mut self, id: RequestId, lengths: impl Iterator<Item = usize>) {
        let waiting = lengths.enumerate().map(|(index, length)| (length, index)).collect();
        self.requests.push_back((id, waiting));
    }

    /// Forgets what still waits of a request.
    pub(super) fn remove(&mut self, id: RequestId) {
        self.requests.retain(|(other, _)| *other != id);
    }

    /// The next batch, its longest input first; empty if nothing waits.
    pub(super) fn next(&mut self, budget: Budget) -> Vec<Place> {
        let Some((_, waiting)) = self.requests.front() else { return Vec::new() };
        let Some(&(longest, _)) = waiting.last() else { return Vec::new() };
        let rows = (budget.tokens / longest.max(1)).clamp(1, budget.rows);
        let mut candidates = Vec::new();
        for (turn, (id, waiting)) in self.requests.iter().enumerate() {
            let fitting = waiting.range(..=(longest, usize::MAX)).rev().take(rows);
            candidates.extend(fitting.map(|&(length, index)| (length, turn, *id, index)));
        }
        // The leader's own first among those as long as it.
        candidates.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut batch = Vec::new();
        for (length, turn, id, index) in candidates.into_iter().take(rows) {
            let is_cheap = (batch.len() + 1) * longest <= CHEAP_TOKENS;
            if length * 4 < longest * 3 && !is_cheap {
                break;
            }
            self.requests[turn].1.remove(&(length, index));
            batch.push(Place { id, index });
        }
        if let Some(leader) = self.requests.pop_front() {
            self.requests.push_back(leader);
        }
        self.requests.retain(|(_, waiting)| !waiting.is_empty());
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { tokens: 1000, rows: 8 };

    fn queue(requests: &[&[usize]]) -> Queue {
        let mut queue = Queue::default();
        for (id, lengths) in (0..).zip(requests) {
            queue.push(RequestId(id), lengths.iter().copied());
        }
        queue
    }

    fn next(queue: &mut Queue) -> Vec<(u64, usize)> {
        queue.next(BUDGET).into_iter().map(|place| (place.id.0, place.index)).collect()
    }

    #[test]
    fn inputs_of_about_one_length_share_a_batch_whoever_sent_them() {
        let mut queue = queue(&[&[300, 50, 290], &[280, 20]]);
        assert_eq!(next(&mut queue), [(0, 0), (0, 2), (1, 0)]);
        // Few tokens are cheap in any mixture.
        assert_eq!(next(&mut queue), [(1, 1)]);
        assert_eq!(next(&mut queue), [(0, 1)]);
        assert_eq!(next(&mut queue), []);
    }

    #[test]
    fn a_short_request_does_not_wait_for_all_of_a_long_one() {
        let mut queue = queue(&[&[400; 100], &[30]]);
        assert_eq!(next(&mut queue), [(0, 99), (0, 98)]);
        assert_eq!(next(&mut queue), [(1, 0)]);
        assert_eq!(next(&mut queue).len(), 2);
    }

    #[test]
    fn neither_rows_nor_tokens_exceed_the_budget() {
        let mut queue = queue(&[&[10; 20], &[5000, 600]]);
        assert_eq!(next(&mut queue).len(), 8);
        assert_eq!(next(&mut queue), [(1, 0)]);
        assert_eq!(next(&mut queue).len(), 8);
        assert_eq!(next(&mut queue), [(1, 1)]);
        assert_eq!(next(&mut queue).len(), 4);
    }

    #[test]
    fn what_is_removed_is_not_heard_of_again() {
        let mut queue = queue(&[&[10, 10], &[10]]);
        queue.remove(RequestId(0));
        assert_eq!(next(&mut queue), [(1, 0)]);
        assert_eq!(next(&mut queue), []);
    }
}
