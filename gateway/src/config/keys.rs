//! The keys of `hearth.toml`, what sort of value each has, and the environment laid over them.

use std::num::NonZeroU32;
use std::path::PathBuf;

use hearth_shared::protocol::ExecutionProvider;
use serde::Deserialize;

use super::{ConfigError, Environment};

/// What sort of value a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number.
    Number,
    /// Strings; in the environment separated by commas.
    List,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// Its sort.
    pub kind: Kind,
    /// One line for `hearth serve --help`.
    pub help: &'static str,
}

const fn key(name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { name, kind, help }
}

/// Every key.
pub const KEYS: [Key; 18] = [
    key("host", Kind::Text, "address to listen on [127.0.0.1:11434]"),
    key("api_key", Kind::Text, "what clients must send as bearer token [none]"),
    key("allowed_hosts", Kind::List, "further host names clients may use [none]"),
    key("allowed_origins", Kind::List, "web origins that may call in [none]"),
    key("keep_alive", Kind::Text, "how long an unused model stays loaded [5m]"),
    key("execution_provider", Kind::Text, "auto, cpu, cuda or directml [auto]"),
    key("threads", Kind::Number, "threads per forward pass [all cores]"),
    key("slots", Kind::Number, "requests a model serves at once [the worker's choice]"),
    key("context_length", Kind::Number, "most tokens in a sequence [what the model says]"),
    key("max_queue", Kind::Number, "requests that may wait per model [512]"),
    key("queue_timeout", Kind::Text, "how long a request may wait for a model [10m]"),
    key("load_timeout", Kind::Text, "how long a load may go without progress [5m]"),
    key("hang_timeout", Kind::Text, "how long a busy worker may go without progress [60s]"),
    key("grace_period", Kind::Text, "from asking a worker to end to killing it [5s]"),
    key("drain_timeout", Kind::Text, "how long requests may go on at shutdown [30s]"),
    key("max_connections", Kind::Number, "client connections at once [1024]"),
    key("runtime_library", Kind::Text, "ONNX Runtime's library [HEARTH_HOME/runtime/…]"),
    key("worker", Kind::Text, "the worker's program [beside hearth]"),
];

/// Not in [`KEYS`], because it is read before the rest: what is logged.
const LOG: Key = key("log", Kind::Text, "what is logged: error, warn, info, debug, trace [info]");

/// What the file and the environment may hold together, before it is checked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) host: Option<String>,
    pub(super) api_key: Option<String>,
    pub(super) allowed_hosts: Vec<String>,
    pub(super) allowed_origins: Vec<String>,
    pub(super) keep_alive: Option<String>,
    pub(super) execution_provider: Option<ExecutionProvider>,
    pub(super) threads: Option<NonZeroU32>,
    pub(super) slots: Option<NonZeroU32>,
    pub(super) context_length: Option<NonZeroU32>,
    pub(super) max_queue: Option<usize>,
    pub(super) queue_timeout: Option<String>,
    pub(super) load_timeout: Option<String>,
    pub(super) hang_timeout: Option<String>,
    pub(super) grace_period: Option<String>,
    pub(super) drain_timeout: Option<String>,
    pub(super) max_connections: Option<usize>,
    pub(super) runtime_library: Option<PathBuf>,
    pub(super) worker: Option<PathBuf>,
    pub(super) log: Option<String>,
}

impl RawConfig {
    pub(super) fn deserialize_from(table: toml::Table) -> Result<Self, String> {
        table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }
}

/// The environment variable of a key.
#[must_use]
pub(super) fn variable(key: &str) -> String {
    format!("HEARTH_{}", key.to_ascii_uppercase())
}

/// Puts every variable that is set in the place of its key.
pub(super) fn overlay(
    table: &mut toml::Table,
    environment: Environment<'_>,
) -> Result<(), ConfigError> {
    for key in KEYS.iter().chain([&LOG]) {
        let Some(value) = environment(&variable(key.name)) else {
            continue;
        };
        let Some(text) = value.to_str() else {
            return Err(ConfigError::value(key.name, "is not valid UTF-8"));
        };
        table.insert(key.name.to_owned(), parse(key, text)?);
    }
    Ok(())
}

fn parse(key: &Key, text: &str) -> Result<toml::Value, ConfigError> {
    Ok(match key.kind {
        Kind::Text => toml::Value::String(text.to_owned()),
        Kind::Number => toml::Value::Integer(text.trim().parse().map_err(|_not_a_number| {
            ConfigError::value(key.name, format!("`{text}` is no whole number"))
        })?),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml::Value::Array(parts.map(|part| toml::Value::String(part.to_owned())).collect())
        }
    })
}
