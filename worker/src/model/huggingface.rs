//! Hugging Face's folders: `config.json` with a graph beside it or in `onnx/`.
//!
//! Decides what such a folder holds; [`super::encoder`] reads those that embed or rerank.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ModelError, encoder, read_json};

/// What tells this layout from the others.
pub(super) const CONFIG_FILE: &str = "config.json";

/// `config.json`, as far as it counts here.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) architectures: Vec<String>,
    #[serde(default)]
    pub(super) model_type: String,
    #[serde(default)]
    pub(super) vocab_size: Option<u32>,
    #[serde(default)]
    pub(super) pad_token_id: Option<u32>,
    #[serde(default)]
    max_position_embeddings: Option<u32>,
    #[serde(default)]
    num_labels: Option<usize>,
    #[serde(default)]
    id2label: Option<Map<String, Value>>,
}

impl Config {
    /// Whether its head ends so, in Hugging Face's words: `ForCausalLM`, …
    fn has_head(&self, head: &str) -> bool {
        self.architectures.iter().any(|name| name.ends_with(head))
    }

    /// Whether a token sees only what stands before it.
    pub(super) fn is_causal(&self) -> bool {
        self.has_head("ForCausalLM")
            || ["qwen2", "qwen3", "llama", "mistral", "gemma", "phi"].contains(&&*self.model_type)
    }

    /// How many classes a classifier has.
    pub(super) fn labels(&self) -> usize {
        // Two is what the library leaves out of the file.
        self.id2label.as_ref().map(Map::len).or(self.num_labels).unwrap_or(2)
    }

    /// How many positions the graph has rows for.
    pub(super) fn positions(&self) -> Option<u32> {
        let offset = match self.model_type.as_str() {
            // Their positions are counted from the padding token's id on.
            "roberta" | "xlm-roberta" | "camembert" | "mpnet" => self.pad_token_id.unwrap_or(1) + 1,
            _ => 0,
        };
        self.max_position_embeddings
            .map(|rows| rows.saturating_sub(offset))
            .filter(|&rows| rows > 0)
    }
}

/// Reads the folder of an encoder; `None` if it holds a decoder.
///
/// # Errors
/// [`ModelError`], the file in question named.
pub(super) fn read_encoder(
    folder: &Path,
    variant: Option<&str>,
) -> Result<Option<encoder::EncoderModel>, ModelError> {
    let config: Config = read_json(&folder.join(CONFIG_FILE))?;
    if config.has_head("ForSequenceClassification") {
        return encoder::read_reranker(folder, &config, variant).map(Some);
    }
    if encoder::is_at(folder) || !config.has_head("ForCausalLM") {
        return encoder::read_embedder(folder, &config, variant).map(Some);
    }
    Ok(None)
}
