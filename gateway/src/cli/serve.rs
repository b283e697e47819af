//! `hearth serve`: configuration in, a running gateway until it is told to end.
//!
//! Only wires: it makes the directories, binds the address, starts the fleet and the server, and
//! turns signals into a drain.

mod home;
mod limits;
mod reload;

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use self::home::Home;
use super::{Exit, Failure};
use crate::app::App;
use crate::catalog::{Catalog, Offer};
use crate::config::{self, ACCESS_FIELDS, Config, KEYS, MODEL_KEYS};
use crate::fleet::scheduler::Budget;
use crate::fleet::{Fleet, FleetTask, Rules, Settings, WorkerSettings};
use crate::guard::Guard;
use crate::guard::caller::Caller;
use crate::hub::Hub;
use crate::metrics;
use crate::pull::Puller;
use crate::server::{self, Room, Shutdown};

/// After the drain's deadline and the workers' grace period, what is left has this long to be
/// written before connections are cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often histograms are tidied up: they keep every sample until then or until a scrape.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Where it is kept what models took, below the home.
const RECORDS: &str = "memory.json";

/// Every key, for `--help`.
pub(super) fn settings_help() -> String {
    let mut help = "Places, as variables only:\n".to_owned();
    for (variable, meaning) in [
        ("HEARTH_HOME", "models/, runtime/ and hearth.toml [the platform's data directory]"),
        ("HEARTH_CONFIG", "another file instead of HEARTH_HOME/hearth.toml"),
    ] {
        help.push_str(&format!("  {variable:<26} {meaning}\n"));
    }
    help.push_str("\nSettings, each a key in hearth.toml and a variable:\n");
    for key in KEYS {
        let variable = format!("HEARTH_{}", key.name.to_ascii_uppercase());
        help.push_str(&format!("  {variable:<26} {}\n", key.help));
    }
    help.push_str("\nSettings of one model, keys under a line [models.\"NAME\"] in hearth.toml:\n");
    for key in MODEL_KEYS {
        help.push_str(&format!("  {:<26} {}\n", key.name, key.help));
    }
    help.push_str(
        "\nOther names of models, keys under a line [aliases] in hearth.toml:\n  \
         \"gpt-4o-mini\" = \"NAME\"\n",
    );
    help.push_str("\nA client's key, each a table [[keys]] in hearth.toml:\n");
    for (field, meaning) in ACCESS_FIELDS {
        help.push_str(&format!("  {field:<26} {meaning}\n"));
    }
    help.push_str(
        "\nhearth.toml is read anew when it changes, and on SIGHUP.\n\
         SIGTERM or Ctrl-C lets requests finish for drain_timeout; a second one ends at once.",
    );
    help
}

pub(super) fn serve() -> Result<(), Failure> {
    let config = Config::load(&config::process_environment)?;
    start_logging(&config)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))?
        .block_on(run(config))
}

