//! The requests that wait for one model, and how fast it serves them. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Wants;
use crate::fleet::worker::TicketId;

/// One waiting request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) ticket: TicketId,
    pub(super) since: Instant,
    wants: Wants,
}

/// First come, first served.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: VecDeque<Waiter>,
}

impl Queue {
    pub(super) fn push(&mut self, (ticket, wants): (TicketId, Wants), now: Instant) {
        self.waiters.push_back(Waiter { ticket, since: now, wants });
    }

    /// Takes out everybody who wants no slot.
    pub(super) fn take_warm(&mut self) -> Vec<TicketId> {
        let is_warm = |waiter: &mut Waiter| waiter.wants != Wants::Lease;
        let mut warm = Vec::new();
        while let Some(place) = self.waiters.iter_mut().position(is_warm) {
            warm.extend(self.waiters.remove(place).map(|waiter| waiter.ticket));
        }
        warm
    }

    pub(super) fn pop(&mut self) -> Option<TicketId> {
        self.waiters.pop_front().map(|waiter| waiter.ticket)
    }

    /// Takes a ticket out, wherever it stands. Gives whether it was there.
    pub(super) fn remove(&mut self, ticket: TicketId) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|waiter| waiter.ticket != ticket);
        self.waiters.len() < before
    }

    /// Takes out everybody who came at `since` or before.
    pub(super) fn pop_older_than(&mut self, since: Instant) -> Option<Waiter> {
        self.waiters.pop_front_if(|waiter| waiter.since <= since)
    }

    pub(super) fn take_all(&mut self) -> Vec<TicketId> {
        self.waiters.drain(..).map(|waiter| waiter.ticket).collect()
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiters.front().map(|waiter| waiter.since)
    }

    /// What the first one wants.
    pub(super) fn first_wants(&self) -> Option<Wants> {
        self.waiters.front().map(|waiter| waiter.wants)
    }

    pub(super) fn first(&self) -> Option<(Instant, TicketId)> {
        self.waiters.front().map(|waiter| (waiter.since, waiter.ticket))
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }
}

/// A moving average of how long one lease lasts, from which a full queue computes `Retry-After`.
#[derive(Debug, Default)]
pub(super) struct ServiceTime {
    average: Option<Duration>,
}

impl ServiceTime {
    /// How much a new lease weighs.
    const WEIGHT: f64 = 0.2;
    /// `Retry-After` is never longer: OpenAI's clients give up on anything above.
    pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
    const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

    pub(super) fn record(&mut self, lease: Duration) {
        let average = self.average.map_or(lease, |average| {
            average.mul_f64(1.0 - Self::WEIGHT) + lease.mul_f64(Self::WEIGHT)
        });
        self.average = Some(average);
    }

    /// When a request that is `place`-th in the queue of a worker with `slots` is likely to start.
    pub(super) fn wait_at(&self, place: usize, slots: usize) -> Duration {
        let rounds = place.div_ceil(slots.max(1));
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        self.average
            .unwrap_or(Self::RETRY_AFTER_MIN)
            .saturating_mul(rounds)
            .clamp(Self::RETRY_AFTER_MIN, Self::RETRY_AFTER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_the_place_and_shrinks_with_the_slots() {
        let mut service = ServiceTime::default();
        assert_eq!(service.wait_at(3, 1), Duration::from_secs(3));
        service.record(Duration::from_secs(10));
        assert_eq!(service.wait_at(1, 1), Duration::from_secs(10));
        assert_eq!(service.wait_at(8, 4), Duration::from_secs(20));
        assert_eq!(service.wait_at(1000, 1), Duration::from_secs(120));
        service.record(Duration::from_secs(20));
        assert_eq!(service.wait_at(1, 1), Duration::from_secs(12));
    }
}
