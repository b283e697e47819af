//! The models that can be served: the `models/` directory, scanned into names and facts.
//!
//! A request's model name is a key into the last scan and never becomes part of a path. A scan is
//! made when somebody asks and the last one is older than a moment, so that a model dropped into
//! `models/` is there for the next request. Nothing here opens a model; the worker does. Of each
//! layout only what listings show is read: `genai.rs` a folder's configuration, `gguf.rs` the head
//! of a file.

mod genai;
mod gguf;
mod scan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A scan is good for this long.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// One model, as its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What requests call it.
    pub name: ModelName,
    /// Its folder or file, absolute.
    pub path: PathBuf,
    /// All its files together, in bytes.
    pub size_bytes: u64,
    /// When the newest of them was changed.
    pub modified: jiff::Timestamp,
    /// 64 hex digits that change when a file's name, size or time does. Not a hash of contents:
    /// those can be tens of gigabytes.
    pub digest: String,
    /// What the files say of the model.
    pub facts: Facts,
}

/// What a model's files say of it, for listings. Empty where they do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `onnx` or `gguf`.
    pub format: &'static str,
    /// The family: `llama`, `qwen3`, …
    pub family: String,
    /// How many parameters: `135M`, `7B`.
    pub parameter_size: String,
    /// How the weights are stored, in Ollama's words: `Q4_K_M`, `F16`.
    pub quantization_level: String,
}

/// The models directory and its last scan.
#[derive(Debug)]
pub struct Catalog {
    root: PathBuf,
    last: Mutex<Option<(Instant, Models)>>,
}

/// Models by name.
pub type Models = Arc<BTreeMap<ModelName, Arc<Model>>>;

impl Catalog {
    /// A catalogue of `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, last: Mutex::new(None) }
    }

    /// Where models are looked for.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every model, from a scan no older than a second.
    pub async fn models(&self) -> Models {
        // Held across the scan on purpose: whoever asks meanwhile wants the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, models)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return Arc::clone(models);
        }
        let root = self.root.clone();
        let models = match tokio::task::spawn_blocking(move || scan::scan(&root)).await {
            Ok(models) => Arc::new(models),
            Err(error) => {
                tracing::error!(%error, "the scan of the models directory failed");
                Arc::default()
            }
        };
        *last = Some((Instant::now(), Arc::clone(&models)));
        models
    }

    /// The model of this name, if there is one.
    pub async fn find(&self, name: &ModelName) -> Option<Arc<Model>> {
        self.models().await.get(name).cloned()
    }
}