fn start_logging(config: &Config) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log).map_err(|error| {
        Failure::new(Exit::Config, format!("log (or HEARTH_LOG): {error}; write info or debug"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Whoever read our log may be gone. What can't be logged must not be told by a print,
        // which would panic for the same reason.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    Ok(())
}

async fn run(config: Config) -> Result<(), Failure> {
    // First of all, so that a signal always means a drain once somebody knows that we are there.
    let signals = Signals::new().map_err(|error| Failure::new(Exit::Failed, error))?;
    limits::raise_open_files();
    let home = Home::open(&config.home)?;
    let listener = listen(&config).await?;
    let address = listener.local_addr().map_err(|error| Failure::new(Exit::Failed, error))?;
    let metrics = metrics::install().map_err(|error| Failure::new(Exit::Failed, error))?;
    let (fleet, fleet_task) = start_fleet(&config, &home)?;
    let catalog = Arc::new(Catalog::new(home.models_dir().to_owned()));
    catalog.set_aliases(config.aliases.clone());
    let hub = Hub::new(&config.hf_endpoint, config.hf_token.clone());
    let app = Arc::new(App {
        puller: Arc::new(Puller::new(hub, Arc::clone(&catalog))),
        catalog,
        shelf: Arc::default(),
        fleet: fleet.clone(),
        guard: Arc::new(Guard::new(
            &allowed_hosts(&config),
            &config.allowed_origins,
            config.api_key.as_ref(),
            &config.keys,
        )),
        metrics: metrics.clone(),
        room: Room::default(),
        connections: Arc::default(),
        responses: Arc::default(),
        caller: Arc::new(Caller::unlimited("gateway")),
        place: None,
    });
    warn_of_what_is_missing(&config, &app).await;
    warn_of_aliases(&app).await;
    announce(address)?;
    let (order, shutdown) = watch::channel(None);
    let serving = server::run(Arc::clone(&app), listener, config.max_connections, shutdown);
    let both = async { tokio::join!(serving, fleet_task.run()) };
    tokio::select! {
        ((), ()) = both => {}
        result = drain_when_told(signals, &config, &fleet, &order) => result?,
        never = keep_up(&metrics) => match never {},
        never = after_the_start(&app, &config) => match never {},
    }
    drop(home);
    Ok(())
}

/// Binds the one address that the configured name stands for, IPv4 before IPv6.
///
/// Only that one: a name with two addresses, as localhost often is, must not end at the second
/// because another server has the first. Clients would reach either, and nobody would know which.
async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    let host = &config.host;
    let found = tokio::net::lookup_host((host.host.as_str(), host.port)).await;
    let addresses = found.map_err(|error| {
        let message = format!("host (or HEARTH_HOST): {host} is no address: {error}");
        Failure::new(Exit::Config, message)
    })?;
    let Some(address) = addresses.min_by_key(SocketAddr::is_ipv6) else {
        return Err(Failure::new(Exit::Config, format!("host (or HEARTH_HOST): no {host}")));
    };
    if !address.ip().to_canonical().is_loopback()
        && config.api_key.is_none()
        && config.keys.is_empty()
    {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "{address} can be reached from other machines, so an API key is needed: set \
                 HEARTH_API_KEY, or listen on 127.0.0.1"
            ),
        ));
    }
    TcpListener::bind(address).await.map_err(|error| {
        let (exit, hint) = match error.kind() {
            std::io::ErrorKind::AddrInUse => (
                Exit::Busy,
                "another server uses it, Ollama perhaps; stop that one or set HEARTH_HOST to \
                 another port",
            ),
            _ => (Exit::Config, "set HEARTH_HOST to an address and port that may be used here"),
        };
        Failure::new(exit, format!("can't listen on {address}: {error}; {hint}"))
    })
}

/// The name that we listen as is one that clients may use.
fn allowed_hosts(config: &Config) -> Vec<String> {
    config.allowed_hosts.iter().chain([&config.host.host]).cloned().collect()
}

/// What of the configuration the fleet follows, and may be told anew.
fn fleet_settings(config: &Config) -> Settings {
    let rules = Rules {
        queue_max: config.max_queue,
        queue_timeout: config.queue_timeout,
        load_stall_timeout: config.load_timeout,
        hang_timeout: config.hang_timeout,
        grace_period: config.grace_period,
        budget: Budget {
            memory: config.memory,
            device: config.device_memory,
            models: config.max_models.map(Into::into),
        },
        swap_after: config.swap_after,
    };
    Settings { rules, models: config.models.clone() }
}

fn start_fleet(config: &Config, home: &Home) -> Result<(Fleet, FleetTask), Failure> {
    let Settings { rules, models } = fleet_settings(config);
    // Links are followed here, because ONNX Runtime looks for its providers beside itself.
    let library = config.runtime_library.canonicalize();
    let library = library.unwrap_or_else(|_missing| config.runtime_library.clone());
    let workers = WorkerSettings {
        program: config.worker.clone(),
        environment: config.worker_environment.clone(),
        run_dir: home.run_dir().to_owned(),
        runtime_library: library,
        models,
        records: config.home.join(RECORDS),
    };
    Fleet::new(rules, workers).map_err(|error| Failure::new(Exit::Failed, error))
}

