//! One model, one process.
