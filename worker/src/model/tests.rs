//! Folders that are refused, and what they are told.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// One protocol-buffer field with a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128 * 128);
    let length = u16::try_from(content.len()).unwrap();
    let [low, high] = [length & 0x7f | 0x80, length >> 7].map(|part| u8::try_from(part).unwrap());
    [&[number << 3 | 2, low, high], content].concat()
}

/// A graph with one node, and one tensor in `weights.bin`.
fn graph(operator: &str, location: &str, (offset, length): (u64, u64)) -> Vec<u8> {
    let entry = |key: &str, value: &str| {
        field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
    };
    let tensor = [
        entry("location", location),
        entry("offset", &offset.to_string()),
        entry("length", &length.to_string()),
    ];
    // Raw data before the entries: it has to be skipped.
    let tensor = [field(9, &[0xff; 300]), tensor.concat()].concat();
    let node = field(4, operator.as_bytes());
    field(7, &[field(1, &node), field(5, &tensor)].concat())
}

fn config() -> serde_json::Value {
    json!({"model": {
        "type": "llama", "context_length": 64, "eos_token_id": [2, 3], "bos_token_id": 1,
        "decoder": {
            "filename": "g.onnx", "head_size": 8,
            "inputs": {"past_key_names": "cache.%d.k"},
        },
    }})
}

/// A folder that is sound but for what a test changes.
fn folder(config: &serde_json::Value, graph: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    write("genai_config.json", config.to_string().as_bytes());
    write("g.onnx", graph);
    write("weights.bin", &[0; 100]);
    write("tokenizer.json", b"{}");
    folder
}

fn sound_graph() -> Vec<u8> {
    graph("GroupQueryAttention", "weights.bin", (40, 60))
}

fn read(path: &Path) -> Result<Model, ModelError> {
    match AnyModel::read(path, Variant::BestFor(Device::Cpu))? {
        AnyModel::Decoder(model) => Ok(*model),
        AnyModel::Encoder(model) => panic!("{} is no encoder", model.graph.display()),
    }
}

fn refusal(folder: &TempDir) -> LoadFailure {
    read(folder.path()).unwrap_err().into_failure()
}

#[test]
fn a_sound_folder_gives_its_facts() {
    let folder = folder(&config(), &sound_graph());
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("generation_config.json", r#"{"eos_token_id": 7}"#);
    write(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "</s>", "special": true}, "bos_token": "<s>", "pad_token": null,
            "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    let model = read(folder.path()).unwrap();
    assert_eq!((model.architecture.as_str(), model.context_length), ("llama", 64));
    assert_eq!((model.ends, model.bos, model.head_size), (vec![2, 3, 7], Some(1), Some(8)));
    assert_eq!(model.names.past_key(12), "cache.12.k");
    assert_eq!(model.names.present_value(0), "present.0.value");
    assert_eq!(model.template.as_deref(), Some("d"));
    let special = ["bos_token", "eos_token", "pad_token"].map(|role| model.special.get(role));
    assert_eq!(special, [Some("<s>"), Some("</s>"), None]);
}

#[test]
fn the_template_file_goes_before_the_configurations() {
    let folder = folder(&config(), &sound_graph());
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer_config.json", r#"{"chat_template": "in the configuration"}"#);
    let template = || read(folder.path()).unwrap().template.unwrap();
    assert_eq!(template(), "in the configuration");
    write("chat_template.jinja", "in the file");
    assert_eq!(template(), "in the file");
}

#[test]
fn models_that_are_more_than_one_text_decoder_are_refused_by_name() {
    for (pointer, value, why) in [
        ("/model", json!({"vision": {"filename": "v.onnx"}}), "images"),
        ("/model", json!({"speech": {}}), "audio"),
        ("/model", json!({"encoder": {}}), "encoder"),
        ("/model", json!({"type": "decoder-pipeline"}), "pipeline"),
        ("/model/decoder", json!({"pipeline": [{}]}), "pipeline"),
        ("", json!({"speculative": {}}), "speculative"),
        ("/model", json!({"context_length": 1}), "no room"),
    ] {
        let mut config = config();
        let section = config.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        section.extend(value.as_object().unwrap().clone());
        let failure = refusal(&folder(&config, &sound_graph()));
        assert_eq!(failure.kind, LoadFailureKind::Unsupported, "{}", failure.message);
        assert!(failure.message.contains(why), "{}", failure.message);
    }
}

#[test]
fn graphs_whose_cache_is_kept_otherwise_are_refused() {
    for operator in ["MultiHeadAttention", "PagedAttention"] {
        let graph = graph(operator, "weights.bin", (0, 0));
        let failure = refusal(&folder(&config(), &graph));
        assert_eq!(failure.kind, LoadFailureKind::Unsupported);
        assert!(failure.message.contains("Attention"), "{}", failure.message);
    }
}

#[test]
fn weights_that_are_missing_short_or_elsewhere_are_told() {
    for (location, span, why) in [
        ("weights.bin", (40, 61), "100 of the 101 bytes"),
        ("other.bin", (0, 1), "other.bin"),
        ("../weights.bin", (0, 1), "outside of its folder"),
        ("/etc/passwd", (0, 1), "outside of its folder"),
    ] {
        let graph = graph("GroupQueryAttention", location, span);
        let failure = refusal(&folder(&config(), &graph));
        assert_eq!(failure.kind, LoadFailureKind::BadFiles);
        assert!(failure.message.contains(why), "{}", failure.message);
    }
}

#[test]
fn a_graph_that_is_cut_short_is_no_graph() {
    let whole = sound_graph();
    for length in [1, 5, 100, whole.len() - 1] {
        let failure = refusal(&folder(&config(), &whole[..length]));
        assert_eq!(failure.kind, LoadFailureKind::BadFiles, "{length}");
        assert!(failure.message.contains("g.onnx is broken"), "{}", failure.message);
    }
}

#[test]
fn paths_without_a_model_say_what_was_looked_for() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(&empty).message.contains("genai_config.json"));
    let missing = read(&empty.path().join("gone")).unwrap_err();
    assert!(matches!(missing, ModelError::Read { .. }));
}
