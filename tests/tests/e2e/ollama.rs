//! Ollama's dialect.

use hearth_tests::http;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_chat_streams_lines_and_ends_with_counts() {
    let gateway = home().start_fake(&[], &[]).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let answer = gateway.post("/api/chat", &body).await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let lines = lines(&answer.text().await);
    let text: String = lines.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, "t0 t1 t2 ");
    let (last, others) = lines.split_last().unwrap();
    assert!(others.iter().all(|line| line["done"] == false));
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    let counts = (&last["prompt_eval_count"], &last["eval_count"]);
    assert_eq!(counts, (&json!(7), &json!(3)));
    assert!(last["total_duration"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_generation_can_come_in_one_piece() {
    let gateway = home().start_fake(&[], &[]).await;
    let body = json!({"model": "m", "prompt": "hi", "stream": false});
    let answer = gateway.post("/api/generate", &body).await.json().await;
    assert_eq!((&answer["response"], &answer["done"]), (&json!("t0 t1 t2 "), &json!(true)));
    assert_eq!(answer["model"], "m");
}

#[tokio::test]
async fn an_empty_prompt_loads_and_with_keep_alive_zero_unloads() {
    let gateway = home().start_fake(&[], &[]).await;
    let strip = |mut answer: Value| {
        answer.as_object_mut().unwrap().remove("created_at").unwrap();
        answer
    };
    let load = gateway.post("/api/generate", &json!({"model": "m"})).await.json().await;
    let expected = json!({"model": "m", "response": "", "done": true, "done_reason": "load"});
    assert_eq!(strip(load), expected);
    gateway.reaches("idle").await;
    let body = json!({"model": "m", "messages": [], "keep_alive": 0});
    let message = json!({"role": "assistant", "content": ""});
    for path in ["/api/chat", "/v1/chat/completions"] {
        let unload = gateway.post(path, &body).await.json().await;
        assert_eq!(
            strip(unload),
            json!({"model": "m", "message": message, "done": true, "done_reason": "unload"})
        );
    }
    gateway.is_empty().await;
    assert_eq!(gateway.spawns("m", "load").await, Some(1.0));
}

#[tokio::test]
async fn loading_a_busy_model_waits_for_nobody() {
    let gateway = home().start_fake(&["--slots", "1", "--at", "token:1=hold"], &[]).await;
    let mut busy = gateway.chat("m", json!({"stream": true})).await;
    busy.delta().await;
    let load = gateway.post("/api/generate", &json!({"model": "m", "keep_alive": "7s"})).await;
    assert_eq!(load.json().await["done_reason"], "load");
    let ps = gateway.reaches("busy").await;
    assert_eq!((&ps["in_flight"], &ps["keep_alive"]), (&json!(1), &json!(7.0)));
}

#[tokio::test]
async fn plain_curl_needs_no_content_type_and_errors_are_one_text() {
    let gateway = home().start_fake(&[], &[]).await;
    let form = "content-type: application/x-www-form-urlencoded";
    let request = format!(
        "POST /api/generate HTTP/1.1\r\nHost: localhost\r\n{form}\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{{\"model\":\"x\"}}"
    );
    let answer = http::raw(gateway.address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(
        answer.ends_with(r#"{"error":"the model 'x' does not exist; there is m"}"#),
        "{answer}"
    );
    let image = json!({"model": "m", "prompt": "x", "images": ["AAAA"]});
    let answer = gateway.post("/api/generate", &image).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json().await, json!({"error": "this model reads text only, no images"}));
}

#[tokio::test]
async fn a_crash_in_the_middle_is_a_line_of_its_own() {
    let gateway = home().start_fake(&["--at", "token:1=crash"], &[]).await;
    let body = json!({"model": "m", "prompt": "hi"});
    let lines = lines(&gateway.post("/api/generate", &body).await.text().await);
    assert_eq!(lines[0]["response"], "t0 ");
    let last = lines.last().unwrap();
    assert_eq!(*last, json!({"error": "the worker ended in the middle of the request"}));
}

#[tokio::test]
async fn the_heartbeat_is_ollamas() {
    let gateway = home().start_fake(&[], &[]).await;
    assert_eq!(gateway.get("/").await.text().await, "Ollama is running");
    let head = http::send(gateway.address, Method::HEAD, "/", &[], "").await;
    assert_eq!((head.status, head.text().await.as_str()), (StatusCode::OK, ""));
}

/// Thoughts, text, two calls; then the end.
const AGENT: [&str; 18] = [
    "--part",
    "reasoning:hm",
    "--part",
    "text:Let me see.",
    "--part",
    "call:f",
    "--part",
    "arguments:{\"x\":",
    "--part",
    "arguments:1}",
    "--part",
    "call:g",
    "--part",
    "arguments:{}",
    "--part",
    "text: ",
    "--finish",
    "tool_calls",
];

/// The messages without what is random in them.
fn messages(lines: &[Value]) -> Vec<Value> {
    let mut messages: Vec<Value> = lines.iter().map(|line| line["message"].clone()).collect();
    for message in &mut messages {
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            let id = call.as_object_mut().unwrap().remove("id").unwrap();
            assert!(id.as_str().unwrap().starts_with("call_"), "{id}");
        }
    }
    messages
}

#[tokio::test]
async fn thoughts_and_calls_come_in_their_places_streamed_and_not() {
    let gateway = home().start_fake(&AGENT, &[]).await;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": tools});
    let streamed = lines(&gateway.post("/api/chat", &body).await.text().await);
    let said = |content: &str| json!({"role": "assistant", "content": content});
    let with = |mut message: Value, field: &str, value: Value| {
        message[field] = value;
        message
    };
    let f = json!({"function": {"name": "f", "arguments": {"x": 1}}});
    let g = json!({"function": {"name": "g", "arguments": {}}});
    assert_eq!(
        messages(&streamed),
        [
            with(said(""), "thinking", json!("hm")),
            said("Let me see."),
            with(said(""), "tool_calls", json!([f])),
            said(" "),
            with(said(""), "tool_calls", json!([g])),
            said(""),
        ]
    );
    assert_eq!(streamed.last().unwrap()["done_reason"], "stop");
    let mut body = body;
    body["stream"] = json!(false);
    let whole = gateway.post("/api/chat", &body).await.json().await;
    let all = with(said("Let me see. "), "thinking", json!("hm"));
    assert_eq!(messages(&[whole]), [with(all, "tool_calls", json!([f, g]))]);
    let body = json!({"model": "m", "prompt": "hi", "stream": false});
    let text = gateway.post("/api/generate", &body).await.json().await;
    assert_eq!((&text["thinking"], &text["response"]), (&json!("hm"), &json!("Let me see. ")));
}

#[tokio::test]
async fn logprobs_come_with_the_tokens_that_they_are_of() {
    let gateway = home().start_fake(&["--tokens", "2"], &[]).await;
    let body = json!({"model": "m", "prompt": "hi", "logprobs": true, "top_logprobs": 2});
    let lines = lines(&gateway.post("/api/generate", &body).await.text().await);
    let told = &lines[1]["logprobs"][0];
    assert_eq!((&told["token"], &told["logprob"]), (&json!("t1 "), &json!(-1.0)));
    assert_eq!(told["bytes"], json!(b"t1 "));
    let top = told["top_logprobs"].as_array().unwrap();
    let likely: Vec<_> = top.iter().map(|one| (&one["token"], &one["logprob"])).collect();
    assert_eq!(likely, [(&json!("t1 "), &json!(-1.0)), (&json!("other1"), &json!(-11.0))]);
    assert!(lines.last().unwrap().get("logprobs").is_none());
}

#[tokio::test]
async fn a_model_that_can_not_think_is_not_made_to() {
    let gateway = home().start_fake(&[], &[]).await;
    let body =
        |think: Value| json!({"model": "m", "prompt": "hi", "think": think, "stream": false});
    let answer = gateway.post("/api/generate", &body(json!(true))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = answer.json().await["error"].as_str().unwrap().to_owned();
    assert_eq!(error, "\"m\" does not support thinking; leave `think` out");
    let answer = gateway.post("/api/generate", &body(json!(false))).await.json().await;
    assert_eq!(answer["response"], "t0 t1 t2 ");
    let template = gateway.home().join("models/m/chat_template.jinja");
    std::fs::write(template, "{% if enable_thinking %}<think>{% endif %}").unwrap();
    // The files have changed, and with them what is known of the model.
    hearth_tests::patiently("the change to be seen", async {
        while gateway.post("/api/generate", &body(json!("high"))).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
