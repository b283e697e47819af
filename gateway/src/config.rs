//! Configuration: `hearth.toml` and the environment in, one validated [`Config`] out.
//!
//! The only reader of either. Every key of the file has an environment variable that overrides it,
//! `HEARTH_` and the key in capitals. A key that is not known is an error, never silence.

mod keys;
mod listen;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_shared::protocol::ExecutionProvider;

use self::keys::RawConfig;
pub use self::keys::{KEYS, Key, Kind};
pub use self::listen::Listen;
use crate::keep_alive::{KeepAlive, KeepAliveError, parse_duration};

/// Everything that can be set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data root: `models/`, `runtime/`, `run/`.
    pub home: PathBuf,
    /// Where to listen.
    pub host: Listen,
    /// What clients have to send as bearer token; `None` asks for nothing.
    pub api_key: Option<ApiKey>,
    /// Further names by which clients may call this server, beside localhost and its own address.
    pub allowed_hosts: Vec<String>,
    /// Web pages' origins that may call this server.
    pub allowed_origins: Vec<String>,
    /// How long a worker stays when no request said otherwise.
    pub keep_alive: KeepAlive,
    /// Where models run.
    pub execution_provider: ExecutionProvider,
    /// Threads of one forward pass; `None` is the worker's choice.
    pub threads: Option<NonZeroU32>,
    /// Sequences at once per worker; `None` is the worker's choice.
    pub slots: Option<NonZeroU32>,
    /// The most tokens in a sequence; `None` is what the model says.
    pub context_length: Option<NonZeroU32>,
    /// How many requests may wait for one model.
    pub max_queue: usize,
    /// How long a request may wait for a worker.
    pub queue_timeout: Duration,
    /// How long a load may go without progress.
    pub load_timeout: Duration,
    /// How long a busy worker may go without progress.
    pub hang_timeout: Duration,
    /// From asking a worker to end to killing it.
    pub grace_period: Duration,
    /// How long requests may go on after the gateway was told to end.
    pub drain_timeout: Duration,
    /// Client connections at once.
    pub max_connections: usize,
    /// ONNX Runtime's library.
    pub runtime_library: PathBuf,
    /// The worker's program.
    pub worker: PathBuf,
    /// What is logged, in the words of `tracing`'s filter.
    pub log: String,
    /// What of our own environment workers may see.
    pub worker_environment: Vec<(OsString, OsString)>,
}

