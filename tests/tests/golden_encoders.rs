//! The encoder against the goldens of an independent implementation, number by number.
//!
//! Runs the worker's library in this process: no gateway, no link. Every fixture's texts are asked
//! for alone and all together, as text and as tokens. The tolerances are the fixtures' own.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

#[path = "golden_encoders/driver.rs"]
mod driver;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    Embed, EmbedInput, FromWorker, LoadFailureKind, ModelKind, RequestFailure, Rerank, Work,
};
use hearth_worker::load_any;
use serde::Deserialize;

use driver::{Driver, fixture, golden, spec, texts};

#[derive(Deserialize)]
struct Texts {
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    input_ids: Vec<u32>,
    embedding: Vec<f32>,
    #[serde(default)]
    cls: Vec<f32>,
}

#[derive(Deserialize)]
struct Pairs {
    queries: Vec<Query>,
}

#[derive(Deserialize)]
struct Query {
    query: String,
    documents: Vec<Document>,
    ranking: Vec<usize>,
}

#[derive(Deserialize)]
struct Document {
    document: String,
    input_ids: Vec<u32>,
    logit: f32,
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= tolerance, "{what}: {found} and not {expected} at {place}");
    }
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

// === Embeddings ===

fn every_text(name: &str, variant: Option<&str>, tolerance: f32) {
    let Texts { texts } = golden(name);
    let mut driver = Driver::load(name, variant);
    let size = driver.card.embedding_length.unwrap();
    let all = |input: fn(&Text) -> EmbedInput| texts.iter().map(input).collect::<Vec<_>>();
    let as_text = all(|text| EmbedInput::Text(text.text.clone()));
    let as_tokens = all(|text| EmbedInput::Tokens(text.input_ids.clone()));
    let mut requests: Vec<_> = as_text.iter().map(|input| vec![input.clone()]).collect();
    requests.extend([as_text, as_tokens]);
    for inputs in requests {
        let count = inputs.len();
        let answer = driver.embed(inputs);
        assert_eq!(answer.vectors.len(), count);
        let expected: Vec<_> = if count == 1 {
            let text = texts.iter().find(|text| text.input_ids == answer.ids[0]);
            vec![text.expect("the tokens should be a golden text's")]
        } else {
            texts.iter().collect()
        };
        let tokens: usize = expected.iter().map(|text| text.input_ids.len()).sum();
        assert_eq!(usize::try_from(answer.prompt_tokens).unwrap(), tokens);
        for ((vector, ids), text) in answer.vectors.iter().zip(&answer.ids).zip(expected) {
            assert_eq!(ids, &text.input_ids, "{}", text.text);
            assert_eq!(vector.len(), usize::try_from(size).unwrap());
            assert_near(vector, &text.embedding, tolerance, &text.text);
        }
    }
}

#[test]
fn mean_pooling_gives_the_golden_vectors() {
    every_text("tiny-bert-embed", None, 2e-5);
}

#[test]
fn cls_pooling_gives_the_golden_vectors_not_normalised() {
    every_text("tiny-bert-embed-cls", None, 5e-5);
    let Texts { texts } = golden("tiny-bert-embed-cls");
    assert!(texts.iter().all(|text| text.embedding == text.cls && length(&text.cls) > 2.0));
}

#[test]
fn the_last_token_of_a_decoder_gives_the_golden_vectors() {
    every_text("tiny-decoder-embed", None, 2e-5);
}

#[test]
fn a_decoder_that_wants_a_cache_gets_an_empty_one() {
    every_text("tiny-decoder-embed", Some("with_past"), 2e-5);
}

#[test]
fn hundreds_of_inputs_come_back_in_order_in_several_frames() {
    let Texts { texts } = golden("tiny-bert-embed");
    let mut driver = Driver::load("tiny-bert-embed", None);
    let inputs = texts.iter().cycle().take(700).map(|text| EmbedInput::Text(text.text.clone()));
    let answer = driver.embed(inputs.collect());
    assert_eq!(answer.vectors.len(), 700);
    assert!(answer.frames > 1, "700 vectors should not travel in one frame");
    for (vector, text) in answer.vectors.iter().zip(texts.iter().cycle()) {
        assert_near(vector, &text.embedding, 2e-5, &text.text);
    }
}

