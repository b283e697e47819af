//! A path → what has to be known to run the model there, whichever layout it has.
//!
//! The loader calls [`Model::read`] first thing. Reads small files only: weights stay where they
//! are, and no session exists yet. What a session says itself is read in
//! [`crate::runtime::interface`]; these files give names, limits and ends.

pub(crate) mod genai;
mod gguf;
mod huggingface;
mod encoder;
mod graphs;
mod graph_file;
mod special;

use std::path::{Path, PathBuf};

use hearth_shared::protocol::{LoadFailure, LoadFailureKind};

use crate::gguf::GgufModel;

pub(crate) use encoder::{EncoderModel, Pooling, Task};
pub(crate) use graph_file::beside;
pub(crate) use special::SpecialTokens;

/// Why a model's files can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// A file can't be read.
    #[error("can't read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is broken: {reason}", path = .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No layout of models that Hearth knows.
    #[error(
        "{path} holds no model that Hearth knows: it is no `.gguf` file and has neither \
         `genai_config.json` nor `config.json`; look whether the download is complete",
        path = .0.display()
    )]
    UnknownLayout(PathBuf),
    /// A folder with a configuration and without weights.
    #[error(
        "{folder} has no `{stem}.onnx` and no `{stem}_….onnx`, neither in it nor in `onnx/` below \
         it; look whether the download is complete", folder = .folder.display()
    )]
    NoGraph {
        /// The folder.
        folder: PathBuf,
        /// What its graphs' names begin with.
        stem: String,
    },
    /// A variant was asked for that the folder lacks.
    #[error(
        "{folder} has no variant `{asked}`; there are `{}`", .there.join("`, `"),
        folder = .folder.display()
    )]
    NoVariant {
        /// The folder.
        folder: PathBuf,
        /// What was asked for.
        asked: String,
        /// What could have been asked for.
        there: Vec<String>,
    },
    /// Sound, but no kind of model that Hearth runs.
    #[error("this model is not supported: {0}")]
    Unsupported(String),
}

impl ModelError {
    /// What the gateway is told.
    pub(crate) fn into_failure(self) -> LoadFailure {
        let kind = match &self {
            Self::Read { .. }
            | Self::Broken { .. }
            | Self::UnknownLayout(_)
            | Self::NoGraph { .. }
            | Self::NoVariant { .. } => LoadFailureKind::BadFiles,
            Self::Unsupported(_) => LoadFailureKind::Unsupported,
        };
        LoadFailure { kind, message: self.to_string() }
    }
}

/// Everything that a model's files say.
#[derive(Debug)]
pub(crate) struct Model {
    /// The family, as the files name it.
    pub(crate) architecture: String,
    pub(crate) graph: GraphSource,
    pub(crate) tokenizer: TokenizerSource,
    /// The chat template's source, if there is one.
    pub(crate) template: Option<String>,
    pub(crate) special: SpecialTokens,
    /// What starts a sequence that would otherwise be empty.
    pub(crate) bos: Option<u32>,
    /// What ends a sequence, as the configuration says; the tokenizer may know more.
    pub(crate) ends: Vec<u32>,
    pub(crate) context_length: u32,
    pub(crate) names: Names,
    pub(crate) head_size: Option<usize>,
    pub(crate) kv_heads: Option<usize>,
    pub(crate) vocabulary: Option<usize>,
    pub(crate) window: Option<Window>,
    pub(crate) cache: CacheKind,
}

/// How a graph keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheKind {
    /// `GroupQueryAttention` writes into a cache that has room for what comes.
    InPlace,
    /// The past goes in and comes out with the new positions behind it.
    Concatenated {
        /// Whether rows of unlike length can share a run, with a gap between the shorter one's
        /// past and its new positions.
        ragged: bool,
    },
}

/// Where the graph comes from.
#[derive(Debug)]
pub(crate) enum GraphSource {
    /// An ONNX file; its weights may lie in files beside it.
    File {
        path: PathBuf,
        /// The output of which the last position is enough, if any.
        logits: Option<String>,
    },
    /// A GGUF file, from which a graph is built in memory.
    Gguf(Box<GgufModel>),
}

