//! Who stands in which slot.
//!
//! Pure. Running sequences are always the first slots, so that a step can run on a view of them;
//! one more may be joining: its prompt is being read, in a slot behind them. Whoever leaves is
//! replaced by the last one. The caller carries the cache along: for every [`Exchange`] it
//! exchanges what two slots hold, so that what a sequence leaves behind stays of use.

/// Exchange what these two slots hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchange(pub(crate) usize, pub(crate) usize);

/// The slots of one engine.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    running: Vec<T>,
    joining: Option<(usize, T)>,
    /// By slot: when a sequence left it last, counted in leavings.
    left: Vec<u64>,
    leavings: u64,
}

impl<T> Slots<T> {
    pub(crate) fn new(count: usize) -> Self {
        Self { running: Vec::new(), joining: None, left: vec![0; count], leavings: 0 }
    }

    /// Whether nobody stands anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.joining.is_none()
    }

    pub(crate) fn count(&self) -> usize {
        self.left.len()
    }

    /// The running sequences; an index is a slot.
    pub(crate) fn running(&mut self) -> &mut [T] {
        &mut self.running
    }

    /// The first slot behind the running ones.
    pub(crate) fn first_behind(&self) -> usize {
        self.running.len()
    }

    /// Slots in which nobody stands, the one that was left longest ago first.
    pub(crate) fn free(&self) -> Vec<usize> {
        let mut free: Vec<_> = (0..self.count()).filter(|&slot| self.is_free(slot)).collect();
        free.sort_by_key(|&slot| self.left[slot]);
        free
    }

    pub(crate) fn is_free(&self, slot: usize) -> bool {
        let joins = self.joining.as_ref().is_some_and(|(joining, _)| *joining == slot);
        slot >= self.running.len() && slot < self.count() && !joins
    }

    /// Lets a sequence begin to join in a free slot.
    ///
    /// # Panics
    /// If somebody joins already, or stands there.
    pub(crate) fn join(&mut self, slot: usize, sequence: T) {
        assert!(self.joining.is_none() && self.is_free(slot), "the slot should be free");
        self.joining = Some((slot, sequence));
    }

    /// The joining sequence and its slot.
    pub(crate) fn joining(&mut self) -> Option<(usize, &mut T)> {
        self.joining.as_mut().map(|(slot, sequence)| (*slot, sequence))
    }

    /// The joining sequence leaves, for wherever the caller puts it.
    pub(crate) fn leave_joining(&mut self) -> Option<T> {
        let (slot, sequence) = self.joining.take()?;
        self.stamp(slot);
        Some(sequence)
    }

    /// The joining sequence begins to run.
    #[must_use]
    pub(crate) fn joined(&mut self) -> Option<Exchange> {
        let (slot, sequence) = self.joining.take()?;
        self.run(slot, sequence)
    }

    /// A sequence begins to run whose prompt a free slot holds already.
    ///
    /// # Panics
    /// If somebody stands there.
    #[must_use]
    pub(crate) fn run(&mut self, slot: usize, sequence: T) -> Option<Exchange> {
        assert!(self.is_free(slot), "the slot should be free");
        let first = self.first_behind();
        if let Some((joining, _)) = &mut self.joining
            && *joining == first
        {
            *joining = slot;
        }
        self.running.push(sequence);
        self.exchange(slot, first)
    }

    /// A running sequence leaves.
    #[must_use]
    pub(crate) fn leave(&mut self, slot: usize) -> Option<Exchange> {
        self.running.swap_remove(slot);
        self.stamp(slot);
        self.exchange(slot, self.running.len())
    }

    /// Two free slots change places.
    pub(crate) fn exchange_free(&mut self, a: usize, b: usize) -> Option<Exchange> {
        debug_assert!(self.is_free(a) && self.is_free(b), "both slots should be free");
        self.exchange(a, b)
    }

    fn stamp(&mut self, slot: usize) {
        self.leavings += 1;
        self.left[slot] = self.leavings;
    }

    fn exchange(&mut self, a: usize, b: usize) -> Option<Exchange> {
        self.left.swap(a, b);
        (a != b).then_some(Exchange(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(slots: &mut Slots<&'static str>, name: &'static str) -> Option<Exchange> {
        slots.join(slots.first_behind(), name);
        slots.joined()
    }

    fn running(count: usize, names: &[&'static str]) -> Slots<&'static str> {
        let mut slots = Slots::new(count);
        for name in names {
            assert_eq!(run(&mut slots, name), None);
        }
        slots
    }

    #[test]
    fn the_last_one_fills_the_hole() {
        let mut slots = running(4, &["a", "b", "c"]);
        assert_eq!(slots.leave(0), Some(Exchange(0, 2)));
        assert_eq!(slots.running(), ["c", "b"]);
        assert_eq!(slots.leave(1), None);
    }

    #[test]
    fn who_joins_moves_up_to_the_running_ones() {
        let mut slots = running(3, &["a", "b"]);
        slots.join(2, "c");
        assert!(slots.free().is_empty());
        let _ = slots.leave(0);
        let _ = slots.leave(0);
        assert_eq!(slots.joining(), Some((2, &mut "c")));
        assert_eq!(slots.joined(), Some(Exchange(2, 0)));
        assert_eq!(slots.running(), ["c"]);
    }

    #[test]
    fn who_joins_makes_room_for_one_that_runs_at_once() {
        let mut slots = running(4, &["a"]);
        slots.join(1, "b");
        assert_eq!(slots.run(3, "c"), Some(Exchange(3, 1)));
        assert_eq!(slots.running(), ["a", "c"]);
        assert_eq!(slots.joining(), Some((3, &mut "b")));
        assert_eq!(slots.joined(), Some(Exchange(3, 2)));
    }

    #[test]
    fn slots_are_free_in_the_order_in_which_they_were_left() {
        let mut slots = running(4, &["a", "b", "c"]);
        assert_eq!(slots.free(), [3]);
        // What `a` left lies where `c` stood.
        let _ = slots.leave(0);
        slots.join(3, "d");
        let _ = slots.leave(1);
        let _ = slots.leave_joining();
        assert_eq!(slots.free(), [2, 1, 3]);
        assert!(!slots.is_free(0) && slots.is_free(1) && !slots.is_free(4));
    }
}