#[test]
fn requests_that_share_runs_get_their_own_vectors() {
    let Texts { texts } = golden("tiny-bert-embed");
    let mut driver = Driver::load("tiny-bert-embed", None);
    let ids = 0..u64::try_from(texts.len()).unwrap();
    for id in ids.clone() {
        // Each request begins with another text.
        let start = usize::try_from(id).unwrap();
        let inputs = texts.iter().cycle().skip(start).take(texts.len());
        let inputs = inputs.map(|text| EmbedInput::Text(text.text.clone()));
        driver.admit(id, &Work::Embed(texts_request(inputs.collect())));
    }
    // So it will have been in the middle of things.
    driver.tick();
    driver.encoder.cancel(RequestId(2));
    driver.answers.remove(&RequestId(2));
    driver.finish();
    assert!(!driver.answers.contains_key(&RequestId(2)));
    for id in ids.filter(|&id| id != 2) {
        let expected = texts.iter().cycle().skip(usize::try_from(id).unwrap());
        let answer = &driver.answers[&RequestId(id)];
        assert_eq!((answer.vectors.len(), answer.last), (texts.len(), true));
        for (vector, text) in answer.vectors.iter().zip(expected) {
            assert_near(vector, &text.embedding, 2e-5, &text.text);
        }
    }
}

fn texts_request(inputs: Vec<EmbedInput>) -> Embed {
    Embed { inputs, dimensions: None, truncate: true }
}

#[test]
fn fewer_dimensions_are_the_first_ones_normalised_again() {
    let Texts { texts } = golden("tiny-bert-embed-cls");
    let mut driver = Driver::load("tiny-bert-embed-cls", None);
    let request = |dimensions| Embed { dimensions, ..texts_request(driver::texts(&["Hello"])) };
    let answer = driver.run(&Work::Embed(request(Some(8))));
    let first = &texts[0].cls[..8];
    let expected: Vec<_> = first.iter().map(|value| value / length(first)).collect();
    assert_near(&answer.unwrap().vectors[0], &expected, 1e-5, "8 of 32");
    for wrong in [0, 33] {
        let refusal = driver.run(&Work::Embed(request(Some(wrong)))).unwrap_err();
        let message = "`dimensions` goes from 1 to 32".to_owned();
        assert_eq!(refusal, RequestFailure::Invalid { message });
    }
}

#[test]
fn an_input_that_is_too_long_is_cut_or_refused_with_its_length() {
    let mut driver = Driver::load("tiny-bert-embed", None);
    let long = "the licence ".repeat(60);
    let mut request = texts_request(texts(&["Hello", &long]));
    let answer = driver.run(&Work::Embed(request.clone())).unwrap();
    assert_eq!((answer.ids[1].len(), answer.ids[1].last()), (48, Some(&3)));
    request.truncate = false;
    let refusal = driver.run(&Work::Embed(request.clone())).unwrap_err();
    let RequestFailure::ContextOverflow { prompt_tokens, context_length: 48 } = refusal else {
        panic!("{refusal:?}");
    };
    assert!(prompt_tokens > 100, "{prompt_tokens}");
    request.inputs = vec![EmbedInput::Tokens(vec![5; 49])];
    let refusal = driver.run(&Work::Embed(request.clone())).unwrap_err();
    let expected = RequestFailure::ContextOverflow { prompt_tokens: 49, context_length: 48 };
    assert_eq!(refusal, expected);
    request.truncate = true;
    assert_eq!(driver.run(&Work::Embed(request)).unwrap().ids[0].len(), 48);
}

