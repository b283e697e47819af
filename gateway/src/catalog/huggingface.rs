//! What a Hugging Face folder says of its model: what it is for and which variants it has.
//!
//! Reads names and one small file. The worker has the last word on all of it: it looks into graphs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use hearth_shared::protocol::ModelKind;
use serde::Deserialize;

use super::Facts;
use super::cache::CacheShape;

const CONFIG: &str = "config.json";
/// A larger one is none.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How a model's graphs are called, before the variant; the first that is there is meant.
const STEMS: [&str; 2] = ["model", "decoder_model_merged"];

/// The variant whose file has no suffix.
const PLAIN: &str = "fp32";

/// What the worker takes on the CPU where nobody asks for a variant; listings show its size.
const GENERATE_ORDER: [&str; 5] = ["q4", "quantized", "int8", "uint8", PLAIN];
const ENCODE_ORDER: [&str; 4] = [PLAIN, "fp16", "quantized", "int8"];

/// Why its configuration tells nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("{CONFIG} can't be read: {0}")]
    Io(#[from] io::Error),
    #[error("{CONFIG} has {0} bytes, at most {CONFIG_BYTES_MAX} are read")]
    TooLarge(u64),
    #[error("{CONFIG} can't be understood: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    model_type: String,
}

/// Whether a folder is of this layout.
pub(super) fn is_model(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && !variants(folder).is_empty()
}

/// Reads the family and what the model is for.
pub(super) fn facts(folder: &Path) -> Result<Facts, ConfigError> {
    let path = folder.join(CONFIG);
    let bytes = fs::metadata(&path)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge(bytes));
    }
    let whole: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    let config = Config::deserialize(&whole)?;
    let kind = kind(folder, &config);
    let cache_per_token = match kind {
        ModelKind::Generate => CacheShape::of(&whole).numbers_per_token(),
        ModelKind::Embed | ModelKind::Rerank => 0,
    };
    Ok(Facts {
        format: "onnx",
        kind,
        family: config.model_type,
        parameter_size: String::new(),
        quantization_level: String::new(),
        cache_per_token,
    })
}

fn kind(folder: &Path, config: &Config) -> ModelKind {
    let has_head = |head: &str| config.architectures.iter().any(|name| name.ends_with(head));
    let embeds = ["modules.json", "1_Pooling/config.json"];
    if has_head("ForSequenceClassification") {
        ModelKind::Rerank
    } else if embeds.iter().any(|file| folder.join(file).is_file()) {
        ModelKind::Embed
    } else if has_head("ForCausalLM") || has_head("ForConditionalGeneration") {
        ModelKind::Generate
    } else {
        ModelKind::Embed
    }
}

/// The variant that the worker takes where nobody asks for one.
pub(super) fn default_variant(kind: ModelKind, variants: &BTreeMap<String, u64>) -> Option<&str> {
    let order: &[&str] = match kind {
        ModelKind::Generate => &GENERATE_ORDER,
        ModelKind::Embed | ModelKind::Rerank => &ENCODE_ORDER,
    };
    let preferred = order.iter().find_map(|&variant| variants.get_key_value(variant));
    preferred.or_else(|| variants.first_key_value()).map(|(variant, _)| variant.as_str())
}

/// The folder's variants, and how many bytes each one's graph and weights have.
pub(super) fn variants(folder: &Path) -> BTreeMap<String, u64> {
    let found = STEMS.iter().map(|stem| variants_of(folder, stem));
    found.into_iter().find(|variants| !variants.is_empty()).unwrap_or_default()
}

fn variants_of(folder: &Path, stem: &str) -> BTreeMap<String, u64> {
    let mut graphs = BTreeMap::new();
    let mut weights = Vec::new();
    for place in [folder.to_owned(), folder.join("onnx")] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let bytes = fs::metadata(entry.path()).map_or(0, |found| found.len());
            let name = entry.file_name();
            let Some((variant, rest)) = name.to_str().and_then(|name| split(name, stem)) else {
                continue;
            };
            if rest.is_empty() {
                *graphs.entry(variant.to_owned()).or_default() += bytes;
            } else {
                weights.push((variant.to_owned(), bytes));
            }
        }
    }
    for (variant, bytes) in weights {
        if let Some(graph) = graphs.get_mut(&variant) {
            *graph += bytes;
        }
    }
    graphs
}

/// `model_q4.onnx_data_1` → `q4` and `_data_1`.
fn split<'a>(file_name: &'a str, stem: &str) -> Option<(&'a str, &'a str)> {
    let (name, rest) = file_name.strip_prefix(stem)?.split_once(".onnx")?;
    let variant = match name {
        "" => PLAIN,
        suffix => suffix.strip_prefix('_').filter(|variant| !variant.is_empty())?,
    };
    Some((variant, rest))
}

/// How a variant's weights are stored, in Ollama's words.
pub(super) fn quantization_level(variant: &str) -> String {
    match variant {
        PLAIN => "F32".to_owned(),
        "fp16" => "F16".to_owned(),
        "quantized" | "int8" => "Q8".to_owned(),
        other => other.to_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(config: &str, files: &[(&str, usize)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CONFIG), config).unwrap();
        for (file, bytes) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; *bytes]).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_says_what_its_model_is_for() {
        for (architecture, file, kind) in [
            ("LlamaForCausalLM", "x", ModelKind::Generate),
            ("Qwen3ForCausalLM", "modules.json", ModelKind::Embed),
            ("BertModel", "x", ModelKind::Embed),
            ("XLMRobertaForMaskedLM", "1_Pooling/config.json", ModelKind::Embed),
            ("BertForSequenceClassification", "x", ModelKind::Rerank),
            ("WhisperForConditionalGeneration", "x", ModelKind::Generate),
        ] {
            let config = format!(r#"{{"architectures":["{architecture}"],"model_type":"m"}}"#);
            let facts = facts(folder(&config, &[(file, 1)]).path()).unwrap();
            assert_eq!((facts.kind, facts.family.as_str()), (kind, "m"), "{architecture}");
        }
    }

    #[test]
    fn variants_have_the_size_of_their_graph_and_its_weights() {
        let folder = folder(
            "{}",
            &[
                ("onnx/model.onnx", 10),
                ("onnx/model.onnx_data", 100),
                ("onnx/model.onnx_data_1", 1000),
                ("onnx/model_q4.onnx", 7),
                ("onnx/other.onnx", 5),
                ("onnx/model_q8.onnx_data", 9),
            ],
        );
        let variants = variants(folder.path());
        assert_eq!(variants, BTreeMap::from([("fp32".to_owned(), 1110), ("q4".to_owned(), 7)]));
        assert_eq!(default_variant(ModelKind::Generate, &variants), Some("q4"));
        assert_eq!(default_variant(ModelKind::Embed, &variants), Some("fp32"));
    }

    #[test]
    fn a_configuration_without_a_graph_is_no_model() {
        assert!(!is_model(folder("{}", &[("model.safetensors", 5)]).path()));
        assert!(is_model(folder("{}", &[("decoder_model_merged_q4.onnx", 5)]).path()));
    }
}
