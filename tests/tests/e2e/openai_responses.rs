//! Responses: made, streamed, continued, looked up, forgotten.

use hearth_tests::gateway::Gateway;
use hearth_tests::http::{self, Answer};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;

pub(crate) async fn respond(gateway: &Gateway, extra: Value) -> Answer {
    let mut body = json!({"model": "m", "input": "hi"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    gateway.post("/v1/responses", &body).await
}

/// The events of a stream: each one's name, and its data, which says the same name.
pub(crate) fn parsed(text: &str) -> Vec<Value> {
    let events = text.split_terminator("\n\n").zip(0_u64..);
    let parse = |(event, number): (&str, u64)| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        assert_eq!(data["sequence_number"], number);
        data
    };
    events.map(parse).collect()
}

#[tokio::test]
async fn a_response_has_every_key_that_a_strict_client_wants() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = respond(&gateway, json!({"metadata": {"a": "b"}})).await.json().await;
    for key in [
        "id",
        "created_at",
        "model",
        "object",
        "output",
        "parallel_tool_calls",
        "tool_choice",
        "tools",
    ] {
        assert_ne!(answer[key], json!(null), "{key}");
    }
    assert_eq!((&answer["status"], &answer["metadata"]), (&json!("completed"), &json!({"a": "b"})));
    assert_eq!(
        answer["output"][0]["content"],
        json!([{"type": "output_text", "text": "t0 t1 t2 ", "annotations": [], "logprobs": []}])
    );
    assert_eq!(
        answer["usage"],
        json!({"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 7},
               "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10})
    );
}

#[tokio::test]
async fn a_stream_tells_the_response_from_its_creation_to_its_end() {
    let flags = ["--part", "text:a", "--part", "text:b"];
    let gateway = home().start_fake(&flags, &[]).await;
    let text = respond(&gateway, json!({"stream": true})).await.text().await;
    let events = parsed(&text);
    let names: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap().strip_prefix("response.").unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed"
        ]
    );
    let last = &events[9]["response"];
    assert_eq!(last["output"][0]["content"][0]["text"], "ab");
    assert_eq!(last["id"], events[0]["response"]["id"]);
    assert_eq!(last["output"][0], events[8]["item"]);
    let kept = gateway.get(&format!("/v1/responses/{}", last["id"].as_str().unwrap())).await;
    assert_eq!(kept.json().await, *last);
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_incomplete() {
    let gateway = home().start_fake(&["--finish", "length"], &[]).await;
    let answer = respond(&gateway, json!({})).await.json().await;
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"], json!({"reason": "max_output_tokens"}));
    let events = parsed(&respond(&gateway, json!({"stream": true})).await.text().await);
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
}

#[tokio::test]
async fn a_worker_that_dies_in_the_middle_fails_the_response() {
    let flags = ["--part", "text:a", "--part", "text:b", "--at", "token:1=crash"];
    let gateway = home().start_fake(&flags, &[]).await;
    let events = parsed(&respond(&gateway, json!({"stream": true})).await.text().await);
    let [.., error, failed] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("worker_exited")));
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["output"][0]["content"][0]["text"], "a");
}

