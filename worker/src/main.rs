//! Hearth's worker: one model, one process.

fn main() {}