#[test]
fn inputs_that_would_fail_others_in_the_same_run_are_refused_before_it() {
    let mut driver = Driver::load("tiny-bert-embed", None);
    for (inputs, why) in [
        (
            vec![EmbedInput::Tokens(vec![5]), EmbedInput::Tokens(vec![5, 600])],
            "input 1: the model has no token 600",
        ),
        (vec![EmbedInput::Tokens(vec![])], "input 0 is empty"),
        (vec![], "there is no input"),
    ] {
        let refusal = driver.run(&Work::Embed(texts_request(inputs))).unwrap_err();
        assert_eq!(refusal, RequestFailure::Invalid { message: why.to_owned() });
    }
}

// === Scores ===

fn rerank(query: &Query) -> Rerank {
    Rerank {
        query: query.query.clone(),
        documents: query.documents.iter().map(|document| document.document.clone()).collect(),
        document_tokens_max: None,
        truncate: true,
    }
}

#[test]
fn a_cross_encoder_gives_the_golden_logits() {
    let Pairs { queries } = golden("tiny-cross-encoder");
    let mut driver = Driver::load("tiny-cross-encoder", None);
    assert_eq!((driver.card.kind, driver.card.context_length), (ModelKind::Rerank, 96));
    for query in &queries {
        let answer = driver.run(&Work::Rerank(rerank(query))).unwrap();
        let ids: Vec<_> = query.documents.iter().map(|document| &document.input_ids).collect();
        assert_eq!(answer.ids.iter().collect::<Vec<_>>(), ids);
        let expected: Vec<_> = query.documents.iter().map(|document| document.logit).collect();
        assert_near(&answer.scores, &expected, 5e-5, &query.query);
        let mut ranking: Vec<_> = (0..expected.len()).collect();
        ranking.sort_by(|&a, &b| answer.scores[b].total_cmp(&answer.scores[a]));
        assert_eq!(ranking, query.ranking);
        let tokens: usize = ids.iter().map(|ids| ids.len()).sum();
        assert_eq!(usize::try_from(answer.prompt_tokens).unwrap(), tokens);
    }
}

#[test]
fn only_the_beginning_of_a_document_is_read_where_that_is_asked_for() {
    let Pairs { queries } = golden("tiny-cross-encoder");
    let mut driver = Driver::load("tiny-cross-encoder", None);
    let query = &queries[0];
    let short = Rerank { document_tokens_max: Some(3), ..rerank(query) };
    let answer = driver.run(&Work::Rerank(short)).unwrap();
    let whole = &query.documents[0].input_ids;
    let cut = [&whole[..11], &[3]].concat();
    assert_eq!((whole[7], &answer.ids[0]), (3, &cut));
    let strict = Rerank { truncate: false, ..rerank(query) };
    let refusal = driver.run(&Work::Rerank(strict)).unwrap_err();
    let is_overflow = matches!(refusal, RequestFailure::ContextOverflow { context_length: 96, .. });
    assert!(is_overflow, "{refusal:?}");
}

// === Cards and refusals ===

#[test]
fn a_card_says_what_a_model_is_for_and_how_long_its_vectors_are() {
    let card = Driver::load("tiny-decoder-embed", None).card;
    assert_eq!((card.kind, card.architecture.as_str()), (ModelKind::Embed, "qwen3"));
    assert_eq!((card.embedding_length, card.context_length), (Some(64), 512));
    assert_eq!(Driver::load("tiny-cross-encoder", None).card.embedding_length, None);
}

#[test]
fn work_of_another_kind_is_refused_with_what_the_model_does() {
    let embed = Work::Embed(texts_request(texts(&["Hello"])));
    let refusal = Driver::load("tiny-cross-encoder", None).run(&embed).unwrap_err();
    let message = "this model ranks documents; it makes no embeddings".to_owned();
    assert_eq!(refusal, RequestFailure::Unsupported { message });
    let Pairs { queries } = golden("tiny-cross-encoder");
    let rerank = Work::Rerank(rerank(&queries[0]));
    let refusal = Driver::load("tiny-bert-embed", None).run(&rerank).unwrap_err();
    let message = "this model makes embeddings; it does not rank documents".to_owned();
    assert_eq!(refusal, RequestFailure::Unsupported { message });
}

