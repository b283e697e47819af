//! GGUF files as models, over HTTP through the real worker.

use std::path::{Path, PathBuf};

use hearth_tests::gateway::{Gateway, Home};
use hearth_tests::http::Answer;
use hearth_tests::patiently;
use hyper::StatusCode;
use serde_json::{Value, json};

/// The default graph rounds: the worker's own tests hold each log-probability to within 1 of its
/// golden, so a token that leads by more than twice that comes first on every processor.
const CERTAIN_LEAD: f64 = 2.0;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf").join(name)
}

fn golden_cases(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(&format!("{name}.golden.json"))).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

/// Puts a file into `models/`, as a user's `cp` would.
fn put(gateway: &Gateway, name: &str, bytes: &[u8]) {
    std::fs::write(gateway.home().join(format!("models/{name}.gguf")), bytes).unwrap();
}

/// Puts a file in the place of another, and waits until it is seen: what a scan found is believed
/// for a moment.
async fn replace(gateway: &Gateway, name: &str, bytes: &[u8]) {
    put(gateway, name, bytes);
    patiently("the file to be listed", async {
        while tag(gateway, name).await["size"] != bytes.len() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What `/api/tags` says of a model, or null.
async fn tag(gateway: &Gateway, name: &str) -> Value {
    let tags = gateway.get("/api/tags").await.json().await;
    let mut models = tags["models"].as_array().unwrap().iter();
    models.find(|tag| tag["name"] == format!("{name}:latest")).cloned().unwrap_or_default()
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(&format!("{name}.gguf"))).unwrap()
}

async fn gateway_without_models() -> Gateway {
    Home::new(hearth_tests::programs!()).start_real(&[("HEARTH_SLOTS", "2")]).await
}

async fn ask(gateway: &Gateway, messages: &Value, max_tokens: u64, stream: bool) -> Answer {
    let body = json!({
        "model": "tiny", "messages": messages, "temperature": 0, "max_tokens": max_tokens,
        "stream": stream, "stream_options": {"include_usage": true},
    });
    gateway.post("/v1/chat/completions", &body).await
}

/// The text, the finish reason and the usage of a stream.
fn joined(events: &[String]) -> (String, Value, Value) {
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|c| serde_json::from_str(c).unwrap()).collect();
    let choices = || chunks.iter().map(|c| &c["choices"][0]);
    let text = choices().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    let reason = choices().map(|choice| &choice["finish_reason"]).find(|reason| reason.is_string());
    (text, reason.unwrap().clone(), chunks.last().unwrap()["usage"].clone())
}

async fn answers_streamed_as_whole(gateway: &Gateway, case: &Value) {
    let name = &case["name"];
    let whole = ask(gateway, &case["messages"], 16, false).await.json().await;
    let usage = &whole["usage"];
    let prompt_ids = case["prompt_ids"].as_array().unwrap().len();
    assert_eq!(usage["prompt_tokens"], prompt_ids, "{name}: {whole}");
    // Which token comes sixteenth is the graph's to round; that the count and the reason agree,
    // is not.
    let reason = &whole["choices"][0]["finish_reason"];
    let ran_out = usage["completion_tokens"] == 16;
    assert!(reason == "stop" || (reason == "length" && ran_out), "{name}: {whole}");
    let events = ask(gateway, &case["messages"], 16, true).await.events().await;
    let (text, streamed_reason, streamed_usage) = joined(&events);
    assert_eq!(whole["choices"][0]["message"]["content"], text.as_str(), "{name}");
    assert_eq!(&streamed_reason, reason, "{name}");
    // All of the prompt but its last token was there from before.
    let mut again = usage.clone();
    again["prompt_tokens_details"]["cached_tokens"] = json!(prompt_ids - 1);
    assert_eq!(streamed_usage, again, "{name}");
}

/// The text of the first tokens that no rounding can change, and their number.
fn certain_beginning(case: &Value) -> (String, u64) {
    let positions = case["top5_first_positions"].as_array().unwrap();
    let lead =
        |best: &Value| best[0]["logprob"].as_f64().unwrap() - best[1]["logprob"].as_f64().unwrap();
    let (mut bytes, mut tokens) = (Vec::new(), 0);
    for best in positions.iter().take_while(|best| lead(best) > CERTAIN_LEAD) {
        let token = best[0]["bytes"].as_array().unwrap();
        bytes.extend(token.iter().map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap()));
        tokens += 1;
    }
    (String::from_utf8(bytes).unwrap(), tokens)
}

