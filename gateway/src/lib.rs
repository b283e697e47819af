//! The gateway.

#![forbid(unsafe_code)]

pub mod keep_alive;
pub mod fleet;
