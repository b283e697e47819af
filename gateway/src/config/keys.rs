//! The keys of `hearth.toml`, what sort of value each has, and the environment laid over them.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ConfigError, Environment, size};
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
    /// `true` or `false`.
    Switch,
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

/// Keys that are less alike than this are not taken for each other's misspelling.
const LIKENESS_MIN: f64 = 0.5;

/// Every key.
pub const KEYS: [Key; 30] = [
    key("host", Kind::Text, "address to listen on [127.0.0.1:11434]"),
    key("api_key", Kind::Text, "what clients must send as bearer token [none]"),
    key("allowed_hosts", Kind::List, "further host names clients may use [none]"),
    key("allowed_origins", Kind::List, "web origins that may call in [none]"),
    key("keep_alive", Kind::Text, "how long an unused model stays loaded [5m]"),
    key("keep_alive_min", Kind::Text, "the shortest keep_alive that a request may set [0]"),
    key("keep_alive_max", Kind::Text, "the longest keep_alive that a request may set [for ever]"),
    key("keep_alive_client", Kind::Text, "obey or ignore the keep_alive of requests [obey]"),
    key("execution_provider", Kind::Text, "auto, cpu, cuda or directml [auto]"),
    key("graph", Kind::Text, "what graphs are good at: default, exact or memory [default]"),
    key("cuda_graphs", Kind::Text, "on or off: CUDA captures decode steps [off]"),
    key("threads", Kind::Number, "threads per forward pass [all cores]"),
    key("slots", Kind::Number, "requests a model serves at once [the worker's choice]"),
    key("context_length", Kind::Number, "most tokens in a sequence [what the model says]"),
    key(
        "memory",
        Kind::Text,
        "RAM for all models together: 8GiB, or 75% [what there is, less a tenth]",
    ),
    key(
        "device_memory",
        Kind::Text,
        "a device's memory for all models: 8GiB [what it has, less a tenth]",
    ),
    key("max_models", Kind::Number, "models loaded at once [no limit]"),
    key("swap_after", Kind::Text, "how long a model waits for room before busy ones yield [10s]"),
    key("max_queue", Kind::Number, "requests that may wait per model [512]"),
    key("queue_timeout", Kind::Text, "how long a request may wait for a model [10m]"),
    key("load_timeout", Kind::Text, "how long a load may go without progress [5m]"),
    key("hang_timeout", Kind::Text, "how long a busy worker may go without progress [60s]"),
    key("grace_period", Kind::Text, "from asking a worker to end to killing it [5s]"),
    key("drain_timeout", Kind::Text, "how long requests may go on at shutdown [30s]"),
    key("max_connections", Kind::Number, "client connections at once [1024]"),
    key("runtime_library", Kind::Text, "ONNX Runtime's library [HEARTH_HOME/runtime/…]"),
    key("worker", Kind::Text, "the worker's program [beside hearth]"),
    key("hf_endpoint", Kind::Text, "where models are pulled from [HF_ENDPOINT, else the hub]"),
    key("hf_token", Kind::Text, "what is shown there for gated models [HF_TOKEN, else none]"),
    key("log", Kind::Text, "error, warn, info, debug or trace, or a filter [info]"),
];

/// Every key of a table `[models."NAME"]`. Those that [`KEYS`] has too override it for the one model.
pub const MODEL_KEYS: [Key; 13] = [
    key("context_length", Kind::Number, "most tokens in a sequence"),
    key("slots", Kind::Number, "requests that it serves at once"),
    key("threads", Kind::Number, "threads per forward pass"),
    key("execution_provider", Kind::Text, "auto, cpu, cuda or directml"),
    key("graph", Kind::Text, "default, exact or memory"),
    key("cuda_graphs", Kind::Text, "on or off: CUDA captures decode steps"),
    key("variant", Kind::Text, "which of a folder's graphs: q4, fp16, … [the best one here]"),
    key("keep_alive", Kind::Text, "how long it stays loaded unused"),
    key("keep_alive_min", Kind::Text, "the shortest keep_alive that a request may set"),
    key("keep_alive_max", Kind::Text, "the longest keep_alive that a request may set"),
    key("keep_alive_client", Kind::Text, "obey or ignore the keep_alive of requests"),
    key("pinned", Kind::Switch, "once loaded it stays, idle or not, until it is unloaded [false]"),
    key("preload", Kind::Switch, "load it when the gateway starts [false]"),
];

/// Tables that stand beside the keys.
const MODELS: &str = "models";

/// What the file and the environment hold together, before it is checked.
#[derive(Debug)]
pub(super) struct Values {
    table: toml::Table,
    /// The model that a table is for; `None` is the file itself.
    model: Option<String>,
}

