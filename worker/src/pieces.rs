//! Work on weights, cut into pieces and shared out over a few threads.
//!
//! Whoever hands a graph over makes its weights with it, once in a load.

use std::{num::NonZeroUsize, sync::Mutex, thread};

/// A part of the making that needs nothing of the others.
pub(crate) struct Piece<'w> {
    /// Elements to decode: larger pieces are begun first.
    pub(crate) elements: usize,
    pub(crate) run: Box<dyn FnOnce() + Send + 'w>,
}

/// Elements in a piece, where rows can be shared out.
pub(crate) const PIECE_ELEMENTS: usize = 1 << 20;

/// Runs every piece, the large ones first, so that the threads end at about the same time.
pub(crate) fn run(mut pieces: Vec<Piece<'_>>, threads: NonZeroUsize) {
    pieces.sort_by_key(|piece| piece.elements);
    let queue = Mutex::new(pieces);
    let work = || {
        loop {
            // A panic elsewhere poisons the queue; the scope passes it on, so this thread may stop.
            let Ok(Some(piece)) = queue.lock().map(|mut queue| queue.pop()) else {
                return;
            };
            (piece.run)();
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.get() {
            scope.spawn(work);
        }
        work();
    });
}