/// Where the tokenizer comes from.
#[derive(Debug)]
pub(crate) enum TokenizerSource {
    /// `tokenizer.json`, whole.
    Json(Vec<u8>),
    /// Built already, from another kind of file.
    Built(Box<tokenizers::Tokenizer>),
}

impl Default for TokenizerSource {
    fn default() -> Self {
        Self::Json(Vec::new())
    }
}

/// The names of a decoder's inputs and outputs; `%d` in a cache's name is the layer's number.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) input_ids: String,
    pub(crate) attention_mask: String,
    pub(crate) logits: String,
    pub(crate) past_keys: String,
    pub(crate) past_values: String,
    pub(crate) present_keys: String,
    pub(crate) present_values: String,
}

impl Names {
    /// The names that everybody gives who does not write them down.
    fn of_hugging_face() -> Self {
        Self {
            input_ids: "input_ids".to_owned(),
            attention_mask: "attention_mask".to_owned(),
            logits: "logits".to_owned(),
            past_keys: "past_key_values.%d.key".to_owned(),
            past_values: "past_key_values.%d.value".to_owned(),
            present_keys: "present.%d.key".to_owned(),
            present_values: "present.%d.value".to_owned(),
        }
    }

    pub(crate) fn past_key(&self, layer: usize) -> String {
        numbered(&self.past_keys, layer)
    }

    pub(crate) fn past_value(&self, layer: usize) -> String {
        numbered(&self.past_values, layer)
    }

    pub(crate) fn present_key(&self, layer: usize) -> String {
        numbered(&self.present_keys, layer)
    }

    pub(crate) fn present_value(&self, layer: usize) -> String {
        numbered(&self.present_values, layer)
    }
}

fn numbered(template: &str, layer: usize) -> String {
    template.replacen("%d", &layer.to_string(), 1)
}

/// Layers whose cache holds a window of the newest positions and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) layers: Vec<usize>,
    /// How many rows such a cache has, always.
    pub(crate) rows: usize,
}

/// A model of any kind.
#[derive(Debug)]
pub(crate) enum AnyModel {
    /// It continues texts.
    Decoder(Box<Model>),
    /// It turns texts into numbers.
    Encoder(Box<EncoderModel>),
}

impl AnyModel {
    /// Reads the model at `path`, of which `variant` is meant, or the best one.
    ///
    /// # Errors
    /// [`ModelError`], the file in question named.
    pub(crate) fn read(path: &Path, variant: Variant<'_>) -> Result<Self, ModelError> {
        if path.join(genai::CONFIG_FILE).exists() {
            return genai::read(path).map(|model| Self::Decoder(Box::new(model)));
        }
        if path.join(huggingface::CONFIG_FILE).exists() {
            return huggingface::read(path, variant);
        }
        if gguf::is_at(path) {
            return gguf::read(path).map(|model| Self::Decoder(Box::new(model)));
        }
        // A path that isn't there at all deserves the system's own words.
        std::fs::metadata(path)
            .map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        Err(ModelError::UnknownLayout(path.to_owned()))
    }
}

/// Which of a folder's graphs is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Variant<'a> {
    /// This one.
    Named(&'a str),
    /// The one that suits the device best.
    BestFor(Device),
}

/// Where a graph is to run, as far as it decides between variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Cpu,
    Gpu,
}

/// Configuration files are small; whatever is larger than this is something else.
const TEXT_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    let io = |source| ModelError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > TEXT_FILE_BYTES_MAX {
        return Err(ModelError::Broken {
            path: path.to_owned(),
            reason: format!("{bytes} bytes are too many for such a file"),
        });
    }
    std::fs::read(path).map_err(io)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(&read_file(path)?)
        .map_err(|error| ModelError::Broken { path: path.to_owned(), reason: error.to_string() })
}

/// As [`read_json`], for a file that need not be there.
fn read_json_if_there<T: serde::de::DeserializeOwned + Default>(
    path: &Path,
) -> Result<T, ModelError> {
    if path.exists() { read_json(path) } else { Ok(T::default()) }
}

/// One id or several: configurations write either.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[cfg(test)]
mod tests;
