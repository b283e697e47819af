//! Which folders are which kind of model, and which are refused with what reason.

use std::fs;

use hearth_shared::protocol::LoadFailureKind;
use serde_json::json;
use tempfile::TempDir;

use super::super::{Device, Task};
use super::*;

/// One protocol-buffer field with a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 128);
    [&[number << 3 | 2, length], content].concat()
}

/// A graph of names only.
fn graph(operators: &[&str], inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let nodes = operators.iter().map(|name| field(1, &field(4, name.as_bytes())));
    let inputs = inputs.iter().map(|name| field(11, &field(1, name.as_bytes())));
    let outputs = outputs.iter().map(|name| field(12, &field(1, name.as_bytes())));
    field(7, &nodes.chain(inputs).chain(outputs).collect::<Vec<_>>().concat())
}

const CACHE: &str = "past_key_values.0.key";

fn sound_graph() -> Vec<u8> {
    graph(&["MatMul"], &["input_ids", "position_ids", CACHE], &["logits"])
}

fn folder(config: &Value, graph: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("onnx")).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    write("config.json", config.to_string().as_bytes());
    write("onnx/model.onnx", graph);
    write("tokenizer.json", b"{}");
    folder
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "vocab_size": 512, "eos_token_id": [2, 3], "bos_token_id": 1, "sliding_window": null,
    })
}

fn with(changes: &Value) -> Value {
    let mut config = config();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

fn read_any(folder: &TempDir) -> Result<AnyModel, ModelError> {
    read(folder.path(), Variant::BestFor(Device::Cpu))
}

fn decoder_of(folder: &TempDir) -> Model {
    match read_any(folder).unwrap() {
        AnyModel::Decoder(model) => *model,
        AnyModel::Encoder(model) => panic!("taken for an encoder: {model:?}"),
    }
}

#[test]
fn a_decoders_folder_gives_its_facts() {
    let folder = folder(&config(), &sound_graph());
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": 7}"#).unwrap();
    let model = decoder_of(&folder);
    assert_eq!((model.architecture.as_str(), model.context_length), ("llama", 128));
    assert_eq!((model.ends, model.bos), (vec![2, 3, 7], Some(1)));
    assert_eq!((model.head_size, model.kv_heads, model.vocabulary), (Some(16), Some(2), Some(512)));
    assert_eq!(model.cache, CacheKind::Concatenated { ragged: true });
}

#[test]
fn rows_share_runs_only_where_a_gap_does_no_harm() {
    let cache = |config: &Value, graph: &[u8]| decoder_of(&folder(config, graph)).cache;
    let alone = CacheKind::Concatenated { ragged: false };
    assert_eq!(cache(&with(&json!({"sliding_window": 32})), &sound_graph()), alone);
    let unused = json!({"sliding_window": 32, "use_sliding_window": false});
    let shared = CacheKind::Concatenated { ragged: true };
    assert_eq!(cache(&with(&unused), &sound_graph()), shared);
    assert_eq!(cache(&config(), &graph(&[], &["input_ids", CACHE], &["logits"])), alone);
    let in_place = graph(&["GroupQueryAttention"], &["input_ids", CACHE], &["logits"]);
    assert_eq!(cache(&config(), &in_place), CacheKind::InPlace);
}

#[test]
fn graphs_that_keep_something_else_than_keys_and_values_are_refused() {
    for (operators, inputs, why) in [
        (&["PagedAttention"][..], &[CACHE][..], "PagedAttention"),
        (&[], &[CACHE, "past_conv.0"], "`past_conv.0`"),
        (&[], &[CACHE, "past_recurrent.3"], "`past_recurrent.3`"),
        (&[], &[CACHE, "inputs_embeds"], "embeddings and not tokens"),
        (&[], &["input_ids"], "text-generation-with-past"),
    ] {
        let folder = folder(&config(), &graph(operators, inputs, &["logits"]));
        let failure = read_any(&folder).unwrap_err().into_failure();
        assert_eq!(failure.kind, LoadFailureKind::Unsupported);
        assert!(failure.message.contains(why), "{}", failure.message);
    }
}

#[test]
fn models_that_are_more_than_one_text_model_are_refused_by_name() {
    for (changes, why) in [
        (json!({"vision_config": {}}), "images"),
        (json!({"audio_config": {}}), "audio"),
        (json!({"is_encoder_decoder": true}), "an encoder and a decoder"),
        (json!({"architectures": ["T5ForConditionalGeneration"]}), "an encoder and a decoder"),
    ] {
        let failure =
            read_any(&folder(&with(&changes), &sound_graph())).unwrap_err().into_failure();
        assert_eq!(failure.kind, LoadFailureKind::Unsupported);
        assert!(failure.message.contains(why), "{}", failure.message);
    }
    let split = folder(&config(), &sound_graph());
    fs::write(split.path().join("onnx/embed_tokens_q4.onnx"), "").unwrap();
    let failure = read_any(&split).unwrap_err().into_failure();
    assert!(failure.message.contains("a graph of their own"), "{}", failure.message);
}

#[test]
fn a_decoder_that_was_exported_to_embed_is_an_embedding_model_of_its_last_token() {
    let embeds = graph(&[], &["input_ids", CACHE], &["last_hidden_state"]);
    let AnyModel::Encoder(model) = read_any(&folder(&config(), &embeds)).unwrap() else {
        panic!("taken for a decoder");
    };
    let last =
        Task::Embed { pooling: super::super::Pooling::Last, normalize: true, graph_must: None };
    assert_eq!((model.task, model.tokens_max), (last, 128));
}
