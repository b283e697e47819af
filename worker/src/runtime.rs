//! ONNX Runtime: its library, the one environment of this process, sessions.
//!
//! The loader calls it once; the engine then works on the [`bound::BoundSession`] that it made. Nothing
//! else in the worker knows how ONNX Runtime is set up, and nothing here knows what a model says.

pub(crate) mod bound;
pub(crate) mod interface;
pub(crate) mod layout;
pub(crate) mod provider;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_shared::protocol::{ExecutionProvider, GraphChoice, LoadFailure, LoadFailureKind};
use ort::environment::Environment;
use ort::ep::CPU;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};

use crate::gguf::{self, GgufError, GraphKind, GraphOptions, Positions};
use crate::model::GraphSource;
use crate::repack;
use crate::runtime::bound::Device;
use crate::runtime::bound::asked::{self, Assignment, RECORD_ASSIGNMENTS};
use crate::runtime::provider::{Capture, Provider};

/// Why ONNX Runtime gives no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// The library is missing, broken or too old.
    #[error("can't load ONNX Runtime: {0}; run `scripts/setup`, or put a build of 1.{minor} or later into `runtime/`", minor = ort::MINOR_VERSION)]
    Library(String),
    /// This process has loaded another library already.
    #[error("this process runs {loaded} already and can't load {asked} too")]
    OtherLibrary {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        asked: PathBuf,
    },
    /// The execution provider that was asked for by name can't be had.
    #[error("execution provider `{provider}` can't be had: {reason}")]
    NoProvider {
        /// Its name.
        provider: &'static str,
        /// What is missing, and what to do.
        reason: String,
    },
    /// ONNX Runtime refused.
    #[error("ONNX Runtime: {}", one_line(.0.message()))]
    Refused(#[from] ort::Error),
    /// A GGUF file gives no graph, or ONNX Runtime refused it.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

impl From<ort::Error<SessionBuilder>> for RuntimeError {
    fn from(error: ort::Error<SessionBuilder>) -> Self {
        Self::Refused(error.into())
    }
}

impl RuntimeError {
    /// What the gateway is told.
    pub(crate) fn into_failure(self) -> LoadFailure {
        let kind = match &self {
            Self::Library(_) | Self::OtherLibrary { .. } => LoadFailureKind::NoRuntime,
            Self::NoProvider { .. } => LoadFailureKind::NoProvider,
            Self::Refused(error) if is_out_of_memory(error.message()) => {
                LoadFailureKind::OutOfMemory
            }
            Self::Refused(_) | Self::Gguf(GgufError::HandOver { .. }) => LoadFailureKind::Runtime,
            Self::Gguf(_) => LoadFailureKind::BadFiles,
        };
        LoadFailure { kind, message: self.to_string() }
    }
}

/// ONNX Runtime has no error code for it, only these words from its allocators.
fn is_out_of_memory(message: &str) -> bool {
    ["bad_alloc", "Failed to allocate memory", "out of memory"]
        .iter()
        .any(|words| message.contains(words))
}

/// ONNX Runtime's messages hold line breaks, ours are one line.
pub(crate) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// ONNX Runtime, loaded. A cheap handle: the library is loaded once in a process, and stays.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    environment: Environment,
    library: PathBuf,
}

/// What is wanted of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// Where it shall run.
    pub(crate) provider: ExecutionProvider,
    /// What a graph that is built here shall be good at.
    pub(crate) graph: GraphChoice,
    /// For one run.
    pub(crate) threads: usize,
    /// The longest sequence.
    pub(crate) context_length: usize,
    /// Whether decode steps shall be captured, where the provider and the graph allow it.
    pub(crate) capture: Capture,
}

/// A session with what ONNX Runtime says of it.
pub(crate) struct Built {
    pub(crate) session: Session,
    pub(crate) provider: Provider,
    /// Which node runs where.
    pub(crate) assignments: Vec<Assignment>,
    /// Inputs and outputs that it wants in a device's memory.
    pub(crate) wanted: BTreeSet<String>,
    /// That device's memory, where it can be used.
    pub(crate) device: Option<Device>,
    /// Whether it captures.
    pub(crate) capture: Capture,
}

