//! The models that can be served: the `models/` directory, scanned into names and facts.
//!
//! A request's model name is a key into the last scan and never becomes part of a path. A scan is
//! made when somebody asks and the last one is older than a moment, so that a folder dropped into
//! `models/` is there for the next request. Nothing here opens a model; the worker does.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A scan is good for this long.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// `models/owner/name` is a model, and nothing deeper.
const DEPTH_MAX: usize = 2;
/// More entries than this are not looked at.
const ENTRIES_MAX: usize = 10_000;
/// A larger `genai_config.json` is none.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

const GENAI_CONFIG: &str = "genai_config.json";

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
    /// The family, as the files name it: `llama`, `qwen3`, …
    pub family: String,
}

impl Model {
    /// How Ollama's `details.format` names the layout.
    pub const FORMAT: &'static str = "onnx";
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
        let models = match tokio::task::spawn_blocking(move || scan(&root)).await {
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

/// Looks through the directory. What can't be read is logged and left out.
fn scan(root: &Path) -> BTreeMap<ModelName, Arc<Model>> {
    let mut models = BTreeMap::new();
    let mut budget = ENTRIES_MAX;
    visit(root, "", DEPTH_MAX, &mut budget, &mut models);
    if budget == 0 {
        tracing::warn!(root = %root.display(), limit = ENTRIES_MAX, "too many entries; the rest is left out");
    }
    models
}

fn visit(
    dir: &Path,
    prefix: &str,
    depth: usize,
    budget: &mut usize,
    models: &mut BTreeMap<ModelName, Arc<Model>>,
) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "can't be read");
            return;
        }
    };
    for entry in entries.flatten() {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        let path = entry.path();
        // A link that the owner of `models/` put there is as good as what it points to.
        if !path.is_dir() {
            continue;
        }
        let Ok(file_name) = entry.file_name().into_string() else {
            continue;
        };
        let name = format!("{prefix}{file_name}");
        if path.join(GENAI_CONFIG).is_file() {
            match describe(&name, &path) {
                Ok(model) => drop(models.insert(model.name.clone(), Arc::new(model))),
                Err(error) => tracing::warn!(path = %path.display(), %error, "no usable model"),
            }
        } else if depth > 1 {
            visit(&path, &format!("{name}/"), depth - 1, budget, models);
        }
    }
}

/// Why a folder that looks like a model is none.
#[derive(Debug, thiserror::Error)]
enum DescribeError {
    #[error(transparent)]
    Name(#[from] hearth_shared::ids::ModelNameError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{GENAI_CONFIG} has {0} bytes, at most {CONFIG_BYTES_MAX} are read")]
    ConfigTooLarge(u64),
    #[error("{GENAI_CONFIG} can't be understood: {0}")]
    Config(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct GenaiConfig {
    model: GenaiModel,
}

#[derive(Deserialize)]
struct GenaiModel {
    #[serde(rename = "type")]
    family: String,
}

fn describe(name: &str, path: &Path) -> Result<Model, DescribeError> {
    let name: ModelName = name.parse()?;
    let config_path = path.join(GENAI_CONFIG);
    let config_bytes = fs::metadata(&config_path)?.len();
    if config_bytes > CONFIG_BYTES_MAX {
        return Err(DescribeError::ConfigTooLarge(config_bytes));
    }
    let config: GenaiConfig = serde_json::from_slice(&fs::read(config_path)?)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let found = fs::metadata(entry.path())?;
        if found.is_file() {
            files.push((entry.file_name(), found));
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    let modified = files.iter().filter_map(|(_, found)| modified(found)).max();
    Ok(Model {
        name,
        path: path.canonicalize()?,
        size_bytes: files.iter().map(|(_, found)| found.len()).sum(),
        modified: modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        digest: digest(&files),
        family: config.model.family,
    })
}

fn modified(found: &Metadata) -> Option<jiff::Timestamp> {
    found.modified().ok().and_then(|time| time.try_into().ok())
}

fn digest(files: &[(std::ffi::OsString, Metadata)]) -> String {
    let mut hash = Sha256::new();
    for (name, found) in files {
        hash.update(name.as_encoded_bytes());
        let nanoseconds = modified(found).map_or(0, |time| time.as_nanosecond());
        hash.update(format!("\0{}\0{nanoseconds}\n", found.len()));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_model(root: &Path, name: &str) -> PathBuf {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(GENAI_CONFIG), r#"{"model":{"type":"llama"}}"#).unwrap();
        fs::write(path.join("model.onnx"), "12345").unwrap();
        path
    }

    fn names(models: &BTreeMap<ModelName, Arc<Model>>) -> Vec<&str> {
        models.keys().map(ModelName::as_str).collect()
    }

    #[test]
    fn folders_become_models_under_their_paths() {
        let root = tempfile::tempdir().unwrap();
        put_model(root.path(), "plain");
        put_model(root.path(), "owner/name");
        put_model(root.path(), "a/b/too-deep");
        put_model(root.path(), "bad name");
        fs::create_dir(root.path().join("empty")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        let broken = put_model(root.path(), "broken");
        fs::write(broken.join(GENAI_CONFIG), "{").unwrap();
        let models = scan(root.path());
        assert_eq!(names(&models), ["owner/name", "plain"]);
        let plain = &models[&"plain".parse().unwrap()];
        assert_eq!((plain.size_bytes, plain.family.as_str()), (31, "llama"));
        assert_eq!(plain.digest.len(), 64);
    }

    #[test]
    fn a_missing_directory_has_no_models() {
        let root = tempfile::tempdir().unwrap();
        assert!(scan(&root.path().join("models")).is_empty());
    }

    #[test]
    fn the_digest_changes_with_a_file_and_not_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let path = put_model(root.path(), "m");
        let digest = |root: &Path| scan(root)[&"m".parse().unwrap()].digest.clone();
        let before = digest(root.path());
        assert_eq!(digest(root.path()), before);
        fs::write(path.join("model.onnx"), "123456").unwrap();
        assert_ne!(digest(root.path()), before);
    }

    #[cfg(unix)]
    #[test]
    fn a_linked_folder_is_a_model_at_its_real_place() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let path = put_model(elsewhere.path(), "real");
        std::os::unix::fs::symlink(&path, root.path().join("linked")).unwrap();
        let models = scan(root.path());
        assert_eq!(models[&"linked".parse().unwrap()].path, path.canonicalize().unwrap());
    }
}