/// Nothing of this stops the gateway: it may be put there while it runs.
async fn warn_of_what_is_missing(config: &Config, app: &App) {
    if !config.runtime_library.exists() {
        let path = config.runtime_library.display();
        tracing::warn!(
            "ONNX Runtime is not at {path}; run `scripts/setup`, or set HEARTH_RUNTIME_LIBRARY"
        );
    }
    if !config.worker.exists() {
        let path = config.worker.display();
        tracing::warn!("the worker is not at {path}; run `scripts/setup`, or set HEARTH_WORKER");
    }
    // A directory that can't be read has been warned of already.
    let Ok(models) = app.catalog.models().await else { return };
    if models.is_empty() {
        let root = app.catalog.root().display();
        tracing::warn!("there are no models in {root}; run `scripts/setup`, or put a folder there");
    } else {
        let names: Vec<&str> = models.keys().map(|name| name.as_str()).collect();
        tracing::info!("models: {}", names.join(", "));
    }
}

/// A name that stands for nothing may come to stand for something; until then it is worth a word.
async fn warn_of_aliases(app: &App) {
    let Ok(names) = app.catalog.names().await else { return };
    for (alias, model) in &*names.aliases {
        if names.offer(alias).is_none() {
            tracing::warn!(%alias, "stands for {model}, which is not there");
        }
    }
}

/// The one line on standard output: scripts read the port from it.
fn announce(address: SocketAddr) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    writeln!(out, "hearth {} listens on http://{address}", env!("CARGO_PKG_VERSION"))
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Exit::Failed, format!("can't say where it listens: {error}")))
}

/// Never returns `Ok`: once the drain is ordered, serving ends by itself.
async fn drain_when_told(
    mut signals: Signals,
    config: &Config,
    fleet: &Fleet,
    order: &watch::Sender<Shutdown>,
) -> Result<(), Failure> {
    signals.next().await;
    tracing::info!(seconds = config.drain_timeout.as_secs(), "draining; once more to end at once");
    let deadline = Instant::now() + config.drain_timeout;
    order.send_replace(Some(deadline + config.grace_period + LAST_WORDS));
    fleet.drain(deadline).await;
    signals.next().await;
    // Workers die with us: nothing has to be waited for.
    Err(Failure::new(Exit::Interrupted, "ended at once, as told a second time"))
}

/// Loads what shall be there from the start, and then heeds what changes.
async fn after_the_start(app: &App, config: &Config) -> Infallible {
    let up_to_date = reload::keep_up_to_date(app, config.clone());
    let (never, _loaded) = tokio::join!(up_to_date, preload(app, config));
    never
}

/// One that can't be loaded is logged; it will be tried again by whoever asks for it.
async fn preload(app: &App, config: &Config) {
    let wanted = config.models.by_name.iter().filter(|(_, settings)| settings.preload);
    let loads = wanted.map(|(name, _)| async move {
        match app.catalog.find(name).await {
            Ok(Some(Offer { model, .. })) => {
                if let Err(refusal) = app.fleet.preload(&model).await {
                    tracing::error!(model = %name, "can't be preloaded: {refusal}");
                }
            }
            Ok(None) => {
                tracing::error!(model = %name, "can't be preloaded: there is no such model")
            }
            Err(error) => tracing::error!(model = %name, "can't be preloaded: {error}"),
        }
    });
    futures_util::future::join_all(loads).await;
}

/// Without it, a gateway that nobody scrapes would keep every sample for ever.
async fn keep_up(metrics: &PrometheusHandle) -> Infallible {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _term = self.terminate.recv() => {}
            _int = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
