//! Nothing of a request is dropped in silence: what changes nothing is named in the answer's head.

use hearth_tests::http;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;

const IGNORED: &str = "x-hearth-ignored-fields";

#[tokio::test]
async fn every_endpoint_names_what_it_ignored_of_a_request() {
    let gateway = home().start_fake(&[], &[]).await;
    let hi = json!([{"role": "user", "content": "hi"}]);
    let chat = json!({"model": "m", "messages": hi});
    let asked = [
        ("/v1/chat/completions", chat.clone()),
        ("/v1/completions", json!({"model": "m", "prompt": "hi"})),
        ("/v1/responses", json!({"model": "m", "input": "hi"})),
        ("/v1/responses/input_tokens", json!({"model": "m", "input": "hi"})),
        ("/v1/embeddings", json!({"model": "m", "input": "hi"})),
        ("/v1/rerank", json!({"model": "m", "query": "q", "documents": ["a"]})),
        ("/rerank", json!({"model": "m", "query": "q", "texts": ["a"]})),
        ("/tokenize", json!({"model": "m", "content": "a"})),
        ("/detokenize", json!({"model": "m", "tokens": [1]})),
        ("/api/chat", chat),
        ("/api/chat", json!({"model": "m"})),
        ("/api/generate", json!({"model": "m", "prompt": "hi", "stream": false})),
        ("/api/generate", json!({"model": "m"})),
        ("/api/embed", json!({"model": "m", "input": "hi"})),
        ("/api/embed", json!({"model": "m"})),
        ("/api/embeddings", json!({"model": "m", "prompt": "hi"})),
        ("/api/show", json!({"model": "m"})),
        ("/api/copy", json!({"source": "m", "destination": "n"})),
        ("/api/create", json!({"model": "o", "from": "m", "system": "s"})),
        ("/api/load", json!({"model": "m"})),
        ("/api/unload", json!({"model": "m"})),
        ("/api/delete", json!({"model": "n"})),
    ];
    for (path, body) in asked {
        let with = |name: &str| {
            let mut body = body.clone();
            body[name] = json!(1);
            body.to_string()
        };
        let method = if path == "/api/delete" { Method::DELETE } else { Method::POST };
        // What is refused changes nothing, so that each may be asked twice.
        let empty = http::send(gateway.address, method.clone(), path, &[], "{}".to_owned()).await;
        assert_eq!(empty.status, StatusCode::BAD_REQUEST, "{path}");
        let answer = http::send(gateway.address, method, path, &[], with("nobody_knows")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {body}");
        assert_eq!(answer.headers[IGNORED], "nobody_knows", "{path} {body}");
    }
}

#[tokio::test]
async fn what_a_table_ignores_is_named_and_what_it_honours_is_not() {
    let gateway = home().start_fake(&[], &[]).await;
    let ignored = async |path: &str, body: Value| {
        let answer = gateway.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let header = answer.headers.get(IGNORED);
        header.map(|names| names.to_str().unwrap().to_owned())
    };
    let options = json!({"num_gpu": 1, "seed": 1, "temprature": 2});
    let messages = json!([{"role": "user", "content": "hi"}]);
    let chat = json!({
        "model": "m", "messages": messages, "truncate": true, "shift": false, "keepalive": 1,
        "options": options,
    });
    let named = "truncate, shift, keepalive, options.num_gpu, options.temprature";
    assert_eq!(ignored("/api/chat", chat).await.as_deref(), Some(named));
    let whole = json!({"model": "m", "prompt": "hi", "stream": false, "options": {"seed": 1}});
    assert_eq!(ignored("/api/generate", whole).await, None);
    let chat = json!({"model": "m", "messages": messages, "user": "u", "seed": 1});
    assert_eq!(ignored("/v1/chat/completions", chat).await.as_deref(), Some("user"));
}
