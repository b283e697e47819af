//! The models that can be served: the `models/` directory, scanned into names and facts.
//!
//! A request's model name is a key into the last scan and never becomes part of a path. A scan is
//! made when somebody asks and the last one is older than a moment, so that a model dropped into
//! `models/` is there for the next request. Nothing here opens a model; the worker does. Of each
//! layout only what listings show is read: `genai.rs` and `huggingface.rs` a folder's configuration,
//! `gguf.rs` the head of a file. `offer.rs` says what a name stands for, of which there are more than
//! models: a recipe makes another one of it, and the configuration may give it further names.

mod cache;
mod genai;
mod gguf;
mod huggingface;
mod offer;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{ModelKind, RequestFailure};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use self::offer::{Aliases, Derived, Names, Offer};
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
    /// What could stand behind the colon of its name, and how many bytes its weights have.
    pub variants: BTreeMap<String, u64>,
    /// All its files together, in bytes; of several variants, only the one that is loaded.
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
    /// What it is for, as far as can be told without loading it.
    pub kind: ModelKind,
    /// The family: `llama`, `qwen3`, …
    pub family: String,
    /// How many parameters: `135M`, `7B`.
    pub parameter_size: String,
    /// How the weights are stored, in Ollama's words: `Q4_K_M`, `F16`.
    pub quantization_level: String,
    /// How many numbers a token takes in its cache of keys and values; 0 if there is none, or
    /// nobody says.
    pub cache_per_token: u64,
}

/// The models directory and what is known of it.
#[derive(Debug)]
pub struct Catalog {
    root: PathBuf,
    last: Mutex<Last>,
    /// Other names of models, which the configuration may change at any time.
    aliases: RwLock<Arc<Aliases>>,
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
    /// Of the last scan that succeeded; without aliases.
    names: Option<Names>,
    /// Why the last scan failed, or what it had to leave out.
    problems: BTreeSet<String>,
}

impl Catalog {
    /// A catalogue of `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, last: Mutex::new(Last::default()), aliases: RwLock::default() }
    }

    /// These are the other names of models from now on.
    pub fn set_aliases(&self, aliases: Aliases) {
        *self.aliases.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(aliases);
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
        Ok(self.names().await?.models)
    }

    /// Every name that stands for a model, as [`Catalog::models`].
    ///
    /// # Errors
    /// As [`Catalog::models`].
    pub async fn names(&self) -> Result<Names, CatalogUnavailable> {
        self.scan_unless(|begun| begun.elapsed() < FRESH_FOR).await
    }

    /// What this name stands for, if it does at this moment: a model that was put there just before
    /// the request is found. What stands behind a colon picks one of its variants.
    ///
    /// # Errors
    /// As [`Catalog::models`].
    pub async fn find(&self, name: &ModelName) -> Result<Option<Offer>, CatalogUnavailable> {
        let asked = Instant::now();
        if let Some(offer) = self.names().await?.offer(name) {
            return Ok(Some(offer));
        }
        // What others asked to be scanned meanwhile serves all who miss something.
        Ok(self.scan_unless(|begun| begun >= asked).await?.offer(name))
    }

    /// Whoever asks next is given a new scan: something in the directory was changed.
    pub async fn forget(&self) {
        self.last.lock().await.scan_begun = None;
    }

    async fn scan_unless(
        &self,
        is_fresh: impl Fn(Instant) -> bool,
    ) -> Result<Names, CatalogUnavailable> {
        // Held across the scan on purpose: whoever asks meanwhile wants the same answer.
        let mut last = self.last.lock().await;
        if !last.scan_begun.is_some_and(is_fresh) {
            last.scan_begun = Some(Instant::now());
            let root = self.root.clone();
            let scanned = tokio::task::spawn_blocking(move || scan::scan(&root)).await;
            let scanned = scanned.map_err(std::io::Error::other).flatten();
            last.take(&self.root, scanned);
        }
        let aliases = self.aliases.read().unwrap_or_else(PoisonError::into_inner);
        let names = last.names.clone().ok_or(CatalogUnavailable)?;
        Ok(Names { aliases: Arc::clone(&aliases), ..names })
    }
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The model of this name, or the variant that the name asks for.
#[must_use]
pub fn pick(models: &BTreeMap<ModelName, Arc<Model>>, name: &ModelName) -> Option<Arc<Model>> {
    if let Some(model) = models.get(name) {
        return Some(Arc::clone(model));
    }
    let variant = name.variant()?;
    let model = models.get(&name.base().parse::<ModelName>().ok()?)?;
    model.with_variant(name, variant).map(Arc::new)
}

