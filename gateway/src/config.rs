//! Configuration: `hearth.toml` and the environment in, one validated [`Config`] out.
//!
//! The only reader of either. Every key of the file has an environment variable that overrides it,
//! `HEARTH_` and the key in capitals. A key that is not known is an error, never silence.

mod access;
mod aliases;
mod keys;
mod listen;
mod models;
mod names;
mod size;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::access::{ACCESS_FIELDS, AccessKey};
use self::keys::Values;
pub use self::keys::{KEYS, Key, Kind, MODEL_KEYS};
pub use self::listen::Listen;
pub use self::models::{ModelSettings, Models};
use crate::catalog::Aliases;

/// Everything that can be set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `hearth.toml`, which need not be there.
    pub file: PathBuf,
    /// The data root: `models/`, `runtime/`, `run/`.
    pub home: PathBuf,
    /// Where to listen.
    pub host: Listen,
    /// What clients have to send as bearer token; `None` asks for nothing, unless there are `keys`.
    pub api_key: Option<ApiKey>,
    /// Further keys that clients may have, with limits of their own.
    pub keys: Vec<AccessKey>,
    /// Further names by which clients may call this server, beside localhost and its own address.
    pub allowed_hosts: Vec<String>,
    /// Web pages' origins that may call this server.
    pub allowed_origins: Vec<String>,
    /// How models are loaded and kept.
    pub models: Models,
    /// Other names of models.
    pub aliases: Aliases,
    /// RAM that all workers together may take, in bytes; `None` sets no limit.
    pub memory: Option<u64>,
    /// The devices' memory that they may take, in bytes; `None` is what the devices have, less a
    /// reserve, where they tell.
    pub device_memory: Option<u64>,
    /// How many of them there may be; `None` sets no limit.
    pub max_models: Option<u32>,
    /// How long a model waits for room before busy ones have to make it.
    pub swap_after: Duration,
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
    /// Where models are pulled from.
    pub hf_endpoint: String,
    /// What is shown there for models that are not for everybody.
    pub hf_token: Option<ApiKey>,
    /// What is logged, in the words of `tracing`'s filter.
    pub log: String,
    /// What of our own environment workers may see.
    pub worker_environment: Vec<(OsString, OsString)>,
}

/// A secret that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// `None` for what no header can carry.
    fn of(text: &str) -> Option<Self> {
        let usable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        usable.then(|| Self(text.to_owned()))
    }

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
    #[error("{}", unknown_key(.key, .model.as_deref(), *.closest))]
    UnknownKey {
        /// The key.
        key: String,
        /// The model in whose table it stands.
        model: Option<String>,
        /// What may have been meant.
        closest: Option<&'static str>,
    },
    /// `models` is something else than tables by name.
    #[error("hearth.toml: `models` holds tables alone; begin each with a line [models.\"NAME\"]")]
    ModelsAreTables,
    /// A table is for what can't be a model's name.
    #[error("hearth.toml, [models.\"{model}\"]: {error}")]
    ModelName {
        /// The name.
        model: String,
        /// What is wrong with it.
        error: hearth_shared::ids::ModelNameError,
    },
    /// A value in a model's table makes no sense.
    #[error("hearth.toml, [models.\"{model}\"]: {key}: {message}")]
    ModelValue {
        /// The model.
        model: String,
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// An entry of `[aliases]` makes no sense.
    #[error("hearth.toml, [aliases]: {0}")]
    Alias(String),
    /// A table of a client's key makes no sense.
    #[error("hearth.toml, {place}: {message}")]
    Access {
        /// Which table.
        place: String,
        /// What is wrong and what would be right.
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

fn unknown_key(key: &str, model: Option<&str>, closest: Option<&str>) -> String {
    let place = model.map_or(String::new(), |model| format!(", [models.\"{model}\"]"));
    let meant = closest.map_or(String::new(), |closest| format!(" do you mean `{closest}`?"));
    format!("hearth.toml{place}: there is no key `{key}`;{meant} `hearth serve --help` lists them")
}

/// The environment as a function, so that tests need not change the real one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The real environment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Where models are pulled from unless a mirror is named.
const HUB: &str = "https://huggingface.co";
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
        let mut table = read_table(&path, required)?;
        let keys = access::read(table.remove("keys"))?;
        let aliases = aliases::read(table.remove("aliases"))?;
        let (values, models) = Values::new(table, environment)?;
        let models = Models::read(&values, &models)?;
        Ok(Self { file: path, keys, aliases, ..check(&values, models, home, environment)? })
    }

    /// The keys that differ in `new` and are only heeded at the start.
    #[must_use]
    pub fn changes_at_the_next_start(&self, new: &Self) -> Vec<&'static str> {
        [
            ("host", self.host != new.host),
            ("api_key", self.api_key != new.api_key),
            ("keys", self.keys != new.keys),
            ("allowed_hosts", self.allowed_hosts != new.allowed_hosts),
            ("allowed_origins", self.allowed_origins != new.allowed_origins),
            ("drain_timeout", self.drain_timeout != new.drain_timeout),
            ("max_connections", self.max_connections != new.max_connections),
            ("runtime_library", self.runtime_library != new.runtime_library),
            ("worker", self.worker != new.worker),
            ("log", self.log != new.log),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
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
    models: Models,
    home: PathBuf,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let host = match values.text("host")? {
        Some(text) => text.parse().map_err(|error| ConfigError::value("host", error))?,
        None => Listen::default(),
    };
    let machine_memory = crate::fleet::memory::default_budget();
    let path = |key| Ok(values.text(key)?.map(PathBuf::from));
    let size = |key, most, default| Ok(values.number(key, 1..=most)?.unwrap_or(default) as usize);
    Ok(Config {
        file: PathBuf::new(),
        host,
        api_key: values.text("api_key")?.map(|text| secret("api_key", text)).transpose()?,
        keys: Vec::new(),
        allowed_hosts: each(values.list("allowed_hosts")?, names::host)?,
        allowed_origins: each(values.list("allowed_origins")?, names::origin)?,
        models,
        aliases: Aliases::new(),
        memory: values.bytes("memory", machine_memory)?.or(machine_memory),
        device_memory: values.bytes("device_memory", None)?,
        max_models: values.number("max_models", 1..=u32::MAX)?,
        swap_after: values.duration("swap_after", 10)?,
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
        hf_endpoint: shared(values, environment, "hf_endpoint", "HF_ENDPOINT")?
            .map_or_else(|| Ok(HUB.to_owned()), |text| hf_endpoint(&text))?,
        hf_token: shared(values, environment, "hf_token", "HF_TOKEN")?
            .map(|text| secret("hf_token", &text))
            .transpose()?,
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

/// A key that other programs have a variable for too, which holds where ours is not set.
fn shared(
    values: &Values,
    environment: Environment<'_>,
    key: &'static str,
    variable: &str,
) -> Result<Option<String>, ConfigError> {
    let ours = values.text(key)?.map(str::to_owned);
    Ok(ours.or_else(|| environment(variable)?.into_string().ok()))
}

fn hf_endpoint(text: &str) -> Result<String, ConfigError> {
    let usable = text.parse::<hyper::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    let refused = || {
        let message = format!("must be an address such as {HUB}, not `{text}`");
        ConfigError::value("hf_endpoint", message)
    };
    if usable { Ok(text.to_owned()) } else { Err(refused()) }
}

fn secret(key: &'static str, text: &str) -> Result<ApiKey, ConfigError> {
    let expected = "must be printable ASCII without spaces, and not empty";
    ApiKey::of(text).ok_or_else(|| ConfigError::value(key, expected))
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
