//! Hugging Face's folders: `config.json` with a graph beside it or in `onnx/`.
//!
//! What onnx-community, transformers.js and Optimum write. Decides what such a folder holds:
//! [`super::encoder`] reads those that embed or rerank, decoders are read here.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::graphs::{Graphs, PLAIN};
use super::{AnyModel, CacheKind, GraphSource, Ids, Model, ModelError, Names, TokenizerSource};
use super::{Variant, encoder, graph_file, read_file, read_json, read_json_if_there, special};

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
    /// Some write −1 for none.
    #[serde(default)]
    pad_token_id: Option<i64>,
    #[serde(default)]
    max_position_embeddings: Option<u32>,
    #[serde(default)]
    num_labels: Option<usize>,
    #[serde(default)]
    id2label: Option<Map<String, Value>>,
    #[serde(default)]
    is_encoder_decoder: bool,
    #[serde(default)]
    bos_token_id: Option<Ids>,
    #[serde(default)]
    eos_token_id: Option<Ids>,
    #[serde(default)]
    head_dim: Option<usize>,
    #[serde(default)]
    hidden_size: Option<usize>,
    #[serde(default)]
    num_attention_heads: Option<usize>,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    #[serde(default)]
    sliding_window: Option<usize>,
    #[serde(default)]
    use_sliding_window: Option<bool>,
    /// What else stands there: parts that see or listen.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct GenerationConfig {
    #[serde(default)]
    eos_token_id: Option<Ids>,
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

    /// The token that fills short rows.
    pub(super) fn pad(&self) -> Option<u32> {
        self.pad_token_id.and_then(|id| u32::try_from(id).ok())
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
            "roberta" | "xlm-roberta" | "camembert" | "mpnet" => self.pad().unwrap_or(1) + 1,
            _ => 0,
        };
        let rows = self.max_position_embeddings.map(|rows| rows.saturating_sub(offset));
        rows.filter(|&rows| rows > 0)
    }

    fn head_size(&self) -> Option<usize> {
        self.head_dim.or_else(|| self.hidden_size?.checked_div(self.num_attention_heads?))
    }

    fn slides(&self) -> bool {
        self.sliding_window.is_some() && self.use_sliding_window != Some(false)
    }
}

/// Reads the folder.
///
/// # Errors
/// [`ModelError`], the file in question named.
pub(super) fn read(folder: &Path, variant: Variant<'_>) -> Result<AnyModel, ModelError> {
    let config: Config = read_json(&folder.join(CONFIG_FILE))?;
    refuse_unsupported(folder, &config)?;
    let encoder = if config.has_head("ForSequenceClassification") {
        encoder::read_reranker(folder, &config, variant)?
    } else if encoder::is_at(folder) || !config.has_head("ForCausalLM") {
        encoder::read_embedder(folder, &config, variant)?
    } else {
        let stem = DECODER_STEMS.into_iter().find(|stem| !Graphs::lacks(folder, stem));
        let graphs = Graphs::find(folder, stem.unwrap_or(DECODER_STEMS[0]))?;
        let graph = graphs.choose(variant, (&CPU_ORDER, &GPU_ORDER))?;
        let facts = graph_file::check(&graph)?;
        if !facts.has_output("last_hidden_state") || facts.has_output("logits") {
            let model = decoder(folder, config, (graph, facts))?;
            return Ok(AnyModel::Decoder(Box::new(model)));
        }
        // A decoder that was exported to embed, without the files that say so.
        encoder::read_embedder(folder, &config, variant)?
    };
    Ok(AnyModel::Encoder(Box::new(encoder)))
}

