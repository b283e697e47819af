//! Configuration: `hearth.toml` and the environment in, one validated [`Config`] out.
//!
//! The only reader of either. Every key of the file has an environment variable that overrides it,
//! `HEARTH_` and the key in capitals. A key that is not known is an error, never silence.

mod keys;
mod listen;
mod names;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_shared::protocol::ExecutionProvider;

use self::keys::Values;
pub use self::keys::{KEYS, Key, Kind};
pub use self::listen::Listen;
use crate::keep_alive::KeepAlive;

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
    /// The file is no TOML. What stands there is not repeated: it may be the key.
    #[error("{path}, line {line}, column {column}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// Counted from one, in characters.
        column: usize,
        /// What is wrong, on one line.
        message: String,
    },
    /// The file has a key that means nothing.
    #[error("hearth.toml: there is no key `{0}`; `hearth serve --help` lists them")]
    UnknownKey(String),
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

/// More sequences in one batch than this no model's cache has room for.
const SLOTS_MAX: u32 = 256;
/// More connections than this want a balancer.
const CONNECTIONS_MAX: u32 = 4096;

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
        let values = Values::new(read_table(&path, required)?, environment)?;
        check(&values, home, environment)
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
        Ok(text) => text.parse().map_err(|error| syntax_error(path, &text, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
            Ok(toml::Table::new())
        }
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or(text);
    let in_line = before.rsplit('\n').next().unwrap_or("");
    ConfigError::Syntax {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: in_line.chars().count() + 1,
        message: error.message().lines().collect::<Vec<_>>().join(", "),
    }
}

fn check(
    values: &Values,
    home: PathBuf,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let host = match values.text("host")? {
        Some(text) => text.parse().map_err(|error| ConfigError::value("host", error))?,
        None => Listen::default(),
    };
    let keep_alive = match values.text_or_number("keep_alive")? {
        Some(text) => text.parse().map_err(|error| ConfigError::value("keep_alive", error))?,
        None => KeepAlive::For(Duration::from_secs(5 * 60)),
    };
    let path = |key| Ok(values.text(key)?.map(PathBuf::from));
    let count = |key, most| Ok(values.number(key, 1..=most)?.and_then(NonZeroU32::new));
    let size = |key, most, default| Ok(values.number(key, 1..=most)?.unwrap_or(default) as usize);
    Ok(Config {
        host,
        api_key: values.text("api_key")?.map(api_key).transpose()?,
        allowed_hosts: each(values.list("allowed_hosts")?, names::host)?,
        allowed_origins: each(values.list("allowed_origins")?, names::origin)?,
        keep_alive,
        execution_provider: execution_provider(values.text("execution_provider")?)?,
        threads: count("threads", u32::MAX)?,
        slots: count("slots", SLOTS_MAX)?,
        context_length: count("context_length", u32::MAX)?,
        max_queue: size("max_queue", u32::MAX, 512)?,
        queue_timeout: values.duration("queue_timeout", 600)?,
        load_timeout: values.duration("load_timeout", 300)?,
        hang_timeout: values.duration("hang_timeout", 60)?,
        grace_period: values.duration("grace_period", 5)?,
        drain_timeout: values.duration("drain_timeout", 30)?,
        max_connections: size("max_connections", CONNECTIONS_MAX, 1024)?,
        runtime_library: path("runtime_library")?
            .unwrap_or_else(|| home.join("runtime").join(default_library())),
        worker: path("worker")?.map_or_else(default_worker, Ok)?,
        log: values.text("log")?.unwrap_or("info").to_owned(),
        worker_environment: WORKER_VARIABLES
            .iter()
            .filter_map(|name| environment(name).map(|value| ((*name).into(), value)))
            .collect(),
        home,
    })
}

fn each(
    texts: Vec<&str>,
    read: impl Fn(&str) -> Result<String, ConfigError>,
) -> Result<Vec<String>, ConfigError> {
    texts.into_iter().map(read).collect()
}

fn execution_provider(text: Option<&str>) -> Result<ExecutionProvider, ConfigError> {
    let Some(text) = text else {
        return Ok(ExecutionProvider::Auto);
    };
    [
        ExecutionProvider::Auto,
        ExecutionProvider::Cpu,
        ExecutionProvider::Cuda,
        ExecutionProvider::DirectMl,
    ]
    .into_iter()
    .find(|provider| provider.as_str() == text)
    .ok_or_else(|| {
        let message = format!("must be auto, cpu, cuda or directml, not `{text}`");
        ConfigError::value("execution_provider", message)
    })
}

fn api_key(text: &str) -> Result<ApiKey, ConfigError> {
    let usable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    let refused =
        || ConfigError::value("api_key", "must be printable ASCII without spaces, and not empty");
    if usable { Ok(ApiKey(text.to_owned())) } else { Err(refused()) }
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
