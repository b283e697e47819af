//! Several keys, each with a name and limits of its own.

use hearth_tests::gateway::Gateway;
use hearth_tests::http::{self, Answer};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;

const KEYS: &str = "
[[keys]]
name = 'alice'
key = 'al1ce'

[[keys]]
name = 'bob'
key = 'b0b'
max_requests = 1
models = ['m']
keep_alive_client = 'ignore'
";

async fn gateway(flags: &[&str]) -> Gateway {
    let home = home().with_fake_model("secret");
    std::fs::write(home.path().join("hearth.toml"), KEYS).unwrap();
    home.start_fake(flags, &[]).await
}

async fn send(gateway: &Gateway, key: &str, path: &str, body: Option<Value>) -> Answer {
    let (method, text) = match body {
        Some(body) => (Method::POST, body.to_string()),
        None => (Method::GET, String::new()),
    };
    http::send(gateway.address, method, path, &[("x-api-key", key)], text).await
}

fn chat(model: &str, keep_alive: &Value) -> Option<Value> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    Some(json!({"model": model, "messages": messages, "stream": true, "keep_alive": keep_alive}))
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_key_opens_only_its_own_models() {
    let gateway = gateway(&[]).await;
    for key in ["", "alic", "al1cex", "b0bb"] {
        let answer = send(&gateway, key, "/v1/models", None).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{key}");
    }
    let ids = async |key: &str| {
        let list = send(&gateway, key, "/v1/models", None).await.json().await;
        let models = list["data"].as_array().unwrap().clone();
        models.iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("al1ce").await, ["m", "secret"]);
    assert_eq!(ids("b0b").await, ["m"]);
    let tags = send(&gateway, "b0b", "/api/tags", None).await.json().await;
    assert_eq!(tags["models"].as_array().unwrap().len(), 1);
    let refused = send(&gateway, "b0b", CHAT, chat("secret", &json!(null))).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    let error = refused.json().await["error"]["message"].clone();
    assert_eq!(error, "the model 'secret' does not exist; there is m");
    let answer = send(&gateway, "al1ce", CHAT, chat("secret", &json!(null))).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_key_sees_and_orders_about_only_its_own_models() {
    let gateway = gateway(&[]).await;
    let mut events = send(&gateway, "b0b", "/api/events", None).await;
    let load = |model: &str| Some(json!({ "model": model }));
    for model in ["secret", "m"] {
        let loaded = send(&gateway, "al1ce", "/api/load", load(model)).await;
        assert_eq!(loaded.status, StatusCode::OK);
    }
    let names = async |key: &str| {
        let ps = send(&gateway, key, "/api/ps", None).await.json().await;
        let models = ps["models"].as_array().unwrap().clone();
        let mut names: Vec<_> =
            models.iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("al1ce").await, ["m:latest", "secret:latest"]);
    assert_eq!(names("b0b").await, ["m:latest"]);
    for order in ["/api/load", "/api/unload"] {
        let refused = send(&gateway, "b0b", order, load("secret")).await;
        assert_eq!(refused.status, StatusCode::NOT_FOUND, "{order}");
    }
    let forced = Some(json!({"model": "secret", "force": true}));
    let refused = send(&gateway, "b0b", "/api/unload", forced).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    let emptied = Some(json!({"model": "secret", "prompt": "", "keep_alive": 0}));
    let refused = send(&gateway, "b0b", "/api/generate", emptied).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(names("al1ce").await, ["m:latest", "secret:latest"]);
    // One who begins to listen is shown no more than one who looks.
    let mut later = send(&gateway, "b0b", "/api/events", None).await;
    let first = later.event().await.unwrap();
    assert!(first.contains("m:latest") && !first.contains("secret"), "{first}");
    let gone = send(&gateway, "b0b", "/api/unload", load("m")).await;
    assert_eq!(gone.status, StatusCode::OK);
    let mut heard = String::new();
    while !heard.contains("\"to\":\"stopping\"") {
        heard += &events.event().await.unwrap();
    }
    assert!(!heard.contains("secret"), "{heard}");
}

#[tokio::test]
async fn a_key_that_has_all_its_requests_waits_for_none() {
    let gateway = gateway(&["--at", "token:1=hold"]).await;
    let mut first = send(&gateway, "b0b", CHAT, chat("m", &json!(null))).await;
    assert_eq!(first.delta().await, "t0 ");
    let second = send(&gateway, "b0b", CHAT, chat("m", &json!(null))).await;
    assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.headers["retry-after"], "1");
    assert_eq!(second.json().await["error"]["code"], "too_many_requests");
    // Looking costs nothing, and others have places of their own.
    assert_eq!(send(&gateway, "b0b", "/api/ps", None).await.status, StatusCode::OK);
    let mut other = send(&gateway, "al1ce", CHAT, chat("m", &json!(null))).await;
    assert_eq!(other.delta().await, "t0 ");
    gateway.stage.next_worker().await.go().await;
    first.events().await;
    let third = send(&gateway, "b0b", CHAT, chat("m", &json!(null))).await;
    assert_eq!(third.status, StatusCode::OK);
}