#[tokio::test]
async fn a_gguf_file_copied_in_while_it_runs_answers_as_its_golden_does() {
    let mut certain = 0;
    for file in ["tiny-llama-f32", "tiny-llama-f16", "tiny-qwen3-f32"] {
        let gateway = gateway_without_models().await;
        let cases = golden_cases(file);
        let answer = ask(&gateway, &cases[0]["messages"], 1, false).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        put(&gateway, "tiny", &bytes(file));
        assert!(cases.len() >= 3, "{file}");
        for case in &cases {
            answers_streamed_as_whole(&gateway, case).await;
            let (text, tokens) = certain_beginning(case);
            if tokens > 0 {
                let begun = ask(&gateway, &case["messages"], tokens, false).await.json().await;
                let content = &begun["choices"][0]["message"]["content"];
                assert_eq!(content, text.as_str(), "{file} {}", case["name"]);
                certain += 1;
            }
        }
    }
    assert!(certain >= 3, "{certain}");
}

#[tokio::test]
async fn a_gguf_file_cut_short_is_refused_and_served_once_it_is_whole() {
    let gateway = gateway_without_models().await;
    let whole = bytes("tiny-llama-q8_0");
    for (kept, what) in [
        (whole.len() - 1, "tensor `output.weight`: its 34816 bytes"),
        (whole.len() / 2, "tensor `blk.0.ffn_down.weight`: its 8704 bytes"),
        (2000, "a metadata array says 512 entries, but 1281 bytes are left"),
    ] {
        replace(&gateway, "tiny", &whole[..kept]).await;
        let answer = gateway.chat("tiny", json!({})).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{kept}");
        assert_eq!(answer.headers["x-should-retry"], "false", "{kept}");
        let error = answer.json().await["error"].clone();
        assert_eq!(error["code"], "model_load_failed", "{kept}");
        assert!(error["message"].as_str().unwrap().contains(what), "{kept}: {error}");
    }
    replace(&gateway, "tiny", &whole).await;
    let answer = gateway.chat("tiny", json!({"max_tokens": 1})).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn listings_say_what_a_gguf_file_is() {
    let files = [
        ("tiny-llama-f16", "llama", "F16"),
        ("tiny-llama-q4_1", "llama", "Q4_1"),
        ("tiny-qwen3-q8_0", "qwen3", "Q8_0"),
    ];
    let home = Home::new(hearth_tests::programs!());
    for (file, ..) in files {
        std::fs::write(home.path().join(format!("models/{file}.gguf")), bytes(file)).unwrap();
    }
    let gateway = home.start_real(&[]).await;
    for (file, family, quantization) in files {
        let tag = tag(&gateway, file).await;
        let details = &tag["details"];
        assert_eq!((&details["format"], &details["family"]), (&json!("gguf"), &json!(family)));
        assert_eq!(details["quantization_level"], quantization, "{file}");
        assert_eq!(tag["size"], bytes(file).len(), "{file}");
    }
}

#[tokio::test]
async fn keep_alive_0_gives_the_process_of_a_gguf_model_back() {
    let gateway = gateway_without_models().await;
    put(&gateway, "tiny", &bytes("tiny-llama-q4_0"));
    let load = json!({"model": "tiny", "keep_alive": -1});
    let loaded = gateway.post("/api/generate", &load).await.json().await;
    assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")));
    let ps = gateway.reaches("idle").await;
    assert_eq!(ps["details"]["format"], "gguf");
    let stat = format!("/proc/{}/stat", ps["pid"]);
    assert!(Path::new(&stat).exists());
    let answer = gateway.chat("tiny", json!({"max_tokens": 2, "keep_alive": 0})).await;
    assert_eq!(answer.json().await["usage"]["completion_tokens"], 2);
    gateway.is_empty().await;
    assert!(!Path::new(&stat).exists());
}