/// A secret that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The platform does not say where data goes.
    #[error("can't tell where data goes on this system; set HEARTH_HOME")]
    NoHome,
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no TOML, or the merged keys don't fit.
    #[error("{origin}: {message}")]
    Parse {
        /// The file, or the environment.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// A value makes no sense.
    #[error("{key} (or {variable}): {message}")]
    Value {
        /// The key in the file.
        key: &'static str,
        /// Its environment variable.
        variable: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl ConfigError {
    fn value(key: &'static str, message: impl std::fmt::Display) -> Self {
        Self::Value { key, variable: keys::variable(key), message: message.to_string() }
    }
}

/// The environment as a function, so that tests need not change the real one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The real environment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Our own variables that a worker may see: where libraries and devices are, and how time reads.
const WORKER_VARIABLES: [&str; 8] = [
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "CUDA_CACHE_PATH",
    "TZ",
    "TMPDIR",
    "SystemRoot",
    "PATH",
];

impl Config {
    /// Reads the file, lays the environment over it, and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key, its variable and what would be right.
    pub fn load(environment: Environment<'_>) -> Result<Self, ConfigError> {
        let home = home(environment)?;
        let file = environment("HEARTH_CONFIG").map(PathBuf::from);
        let (path, required) = match file {
            Some(path) => (path, true),
            None => (home.join("hearth.toml"), false),
        };
        let mut table = read_table(&path, required)?;
        keys::overlay(&mut table, environment)?;
        let raw = RawConfig::deserialize_from(table).map_err(|message| ConfigError::Parse {
            origin: format!("{} and HEARTH_* variables", path.display()),
            message,
        })?;
        check(raw, home, environment)
    }
}

/// Where the platform keeps data, or `HEARTH_HOME`.
fn home(environment: Environment<'_>) -> Result<PathBuf, ConfigError> {
    let directory = |name: &str| environment(name).map(PathBuf::from);
    if let Some(home) = directory("HEARTH_HOME") {
        return std::path::absolute(&home)
            .map_err(|source| ConfigError::Read { path: home, source });
    }
    let data = if cfg!(windows) {
        directory("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        directory("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        directory("XDG_DATA_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
    };
    data.map(|data| data.join("hearth")).ok_or(ConfigError::NoHome)
}

fn read_table(path: &Path, required: bool) -> Result<toml::Table, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(|error: toml::de::Error| ConfigError::Parse {
            origin: path.display().to_string(),
            message: error.to_string(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
            Ok(toml::Table::new())
        }
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn check(
    raw: RawConfig,
    home: PathBuf,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let host = match &raw.host {
        Some(text) => text.parse().map_err(|error| ConfigError::value("host", error))?,
        None => Listen::default(),
    };
    let keep_alive = match &raw.keep_alive {
        Some(text) => text.parse().map_err(|error| ConfigError::value("keep_alive", error))?,
        None => KeepAlive::For(Duration::from_secs(5 * 60)),
    };
    let runtime_library =
        raw.runtime_library.unwrap_or_else(|| home.join("runtime").join(default_library()));
    Ok(Config {
        host,
        api_key: raw.api_key.map(api_key).transpose()?,
        allowed_hosts: raw.allowed_hosts,
        allowed_origins: raw.allowed_origins,
        keep_alive,
        execution_provider: raw.execution_provider.unwrap_or(ExecutionProvider::Auto),
        threads: raw.threads,
        slots: raw.slots,
        context_length: raw.context_length,
        max_queue: raw.max_queue.unwrap_or(512),
        queue_timeout: duration("queue_timeout", raw.queue_timeout.as_deref(), 600)?,
        load_timeout: duration("load_timeout", raw.load_timeout.as_deref(), 300)?,
        hang_timeout: duration("hang_timeout", raw.hang_timeout.as_deref(), 60)?,
        grace_period: duration("grace_period", raw.grace_period.as_deref(), 5)?,
        drain_timeout: duration("drain_timeout", raw.drain_timeout.as_deref(), 30)?,
        max_connections: raw.max_connections.map_or(Ok(1024), |given| {
            let refused = || ConfigError::value("max_connections", "at least 1, at most 4096");
            if (1..=4096).contains(&given) { Ok(given) } else { Err(refused()) }
        })?,
        runtime_library,
        worker: raw.worker.map_or_else(default_worker, Ok)?,
        log: raw.log.unwrap_or_else(|| "info".to_owned()),
        worker_environment: WORKER_VARIABLES
            .iter()
            .filter_map(|name| environment(name).map(|value| ((*name).into(), value)))
            .collect(),
        home,
    })
}

fn api_key(text: String) -> Result<ApiKey, ConfigError> {
    let usable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    let refused =
        || ConfigError::value("api_key", "must be printable ASCII without spaces, and not empty");
    if usable { Ok(ApiKey(text)) } else { Err(refused()) }
}

fn duration(
    key: &'static str,
    text: Option<&str>,
    default_seconds: u64,
) -> Result<Duration, ConfigError> {
    let Some(text) = text else {
        return Ok(Duration::from_secs(default_seconds));
    };
    parse_duration(text).map_err(|KeepAliveError { given }| {
        ConfigError::value(
            key,
            format!("`{given}` is no duration; write \"90s\", \"5m\" or seconds"),
        )
    })
}

fn default_library() -> &'static str {
    if cfg!(windows) {
        "onnxruntime.dll"
    } else if cfg!(target_os = "macos") {
        "libonnxruntime.dylib"
    } else {
        "libonnxruntime.so"
    }
}

/// The worker is installed beside the gateway.
fn default_worker() -> Result<PathBuf, ConfigError> {
    let gateway = std::env::current_exe().map_err(|error| ConfigError::value("worker", error))?;
    Ok(gateway.with_file_name(format!("hearth-worker{}", std::env::consts::EXE_SUFFIX)))
}

#[cfg(test)]
mod tests;
