//! Who stands in which slot.
//!
//! Pure. Running sequences are always the first slots, so that a step can run on a view of them;
//! one more may be joining: its prompt is being read, in a slot behind them. Whoever leaves is
//! replaced by the last one, and the caller moves the cache along.

/// Copy slot `from`'s cache to slot `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// The slots of one engine.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    count: usize,
    running: Vec<T>,
    joining: Option<(usize, T)>,
}

impl<T> Slots<T> {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, running: Vec::new(), joining: None }
    }

    /// Whether nobody stands anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.joining.is_none()
    }

    /// The running sequences; an index is a slot.
    pub(crate) fn running(&mut self) -> &mut [T] {
        &mut self.running
    }

    /// Whether another sequence can begin to join.
    pub(crate) fn can_join(&self) -> bool {
        self.joining.is_none() && self.running.len() < self.count
    }

    /// Lets a sequence begin to join; gives its slot.
    ///
    /// # Panics
    /// Unless [`Slots::can_join`].
    pub(crate) fn join(&mut self, sequence: T) -> usize {
        assert!(self.can_join(), "no slot is free");
        let slot = self.running.len();
        self.joining = Some((slot, sequence));
        slot
    }

    /// The joining sequence and its slot.
    pub(crate) fn joining(&mut self) -> Option<(usize, &mut T)> {
        self.joining.as_mut().map(|(slot, sequence)| (*slot, sequence))
    }

    /// The joining sequence leaves, for wherever the caller puts it.
    pub(crate) fn leave_joining(&mut self) -> Option<T> {
        self.joining.take().map(|(_, sequence)| sequence)
    }

    /// The joining sequence begins to run.
    #[must_use]
    pub(crate) fn joined(&mut self) -> Option<Move> {
        let (from, sequence) = self.joining.take()?;
        let to = self.running.len();
        self.running.push(sequence);
        // Others may have left since it began to join.
        (from != to).then_some(Move { from, to })
    }

    /// A running sequence leaves.
    #[must_use]
    pub(crate) fn leave(&mut self, slot: usize) -> Option<Move> {
        self.running.swap_remove(slot);
        let from = self.running.len();
        (from != slot).then_some(Move { from, to: slot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(slots: &mut Slots<&'a str>, name: &'a str) -> Option<Move> {
        slots.join(name);
        slots.joined()
    }

    #[test]
    fn the_last_one_fills_the_hole() {
        let mut slots = Slots::new(4);
        for name in ["a", "b", "c"] {
            assert_eq!(run(&mut slots, name), None);
        }
        assert_eq!(slots.leave(0), Some(Move { from: 2, to: 0 }));
        assert_eq!(slots.running(), ["c", "b"]);
        assert_eq!(slots.leave(1), None);
    }

    #[test]
    fn who_joins_moves_up_to_the_running_ones() {
        let mut slots = Slots::new(3);
        run(&mut slots, "a");
        run(&mut slots, "b");
        assert_eq!(slots.join("c"), 2);
        assert!(!slots.can_join());
        let _ = slots.leave(0);
        let _ = slots.leave(0);
        assert_eq!(slots.joining(), Some((2, &mut "c")));
        assert_eq!(slots.joined(), Some(Move { from: 2, to: 0 }));
        assert_eq!(slots.running(), ["c"]);
    }

    #[test]
    fn no_more_join_than_there_are_slots() {
        let mut slots = Slots::new(1);
        assert!(slots.can_join());
        run(&mut slots, "a");
        assert!(!slots.can_join());
        let _ = slots.leave(0);
        assert!(slots.can_join() && slots.is_empty());
    }
}
