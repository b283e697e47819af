//! The wall's clock, for what people are shown: dates in answers, in logs, in metrics.
//!
//! It jumps when it is set right, so nothing is decided by it: every deadline is tokio's `Instant`,
//! which only goes forward. `.clippy.toml` forbids the other ways to ask it.

/// What the wall shows now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that looks at the wall")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
