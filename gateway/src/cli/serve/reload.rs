//! Configuration and catalogue while the gateway runs: read anew when their files change, and on
//! SIGHUP.
//!
//! Models whose settings or files have changed make place for workers with the new ones; nothing
//! else is touched. A file that makes no sense changes nothing and is complained of.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use super::{fleet_settings, warn_of_aliases};
use crate::app::App;
use crate::config::{self, Config};

/// How often the configuration's date is looked at: one question to the file system.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Every so many looks the models directory is compared with what is loaded, if anything is.
const COMPARE_EVERY: u32 = 5;

/// Goes on until it is dropped.
pub(super) async fn keep_up_to_date(app: &App, mut config: Config) -> Infallible {
    let mut hangups = Hangups::new();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = changed_at(&config);
    let mut until_compared = 0;
    loop {
        let told = tokio::select! {
            () = hangups.next() => true,
            _look = looks.tick() => false,
        };
        let now = changed_at(&config);
        if told || now != seen {
            seen = now;
            reload(app, &mut config).await;
        }
        until_compared = if told { 0 } else { until_compared + 1 };
        if until_compared % COMPARE_EVERY == 0 {
            compare(app).await;
        }
    }
}

fn changed_at(config: &Config) -> Option<SystemTime> {
    std::fs::metadata(&config.file).and_then(|file| file.modified()).ok()
}

async fn reload(app: &App, config: &mut Config) {
    match Config::load(&config::process_environment) {
        Ok(new) => {
            let waiting = config.changes_at_the_next_start(&new);
            if !waiting.is_empty() {
                tracing::warn!("these settings change at the next start: {}", waiting.join(", "));
            }
            tracing::info!("the configuration was read anew");
            app.fleet.configure(fleet_settings(&new)).await;
            app.catalog.set_aliases(new.aliases.clone());
            warn_of_aliases(app).await;
            *config = new;
        }
        Err(error) => tracing::error!("the configuration stays as it was: {error}"),
    }
}

async fn compare(app: &App) {
    if app.fleet.snapshot().models.iter().any(|status| status.has_worker())
        && let Ok(models) = app.catalog.models().await
    {
        app.fleet.compare(models).await;
    }
}

/// SIGHUP, where there is such a thing.
#[cfg(unix)]
struct Hangups(Option<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Hangups {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self(
            signal(SignalKind::hangup())
                .inspect_err(|error| tracing::warn!(%error, "SIGHUP can't be listened to"))
                .ok(),
        )
    }

    async fn next(&mut self) {
        let told = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if told.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        std::future::pending().await
    }
}