/// Our own product runs on the CPU alone.
fn kind_of(choice: GraphChoice, provider: ExecutionProvider) -> GraphKind {
    let packs = provider == ExecutionProvider::Cpu && gguf::can_pack();
    match choice {
        // No encoding is smaller than the default's; what little memory means besides is the
        // working memory's matter.
        GraphChoice::Default | GraphChoice::Memory if packs => GraphKind::Packed,
        GraphChoice::Default | GraphChoice::Memory if gguf::has_sound_columns() => {
            GraphKind::Columns
        }
        GraphChoice::Default | GraphChoice::Memory | GraphChoice::Exact => GraphKind::Exact,
    }
}

/// Kept for good: ONNX Runtime allows one environment in a process, and no second one after it.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the library at `path`, or finds it loaded.
    ///
    /// # Errors
    /// [`RuntimeError::Library`], [`RuntimeError::OtherLibrary`] or [`RuntimeError::Refused`].
    pub(crate) fn open(path: &Path) -> Result<Self, RuntimeError> {
        let library = std::fs::canonicalize(path)
            .map_err(|error| RuntimeError::Library(format!("{}: {error}", path.display())))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some(runtime) if runtime.library == library => return Ok(runtime.clone()),
            Some(runtime) => {
                return Err(RuntimeError::OtherLibrary {
                    loaded: runtime.library.clone(),
                    asked: library,
                });
            }
            None => {}
        }
        let environment = ort::init_from(&library)
            .map_err(|error| RuntimeError::Library(one_line(&error.to_string())))?
            .with_name("hearth")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()?;
        environment.set_log_level(LogLevel::Warning);
        let runtime = Self { environment, library };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// ONNX Runtime's own version.
    pub(crate) fn version(&self) -> String {
        let info = one_line(ort::info());
        tracing::info!(library = %self.library.display(), "{info}");
        version_of(&self.library, &info)
    }

    /// Builds a session for `graph`.
    ///
    /// # Errors
    /// [`RuntimeError::NoProvider`] for a provider asked for by name; [`RuntimeError::Refused`].
    pub(crate) fn session(&self, graph: &GraphSource, wish: Wish) -> Result<Built, RuntimeError> {
        let (builder, provider) = provider::choose(wish.provider, || self.options(wish.threads))?;
        let (session, capture) = match self.captured(graph, wish, &provider) {
            Some(session) => (session, Capture::Yes),
            None => (commit(builder, graph, provider.provider, wish)?, Capture::No),
        };
        let wanted = asked::wanted_on_device(&session)?;
        Ok(Built {
            assignments: asked::assignments(&session)?,
            device: self.device(&session, provider.provider, wish.threads),
            wanted,
            session,
            provider,
            capture,
        })
    }

    /// A session that captures; `None` where none is wanted or can be had.
    fn captured(&self, graph: &GraphSource, wish: Wish, provider: &Provider) -> Option<Session> {
        if wish.capture == Capture::No {
            return None;
        }
        let session = match (provider.provider, graph) {
            (ExecutionProvider::Cuda, GraphSource::File { .. }) => self
                .options(wish.threads)
                .and_then(|options| provider::register(provider.provider, options, Capture::Yes))
                .and_then(|builder| commit(builder, graph, provider.provider, wish))
                .map_err(|error| error.to_string()),
            (ExecutionProvider::Cuda, GraphSource::Gguf(_)) => {
                Err("a GGUF file's attention runs on the CPU".to_owned())
            }
            (ExecutionProvider::Cpu | ExecutionProvider::DirectMl | ExecutionProvider::Auto, _) => {
                Err("only CUDA captures".to_owned())
            }
        };
        session.inspect_err(|why| tracing::warn!("steps are not captured: {why}")).ok()
    }

    /// The memory of the session's device. Without it everything still works, through copies.
    fn device(
        &self,
        session: &Session,
        provider: ExecutionProvider,
        threads: usize,
    ) -> Option<Device> {
        let memory = provider::memory_of(provider)?;
        let options = self
            .options(threads)
            .and_then(|options| provider::register(provider, options, Capture::No));
        let device = options.and_then(|options| Ok(Device::of(session, memory, options)?));
        let unusable = |error: &RuntimeError| {
            tracing::warn!("the device's memory can't be used, everything is copied: {error}");
        };
        device.inspect_err(unusable).ok()
    }

    /// As if the CPU were a device: its memory is had, viewed and moved as a device's is.
    #[cfg(test)]
    pub(crate) fn host_as_device(&self, session: &Session) -> Device {
        let memory = (ort::memory::AllocationDevice::CPU, None);
        Device::of(session, memory, self.options(1).unwrap()).unwrap()
    }

    fn options(&self, threads: usize) -> Result<SessionBuilder, RuntimeError> {
        let builder = Session::builder(&self.environment)?
            // The default policy picks devices by itself, on some systems an accelerator.
            .with_auto_device(AutoDevicePolicy::PreferCPU)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            // Shapes change with every step, so a plan of allocations per shape is never reused.
            .with_memory_pattern(false)?
            .with_config_entry(RECORD_ASSIGNMENTS.0, RECORD_ASSIGNMENTS.1)?
            // Threads may spin for their next task while a run lasts, which decoding needs, and
            // stop with it: an idle worker uses no CPU.
            .with_config_entry("session.force_spinning_stop", "1")?;
        Ok(builder)
    }
}