fn refuse_unsupported(folder: &Path, config: &Config) -> Result<(), ModelError> {
    let refuse = |why: &str| {
        Err(ModelError::Unsupported(format!(
            "type `{}`: {why}; Hearth runs single text decoders, embedding models and rerankers",
            config.model_type
        )))
    };
    let has_part = |key: &str| config.rest.get(key).is_some_and(|value| !value.is_null());
    if ["vision_config", "image_token_id", "image_token_index"].into_iter().any(has_part) {
        return refuse("it looks at images");
    }
    if ["audio_config", "audio_token_id", "num_mel_bins"].into_iter().any(has_part) {
        return refuse("it listens to audio");
    }
    if config.is_encoder_decoder || config.has_head("ForConditionalGeneration") {
        return refuse("it has an encoder and a decoder");
    }
    if !Graphs::lacks(folder, "embed_tokens") {
        return refuse("its embeddings are a graph of their own");
    }
    Ok(())
}

// === Decoders ===

/// The first that is there is meant; the second is how Optimum called it once.
const DECODER_STEMS: [&str; 2] = ["model", "decoder_model_merged"];

/// Numbers of 16 bits are slow on a CPU, weights of 4 bits are fast.
const CPU_ORDER: [&str; 8] = ["q4", "quantized", "int8", "uint8", PLAIN, "bnb4", "q4f16", "fp16"];
const GPU_ORDER: [&str; 6] = ["q4f16", "fp16", PLAIN, "q4", "quantized", "int8"];

fn decoder(
    folder: &Path,
    config: Config,
    (graph, facts): (PathBuf, graph_file::Facts),
) -> Result<Model, ModelError> {
    refuse_graph(&facts)?;
    let cache = if facts.has_operator("GroupQueryAttention") {
        CacheKind::InPlace
    } else {
        // A gap in a row is seen by a window that counts columns, and where the graph makes up
        // positions by itself.
        let has_positions = facts.inputs().any(|name| name == "position_ids");
        CacheKind::Concatenated { ragged: has_positions && !config.slides() }
    };
    let generation: GenerationConfig = read_json_if_there(&folder.join("generation_config.json"))?;
    let (special, template) = special::read(folder)?;
    let context_length = config.positions().ok_or_else(|| ModelError::Broken {
        path: folder.join(CONFIG_FILE),
        reason: "it does not say `max_position_embeddings`".to_owned(),
    })?;
    let head_size = config.head_size();
    let names = Names::of_hugging_face();
    let ends = [config.eos_token_id, generation.eos_token_id];
    Ok(Model {
        architecture: config.model_type,
        graph: GraphSource::File { path: graph, logits: Some(names.logits.clone()) },
        tokenizer: TokenizerSource::Json(read_file(&folder.join("tokenizer.json"))?),
        template,
        special,
        bos: config.bos_token_id.and_then(|ids| ids.into_vec().first().copied()),
        ends: ends.into_iter().flatten().flat_map(Ids::into_vec).collect(),
        context_length,
        names,
        head_size,
        kv_heads: config.num_key_value_heads.or(config.num_attention_heads),
        vocabulary: config.vocab_size.and_then(|size| usize::try_from(size).ok()),
        window: None,
        cache,
    })
}

/// What the graph keeps from step to step must be keys and values and nothing else.
fn refuse_graph(facts: &graph_file::Facts) -> Result<(), ModelError> {
    if facts.has_operator("PagedAttention") {
        return Err(ModelError::Unsupported(
            "the graph uses PagedAttention, which ONNX Runtime has for CUDA only".to_owned(),
        ));
    }
    let state = |name: &&str| {
        ["past_conv", "past_ssm", "past_recurrent", "cache_params"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    if let Some(name) = facts.inputs().find(state) {
        return Err(ModelError::Unsupported(format!(
            "the graph keeps a state that is no cache of keys and values (`{name}`), which can't \
             be taken back or shared"
        )));
    }
    if facts.inputs().any(|name| name == "inputs_embeds") {
        return Err(ModelError::Unsupported(
            "the graph takes embeddings and not tokens".to_owned(),
        ));
    }
    if !facts.inputs().any(|name| name.starts_with("past_key_values.")) {
        return Err(ModelError::Unsupported(
            "the graph has no cache, so every token would cost as much as the whole text; export \
             it with past key values (`text-generation-with-past`)"
                .to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
