//! Ollama's endpoints that show and change the models there are.

use std::path::PathBuf;

use hearth_tests::gateway::{Gateway, Home};
use hearth_tests::http::{self, Answer};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;

async fn delete(gateway: &Gateway, model: &str) -> Answer {
    let body = json!({ "model": model }).to_string();
    http::send(gateway.address, Method::DELETE, "/api/delete", &[], body).await
}

async fn names(gateway: &Gateway) -> Vec<String> {
    let tags = gateway.get("/api/tags").await.json().await;
    let models = tags["models"].as_array().unwrap();
    let mut names: Vec<String> =
        models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

async fn error(answer: Answer) -> (StatusCode, String) {
    let status = answer.status;
    (status, answer.json().await["error"].as_str().unwrap().to_owned())
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

#[tokio::test]
async fn show_tells_what_the_files_say_without_loading_anything() {
    let home = Home::new(hearth_tests::programs!())
        .with_linked_model("folder", &fixture("tiny-llama-genai-fp32"))
        .with_linked_model("file.gguf", &fixture("gguf/tiny-llama-q4_1.gguf"));
    let gateway = home.start_fake(&[], &[]).await;
    let show = async |body: Value| gateway.post("/api/show", &body).await.json().await;
    let file = show(json!({"model": "file"})).await;
    assert_eq!(file["details"]["format"], "gguf");
    assert_eq!(file["details"]["family"], "llama");
    assert_eq!(file["model_info"]["general.architecture"], "llama");
    assert_eq!(file["model_info"]["llama.context_length"], 512);
    assert_eq!(file["model_info"]["tokenizer.ggml.tokens"], json!(null));
    assert!(file["model_info"]["general.parameter_count"].as_u64().unwrap() > 10_000, "{file}");
    assert!(file["template"].as_str().unwrap().contains("message"), "{file}");
    assert!(file["capabilities"].as_array().unwrap().contains(&json!("completion")));
    let verbose = show(json!({"name": "file:latest", "verbose": true})).await;
    assert!(verbose["model_info"]["tokenizer.ggml.tokens"].as_array().unwrap().len() > 100);
    let folder = show(json!({"model": "folder"})).await;
    assert_eq!(folder["details"]["format"], "onnx");
    assert_eq!(folder["model_info"]["llama.context_length"], 512);
    assert!(folder["template"].is_string(), "{folder}");
    assert!(!gateway.stage.has_another().await);
    let unknown = gateway.post("/api/show", &json!({"model": "nope"})).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_copy_is_there_at_once_and_outlives_what_it_was_made_of() {
    let gateway = home().start_fake(&[], &[]).await;
    let copy = |to: &str| json!({"source": "m", "destination": to});
    let done = gateway.post("/api/copy", &copy("me/twin:q4")).await;
    assert_eq!((done.status, done.text().await.as_str()), (StatusCode::OK, ""));
    assert_eq!(names(&gateway).await, ["m:latest", "me/twin:q4"]);
    let (status, message) = error(gateway.post("/api/copy", &copy("me/twin:q4")).await).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(message, "there is a model 'me/twin:q4' already; delete it first");
    let (status, _) = error(gateway.post("/api/copy", &copy("../out")).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(delete(&gateway, "m").await.status, StatusCode::OK);
    assert_eq!(names(&gateway).await, ["me/twin:q4"]);
    let body = json!({"model": "me/twin:q4", "prompt": "hi", "stream": false});
    let answer = gateway.post("/api/generate", &body).await.json().await;
    assert_eq!(answer["response"], "t0 t1 t2 ");
}

#[tokio::test]
async fn a_loaded_model_is_unloaded_before_it_is_deleted() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.post("/api/generate", &json!({"model": "m", "keep_alive": -1})).await.text().await;
    gateway.reaches("idle").await;
    assert_eq!(delete(&gateway, "m").await.status, StatusCode::OK);
    assert_eq!(gateway.ps().await, [json!(null); 0]);
    let exits = gateway.metric("hearth_worker_exits_total{model=\"m\",reason=\"unloaded\"}").await;
    assert_eq!(exits, Some(1.0));
    assert!(!gateway.home().join("models/m").exists());
    let (status, message) = error(delete(&gateway, "m").await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(message.contains("the model 'm' does not exist"), "{message}");
}

#[tokio::test]
async fn a_model_is_deleted_in_openais_way_too() {
    let gateway = home().with_fake_model("me/twin").start_fake(&[], &[]).await;
    gateway
        .post("/api/generate", &json!({"model": "me/twin", "keep_alive": -1}))
        .await
        .text()
        .await;
    let path = "/v1/models/me%2Ftwin";
    let deleted = http::send(gateway.address, Method::DELETE, path, &[], "").await;
    assert_eq!(deleted.status, StatusCode::OK);
    let expected = json!({"id": "me/twin", "object": "model", "deleted": true});
    assert_eq!(deleted.json().await, expected);
    assert_eq!(gateway.ps().await, [json!(null); 0]);
    assert_eq!(names(&gateway).await, ["m:latest"]);
    let again = http::send(gateway.address, Method::DELETE, path, &[], "").await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert_eq!(again.json().await["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn deleting_a_linked_model_removes_the_link_alone() {
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = elsewhere.path().join("real");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("genai_config.json"), r#"{"model":{"type":"fake"}}"#).unwrap();
    let home = home().with_linked_model("linked", &folder);
    let gateway = home.start_fake(&[], &[]).await;
    assert_eq!(delete(&gateway, "linked").await.status, StatusCode::OK);
    assert_eq!(names(&gateway).await, ["m:latest"]);
    assert!(folder.join("genai_config.json").exists());
}
