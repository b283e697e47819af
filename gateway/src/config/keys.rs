//! The keys of `hearth.toml`, what sort of value each has, and the environment laid over them.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ConfigError, Environment};
use crate::keep_alive::{KeepAliveError, parse_duration};

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
pub const KEYS: [Key; 19] = [
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
    key("log", Kind::Text, "error, warn, info, debug or trace, or a filter [info]"),
];

/// What the file and the environment hold together, before it is checked.
#[derive(Debug)]
pub(super) struct Values(toml::Table);

impl Values {
    /// The file's values with the environment's over them.
    pub(super) fn new(
        mut table: toml::Table,
        environment: Environment<'_>,
    ) -> Result<Self, ConfigError> {
        let known = |name: &str| KEYS.iter().any(|key| key.name == name);
        if let Some(unknown) = table.keys().find(|name| !known(name)) {
            return Err(ConfigError::UnknownKey(unknown.clone()));
        }
        overlay(&mut table, environment)?;
        Ok(Self(table))
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<&str>, ConfigError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, "a string", other)),
        }
    }

    /// A text, or a number for those who leave the quotes out.
    pub(super) fn text_or_number(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        match self.0.get(key) {
            Some(toml::Value::Integer(number)) => Ok(Some(number.to_string())),
            Some(toml::Value::Float(number)) => Ok(Some(number.to_string())),
            Some(_) | None => Ok(self.text(key)?.map(str::to_owned)),
        }
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ConfigError> {
        let number = match self.0.get(key) {
            None => return Ok(None),
            Some(toml::Value::Integer(number)) => *number,
            Some(other) => return Err(wrong(key, "a whole number", other)),
        };
        match u32::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            Ok(_) | Err(_) => {
                let bounds = match range.into_inner() {
                    (least, u32::MAX) => format!("at least {least}"),
                    (least, most) => format!("from {least} to {most}"),
                };
                let message = format!("must be a whole number {bounds}, not {number}");
                Err(ConfigError::value(key, message))
            }
        }
    }

    pub(super) fn list(&self, key: &'static str) -> Result<Vec<&str>, ConfigError> {
        let items = match self.0.get(key) {
            None => return Ok(Vec::new()),
            Some(toml::Value::Array(items)) => items,
            Some(other) => return Err(wrong(key, "an array of strings", other)),
        };
        items
            .iter()
            .map(|item| match item {
                toml::Value::String(text) => Ok(text.as_str()),
                other => Err(wrong(key, "an array of strings", other)),
            })
            .collect()
    }

    /// A duration that is longer than nothing.
    pub(super) fn duration(
        &self,
        key: &'static str,
        default_seconds: u64,
    ) -> Result<Duration, ConfigError> {
        let Some(text) = self.text_or_number(key)? else {
            return Ok(Duration::from_secs(default_seconds));
        };
        let wrong = |given: &str, what: &str| {
            let message = format!("`{given}` is no {what}; write \"90s\", \"5m\" or seconds");
            ConfigError::value(key, message)
        };
        match parse_duration(&text) {
            Ok(Duration::ZERO) => Err(wrong(&text, "duration longer than nothing")),
            Ok(duration) => Ok(duration),
            Err(KeepAliveError { given }) => Err(wrong(&given, "duration")),
        }
    }
}

/// The value itself is not shown: it may be a secret.
fn wrong(key: &'static str, expected: &str, found: &toml::Value) -> ConfigError {
    ConfigError::value(key, format!("must be {expected}, not of type {}", found.type_str()))
}

/// The environment variable of a key.
#[must_use]
pub(super) fn variable(key: &str) -> String {
    format!("HEARTH_{}", key.to_ascii_uppercase())
}

/// Puts every variable that is set in the place of its key.
fn overlay(table: &mut toml::Table, environment: Environment<'_>) -> Result<(), ConfigError> {
    for key in &KEYS {
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
