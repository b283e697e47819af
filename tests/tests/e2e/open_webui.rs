//! What Open WebUI asks of a server, in its order: it has a connection of Ollama's kind and one of
//! OpenAI's to the same address, joins `/api/tags` and `/api/ps` by name, and unloads by an empty prompt.
//!
//! It is not run itself: it brings a few hundred packages. Its requests are written after its source.

use hearth_tests::gateway::Gateway;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::home;

async fn fine(gateway: &Gateway, path: &str, body: Option<Value>) -> Value {
    let answer = match body {
        Some(body) => gateway.post(path, &body).await,
        None => gateway.get(path).await,
    };
    assert_eq!(answer.status, StatusCode::OK, "{path}");
    answer.json().await
}

async fn names(gateway: &Gateway, path: &str) -> Vec<Value> {
    let list = fine(gateway, path, None).await;
    list["models"].as_array().unwrap().iter().map(|model| model["name"].clone()).collect()
}

/// It splits the version into whole numbers.
async fn the_connections_are_verified(gateway: &Gateway) {
    let version = fine(gateway, "/api/version", None).await;
    let version = version["version"].as_str().unwrap();
    let plain = version.trim_start_matches('v').split('-').next().unwrap();
    let numbers: Vec<u32> = plain.split('.').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers.len(), 3, "{version}");
    let models = fine(gateway, "/v1/models", None).await;
    assert_eq!(models["data"][0]["id"], "m");
    assert_eq!(names(gateway, "/api/tags").await, ["m:latest"]);
    assert_eq!(names(gateway, "/api/ps").await, [] as [Value; 0]);
}

async fn a_chat_is_streamed(gateway: &Gateway) {
    let body = json!({
        "model": "m:latest", "stream": true, "keep_alive": "5m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
        "options": {"temperature": 0.7, "num_ctx": 400, "num_predict": 8, "num_thread": 2},
    });
    let answer = gateway.post("/api/chat", &body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let text = answer.text().await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, parts) = lines.split_last().unwrap();
    let said = parts.iter().map(|part| part["message"]["content"].as_str().unwrap());
    assert_eq!(said.collect::<String>(), "t0 t1 t2 ");
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    // What it shows under an answer it computes of these.
    for name in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(last[name].is_u64(), "{name}: {last}");
    }
    assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&json!(7), &json!(3)));
}

/// `datetime.fromisoformat` takes at most six digits of fraction.
async fn what_is_loaded_is_shown_beside_what_there_is(gateway: &Gateway) {
    assert_eq!(names(gateway, "/api/ps").await, names(gateway, "/api/tags").await);
    let ps = fine(gateway, "/api/ps", None).await;
    let expires_at = ps["models"][0]["expires_at"].as_str().unwrap().to_owned();
    let (seconds, fraction) = expires_at.split_once('.').unwrap();
    assert_eq!((seconds.len(), fraction.len()), ("2026-01-01T00:00:00".len(), 6 + "+00:00".len()));
    assert!(fraction.ends_with("+00:00"), "{expires_at}");
}

/// Documents of a knowledge base are embedded, and a chat's title is asked for beside it.
async fn its_other_work_is_done(gateway: &Gateway) {
    let body = json!({"model": "m:latest", "input": ["a", "bb"], "truncate": true});
    let embedded = fine(gateway, "/api/embed", Some(body)).await;
    assert_eq!(embedded["embeddings"].as_array().unwrap().len(), 2);
    let messages = json!([{"role": "user", "content": "Give it a title."}]);
    let title = json!({"model": "m", "messages": messages, "stream": false, "max_tokens": 50});
    let whole = fine(gateway, "/v1/chat/completions", Some(title)).await;
    assert_eq!(whole["choices"][0]["message"]["content"], "t0 t1 t2 ");
    let body = json!({
        "model": "m", "messages": messages, "stream": true, "stream_options": {"include_usage": true},
    });
    let events = gateway.post("/v1/chat/completions", &body).await.events().await;
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn everything_that_open_webui_asks_is_answered_in_its_order() {
    let gateway = home().start_fake(&["--tokens", "3"], &[]).await;
    the_connections_are_verified(&gateway).await;
    a_chat_is_streamed(&gateway).await;
    what_is_loaded_is_shown_beside_what_there_is(&gateway).await;
    its_other_work_is_done(&gateway).await;
    let body = json!({"model": "m:latest", "prompt": "", "keep_alive": 0});
    let unloaded = fine(&gateway, "/api/generate", Some(body)).await;
    assert_eq!(unloaded["done_reason"], "unload");
    gateway.is_empty().await;
}
