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

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::scan::Scan;

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

/// The models directory and what is known of it.
#[derive(Debug)]
pub struct Catalog {
    root: PathBuf,
    last: Mutex<Last>,
}

/// Models by name.
pub type Models = Arc<BTreeMap<ModelName, Arc<Model>>>;

/// The models directory can't be read, and never could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the models directory can't be read; the server's log says why")]
pub struct CatalogUnavailable;

/// What the scans so far have told.
#[derive(Debug, Default)]
struct Last {
    scan_begun: Option<Instant>,
    /// Of the last scan that succeeded.
    models: Option<Models>,
    /// Why the last scan failed, or what it had to leave out.
    problems: BTreeSet<String>,
}

impl Catalog {
    /// A catalogue of `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, last: Mutex::new(Last::default()) }
    }

    /// Where models are looked for.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every model, from a scan no older than a second.
    ///
    /// While the directory can't be read, as when no more files may be opened, it is the last scan
    /// that could read it: models that are there must not seem to be gone.
    ///
    /// # Errors
    /// [`CatalogUnavailable`] if no scan has succeeded yet.
    pub async fn models(&self) -> Result<Models, CatalogUnavailable> {
        self.scan_unless(|begun| begun.elapsed() < FRESH_FOR).await
    }

    /// The model of this name, if there is one at this moment: a model that was put there just
    /// before the request is found.
    ///
    /// # Errors
    /// As [`Catalog::models`].
    pub async fn find(&self, name: &ModelName) -> Result<Option<Arc<Model>>, CatalogUnavailable> {
        let asked = Instant::now();
        if let Some(model) = self.models().await?.get(name) {
            return Ok(Some(Arc::clone(model)));
        }
        // What others asked to be scanned meanwhile serves all who miss something.
        let models = self.scan_unless(|begun| begun >= asked).await?;
        Ok(models.get(name).cloned())
    }

    async fn scan_unless(
        &self,
        is_fresh: impl Fn(Instant) -> bool,
    ) -> Result<Models, CatalogUnavailable> {
        // Held across the scan on purpose: whoever asks meanwhile wants the same answer.
        let mut last = self.last.lock().await;
        if !last.scan_begun.is_some_and(is_fresh) {
            last.scan_begun = Some(Instant::now());
            let root = self.root.clone();
            let scanned = tokio::task::spawn_blocking(move || scan::scan(&root)).await;
            let scanned = scanned.map_err(std::io::Error::other).flatten();
            last.take(&self.root, scanned);
        }
        last.models.clone().ok_or(CatalogUnavailable)
    }
}

impl Last {
    fn take(&mut self, root: &Path, scanned: std::io::Result<Scan>) {
        let problems = match scanned {
            Ok(Scan { models, problems, .. }) => {
                self.models = Some(Arc::new(models));
                problems
            }
            Err(error) => BTreeSet::from([format!("{} can't be read: {error}", root.display())]),
        };
        // Scans are frequent. What has been said once is not said again until it changes.
        for problem in problems.difference(&self.problems) {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn models_stay_while_their_directory_cannot_be_read() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("models");
        std::fs::create_dir_all(root.join("m")).unwrap();
        std::fs::write(root.join("m/genai_config.json"), r#"{"model":{"type":"llama"}}"#).unwrap();
        let catalog = Catalog::new(root.clone());
        assert_eq!(catalog.models().await.unwrap().len(), 1);
        std::fs::rename(&root, home.path().join("elsewhere")).unwrap();
        std::fs::write(&root, "no directory").unwrap();
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(catalog.models().await.unwrap().len(), 1);
        assert_eq!(catalog.last.lock().await.problems.len(), 1);
        std::fs::remove_file(&root).unwrap();
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(catalog.models().await.unwrap().len(), 0);
        assert_eq!(catalog.last.lock().await.problems, BTreeSet::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_could_never_be_read_is_unavailable_and_not_empty() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("models");
        std::fs::write(&root, "no directory").unwrap();
        let catalog = Catalog::new(root);
        assert_eq!(catalog.models().await, Err(CatalogUnavailable));
    }
}