impl Values {
    /// The file's values with the environment's over them, and its tables of models.
    pub(super) fn new(
        mut table: toml::Table,
        environment: Environment<'_>,
    ) -> Result<(Self, Vec<Self>), ConfigError> {
        let models = table.remove(MODELS);
        refuse_unknown(&table, &KEYS, None)?;
        overlay(&mut table, environment)?;
        Ok((Self { table, model: None }, models.map_or(Ok(Vec::new()), of_models)?))
    }

    /// The model that these are for.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// A value that makes no sense.
    pub(super) fn error(&self, key: &'static str, message: impl std::fmt::Display) -> ConfigError {
        match &self.model {
            None => ConfigError::value(key, message),
            Some(model) => ConfigError::ModelValue {
                model: model.clone(),
                key: key.to_owned(),
                message: message.to_string(),
            },
        }
    }

    fn wrong(&self, key: &'static str, expected: &str, found: &toml::Value) -> ConfigError {
        // The value itself is not shown: it may be a secret.
        self.error(key, format!("must be {expected}, not of type {}", found.type_str()))
    }

    pub(super) fn switch(&self, key: &'static str) -> Result<bool, ConfigError> {
        match self.table.get(key) {
            None => Ok(false),
            Some(toml::Value::Boolean(on)) => Ok(*on),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// A number of bytes, or a part of `whole`.
    pub(super) fn bytes(
        &self,
        key: &'static str,
        whole: Option<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.text_or_number(key)? else { return Ok(None) };
        let bytes = size::parse(&text, whole).ok_or_else(|| {
            let form = if whole.is_some() { "8GiB, 500MB or 75%" } else { "8GiB or 500MB" };
            self.error(key, format!("`{text}` is no size; write {form}"))
        })?;
        Ok(Some(bytes))
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let (last, others) =
            words.split_last().map_or(("", &[][..]), |(last, rest)| (last.0, rest));
        let others: Vec<&str> = others.iter().map(|(word, _)| *word).collect();
        Err(self.error(key, format!("must be {} or {last}, not `{text}`", others.join(", "))))
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<&str>, ConfigError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    /// A text, or a number for those who leave the quotes out.
    pub(super) fn text_or_number(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        match self.table.get(key) {
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
        let number = match self.table.get(key) {
            None => return Ok(None),
            Some(toml::Value::Integer(number)) => *number,
            Some(other) => return Err(self.wrong(key, "a whole number", other)),
        };
        match u32::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            Ok(_) | Err(_) => {
                let bounds = match range.into_inner() {
                    (least, u32::MAX) => format!("at least {least}"),
                    (least, most) => format!("from {least} to {most}"),
                };
                let message = format!("must be a whole number {bounds}, not {number}");
                Err(self.error(key, message))
            }
        }
    }

    pub(super) fn list(&self, key: &'static str) -> Result<Vec<&str>, ConfigError> {
        let items = match self.table.get(key) {
            None => return Ok(Vec::new()),
            Some(toml::Value::Array(items)) => items,
            Some(other) => return Err(self.wrong(key, "an array of strings", other)),
        };
        items
            .iter()
            .map(|item| match item {
                toml::Value::String(text) => Ok(text.as_str()),
                other => Err(self.wrong(key, "an array of strings", other)),
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
            self.error(key, message)
        };
        match parse_duration(&text) {
            Ok(Duration::ZERO) => Err(wrong(&text, "duration longer than nothing")),
            Ok(duration) => Ok(duration),
            Err(KeepAliveError { given }) => Err(wrong(&given, "duration")),
        }
    }
}

/// The tables `[models."NAME"]`, one by one.
fn of_models(models: toml::Value) -> Result<Vec<Values>, ConfigError> {
    let toml::Value::Table(models) = models else { return Err(ConfigError::ModelsAreTables) };
    models
        .into_iter()
        .map(|(model, table)| {
            let toml::Value::Table(table) = table else { return Err(ConfigError::ModelsAreTables) };
            refuse_unknown(&table, &MODEL_KEYS, Some(&model))?;
            Ok(Values { table, model: Some(model) })
        })
        .collect()
}

fn refuse_unknown(
    table: &toml::Table,
    keys: &[Key],
    model: Option<&str>,
) -> Result<(), ConfigError> {
    let known = |name: &str| keys.iter().any(|key| key.name == name);
    let Some(unknown) = table.keys().find(|name| !known(name)) else { return Ok(()) };
    let closest = keys
        .iter()
        .map(|key| (strsim::normalized_damerau_levenshtein(key.name, unknown), key.name))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN);
    Err(ConfigError::UnknownKey {
        key: unknown.clone(),
        model: model.map(str::to_owned),
        closest: closest.map(|(_, name)| name),
    })
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
        Kind::Switch => toml::Value::Boolean(text.trim().parse().map_err(|_neither| {
            ConfigError::value(key.name, format!("must be true or false, not `{text}`"))
        })?),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml::Value::Array(parts.map(|part| toml::Value::String(part.to_owned())).collect())
        }
    })
}