impl Model {
    /// Whether the model can do work of a kind, as far as its files tell; in the worker's words.
    ///
    /// A folder may hold a decoder that was exported to embed, which only the worker sees: what is
    /// taken for a language model here is refused nothing.
    ///
    /// # Errors
    /// [`RequestFailure::Unsupported`].
    pub fn can(&self, wanted: ModelKind) -> Result<(), RequestFailure> {
        let does = match self.facts.kind {
            ModelKind::Generate => return Ok(()),
            kind if kind == wanted => return Ok(()),
            ModelKind::Embed => "makes embeddings",
            ModelKind::Rerank => "ranks documents",
        };
        let not = match wanted {
            ModelKind::Generate => "generates no text",
            ModelKind::Embed => "makes no embeddings",
            ModelKind::Rerank => "does not rank documents",
        };
        Err(RequestFailure::Unsupported { message: format!("this model {does}; it {not}") })
    }

    /// What could have stood behind the colon, for whoever asked for a variant that is not there.
    #[must_use]
    pub fn variants_hint(&self) -> String {
        let names: Vec<_> = self.variants.keys().map(String::as_str).collect();
        if names.is_empty() {
            format!("`{}` has no variants", self.name)
        } else {
            format!("`{}` has the variants {}", self.name, names.join(", "))
        }
    }

    /// This model under a name that asks for one of its variants, if it has that one.
    fn with_variant(&self, name: &ModelName, variant: &str) -> Option<Self> {
        let bytes = self.variants.get(variant)?;
        let default = huggingface::default_variant(self.facts.kind, &self.variants);
        let loaded_by_default = default.and_then(|variant| self.variants.get(variant));
        Some(Self {
            name: name.clone(),
            size_bytes: self.size_bytes - loaded_by_default.unwrap_or(&0) + bytes,
            facts: Facts {
                quantization_level: huggingface::quantization_level(variant),
                ..self.facts.clone()
            },
            ..self.clone()
        })
    }
}

impl Last {
    fn take(&mut self, root: &Path, scanned: std::io::Result<Scan>) {
        let problems = match scanned {
            Ok(Scan { models, derived, problems, .. }) => {
                let (models, derived) = (Arc::new(models), Arc::new(derived));
                self.names = Some(Names { models, derived, aliases: Arc::default() });
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

    #[tokio::test]
    async fn what_stands_behind_the_colon_picks_a_variant() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("m");
        std::fs::create_dir_all(folder.join("onnx")).unwrap();
        std::fs::write(folder.join("config.json"), r#"{"architectures":["BertModel"]}"#).unwrap();
        for (file, bytes) in [("model.onnx", 100), ("model_fp16.onnx", 60)] {
            std::fs::write(folder.join("onnx").join(file), vec![0; bytes]).unwrap();
        }
        let catalog = Catalog::new(home.path().to_owned());
        let found = async |name: &str| {
            let offer = catalog.find(&name.parse().unwrap()).await.unwrap();
            offer.map(|offer| offer.model)
        };
        let plain = found("m").await.unwrap();
        assert_eq!(found("m:latest").await.unwrap(), plain);
        assert_eq!((plain.name.as_str(), plain.size_bytes), ("m", 131));
        let half = found("m:fp16").await.unwrap();
        assert_eq!((half.name.as_str(), half.size_bytes), ("m:fp16", 91));
        assert_eq!(half.path, plain.path);
        assert_eq!(half.facts.quantization_level, "F16");
        assert_eq!(found("m:q4").await, None);
        assert_eq!(catalog.models().await.unwrap().len(), 1);
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
