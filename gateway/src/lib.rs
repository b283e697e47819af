//! The gateway.

#![forbid(unsafe_code)]
