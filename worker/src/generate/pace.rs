//! How much of a prompt is read in one go, so that those who run hardly notice.
//!
//! Pure. Whoever runs waits while another's prompt is read, so a chunk shall take no more than
//! [`ALLOWANCE`] decode steps. What steps and tokens take is measured as they go: it depends on
//! the machine, the model and who else is in the batch.

use std::time::Duration;

/// How many decode steps a chunk may take while others run. Less hardly helped them with ONNX
/// Runtime's integer products, where a run of ten tokens takes as long as one of sixteen: 1.1 left
/// their gaps as they were and let the prompt wait half as long again. With packed weights, where
/// time grows with every token, nothing but this was tried.
const ALLOWANCE: f64 = 1.4;
/// Less than this at a time would read a prompt hardly faster than decoding it would.
const CHUNK_LEAST: usize = 8;
/// What the first chunk is while nothing has been measured.
const CHUNK_FIRST: usize = 32;

/// What has been measured so far.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    step: Recent,
    token: Recent,
}

impl Pace {
    /// A decode step took so long.
    pub(crate) fn stepped(&mut self, took: Duration) {
        self.step.note(took.as_secs_f64());
    }

    /// A chunk of so many tokens took so long, while others waited.
    pub(crate) fn read(&mut self, tokens: usize, took: Duration) {
        self.token.note(took.as_secs_f64() / tokens.max(1) as f64);
    }

    /// How many tokens the next chunk should have, while others run; at most `most`.
    pub(crate) fn chunk(&self, most: usize) -> usize {
        let (Some(step), Some(token)) = (self.step.median(), self.token.median()) else {
            return CHUNK_FIRST.min(most);
        };
        let fits = (1..=most).rev().find(|&tokens| tokens as f64 * token <= step * ALLOWANCE);
        fits.unwrap_or(1).max(CHUNK_LEAST).min(most)
    }
}

/// The last few values of something that jumps when the machine is busy elsewhere.
#[derive(Debug, Default)]
struct Recent {
    values: [f64; Self::KEPT],
    noted: usize,
}

impl Recent {
    const KEPT: usize = 9;

    fn note(&mut self, value: f64) {
        self.values[self.noted % Self::KEPT] = value;
        self.noted += 1;
    }

    fn median(&self) -> Option<f64> {
        let mut known = self.values;
        let known = &mut known[..self.noted.min(Self::KEPT)];
        known.sort_unstable_by(f64::total_cmp);
        known.get(known.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_chunk_takes_as_long_as_the_allowance() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk(512), CHUNK_FIRST);
        pace.stepped(25 * MS);
        pace.read(32, 64 * MS);
        assert_eq!(pace.chunk(512), 17);
        assert_eq!(pace.chunk(10), 10);
        // A step that is long anyway lets more in.
        for _ in 0..9 {
            pace.stepped(101 * MS);
        }
        assert_eq!(pace.chunk(512), 70);
    }

    #[test]
    fn a_single_hiccup_changes_nothing() {
        let mut pace = Pace::default();
        for _ in 0..5 {
            pace.stepped(20 * MS);
            pace.read(10, 20 * MS);
        }
        let before = pace.chunk(512);
        pace.stepped(2000 * MS);
        pace.read(10, 900 * MS);
        assert_eq!(pace.chunk(512), before);
    }

    #[test]
    fn reading_never_stops_altogether() {
        let mut pace = Pace::default();
        pace.stepped(MS);
        pace.read(1, 100 * MS);
        assert_eq!(pace.chunk(512), CHUNK_LEAST);
        assert_eq!(pace.chunk(3), 3);
    }
}
