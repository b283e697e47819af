//! Models from a hub and from uploads, and that there is never half a model.

use std::path::PathBuf;

use hearth_tests::gateway::{Gateway, Home};
use hearth_tests::http;
use hearth_tests::hub::{Hub, Repo, sha256};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;

fn tiny() -> Vec<u8> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf");
    std::fs::read(fixtures.join("tiny-llama-q4_1.gguf")).unwrap()
}

fn ggufs() -> Repo {
    let mut repo = Repo { task: Some("text-generation"), ..Repo::default() };
    repo.files.insert("README.md".to_owned(), b"# tiny".to_vec());
    repo.files.insert("Tiny-Q4_1.gguf".to_owned(), tiny());
    repo.files.insert("Tiny-Q8_0.gguf".to_owned(), [tiny(), vec![0; 9]].concat());
    repo
}

async fn gateway_at(hub: &Hub, extra: &[(&str, &str)]) -> Gateway {
    let endpoint = hub.endpoint();
    let mut variables = vec![("HF_ENDPOINT", endpoint.as_str())];
    variables.extend(extra);
    home().start_fake(&[], &variables).await
}

async fn pull(gateway: &Gateway, model: &str) -> Vec<Value> {
    let answer = gateway.post("/api/pull", &json!({ "model": model })).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    answer.text().await.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn last(lines: &[Value]) -> &Value {
    lines.last().unwrap()
}

fn success() -> Value {
    json!({"status": "success"})
}

async fn names(gateway: &Gateway) -> Vec<String> {
    let tags = gateway.get("/api/tags").await.json().await;
    let mut names: Vec<String> = tags["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// What lies in the models directory under hidden names.
fn partial(gateway: &Gateway) -> Vec<u64> {
    let folder = gateway.home().join("models/.partial");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.metadata().unwrap().len()).collect()
}

#[tokio::test]
async fn a_quantization_of_the_hub_is_pulled_with_ollamas_progress_and_answers_under_its_name() {
    let hub = Hub::start(ggufs()).await;
    let gateway = gateway_at(&hub, &[]).await;
    let lines = pull(&gateway, "hf.co/owner/repo:Q4_1").await;
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_str().unwrap()).collect();
    let hash = sha256(&tiny());
    let pulling = format!("pulling {}", &hash[..12]);
    assert_eq!(
        statuses,
        [
            "pulling manifest",
            &pulling,
            &pulling,
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
    );
    let size = tiny().len();
    let digest = format!("sha256:{hash}");
    let progress = |completed: usize| json!({"status": pulling, "digest": digest, "total": size, "completed": completed});
    assert_eq!(lines[1..3], [progress(0), progress(size)]);
    assert_eq!(names(&gateway).await, ["m:latest", "owner/repo:Q4_1"]);
    assert_eq!(partial(&gateway), [0; 0]);
    for name in ["owner/repo:Q4_1", "hf.co/owner/repo:Q4_1"] {
        let body = json!({"model": name, "prompt": "hi", "stream": false});
        let answer = gateway.post("/api/generate", &body).await.json().await;
        assert_eq!(answer["response"], "t0 t1 t2 ", "{answer}");
    }
    // What is here is not asked for again.
    hub.take_log();
    let again = pull(&gateway, "owner/repo:Q4_1").await;
    assert_eq!((again.len(), last(&again)), (2, &success()));
    assert_eq!(hub.take_log(), [""; 0]);
}

#[tokio::test]
async fn a_connection_that_breaks_is_gone_on_with_where_it_broke() {
    let cut = tiny().len() / 3 + 1;
    let hub = Hub::start(Repo { cut_after: Some(cut), ..ggufs() }).await;
    let gateway = gateway_at(&hub, &[]).await;
    assert_eq!(*last(&pull(&gateway, "owner/repo:Q4_1").await), success());
    let stored: Vec<String> =
        hub.take_log().into_iter().filter(|line| line.starts_with("/stored/")).collect();
    assert_eq!(
        stored,
        [
            "/stored/Tiny-Q4_1.gguf".to_owned(),
            format!("/stored/Tiny-Q4_1.gguf bytes={cut}-"),
            format!("/stored/Tiny-Q4_1.gguf bytes={}-", 2 * cut),
        ]
    );
    let pulled = std::fs::read(gateway.home().join("models/owner/repo@Q4_1.gguf")).unwrap();
    assert_eq!(sha256(&pulled), sha256(&tiny()));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_pull_and_the_next_one_goes_on() {
    let mut repo = Repo { task: Some("feature-extraction"), ..Repo::default() };
    for name in ["config.json", "tokenizer.json", "genai_config.json"] {
        repo.files.insert(name.to_owned(), br#"{"model":{"type":"fake"}}"#.to_vec());
    }
    repo.files.insert("model.onnx.data".to_owned(), vec![7; 5000]);
    repo.files.insert("model.onnx".to_owned(), vec![8; 3000]);
    repo.holds = Some(".onnx");
    let hub = Hub::start(repo).await;
    let gateway = gateway_at(&hub, &[]).await;
    let answer = gateway.post("/api/pull", &json!({"model": "owner/repo"})).await;
    hub.is_asked().await;
    assert_eq!(names(&gateway).await, ["m:latest"]);
    drop(answer);
    hub.change(|repo| repo.holds = None);
    hub.take_log();
    assert_eq!(*last(&pull(&gateway, "owner/repo").await), success());
    assert_eq!(names(&gateway).await, ["m:latest", "owner/repo:latest"]);
    let stored: Vec<String> =
        hub.take_log().into_iter().filter(|line| line.starts_with("/stored/")).collect();
    assert_eq!(stored, ["/stored/model.onnx"]);
    let folder = gateway.home().join("models/owner/repo");
    assert_eq!(std::fs::read(folder.join("model.onnx.data")).unwrap(), vec![7; 5000]);
    assert_eq!(partial(&gateway), [0; 0]);
}

#[tokio::test]
async fn what_arrives_damaged_is_thrown_away_and_is_no_model() {
    let hub = Hub::start(Repo { lies: true, ..ggufs() }).await;
    let gateway = gateway_at(&hub, &[]).await;
    let lines = pull(&gateway, "owner/repo:Q4_1").await;
    let error = last(&lines)["error"].as_str().unwrap();
    assert!(error.starts_with("Tiny-Q4_1.gguf arrived damaged: its sha256 is"), "{error}");
    assert_eq!(names(&gateway).await, ["m:latest"]);
    assert_eq!(partial(&gateway), [0; 0]);
    hub.change(|repo| repo.lies = false);
    assert_eq!(*last(&pull(&gateway, "owner/repo:Q4_1").await), success());
}

#[tokio::test]
async fn a_hub_without_ranges_is_asked_for_everything_again() {
    let hub = Hub::start(Repo { cut_after: Some(1000), ignores_ranges: true, ..ggufs() }).await;
    let gateway = gateway_at(&hub, &[]).await;
    let body = json!({"model": "owner/repo:Q4_1"});
    let answer = gateway.post("/api/pull", &body).await;
    // It never gets further until the hub is well again; each attempt begins anew.
    hearth_tests::patiently("two attempts", async {
        let mut attempts = 0;
        while attempts < 2 {
            attempts += hub.take_log().iter().filter(|line| line.starts_with("/stored/")).count();
            tokio::task::yield_now().await;
        }
    })
    .await;
    hub.change(|repo| repo.cut_after = None);
    let text = answer.text().await;
    assert!(text.ends_with("{\"status\":\"success\"}\n"), "{text}");
    let pulled = std::fs::read(gateway.home().join("models/owner/repo@Q4_1.gguf")).unwrap();
    assert_eq!(sha256(&pulled), sha256(&tiny()));
}

#[tokio::test]
async fn what_can_not_be_pulled_is_said_in_a_line_or_with_a_status() {
    let hub = Hub::start(Repo { token: Some("hf_secret"), ..ggufs() }).await;
    let gateway = gateway_at(&hub, &[]).await;
    let whole = async |gateway: &Gateway, model: &str| {
        let answer = gateway.post("/api/pull", &json!({"model": model, "stream": false})).await;
        (answer.status, answer.json().await)
    };
    let (status, body) = whole(&gateway, "owner/repo").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let error = body["error"].as_str().unwrap();
    assert!(error.ends_with("or it is not for everybody: set HF_TOKEN then"), "{error}");
    let trusted = gateway_at(&hub, &[("HF_TOKEN", "hf_secret")]).await;
    let (status, body) = whole(&trusted, "owner/repo:Q5_0").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let error = body["error"].as_str().unwrap();
    assert!(error.ends_with("nothing called `Q5_0`; there is Tiny-Q4_1, Tiny-Q8_0"), "{error}");
    assert_eq!(whole(&trusted, "owner/repo").await, (StatusCode::OK, success()));
    let (status, body) = whole(&trusted, "llama3.2").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"].as_str().unwrap().contains("no repository of Hugging Face"), "{body}");
    // What is here may be pulled by any name.
    assert_eq!(whole(&trusted, "m").await, (StatusCode::OK, success()));
    drop(hub);
    let lines = pull(&gateway, "owner/repo").await;
    assert!(last(&lines)["error"].as_str().unwrap().contains("can't be reached"), "{lines:?}");
}

#[tokio::test]
async fn an_upload_becomes_a_model_only_if_it_is_what_it_says() {
    let gateway = Home::new(hearth_tests::programs!()).start_fake(&[], &[]).await;
    let digest = format!("sha256:{}", sha256(&tiny()));
    let path = format!("/api/blobs/{digest}");
    let octets = [("content-type", "application/octet-stream")];
    let send = async |method, path: &str, body: Vec<u8>| {
        http::send(gateway.address, method, path, &octets, body).await.status
    };
    assert_eq!(send(Method::HEAD, &path, Vec::new()).await, StatusCode::NOT_FOUND);
    let wrong = send(Method::POST, &path, b"something else".to_vec()).await;
    assert_eq!(wrong, StatusCode::BAD_REQUEST);
    assert_eq!(send(Method::HEAD, &path, Vec::new()).await, StatusCode::NOT_FOUND);
    assert_eq!(send(Method::POST, &path, tiny()).await, StatusCode::CREATED);
    assert_eq!(send(Method::HEAD, &path, Vec::new()).await, StatusCode::OK);
    let create = json!({"model": "made", "files": {"tiny.gguf": digest}, "stream": false});
    let answer = gateway.post("/api/create", &create).await;
    assert_eq!((answer.status, answer.json().await), (StatusCode::OK, success()));
    assert_eq!(names(&gateway).await, ["made:latest"]);
    let of = json!({"model": "second", "from": "made", "stream": false});
    assert_eq!(gateway.post("/api/create", &of).await.status, StatusCode::OK);
    let mut refused = of.clone();
    refused["model"] = json!("third");
    refused["adapters"] = json!({"a.gguf": digest});
    let answer = gateway.post("/api/create", &refused).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(names(&gateway).await, ["made:latest", "second:latest"]);
    let traversal = send(Method::HEAD, "/api/blobs/sha256:..%2F..%2Fx", Vec::new()).await;
    assert_eq!(traversal, StatusCode::BAD_REQUEST);
}
