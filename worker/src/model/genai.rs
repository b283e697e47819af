//! The folder that onnxruntime-genai's model builder writes: `genai_config.json` and a graph.
//!
//! Its configuration speaks of much that Hearth does not run; that is refused here by name, before
//! gigabytes are read in vain.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CacheKind, GraphSource, Ids, Model, ModelError, Names, TokenizerSource, Window};
use super::{graph_file, special};
use super::{read_file, read_json, read_json_if_there};

/// What tells this layout from the others.
pub(crate) const CONFIG_FILE: &str = "genai_config.json";

#[derive(Debug, Deserialize)]
struct Config {
    model: ModelSection,
    /// Present where a smaller model drafts for this one.
    #[serde(default)]
    speculative: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct ModelSection {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    bos_token_id: Option<u32>,
    #[serde(default)]
    eos_token_id: Option<Ids>,
    context_length: u32,
    #[serde(default)]
    vocab_size: Option<usize>,
    decoder: Decoder,
    /// What else stands there: encoders, vision, drafts.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Decoder {
    #[serde(default = "default_file")]
    filename: String,
    #[serde(default)]
    head_size: Option<usize>,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    #[serde(default)]
    inputs: Map<String, Value>,
    #[serde(default)]
    outputs: Map<String, Value>,
    #[serde(default)]
    sliding_window: Option<SlidingWindow>,
    #[serde(default)]
    pipeline: Option<Value>,
}

fn default_file() -> String {
    "model.onnx".to_owned()
}

#[derive(Debug, Deserialize)]
struct SlidingWindow {
    window_size: usize,
    #[serde(default)]
    cache_slack: usize,
    #[serde(default)]
    layers: Vec<usize>,
}

#[derive(Debug, Default, Deserialize)]
struct GenerationConfig {
    #[serde(default)]
    eos_token_id: Option<Ids>,
}

/// Blocks of the configuration that make a model something else than one text decoder.
const REFUSED_BLOCKS: [(&str, &str); 7] = [
    ("vision", "it looks at images"),
    ("speech", "it listens to audio"),
    ("audio", "it listens to audio"),
    ("embedding", "its embeddings are a graph of their own"),
    ("encoder", "it has an encoder"),
    ("draft", "it decodes speculatively"),
    ("mtp", "it decodes speculatively"),
];

/// Reads the folder.
///
/// # Errors
/// [`ModelError`]: files that are missing or broken, and models that are more than one decoder.
pub(super) fn read(folder: &Path) -> Result<Model, ModelError> {
    let config: Config = read_json(&folder.join(CONFIG_FILE))?;
    refuse_unsupported(&config)?;
    let Config { model, .. } = config;
    let graph = folder.join(&model.decoder.filename);
    let facts = graph_file::check(&graph)?;
    refuse_graph(&facts)?;
    let generation: GenerationConfig = read_json_if_there(&folder.join("generation_config.json"))?;
    let (special, template) = special::read(folder)?;
    let ends = [model.eos_token_id, generation.eos_token_id];
    let names = names(&model.decoder);
    Ok(Model {
        cache: CacheKind::InPlace,
        architecture: model.kind,
        graph: GraphSource::File { path: graph, logits: Some(names.logits.clone()) },
        tokenizer: TokenizerSource::Json(read_file(&folder.join("tokenizer.json"))?),
        template,
        special,
        bos: model.bos_token_id,
        ends: ends.into_iter().flatten().flat_map(Ids::into_vec).collect(),
        context_length: model.context_length,
        names,
        head_size: model.decoder.head_size,
        kv_heads: model.decoder.num_key_value_heads,
        vocabulary: model.vocab_size,
        window: model.decoder.sliding_window.map(|window| Window {
            rows: window.window_size + window.cache_slack,
            layers: window.layers,
        }),
    })
}

fn refuse_unsupported(config: &Config) -> Result<(), ModelError> {
    let model = &config.model;
    let refuse = |why: &str| {
        Err(ModelError::Unsupported(format!(
            "type `{}`: {why}; Hearth runs single text decoders",
            model.kind
        )))
    };
    for (block, why) in REFUSED_BLOCKS {
        if model.rest.get(block).is_some_and(|value| !value.is_null()) {
            return refuse(why);
        }
    }
    if model.decoder.pipeline.is_some() || model.kind == "decoder-pipeline" {
        return refuse("it is split into a pipeline of graphs");
    }
    if config.speculative.is_some() {
        return refuse("it decodes speculatively");
    }
    if model.context_length < 2 {
        return refuse("a context of less than two tokens leaves no room for an answer");
    }
    Ok(())
}

/// The operators decide how a cache has to be kept, and not what the configuration says.
fn refuse_graph(facts: &graph_file::Facts) -> Result<(), ModelError> {
    if facts.has_operator("PagedAttention") {
        return Err(ModelError::Unsupported(
            "the graph uses PagedAttention, which ONNX Runtime has for CUDA only".to_owned(),
        ));
    }
    if !facts.has_operator("GroupQueryAttention") {
        return Err(ModelError::Unsupported(
            "the graph has no GroupQueryAttention, so its cache can't be kept in place; \
             such graphs are not run so far"
                .to_owned(),
        ));
    }
    Ok(())
}

fn names(decoder: &Decoder) -> Names {
    let name = |section: &Map<String, Value>, key: &str, default: &str| {
        let given = section.get(key).and_then(Value::as_str);
        given.unwrap_or(default).to_owned()
    };
    let input = |key, default| name(&decoder.inputs, key, default);
    let output = |key, default| name(&decoder.outputs, key, default);
    Names {
        input_ids: input("input_ids", "input_ids"),
        attention_mask: input("attention_mask", "attention_mask"),
        past_keys: input("past_key_names", "past_key_values.%d.key"),
        past_values: input("past_value_names", "past_key_values.%d.value"),
        logits: output("logits", "logits"),
        present_keys: output("present_key_names", "present.%d.key"),
        present_values: output("present_value_names", "present.%d.value"),
    }
}
