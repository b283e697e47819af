//! Real embedding models, rerankers and variants in real workers, over HTTP.

use std::path::{Path, PathBuf};

use hearth_tests::gateway::{Gateway, Home};
use hyper::StatusCode;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn golden(name: &str, file: &str) -> Value {
    let text = std::fs::read_to_string(fixture(name).join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A gateway with one model under `name`.
async fn gateway(name: &str, folder: &str) -> Gateway {
    let home = Home::new(hearth_tests::programs!()).with_linked_model(name, &fixture(folder));
    home.start_real(&[]).await
}

async fn fine(gateway: &Gateway, path: &str, body: Value) -> Value {
    let answer = gateway.post(path, &body).await;
    let status = answer.status;
    let answer = answer.json().await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

fn assert_near(found: &Value, expected: &Value, tolerance: f64) {
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= tolerance, "{found} and not {expected}");
    }
}

#[tokio::test]
async fn an_embedding_model_gives_its_golden_vectors_in_both_dialects() {
    let gateway = gateway("bert", "tiny-bert-embed").await;
    let golden = golden("tiny-bert-embed", "golden.json");
    let texts = golden["texts"].as_array().unwrap();
    let input: Vec<_> = texts.iter().map(|text| text["text"].clone()).collect();
    // The last one is too long, which only Ollama cuts unasked.
    let body = json!({"model": "bert", "input": input, "truncate": true});
    let openai = fine(&gateway, "/v1/embeddings", body).await;
    let ollama = fine(&gateway, "/api/embed", json!({"model": "bert", "input": input})).await;
    for (index, text) in texts.iter().enumerate() {
        assert_near(&openai["data"][index]["embedding"], &text["embedding"], 2e-5);
        assert_near(&ollama["embeddings"][index], &text["embedding"], 2e-5);
    }
    for path in ["/api/embed", "/v1/embeddings"] {
        let body = json!({"model": "bert", "input": input, "truncate": false});
        let refused = gateway.post(path, &body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let older = json!({"model": "bert", "prompt": input.last().unwrap(), "truncate": false});
    let refused = gateway.post("/api/embeddings", &older).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let tokens: usize = texts.iter().map(|text| text["input_ids"].as_array().unwrap().len()).sum();
    assert_eq!(openai["usage"]["prompt_tokens"], tokens);
    let tags = gateway.get("/api/tags").await.json().await;
    assert_eq!(tags["models"][0]["capabilities"], json!(["embedding"]));
    assert_eq!(tags["models"][0]["details"]["family"], "bert");
}

#[tokio::test]
async fn a_reranker_puts_the_golden_document_first() {
    let gateway = gateway("judge", "tiny-cross-encoder").await;
    let golden = golden("tiny-cross-encoder", "golden.json");
    for query in golden["queries"].as_array().unwrap() {
        let documents: Vec<_> =
            query["documents"].as_array().unwrap().iter().map(|d| d["document"].clone()).collect();
        let body = json!({"model": "judge", "query": query["query"], "documents": documents});
        let answer = fine(&gateway, "/v1/rerank", body).await;
        let results = answer["results"].as_array().unwrap();
        let ranking: Vec<_> = results.iter().map(|result| result["index"].clone()).collect();
        assert_eq!(Value::from(ranking), query["ranking"]);
        for result in results {
            let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
            let (score, sigmoid) =
                (&result["relevance_score"], &query["documents"][index]["sigmoid"]);
            assert_near(&json!([score]), &json!([sigmoid]), 2e-5);
        }
    }
}

#[tokio::test]
async fn who_asks_a_model_for_what_it_is_not_for_is_told_before_it_is_loaded() {
    let gateway = gateway("bert", "tiny-bert-embed").await;
    let answer = gateway.chat("bert", json!({})).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = answer.json().await["error"].clone();
    assert_eq!(error["code"], "unsupported");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("this model makes embeddings; it generates no text"), "{message}");
    let body = json!({"model": "bert", "query": "q", "documents": ["d"]});
    let answer = gateway.post("/v1/rerank", &body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let running = gateway.get("/api/ps").await.json().await;
    assert_eq!(running["models"], json!([]));
}

#[tokio::test]
async fn variants_of_a_folder_are_models_of_their_own() {
    let gateway = gateway("tiny", "tiny-llama-optimum-fp32").await;
    for (name, file) in [("tiny", "golden.json"), ("tiny:fp16", "golden_fp16.json")] {
        let golden = golden("tiny-llama-optimum-fp32", file);
        let case = &golden["cases"][0];
        let ids = case["greedy_ids"].as_array().unwrap().len();
        let body = json!({"messages": case["messages"], "temperature": 0, "max_tokens": ids});
        let answer = gateway.chat(name, body).await.json().await;
        assert_eq!(answer["choices"][0]["message"]["content"], case["text"], "{name}");
    }
    let running = gateway.get("/api/ps").await.json().await;
    let mut names: Vec<_> =
        running["models"].as_array().unwrap().iter().map(|m| m["name"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["tiny:fp16", "tiny:latest"]);
    let answer = gateway.chat("tiny:q4", json!({})).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let error = answer.json().await["error"].clone();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("`tiny` has the variants extras, fp16, fp32, gqa"), "{message}");
}
