//! `hearth serve`: configuration in, a running gateway until it is told to end.
//!
//! Only wires: it makes the directories, binds the address, starts the fleet and the server, and
//! turns signals into a drain.

mod home;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use hearth_shared::protocol::LoadSpec;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use self::home::Home;
use super::{Exit, Failure};
use crate::app::App;
use crate::catalog::Catalog;
use crate::config::{self, Config, KEYS};
use crate::fleet::{Fleet, FleetTask, Rules, WorkerSettings};
use crate::guard::Guard;
use crate::{metrics, server};

/// Every key, for `--help`.
pub(super) fn settings_help() -> String {
    let mut help = "Settings, each a key in HEARTH_HOME/hearth.toml and a variable:\n".to_owned();
    for key in KEYS {
        let variable = format!("HEARTH_{}", key.name.to_ascii_uppercase());
        help.push_str(&format!("  {variable:<26} {}\n", key.help));
    }
    help.push_str(
        "\nSIGTERM or Ctrl-C lets requests finish for drain_timeout; a second one ends at once.",
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
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    Ok(())
}

async fn run(config: Config) -> Result<(), Failure> {
    let home = Home::open(&config.home)?;
    let listener = listen(&config).await?;
    let address = listener.local_addr().map_err(|error| Failure::new(Exit::Failed, error))?;
    let metrics = metrics::install().map_err(|error| Failure::new(Exit::Failed, error))?;
    let (fleet, fleet_task) = start_fleet(&config, &home)?;
    let app = Arc::new(App {
        catalog: Catalog::new(home.models_dir().to_owned()),
        fleet: fleet.clone(),
        guard: Guard::new(
            &allowed_hosts(&config),
            &config.allowed_origins,
            config.api_key.as_ref(),
        ),
        metrics,
        connections: AtomicUsize::new(0),
    });
    warn_of_what_is_missing(&config, &app).await;
    announce(address)?;
    let (order, shutdown) = watch::channel(false);
    let serving = server::run(app, listener, config.max_connections, shutdown);
    let both = async { tokio::join!(serving, fleet_task.run()) };
    tokio::select! {
        ((), ()) = both => {}
        result = drain_when_told(&config, &fleet, &order) => result?,
    }
    drop(home);
    Ok(())
}

/// The addresses that the configured name stands for; the first that can be bound is used.
async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    let host = &config.host;
    let found = tokio::net::lookup_host((host.host.as_str(), host.port)).await;
    let addresses: Vec<SocketAddr> = found
        .map_err(|error| {
            Failure::new(
                Exit::Config,
                format!("host (or HEARTH_HOST): {host} is no address: {error}"),
            )
        })?
        .collect();
    let exposed = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    if let Some(address) = exposed
        && config.api_key.is_none()
    {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "{address} can be reached from other machines, so an API key is needed: set \
                 HEARTH_API_KEY, or listen on 127.0.0.1"
            ),
        ));
    }
    TcpListener::bind(&addresses[..]).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another server uses it, Ollama perhaps; stop that one or set HEARTH_HOST to \
                 another port"
            }
            _ => "set HEARTH_HOST to an address of this machine",
        };
        Failure::new(Exit::Busy, format!("can't listen on {host}: {error}; {hint}"))
    })
}

/// The name that we listen as is one that clients may use.
fn allowed_hosts(config: &Config) -> Vec<String> {
    config.allowed_hosts.iter().chain([&config.host.host]).cloned().collect()
}

fn start_fleet(config: &Config, home: &Home) -> Result<(Fleet, FleetTask), Failure> {
    let rules = Rules {
        keep_alive: config.keep_alive,
        queue_max: config.max_queue,
        queue_timeout: config.queue_timeout,
        load_stall_timeout: config.load_timeout,
        hang_timeout: config.hang_timeout,
        grace_period: config.grace_period,
    };
    // Links are followed here, because ONNX Runtime looks for its providers beside itself.
    let library = config.runtime_library.canonicalize();
    let library = library.unwrap_or_else(|_missing| config.runtime_library.clone());
    let workers = WorkerSettings {
        program: config.worker.clone(),
        environment: config.worker_environment.clone(),
        run_dir: home.run_dir().to_owned(),
        spec: LoadSpec {
            model_path: String::new(),
            runtime_library: library.to_string_lossy().into_owned(),
            execution_provider: config.execution_provider,
            threads: config.threads.map(Into::into),
            context_length: config.context_length.map(Into::into),
            slots: config.slots.map(Into::into),
        },
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
    let models = app.catalog.models().await;
    if models.is_empty() {
        let root = app.catalog.root().display();
        tracing::warn!("there are no models in {root}; run `scripts/setup`, or put a folder there");
    } else {
        let names: Vec<&str> = models.keys().map(|name| name.as_str()).collect();
        tracing::info!("models: {}", names.join(", "));
    }
}

/// The one line on standard output: scripts read the port from it.
#[expect(clippy::print_stdout, reason = "this is what the command tells")]
fn announce(address: SocketAddr) -> Result<(), Failure> {
    use std::io::Write as _;
    println!("hearth {} listens on http://{address}", env!("CARGO_PKG_VERSION"));
    std::io::stdout().flush().map_err(|error| Failure::new(Exit::Failed, error))
}

/// Never returns `Ok`: once the drain is ordered, serving ends by itself.
async fn drain_when_told(
    config: &Config,
    fleet: &Fleet,
    order: &watch::Sender<bool>,
) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::new(Exit::Failed, error))?;
    signals.next().await;
    tracing::info!(seconds = config.drain_timeout.as_secs(), "draining; once more to end at once");
    order.send_replace(true);
    fleet.drain(Instant::now() + config.drain_timeout).await;
    signals.next().await;
    // Workers die with us: nothing has to be waited for.
    Err(Failure::new(Exit::Failed, "ended at once, as told a second time"))
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