#[test]
fn a_variant_that_is_not_there_is_told_with_those_that_are() {
    let spec = hearth_shared::protocol::LoadSpec {
        variant: Some("q4".to_owned()),
        ..spec(&fixture("tiny-decoder-embed"))
    };
    let failure = load_any(&spec, |_stage, _fraction| {}).unwrap_err();
    assert_eq!(failure.kind, LoadFailureKind::BadFiles);
    assert!(failure.message.ends_with("has no variant `q4`; there are `fp32`, `with_past`"));
}

/// A copy of a fixture with one file changed.
fn changed(name: &str, file: &str, change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["", "onnx", "1_Pooling"] {
        let source = fixture(name).join(part);
        let Ok(entries) = std::fs::read_dir(&source) else { continue };
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
        for entry in entries {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                let target = folder.path().join(part).join(entry.file_name());
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed, "the change should change something");
    std::fs::write(path, changed).unwrap();
    folder
}

#[test]
fn folders_that_ask_for_what_is_not_done_are_refused_with_what_that_is() {
    let pooling = "1_Pooling/config.json";
    let also_cls = |text: &str| text.replace("_cls_token\": false", "_cls_token\": true");
    for (folder, why) in [
        (
            changed("tiny-bert-embed", "modules.json", |text| text.replace("Normalize", "Dense")),
            "asks for a `Dense` after pooling",
        ),
        (changed("tiny-bert-embed", pooling, also_cls), "[\"cls_token\", \"mean_tokens\"]"),
        (
            changed("tiny-cross-encoder", "config.json", |text| {
                text.replace("\"0\": \"LABEL_0\"", "\"0\": \"no\", \"1\": \"yes\"")
            }),
            "it sorts texts into 2 classes",
        ),
    ] {
        let failure = load_any(&spec(folder.path()), |_stage, _fraction| {}).unwrap_err();
        assert_eq!(failure.kind, LoadFailureKind::Unsupported, "{}", failure.message);
        assert!(failure.message.contains(why), "{}", failure.message);
    }
}

#[test]
fn newer_ways_to_write_the_pooling_are_read() {
    let newer = |_: &str| r#"{"embedding_dimension": 64, "pooling_mode": "cls"}"#.to_owned();
    let folder = changed("tiny-bert-embed", "1_Pooling/config.json", newer);
    let mut driver = Driver::at(folder.path(), None);
    let Texts { texts } = golden("tiny-bert-embed");
    let answer = driver.embed(vec![EmbedInput::Text(texts[0].text.clone())]);
    let expected: Vec<_> = texts[0].cls.iter().map(|value| value / length(&texts[0].cls)).collect();
    assert_near(&answer.vectors[0], &expected, 2e-5, "cls");
}

#[test]
fn a_default_prompt_stands_before_every_text() {
    let with_default = |text: &str| text.replace("_name\": null", "_name\": \"query\"");
    let file = "config_sentence_transformers.json";
    let mut driver = Driver::at(changed("tiny-decoder-embed", file, with_default).path(), None);
    let Texts { texts } = golden("tiny-decoder-embed");
    let prompted = texts.last().unwrap();
    let text = prompted.text.rsplit("Query:").next().unwrap();
    let answer = driver.embed(vec![EmbedInput::Text(text.to_owned())]);
    assert_eq!(answer.ids[0], prompted.input_ids);
    assert_near(&answer.vectors[0], &prompted.embedding, 2e-5, text);
}

#[test]
fn news_of_an_encoder_are_frames_of_its_own_requests_only() {
    let mut driver = Driver::load("tiny-bert-embed", None);
    assert!(driver.encoder.is_idle() && driver.encoder.tick() == Vec::<FromWorker>::new());
    driver.admit(7, &Work::Embed(texts_request(texts(&["a", "b"]))));
    driver.encoder.cancel(RequestId(8));
    driver.encoder.cancel(RequestId(7));
    assert!(driver.encoder.is_idle() && driver.encoder.tick() == Vec::<FromWorker>::new());
}