#[tokio::test]
async fn a_keys_keep_alive_can_mean_nothing() {
    let gateway = gateway(&[]).await;
    send(&gateway, "b0b", CHAT, chat("m", &json!(-1))).await.events().await;
    let ps = send(&gateway, "b0b", "/api/ps", None).await.json().await;
    assert_eq!(ps["models"][0]["keep_alive"], 300.0, "{ps}");
    send(&gateway, "al1ce", CHAT, chat("m", &json!(-1))).await.events().await;
    let ps = send(&gateway, "b0b", "/api/ps", None).await.json().await;
    assert_eq!(ps["models"][0]["keep_alive"], -1.0, "{ps}");
}

#[tokio::test]
async fn a_key_for_some_models_changes_and_sees_no_others() {
    let gateway = gateway(&[]).await;
    let digest = format!("/api/blobs/sha256:{}", "ab".repeat(32));
    for (method, path, body) in [
        (Method::POST, "/api/pull", json!({"model": "owner/name"})),
        (Method::POST, "/api/create", json!({"model": "n", "from": "m"})),
        (Method::POST, "/api/copy", json!({"source": "m", "destination": "n"})),
        (Method::DELETE, "/api/delete", json!({"model": "m"})),
        (Method::DELETE, "/v1/models/m", json!(null)),
        (Method::POST, &digest, json!({})),
        (Method::HEAD, &digest, json!(null)),
    ] {
        let headers = [("x-api-key", "b0b"), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let is_head = method == Method::HEAD;
        let answer = http::send(gateway.address, method, path, &headers, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        if !is_head {
            let error = answer.json().await["error"].clone();
            let error = error.as_str().or(error["message"].as_str()).unwrap();
            assert!(error.starts_with("this API key is for some models alone"), "{error}");
        }
    }
    let shown = async |model: &str| {
        send(&gateway, "b0b", "/api/show", Some(json!({"model": model}))).await.status
    };
    assert_eq!(shown("m").await, StatusCode::OK);
    assert_eq!(shown("secret").await, StatusCode::NOT_FOUND);
    let tags = send(&gateway, "al1ce", "/api/tags", None).await.json().await;
    assert_eq!(tags["models"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn only_a_key_without_limits_names_paths_of_the_server() {
    let home = home();
    let limited = "[[keys]]\nname = 'carol'\nkey = 'car0l'\nmax_requests = 4\n";
    std::fs::write(home.path().join("hearth.toml"), format!("{KEYS}{limited}")).unwrap();
    let folder = home.path().join("models").join("m");
    let folder = folder.to_str().unwrap().to_owned();
    let gateway = home.start_fake(&[], &[]).await;
    let create = async |key: &str, name: &str, from: &str| {
        let body = json!({"model": name, "from": from, "stream": false});
        send(&gateway, key, "/api/create", Some(body)).await
    };
    let refused = create("car0l", "by-path", &folder).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let error = "this API key has limits; it may not name paths of the server";
    assert_eq!(refused.json().await["error"], error);
    let pull = json!({"model": folder, "stream": false});
    let refused = send(&gateway, "car0l", "/api/pull", Some(pull)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(create("car0l", "by-name", "m").await.status, StatusCode::OK);
    assert_eq!(create("al1ce", "by-path", &folder).await.status, StatusCode::OK);
}
