//! Chat completions in all their parts: calls of tools, thoughts, several choices, probabilities.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::home;

/// A worker that thinks, says something and calls two tools.
const CALLS: [&str; 14] = [
    "--part",
    "reasoning:hm",
    "--part",
    "text:Let me see.",
    "--part",
    "call:weather",
    "--part",
    "arguments:{\"city\":",
    "--part",
    "arguments:\"Paris\"}",
    "--part",
    "call:time",
    "--finish",
    "tool_calls",
];

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "time"}},
    ])
}

fn parsed(events: Vec<String>) -> Vec<Value> {
    let mut events = events;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[tokio::test]
async fn calls_of_tools_come_whole_with_ids_of_the_gateway() {
    let gateway = home().start_fake(&CALLS, &[]).await;
    let answer = gateway.chat("m", json!({"tools": tools()})).await.json().await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = &choice["message"];
    assert_eq!(message["content"], "Let me see.");
    assert_eq!(message["reasoning_content"], "hm");
    let calls = message["tool_calls"].as_array().unwrap();
    let functions: Vec<&Value> = calls.iter().map(|call| &call["function"]).collect();
    let weather = json!({"name": "weather", "arguments": "{\"city\":\"Paris\"}"});
    assert_eq!(functions, [&weather, &json!({"name": "time", "arguments": ""})]);
    let ids: Vec<&str> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("call_")), "{ids:?}");
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
}

#[tokio::test]
async fn calls_of_tools_are_streamed_piece_by_piece() {
    let gateway = home().start_fake(&CALLS, &[]).await;
    let answer = gateway.chat("m", json!({"tools": tools(), "stream": true})).await;
    let chunks = parsed(answer.events().await);
    let deltas: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]["delta"]).collect();
    assert_eq!(*deltas[1], json!({"reasoning_content": "hm"}));
    assert_eq!(*deltas[2], json!({"content": "Let me see."}));
    let begins = &deltas[3]["tool_calls"][0];
    assert!(begins["id"].as_str().unwrap().starts_with("call_"), "{begins}");
    assert_eq!(begins["function"], json!({"name": "weather", "arguments": ""}));
    let more = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    assert_eq!([deltas[4], deltas[5]], [&more("{\"city\":"), &more("\"Paris\"}")]);
    assert_eq!(deltas[6]["tool_calls"][0]["index"], 1);
    assert_eq!(chunks[7]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(chunks.len(), 8);
}

#[tokio::test]
async fn what_was_asked_for_reaches_the_worker() {
    let gateway = home().start_fake(&[], &[]).await;
    let extra = json!({
        "tools": tools(), "tool_choice": {"type": "function", "function": {"name": "time"}},
        "parallel_tool_calls": false, "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "logit_bias": {"5": -100}, "n": 2, "logprobs": true, "top_logprobs": 4, "min_tokens": 3,
    });
    gateway.chat("m", extra).await.text().await;
    let work = gateway.stage.next_worker().await.next_work().await;
    for part in [
        r#"tool_choice: Function("time")"#,
        "parallel_tool_calls: false",
        r#"{\"enable_thinking\":true,\"reasoning_effort\":\"low\"}"#,
        r#"constraint: Some(JsonSchema(JsonText("{\"type\":\"object\"}")))"#,
        "logit_bias: [(5, -100.0)]",
        "choices: 2",
        "logprobs: Some(4)",
        "min_tokens: 3",
    ] {
        assert!(work.contains(part), "{part} is not in {work}");
    }
}

#[tokio::test]
async fn several_choices_come_whole_and_streamed() {
    let gateway = home().start_fake(&["--tokens", "2"], &[]).await;
    let answer = gateway.chat("m", json!({"n": 3})).await.json().await;
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&Value> = choices.iter().map(|c| &c["message"]["content"]).collect();
    assert_eq!(texts, ["t0 t1 ", "1:t0 1:t1 ", "2:t0 2:t1 "]);
    assert_eq!(answer["usage"]["prompt_tokens"], 7);
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    let extra = json!({"n": 3, "stream": true, "stream_options": {"include_usage": true}});
    let chunks = parsed(gateway.chat("m", extra).await.events().await);
    let of = |index: u64| {
        let mine = chunks.iter().filter(move |c| c["choices"][0]["index"] == index);
        let texts = mine.filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
        texts.collect::<String>()
    };
    assert_eq!([of(0), of(1), of(2)], ["t0 t1 ", "1:t0 1:t1 ", "2:t0 2:t1 "]);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn probabilities_are_told_when_asked_for() {
    let gateway = home().start_fake(&["--tokens", "2"], &[]).await;
    let extra = json!({"logprobs": true, "top_logprobs": 2});
    let answer = gateway.chat("m", extra).await.json().await;
    let content = &answer["choices"][0]["logprobs"]["content"];
    assert_eq!(
        content[1],
        json!({"token": "t1 ", "logprob": -1.0, "bytes": [116, 49, 32], "top_logprobs": [
            {"token": "t1 ", "logprob": -1.0, "bytes": [116, 49, 32]},
            {"token": "other1", "logprob": -11.0, "bytes": b"other1"},
        ]})
    );
    let streamed = gateway.chat("m", json!({"logprobs": true, "stream": true})).await;
    let chunks = parsed(streamed.events().await);
    let tokens: Vec<_> = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["logprobs"]["content"][0]["token"].as_str())
        .collect();
    assert_eq!(tokens, ["t0 ", "t1 "]);
    let without = gateway.chat("m", json!({})).await.json().await;
    assert_eq!(without["choices"][0]["logprobs"], json!(null));
}

#[tokio::test]
async fn what_the_worker_refuses_is_told_with_its_field() {
    for (refusal, status, param, code) in [
        ("overflow", StatusCode::BAD_REQUEST, json!("messages"), "context_length_exceeded"),
        ("template", StatusCode::BAD_REQUEST, json!("messages"), "chat_template_error"),
        ("unsupported", StatusCode::BAD_REQUEST, json!("model"), "unsupported"),
        ("constraint", StatusCode::BAD_REQUEST, json!("response_format"), "invalid_constraint"),
        ("engine", StatusCode::INTERNAL_SERVER_ERROR, json!(null), "engine_error"),
    ] {
        let gateway = home().start_fake(&["--refuse", refusal], &[]).await;
        let answer = gateway.chat("m", json!({})).await;
        assert_eq!(answer.status, status, "{refusal}");
        let error = answer.json().await["error"].clone();
        assert_eq!((&error["param"], &error["code"]), (&param, &json!(code)), "{refusal}");
    }
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_told_by_the_field_that_holds_it() {
    let gateway = home().start_fake(&["--refuse", "overflow"], &[]).await;
    for (path, field, value) in [
        ("/v1/completions", "prompt", json!("hi")),
        ("/v1/responses", "input", json!("hi")),
        ("/v1/chat/completions", "messages", json!([{"role": "user", "content": "hi"}])),
    ] {
        for stream in [false, true] {
            let body = json!({"model": "m", "stream": stream, field: value});
            let answer = gateway.post(path, &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
            let error = answer.json().await["error"].clone();
            let told = (&error["param"], &error["code"]);
            assert_eq!(told, (&json!(field), &json!("context_length_exceeded")), "{path}");
        }
    }
}

#[tokio::test]
async fn a_field_that_changes_nothing_is_named() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = gateway.chat("m", json!({"temprature": 0, "user": "u"})).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["x-hearth-ignored-fields"], "temprature, user");
    let answer = gateway.chat("m", json!({"temperature": 0})).await;
    assert_eq!(answer.headers.get("x-hearth-ignored-fields"), None);
}
