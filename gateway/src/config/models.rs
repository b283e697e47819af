//! How one model is loaded and kept: the file's own keys, and a table `[models."NAME"]` over them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{ExecutionProvider, GraphChoice, LoadSpec};

use super::ConfigError;
use super::keys::Values;
use crate::keep_alive::{KeepAlive, KeepAlivePolicy};

/// More sequences in one batch than this no model's cache has room for.
const SLOTS_MAX: u32 = 256;

const PROVIDERS: [(&str, ExecutionProvider); 4] = [
    ("auto", ExecutionProvider::Auto),
    ("cpu", ExecutionProvider::Cpu),
    ("cuda", ExecutionProvider::Cuda),
    ("directml", ExecutionProvider::DirectMl),
];
const GRAPHS: [(&str, GraphChoice); 3] = [
    ("default", GraphChoice::Default),
    ("exact", GraphChoice::Exact),
    ("memory", GraphChoice::Memory),
];
/// A switch that a model's table can turn either way.
const SWITCH: [(&str, bool); 2] = [("off", false), ("on", true)];
/// Whether the `keep_alive` of requests is ignored.
const CLIENTS: [(&str, bool); 2] = [("obey", false), ("ignore", true)];

/// How each model is loaded and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Models {
    /// What holds for models without a table.
    pub defaults: ModelSettings,
    /// What holds for those with one.
    pub by_name: BTreeMap<ModelName, ModelSettings>,
}

impl Models {
    pub(super) fn read(values: &Values, tables: &[Values]) -> Result<Self, ConfigError> {
        let defaults = defaults(values)?;
        let by_name = tables.iter().map(|table| of_table(table, &defaults));
        Ok(Self { by_name: by_name.collect::<Result<_, _>>()?, defaults })
    }

    /// A model's settings. A variant without a table of its own has its model's.
    #[must_use]
    pub fn of(&self, name: &ModelName) -> &ModelSettings {
        let of_base = || self.by_name.get(&name.base().parse().ok()?);
        self.by_name.get(name).or_else(of_base).unwrap_or(&self.defaults)
    }
}

/// How a model is loaded and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSettings {
    /// The most tokens in a sequence; `None` is what the model says.
    pub context_length: Option<NonZeroU32>,
    /// Sequences at once; `None` is the worker's choice.
    pub slots: Option<NonZeroU32>,
    /// Threads of one forward pass; `None` is the worker's choice.
    pub threads: Option<NonZeroU32>,
    /// Where it runs.
    pub execution_provider: ExecutionProvider,
    /// What a graph that is built or changed at the load is good at.
    pub graph: GraphChoice,
    /// Whether CUDA captures decode steps.
    pub cuda_graphs: bool,
    /// Which of a folder's graphs, where its name does not say it.
    pub variant: Option<String>,
    /// How long it stays when nobody uses it.
    pub keep_alive: KeepAlivePolicy,
    /// Whether it stays, once loaded, whoever else needs the room.
    pub pinned: bool,
    /// Whether it is loaded when the gateway starts.
    pub preload: bool,
}

impl ModelSettings {
    /// What a worker is told to load: `model`, whose files are at `path`.
    #[must_use]
    pub fn load_spec(&self, model: &ModelName, path: &Path, runtime_library: &Path) -> LoadSpec {
        LoadSpec {
            model_path: path.to_string_lossy().into_owned(),
            // A request that names a variant means it.
            variant: model.variant().map(str::to_owned).or_else(|| self.variant.clone()),
            graph: self.graph,
            runtime_library: runtime_library.to_string_lossy().into_owned(),
            execution_provider: self.execution_provider,
            threads: self.threads.map(Into::into),
            context_length: self.context_length.map(Into::into),
            slots: self.slots.map(Into::into),
            cuda_graphs: self.cuda_graphs,
        }
    }
}

fn defaults(values: &Values) -> Result<ModelSettings, ConfigError> {
    let plain = ModelSettings {
        context_length: None,
        slots: None,
        threads: None,
        execution_provider: ExecutionProvider::Auto,
        graph: GraphChoice::Default,
        cuda_graphs: false,
        variant: None,
        keep_alive: KeepAlivePolicy::of(KeepAlive::For(Duration::from_secs(5 * 60))),
        pinned: false,
        preload: false,
    };
    over(values, &plain)
}

fn of_table(
    table: &Values,
    defaults: &ModelSettings,
) -> Result<(ModelName, ModelSettings), ConfigError> {
    let model = table.model().unwrap_or_default();
    let name =
        model.parse().map_err(|error| ConfigError::ModelName { model: model.to_owned(), error })?;
    let mut settings = over(table, defaults)?;
    settings.variant = table.text("variant")?.map(str::to_owned);
    settings.pinned = table.switch("pinned")?;
    settings.preload = table.switch("preload")?;
    Ok((name, settings))
}

/// The keys that both the file and its tables have.
fn over(values: &Values, below: &ModelSettings) -> Result<ModelSettings, ConfigError> {
    let count = |key, most| {
        let number = values.number(key, 1..=most)?;
        Ok::<_, ConfigError>(number.and_then(NonZeroU32::new))
    };
    Ok(ModelSettings {
        context_length: count("context_length", u32::MAX)?.or(below.context_length),
        slots: count("slots", SLOTS_MAX)?.or(below.slots),
        threads: count("threads", u32::MAX)?.or(below.threads),
        execution_provider: values
            .word("execution_provider", &PROVIDERS)?
            .unwrap_or(below.execution_provider),
        graph: values.word("graph", &GRAPHS)?.unwrap_or(below.graph),
        cuda_graphs: values.word("cuda_graphs", &SWITCH)?.unwrap_or(below.cuda_graphs),
        keep_alive: policy(values, below.keep_alive)?,
        ..below.clone()
    })
}

fn policy(values: &Values, below: KeepAlivePolicy) -> Result<KeepAlivePolicy, ConfigError> {
    let duration = |key| -> Result<Option<KeepAlive>, ConfigError> {
        let text = values.text_or_number(key)?;
        text.map(|text| text.parse().map_err(|error| values.error(key, error))).transpose()
    };
    let default = duration("keep_alive")?.unwrap_or(below.default);
    let min = duration("keep_alive_min")?.or(below.min);
    let max = duration("keep_alive_max")?.or(below.max);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(values.error("keep_alive_min", "must not be longer than keep_alive_max"));
    }
    let ignores_clients =
        values.word("keep_alive_client", &CLIENTS)?.unwrap_or(below.ignores_clients);
    Ok(KeepAlivePolicy { default, min, max, ignores_clients })
}