fn commit(
    mut builder: SessionBuilder,
    graph: &GraphSource,
    provider: ExecutionProvider,
    wish: Wish,
) -> Result<Session, RuntimeError> {
    if wish.graph == GraphChoice::Memory {
        // An arena keeps what the longest prompt so far needed.
        builder = builder.with_execution_providers([CPU::default().build()])?;
    }
    let threads = NonZeroUsize::new(wish.threads).unwrap_or(NonZeroUsize::MIN);
    let kind = kind_of(wish.graph, provider);
    Ok(match graph {
        GraphSource::File { path, logits } => {
            let packs = kind == GraphKind::Packed;
            match packs.then(|| repack::open(path, logits.as_deref())).flatten() {
                Some(repacked) => repacked.commit(builder, threads)?,
                None => builder.commit_from_file(path)?,
            }
        }
        GraphSource::Gguf(model) => {
            let logits = Positions::Last;
            let options = GraphOptions { kind, logits, context_length: wish.context_length };
            gguf::build_graph(model, options)?.commit(builder, threads)?
        }
    })
}

/// The C interface tells no version to who has it already; release builds name their branch after
/// it, and libraries' files are named after it.
fn version_of(library: &Path, build_info: &str) -> String {
    let branch = build_info.split_once("git-branch=rel-").map(|(_, rest)| rest);
    let branch = branch.and_then(|rest| rest.split(',').next());
    let file = library.file_name().and_then(|name| name.to_str());
    let suffix = file.and_then(|name| name.split_once(".so.")).map(|(_, suffix)| suffix);
    branch.or(suffix).unwrap_or(build_info).to_owned()
}

fn log(level: LogLevel, category: &str, _id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::debug!(category, place, "{message}"),
        LogLevel::Warning => tracing::warn!(category, place, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(category, place, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_says_what_to_run() {
        let error = Runtime::open(Path::new("/nonexistent/libonnxruntime.so")).unwrap_err();
        let failure = error.into_failure();
        assert_eq!(failure.kind, LoadFailureKind::NoRuntime);
        assert!(failure.message.contains("/nonexistent/libonnxruntime.so"), "{}", failure.message);
        assert!(failure.message.contains("scripts/setup"), "{}", failure.message);
    }

    #[test]
    fn exhausted_memory_is_told_apart_by_onnx_runtimes_words() {
        assert!(is_out_of_memory("Failed to allocate memory for requested buffer of size 17"));
        assert!(is_out_of_memory("Exception during initialization: std::bad_alloc"));
        assert!(!is_out_of_memory("Load model from x.onnx failed: Protobuf parsing failed."));
    }
}
