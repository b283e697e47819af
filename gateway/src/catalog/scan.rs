//! The walk through the models directory: what is a model, what is it called, how big is it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;

use hearth_shared::ids::{ModelName, ModelNameError};
use sha2::{Digest, Sha256};

use super::{Derived, Facts, Model, genai, gguf, hex, huggingface};
use crate::recipe::{self, Recipe, RecipeError};

/// `models/owner/name` is a model, and nothing deeper.
const DEPTH_MAX: usize = 2;
/// More entries than this are not looked at.
const ENTRIES_MAX: usize = 10_000;

type Found = BTreeMap<ModelName, Arc<Model>>;

/// Why what looks like a model is none.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    #[error(transparent)]
    Name(#[from] ModelNameError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Genai(#[from] genai::ConfigError),
    #[error(transparent)]
    HuggingFace(#[from] huggingface::ConfigError),
    #[error(transparent)]
    Gguf(#[from] gguf::HeadError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
}

/// What one scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) models: Found,
    pub(super) derived: BTreeMap<ModelName, Arc<Derived>>,
    /// What is left out and why, one line each.
    pub(super) problems: BTreeSet<String>,
    /// How many more entries are looked at.
    budget: usize,
}

/// Looks through the directory. What can't be read in it is a problem and left out.
///
/// # Errors
/// The directory itself can't be read, which says nothing about the models in it. One that is not
/// there has none.
pub(super) fn scan(root: &Path) -> io::Result<Scan> {
    let mut scan = Scan { budget: ENTRIES_MAX, ..Scan::default() };
    match scan.visit(root, "", DEPTH_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => done?,
    }
    if scan.budget == 0 {
        let root = root.display();
        let problem = format!("{root} has more than {ENTRIES_MAX} entries; the rest is left out");
        scan.problems.insert(problem);
    }
    Ok(scan)
}

impl Scan {
    fn visit(&mut self, dir: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if self.budget == 0 {
                return Ok(());
            }
            self.budget -= 1;
            // A link that the owner of `models/` put there is as good as what it points to.
            let path = entry.path();
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            if file_name.starts_with('.') {
                // What is being made has a hidden name until it is whole.
                continue;
            }
            if path.is_dir() && !is_model(&path) {
                if depth > 1
                    && let Err(error) =
                        self.visit(&path, &format!("{prefix}{file_name}/"), depth - 1)
                {
                    self.note(&path, &error);
                }
            } else if path.is_dir() {
                self.take(&path, describe_folder(&format!("{prefix}{file_name}"), &path));
            } else if let Some(stem) = file_name.strip_suffix(gguf::SUFFIX) {
                self.take(&path, describe_file(&format!("{prefix}{stem}"), &path));
            } else if let Some(stem) = file_name.strip_suffix(recipe::SUFFIX) {
                self.take_derived(&path, &format!("{prefix}{stem}"));
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, described: Result<Model, ScanError>) {
        match described {
            // A folder and a file of one name: the first that was found stays.
            Ok(model) => drop(self.models.entry(model.name.clone()).or_insert(Arc::new(model))),
            Err(error) => self.note(path, &error),
        }
    }

    fn take_derived(&mut self, path: &Path, name: &str) {
        match read_derived(name, path) {
            Ok((name, derived)) => drop(self.derived.insert(name, Arc::new(derived))),
            Err(error) => self.note(path, &error),
        }
    }

    fn note(&mut self, path: &Path, error: &dyn std::error::Error) {
        self.problems.insert(format!("no usable model at {}: {error}", path.display()));
    }
}

fn is_model(folder: &Path) -> bool {
    genai::is_model(folder) || huggingface::is_model(folder)
}

fn describe_folder(name: &str, path: &Path) -> Result<Model, ScanError> {
    let mut files = files_in(path, "")?;
    // Where Hugging Face's folders have their graphs; other folders have no such folder.
    if let Ok(graphs) = files_in(&path.join("onnx"), "onnx/") {
        files.extend(graphs);
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    if genai::is_model(path) {
        return describe(name, path, &files, genai::facts(path)?);
    }
    let mut model = describe(name, path, &files, huggingface::facts(path)?)?;
    model.variants = huggingface::variants(path);
    if let Some(variant) = huggingface::default_variant(model.facts.kind, &model.variants) {
        let of_all: u64 = model.variants.values().sum();
        let of_this = model.variants.get(variant).unwrap_or(&0);
        model.facts.quantization_level = huggingface::quantization_level(variant);
        model.size_bytes = model.size_bytes.saturating_sub(of_all) + of_this;
    }
    Ok(model)
}

fn files_in(folder: &Path, prefix: &str) -> io::Result<Vec<(OsString, Metadata)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = fs::metadata(entry.path())?;
        if found.is_file() {
            let mut name = OsString::from(prefix);
            name.push(entry.file_name());
            files.push((name, found));
        }
    }
    Ok(files)
}

fn describe_file(name: &str, path: &Path) -> Result<Model, ScanError> {
    let file_name = path.file_name().unwrap_or_default().to_owned();
    let files = [(file_name, fs::metadata(path)?)];
    describe(name, path, &files, gguf::facts(path)?)
}

fn read_derived(name: &str, path: &Path) -> Result<(ModelName, Derived), ScanError> {
    let found = fs::metadata(path)?;
    if found.len() > recipe::BYTES_MAX as u64 {
        return Err(RecipeError::TooLarge.into());
    }
    let text = fs::read_to_string(path)?;
    let derived = Derived {
        recipe: Recipe::from_text(&text)?,
        modified: modified(&found).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        digest: hex(&Sha256::digest(&text)),
    };
    Ok((name_of(name)?, derived))
}

/// A colon is no part of a file's name everywhere; `@` is in its place there.
fn name_of(path: &str) -> Result<ModelName, ModelNameError> {
    path.replacen('@', ":", 1).parse()
}

fn describe(
    name: &str,
    path: &Path,
    files: &[(OsString, Metadata)],
    facts: Facts,
) -> Result<Model, ScanError> {
    let modified = files.iter().filter_map(|(_, found)| modified(found)).max();
    Ok(Model {
        name: name_of(name)?,
        path: path.canonicalize()?,
        variants: BTreeMap::new(),
        size_bytes: files.iter().map(|(_, found)| found.len()).sum(),
        modified: modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        digest: digest(files),
        facts,
    })
}

fn modified(found: &Metadata) -> Option<jiff::Timestamp> {
    found.modified().ok().and_then(|time| time.try_into().ok())
}

fn digest(files: &[(OsString, Metadata)]) -> String {
    let mut hash = Sha256::new();
    for (name, found) in files {
        hash.update(name.as_encoded_bytes());
        let nanoseconds = modified(found).map_or(0, |time| time.as_nanosecond());
        hash.update(format!("\0{}\0{nanoseconds}\n", found.len()));
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn put_model(root: &Path, name: &str) -> PathBuf {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("genai_config.json"), r#"{"model":{"type":"llama"}}"#).unwrap();
        fs::write(path.join("model.onnx"), "12345").unwrap();
        path
    }

    fn names(models: &Found) -> Vec<&str> {
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
        fs::write(root.path().join("broken.gguf"), "x").unwrap();
        let broken = put_model(root.path(), "broken");
        fs::write(broken.join("genai_config.json"), "{").unwrap();
        let Scan { models, problems, .. } = scan(root.path()).unwrap();
        assert_eq!(names(&models), ["owner/name", "plain"]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        let plain = &models[&"plain".parse().unwrap()];
        assert_eq!((plain.size_bytes, plain.facts.family.as_str()), (31, "llama"));
        assert_eq!(plain.digest.len(), 64);
    }

    #[test]
    fn a_missing_directory_has_no_models() {
        let root = tempfile::tempdir().unwrap();
        assert!(scan(&root.path().join("models")).unwrap().models.is_empty());
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_not_one_without_models() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("models");
        fs::write(&file, "").unwrap();
        assert_eq!(scan(&file).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn the_digest_changes_with_a_file_and_not_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let path = put_model(root.path(), "m");
        let digest = |root: &Path| scan(root).unwrap().models[&"m".parse().unwrap()].digest.clone();
        let before = digest(root.path());
        assert_eq!(digest(root.path()), before);
        fs::write(path.join("model.onnx"), "123456").unwrap();
        assert_ne!(digest(root.path()), before);
    }

    #[test]
    fn a_gguf_file_is_a_model_without_its_suffix() {
        let root = tempfile::tempdir().unwrap();
        let gguf =
            gguf::tests::file(&[("general.architecture", "llama"), ("general.size_label", "135M")]);
        fs::create_dir(root.path().join("owner")).unwrap();
        fs::write(root.path().join("owner/tiny-q4_1.gguf"), &gguf).unwrap();
        let models = scan(root.path()).unwrap().models;
        assert_eq!(names(&models), ["owner/tiny-q4_1"]);
        let tiny = &models[&"owner/tiny-q4_1".parse().unwrap()];
        assert_eq!((tiny.facts.format, tiny.facts.family.as_str()), ("gguf", "llama"));
        assert_eq!(tiny.size_bytes, gguf.len() as u64);
    }

    #[test]
    fn a_hugging_face_folder_is_one_model_with_variants() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("owner/m");
        fs::create_dir_all(path.join("onnx")).unwrap();
        let config = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#;
        fs::write(path.join("config.json"), config).unwrap();
        for (file, bytes) in [("model.onnx", 100), ("model_q4.onnx", 30), ("model_fp16.onnx", 60)] {
            fs::write(path.join("onnx").join(file), vec![0; bytes]).unwrap();
        }
        let Scan { models, problems, .. } = scan(root.path()).unwrap();
        assert_eq!((names(&models), problems.len()), (vec!["owner/m"], 0));
        let model = &models[&"owner/m".parse().unwrap()];
        let config_bytes = u64::try_from(config.len()).unwrap();
        assert_eq!(model.size_bytes, config_bytes + 30);
        assert_eq!(model.facts.quantization_level, "Q4");
        let before = model.digest.clone();
        fs::write(path.join("onnx/model_fp16.onnx"), "x").unwrap();
        let models = scan(root.path()).unwrap().models;
        assert_ne!(models[&"owner/m".parse().unwrap()].digest, before);
    }

    #[test]
    fn a_recipe_is_a_derived_model_and_a_broken_one_a_problem() {
        let root = tempfile::tempdir().unwrap();
        put_model(root.path(), "m");
        fs::create_dir(root.path().join("me")).unwrap();
        let recipe = "from = 'm'\nsystem = 's'";
        fs::write(root.path().join("me/helper@v2.model.toml"), recipe).unwrap();
        fs::write(root.path().join("broken.model.toml"), "from = 'm'\nsystm = 's'").unwrap();
        let Scan { models, derived, problems, .. } = scan(root.path()).unwrap();
        assert_eq!(names(&models), ["m"]);
        let [(name, helper)] = &derived.iter().collect::<Vec<_>>()[..] else { panic!("one") };
        assert_eq!((name.as_str(), helper.recipe.from.as_str()), ("me/helper:v2", "m"));
        let [problem] = &problems.iter().collect::<Vec<_>>()[..] else { panic!("{problems:?}") };
        assert!(problem.contains("broken.model.toml: unknown field `systm`"), "{problem}");
    }

    #[cfg(unix)]
    #[test]
    fn a_linked_folder_is_a_model_at_its_real_place() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let path = put_model(elsewhere.path(), "real");
        std::os::unix::fs::symlink(&path, root.path().join("linked")).unwrap();
        let models = scan(root.path()).unwrap().models;
        assert_eq!(models[&"linked".parse().unwrap()].path, path.canonicalize().unwrap());
    }
}
