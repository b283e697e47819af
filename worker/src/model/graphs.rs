//! Which graphs a folder holds, and which of them is meant.
//!
//! `model.onnx` and its relatives `model_q4.onnx`, `model_fp16.onnx`, … lie in the folder itself or
//! in `onnx/` below it. What follows the first underscore is the variant's name; the plain file is
//! `fp32`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Device, ModelError, Variant};

/// What the file without a suffix is called.
pub(super) const PLAIN: &str = "fp32";

/// A folder's graphs by the names of their variants; never none.
#[derive(Debug)]
pub(super) struct Graphs {
    folder: PathBuf,
    files: BTreeMap<String, PathBuf>,
}

impl Graphs {
    /// Looks for `stem.onnx` and `stem_*.onnx`.
    ///
    /// # Errors
    /// [`ModelError::Read`] if the folder can't be listed, [`ModelError::NoGraph`] if none is there.
    pub(super) fn find(folder: &Path, stem: &str) -> Result<Self, ModelError> {
        let mut files = BTreeMap::new();
        // Where a graph lies in both, the one in `onnx/` is what exporters write today.
        for place in [folder.to_owned(), folder.join("onnx")] {
            if !place.is_dir() {
                continue;
            }
            let unreadable = |source| ModelError::Read { path: place.clone(), source };
            for entry in std::fs::read_dir(&place).map_err(unreadable)? {
                let name = entry.map_err(unreadable)?.file_name();
                if let Some(variant) = name.to_str().and_then(|name| variant_of(name, stem)) {
                    files.insert(variant.to_owned(), place.join(&name));
                }
            }
        }
        if files.is_empty() {
            return Err(ModelError::NoGraph { folder: folder.to_owned(), stem: stem.to_owned() });
        }
        Ok(Self { folder: folder.to_owned(), files })
    }

    /// Whether there is none of this stem.
    pub(super) fn lacks(folder: &Path, stem: &str) -> bool {
        matches!(Self::find(folder, stem), Err(ModelError::NoGraph { .. }))
    }

    /// The graph of the variant asked for, or else of the first one in the device's order that is
    /// there, or else any.
    ///
    /// # Errors
    /// [`ModelError::NoVariant`], with the names of those that are there.
    pub(super) fn choose(
        self,
        asked: Variant<'_>,
        (on_cpu, on_gpu): (&[&str], &[&str]),
    ) -> Result<PathBuf, ModelError> {
        let best = |order: &[&str]| {
            let preferred = order.iter().find_map(|&variant| self.files.get(variant));
            let any = preferred.or_else(|| self.files.values().next());
            any.cloned().expect("a folder without graphs is an error before")
        };
        match asked {
            Variant::BestFor(Device::Cpu) => Ok(best(on_cpu)),
            Variant::BestFor(Device::Gpu) => Ok(best(on_gpu)),
            Variant::Named(name) => match self.files.get(name) {
                Some(file) => Ok(file.clone()),
                None => Err(ModelError::NoVariant {
                    folder: self.folder,
                    asked: name.to_owned(),
                    there: self.files.into_keys().collect(),
                }),
            },
        }
    }
}

fn variant_of<'a>(file_name: &'a str, stem: &str) -> Option<&'a str> {
    match file_name.strip_suffix(".onnx")?.strip_prefix(stem)? {
        "" => Some(PLAIN),
        suffix => suffix.strip_prefix('_').filter(|variant| !variant.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("onnx")).unwrap();
        for file in files {
            fs::write(folder.path().join(file), "").unwrap();
        }
        folder
    }

    #[test]
    fn the_variant_asked_for_goes_before_the_preferred_one() {
        let files = ["onnx/model.onnx", "onnx/model_q4.onnx", "onnx/model_fp16.onnx", "model.onnx"];
        let folder = folder(&files);
        let choose = |asked| {
            let orders: (&[&str], &[&str]) = (&["int4", "q4", "fp16"], &["fp32", "q4"]);
            let chosen = Graphs::find(folder.path(), "model").unwrap().choose(asked, orders);
            chosen.unwrap().strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(choose(Variant::Named("fp16")), "onnx/model_fp16.onnx");
        assert_eq!(choose(Variant::Named("fp32")), "onnx/model.onnx");
        assert_eq!(choose(Variant::BestFor(Device::Cpu)), "onnx/model_q4.onnx");
        assert_eq!(choose(Variant::BestFor(Device::Gpu)), "onnx/model.onnx");
    }

    #[test]
    fn a_variant_that_is_not_there_is_told_with_those_that_are() {
        let folder = folder(&["model.onnx", "model_q4.onnx", "model.onnx.data", "other.onnx"]);
        let graphs = Graphs::find(folder.path(), "model").unwrap();
        let message = graphs.choose(Variant::Named("q8"), (&[], &[])).unwrap_err().to_string();
        assert!(message.ends_with("has no variant `q8`; there are `fp32`, `q4`"), "{message}");
    }

    #[test]
    fn a_folder_without_a_graph_is_told_what_was_looked_for() {
        let error = Graphs::find(folder(&["modelling.onnx"]).path(), "model").unwrap_err();
        assert!(error.to_string().contains("no `model.onnx`"), "{error}");
    }
}
