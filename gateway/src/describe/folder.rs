//! What a folder's configuration says, in the keys that GGUF files have: clients look for those.
//!
//! A folder is of onnxruntime-genai's layout, with `genai_config.json`, or as it comes from Hugging
//! Face, with `config.json`; a folder may have both, and the first wins where they say the same.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::Description;

/// Configurations are some kilobytes; a tokenizer's with its template is more.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// GGUF's key behind the architecture, and where the others have it.
const KEYS: [(&str, &[&str]); 9] = [
    ("context_length", &["/model/context_length", "/max_position_embeddings", "/n_positions"]),
    ("embedding_length", &["/model/decoder/hidden_size", "/hidden_size", "/dim", "/n_embd"]),
    (
        "block_count",
        &["/model/decoder/num_hidden_layers", "/num_hidden_layers", "/n_layers", "/n_layer"],
    ),
    ("feed_forward_length", &["/intermediate_size", "/hidden_dim"]),
    (
        "attention.head_count",
        &["/model/decoder/num_attention_heads", "/num_attention_heads", "/n_heads", "/n_head"],
    ),
    ("attention.head_count_kv", &["/model/decoder/num_key_value_heads", "/num_key_value_heads"]),
    ("attention.key_length", &["/model/decoder/head_size", "/head_dim"]),
    ("rope.freq_base", &["/rope_theta", "/rope_parameters/rope_theta"]),
    ("vocab_size", &["/model/vocab_size", "/vocab_size"]),
];

pub(super) fn describe(folder: &Path) -> Description {
    let genai = json(folder, "genai_config.json");
    let config = json(folder, "config.json");
    let find = |pointer: &str| {
        let found = [&genai, &config].into_iter().flatten();
        found.filter_map(|file| file.pointer(pointer)).find(|value| !value.is_null()).cloned()
    };
    let architecture = find("/model/type").or_else(|| find("/model_type"));
    let architecture = architecture.as_ref().and_then(Value::as_str).unwrap_or("").to_owned();
    let mut info = Map::new();
    if !architecture.is_empty() {
        info.insert("general.architecture".to_owned(), Value::String(architecture.clone()));
    }
    for (key, pointers) in KEYS {
        if let Some(value) = pointers.iter().find_map(|pointer| find(pointer)) {
            info.insert(format!("{architecture}.{key}"), value);
        }
    }
    Description {
        info,
        template: template(folder),
        license: ["LICENSE", "LICENSE.txt", "LICENSE.md"]
            .iter()
            .find_map(|name| text(folder, name)),
        parameters: None,
    }
}

/// A file of its own, or a field of the tokenizer's configuration: one, or several by name.
fn template(folder: &Path) -> Option<String> {
    if let Some(template) = text(folder, "chat_template.jinja") {
        return Some(template);
    }
    let fields = ["chat_template.json", "tokenizer_config.json"];
    let field = fields.iter().find_map(|name| json(folder, name)?.get("chat_template").cloned());
    match field? {
        Value::String(template) => Some(template),
        Value::Array(named) => {
            let default = named.iter().find(|one| one["name"] == "default").or(named.first());
            default?.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn json(folder: &Path, name: &str) -> Option<Value> {
    let text = text(folder, name)?;
    let parsed = serde_json::from_str(&text);
    parsed
        .inspect_err(|error| {
            tracing::warn!(folder = %folder.display(), name, %error, "not understood");
        })
        .ok()
}

fn text(folder: &Path, name: &str) -> Option<String> {
    let path = folder.join(name);
    let found = fs::metadata(&path).ok()?;
    (found.is_file() && found.len() <= FILE_BYTES_MAX).then(|| fs::read_to_string(path).ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, Value)]) -> Description {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            fs::write(dir.path().join(name), text).unwrap();
        }
        describe(dir.path())
    }

    #[test]
    fn a_genai_folder_is_told_in_ggufs_keys() {
        let config = json!({"model": {
            "type": "llama", "context_length": 512, "vocab_size": 9,
            "decoder": {"hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 1},
        }});
        let description = folder(&[
            ("genai_config.json", config),
            ("tokenizer_config.json", json!({"chat_template": "{{ tools }}"})),
        ]);
        assert_eq!(
            Value::Object(description.info),
            json!({
                "general.architecture": "llama", "llama.context_length": 512,
                "llama.embedding_length": 64, "llama.block_count": 2,
                "llama.attention.head_count_kv": 1, "llama.vocab_size": 9,
            })
        );
        assert_eq!(description.template.as_deref(), Some("{{ tools }}"));
    }

    #[test]
    fn a_hugging_face_folder_is_told_in_them_too() {
        let config =
            json!({"model_type": "bert", "hidden_size": 384, "max_position_embeddings": 512});
        let info = folder(&[("config.json", config)]).info;
        assert_eq!(info["bert.embedding_length"], 384);
        assert_eq!(info["bert.context_length"], 512);
    }

    #[test]
    fn a_template_may_be_a_file_or_one_of_several() {
        let several = json!({"chat_template": [
            {"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"},
        ]});
        let config = ("tokenizer_config.json", several);
        assert_eq!(folder(std::slice::from_ref(&config)).template.as_deref(), Some("D"));
        let file = ("chat_template.jinja", json!("J"));
        assert_eq!(folder(&[config, file]).template.as_deref(), Some("J"));
        assert_eq!(folder(&[("config.json", json!("{ broken"))]).template, None);
    }
}
