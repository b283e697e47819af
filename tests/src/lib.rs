//! What the end-to-end tests stand on: a gateway of one's own, fake workers that tell what they
//! hear, and a plain HTTP client.
//!
//! Everything waits for events. The one deadline, [`PATIENCE`], is long and only there so that a
//! test which waits for what never comes fails with words instead of hanging.

#![forbid(unsafe_code)]

pub mod gateway;
pub mod http;
pub mod hub;
pub mod stage;

use std::time::Duration;

/// How long anything may take before a test gives up on it. These machines are slow and noisy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that must come.
///
/// # Panics
/// With `what` when it does not.
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}