#[tokio::test]
async fn a_response_continues_the_one_before_it() {
    let gateway = home().start_fake(&["--part", "call:f"], &[]).await;
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let first =
        respond(&gateway, json!({"tools": tools, "instructions": "old"})).await.json().await;
    let call = &first["output"][0];
    assert_eq!(
        (&call["type"], &call["name"], &call["arguments"]),
        (&json!("function_call"), &json!("f"), &json!("{}"))
    );
    let mut worker = gateway.stage.next_worker().await;
    worker.next_work().await;
    let id = first["id"].as_str().unwrap();
    let input =
        json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "42"}]);
    let extra = json!({"input": input, "previous_response_id": id, "instructions": "new"});
    let second = respond(&gateway, extra).await;
    assert_eq!(second.status, StatusCode::OK);
    let work = worker.next_work().await.replace("\\\"", "\"");
    let call_id = call["call_id"].as_str().unwrap();
    let messages = json!([
        {"role": "system", "content": "new"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": call_id, "type": "function",
            "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "42", "tool_call_id": call_id, "name": "f"},
    ]);
    assert!(work.contains(&messages.to_string()), "{work}");
    let lost = respond(&gateway, json!({"previous_response_id": "resp_none"})).await;
    assert_eq!(lost.status, StatusCode::BAD_REQUEST);
    assert_eq!(lost.json().await["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn a_response_is_kept_until_it_is_deleted_unless_it_is_not_stored() {
    let gateway = home().start_fake(&[], &[]).await;
    let input = json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]);
    let answer = respond(&gateway, json!({"input": input})).await.json().await;
    let path = format!("/v1/responses/{}", answer["id"].as_str().unwrap());
    assert_eq!(gateway.get(&path).await.json().await, answer);
    let list = gateway.get(&format!("{path}/input_items?order=asc&limit=1")).await.json().await;
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!(list["data"][0]["content"], json!([{"type": "input_text", "text": "a"}]));
    let after = list["last_id"].as_str().unwrap();
    let rest =
        gateway.get(&format!("{path}/input_items?order=asc&after={after}")).await.json().await;
    assert_eq!(
        (&rest["data"][0]["content"][0]["text"], &rest["has_more"]),
        (&json!("b"), &json!(false))
    );
    let cancelled =
        http::send(gateway.address, Method::POST, &format!("{path}/cancel"), &[], "").await;
    assert_eq!(cancelled.json().await["status"], "completed");
    let deleted = http::send(gateway.address, Method::DELETE, &path, &[], "").await;
    assert_eq!(deleted.json().await["deleted"], true);
    let gone = gateway.get(&path).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    let unstored = respond(&gateway, json!({"store": false})).await.json().await;
    let path = format!("/v1/responses/{}", unstored["id"].as_str().unwrap());
    assert_eq!(gateway.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_response_that_is_there_is_told_again_as_its_events() {
    let flags = ["--part", "reasoning:hm", "--part", "text:a", "--part", "text:b"];
    let gateway = home().start_fake(&flags, &[]).await;
    let answer = respond(&gateway, json!({"top_logprobs": 1})).await.json().await;
    let path = format!("/v1/responses/{}", answer["id"].as_str().unwrap());
    let text = gateway.get(&format!("{path}?stream=true")).await.text().await;
    let events = parsed(&text);
    assert_eq!(events[0]["response"]["status"], "in_progress");
    let deltas: Vec<&Value> = events.iter().filter_map(|event| event.get("delta")).collect();
    assert_eq!(deltas, ["hm", "ab"]);
    let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
    let items: Vec<&Value> = done.map(|event| &event["item"]).collect();
    assert_eq!(json!(items), answer["output"]);
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]), (&json!("response.completed"), &answer));
    let after = events.len() - 2;
    let rest = gateway.get(&format!("{path}?stream=true&starting_after={after}")).await;
    let rest = rest.text().await;
    assert!(text.ends_with(&rest) && rest.starts_with("event: response.completed\n"), "{rest}");
    let none = gateway.get(&format!("{path}?stream=true&starting_after=99")).await;
    assert_eq!(none.text().await, "");
    for wrong in ["stream=yes", "stream=true&starting_after=-1"] {
        let refused = gateway.get(&format!("{path}?{wrong}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
        let param = wrong.rsplit_once('=').unwrap().0.rsplit('&').next().unwrap();
        assert_eq!(refused.json().await["error"]["param"], param);
    }
}

#[tokio::test]
async fn the_tokens_of_an_input_are_counted_without_an_answer() {
    let gateway = home().start_fake(&[], &[]).await;
    let body = json!({"model": "m", "input": "hi"});
    let answer = gateway.post("/v1/responses/input_tokens", &body).await.json().await;
    assert_eq!(answer["object"], "response.input_tokens");
    // The fake worker has a token for each byte of the messages, and one to begin with.
    let bytes = r#"[{"role":"user","content":"hi"}]"#.len();
    assert_eq!(answer["input_tokens"], bytes + 1);
}

#[tokio::test]
async fn everything_that_is_served_is_described() {
    let gateway = home().start_fake(&[], &[]).await;
    let document = gateway.get("/openapi.json").await.json().await;
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/responses"]["post"]["responses"]["200"].is_object());
}
