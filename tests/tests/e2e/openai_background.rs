//! Responses that are made in the background: asked for, listened to, given up, forgotten.

use hearth_tests::gateway::Gateway;
use hearth_tests::http::{self, Answer};
use hearth_tests::patiently;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;
use crate::openai_responses::{parsed, respond};

/// Two tokens, and none but the first until the test says so.
const HELD: [&str; 6] = ["--part", "text:a", "--part", "text:b", "--at", "token:1=hold"];

/// Every event of such a response.
const EVENTS: [&str; 11] = [
    "created",
    "queued",
    "in_progress",
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
    "completed",
];

/// Begins one; gives its path.
async fn begin(gateway: &Gateway) -> String {
    let answer = respond(gateway, json!({"background": true})).await.json().await;
    assert_eq!((&answer["status"], &answer["background"]), (&json!("queued"), &json!(true)));
    assert_eq!(answer["output"], json!([]));
    format!("/v1/responses/{}", answer["id"].as_str().unwrap())
}

/// Asks for it until it has this status.
async fn reaches(gateway: &Gateway, path: &str, status: &str) -> Value {
    patiently(&format!("a response to be {status}"), async {
        loop {
            let answer = gateway.get(path).await.json().await;
            if answer["status"] == status {
                return answer;
            }
        }
    })
    .await
}

async fn cancel(gateway: &Gateway, path: &str) -> Answer {
    http::send(gateway.address, Method::POST, &format!("{path}/cancel"), &[], "").await
}

fn names(events: &[Value]) -> Vec<&str> {
    let names = events.iter().map(|event| event["type"].as_str().unwrap());
    names.map(|name| name.strip_prefix("response.").unwrap_or(name)).collect()
}

#[tokio::test]
async fn a_response_in_the_background_is_asked_for_until_it_is_over() {
    let gateway = home().start_fake(&HELD, &[]).await;
    let path = begin(&gateway).await;
    let begun = reaches(&gateway, &path, "in_progress").await;
    assert_eq!((&begun["output"], &begun["usage"]), (&json!([]), &json!(null)));
    let id = path.rsplit('/').next().unwrap();
    let early = respond(&gateway, json!({"previous_response_id": id})).await;
    assert_eq!(early.status, StatusCode::BAD_REQUEST);
    assert_eq!(early.json().await["error"]["param"], "previous_response_id");
    gateway.stage.next_worker().await.go().await;
    let over = reaches(&gateway, &path, "completed").await;
    assert_eq!(over["output"][0]["content"][0]["text"], "ab");
    assert_eq!(over["usage"]["output_tokens"], 2);
    let text = gateway.get(&format!("{path}?stream=true")).await.text().await;
    let events = parsed(&text);
    assert_eq!(names(&events), EVENTS);
    assert_eq!(events[10]["response"], over);
    let rest = gateway.get(&format!("{path}?stream=true&starting_after=8")).await.text().await;
    assert!(text.ends_with(&rest), "{rest}");
    assert!(rest.starts_with("event: response.output_item.done\n"), "{rest}");
    // Whoever continues it does so as any other.
    let next = respond(&gateway, json!({"previous_response_id": id, "background": true})).await;
    assert_eq!(next.status, StatusCode::OK);
}

#[tokio::test]
async fn a_response_in_the_background_goes_on_when_its_client_leaves() {
    let gateway = home().start_fake(&HELD, &[]).await;
    let mut left = respond(&gateway, json!({"background": true, "stream": true})).await;
    assert_eq!(left.headers["content-type"], "text/event-stream");
    let created = left.part().await;
    let created = created.split_once("data: ").unwrap().1.split_once('\n').unwrap().0;
    let created: Value = serde_json::from_str(created).unwrap();
    let path = format!("/v1/responses/{}", created["response"]["id"].as_str().unwrap());
    let mut worker = gateway.stage.next_worker().await;
    worker.heard("at token:1").await;
    drop(left);
    reaches(&gateway, &path, "in_progress").await;
    let others = gateway.get(&format!("{path}?stream=true&starting_after=1")).await;
    worker.go().await;
    let text = others.text().await;
    assert!(text.starts_with("event: response.in_progress\n"), "{text}");
    let last = text.split_terminator("\n\n").last().unwrap();
    assert!(last.starts_with("event: response.completed\n"), "{last}");
    let over = reaches(&gateway, &path, "completed").await;
    assert_eq!(over["output"][0]["content"][0]["text"], "ab");
}

#[tokio::test]
async fn a_response_in_the_background_can_be_given_up() {
    let gateway = home().start_fake(&HELD, &[]).await;
    let path = begin(&gateway).await;
    let mut worker = gateway.stage.next_worker().await;
    worker.heard("at token:1").await;
    reaches(&gateway, &path, "in_progress").await;
    let events = gateway.get(&format!("{path}?stream=true")).await;
    let cancelled = cancel(&gateway, &path).await.json().await;
    assert_eq!(cancelled["status"], "cancelled");
    worker.heard("cancel 1").await;
    assert_eq!(gateway.get(&path).await.json().await, cancelled);
    assert_eq!(cancel(&gateway, &path).await.json().await, cancelled);
    let events = parsed(&events.text().await);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"], cancelled);
    assert_eq!(gateway.reaches("idle").await["in_flight"], 0);
}

#[tokio::test]
async fn a_response_that_nobody_can_ask_for_any_more_is_given_up() {
    let gateway = home().start_fake(&HELD, &[]).await;
    let path = begin(&gateway).await;
    let mut worker = gateway.stage.next_worker().await;
    worker.heard("at token:1").await;
    let deleted = http::send(gateway.address, Method::DELETE, &path, &[], "").await;
    assert_eq!(deleted.json().await["deleted"], true);
    worker.heard("cancel 1").await;
    assert_eq!(gateway.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_response_that_fails_in_the_background_says_why() {
    let gateway = home().start_fake(&["--refuse", "overflow"], &[]).await;
    let path = begin(&gateway).await;
    let failed = reaches(&gateway, &path, "failed").await;
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the prompt has 600 tokens"), "{message}");
    let events = parsed(&gateway.get(&format!("{path}?stream=true")).await.text().await);
    assert_eq!(names(&events), ["created", "queued", "error", "failed"]);
    assert_eq!(events[2]["code"], "context_length_exceeded");
    assert_eq!(events[3]["response"], failed);
    let unknown = respond(&gateway, json!({"background": true, "model": "none"})).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_so_many_responses_are_made_in_the_background() {
    let gateway = home().start_fake(&HELD, &[]).await;
    let mut paths = Vec::new();
    for _ in 0..64 {
        paths.push(begin(&gateway).await);
    }
    let refused = respond(&gateway, json!({"background": true})).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.json().await["error"]["code"], "background_full");
    assert_eq!(cancel(&gateway, &paths[63]).await.json().await["status"], "cancelled");
    begin(&gateway).await;
}

#[tokio::test]
async fn a_response_in_the_background_is_one_of_its_keys_requests() {
    let key = "[[keys]]\nname = 'bob'\nkey = 'b0b'\nmax_requests = 1\n";
    let gateway = home().with_config(key).start_fake(&HELD, &[]).await;
    let headers = [("x-api-key", "b0b"), ("content-type", "application/json")];
    let send = async |body: Value| {
        let path = "/v1/responses";
        http::send(gateway.address, Method::POST, path, &headers, body.to_string()).await
    };
    let background = json!({"model": "m", "input": "hi", "background": true});
    let first = send(background.clone()).await.json().await;
    assert_eq!(first["status"], "queued");
    let second = send(background).await;
    assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.json().await["error"]["code"], "too_many_requests");
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    patiently("the worker to hold it", async {
        let get = async || http::send(gateway.address, Method::GET, &path, &headers, "").await;
        while get().await.json().await["status"] != "in_progress" {}
    })
    .await;
    gateway.stage.next_worker().await.go().await;
    patiently("the key to have a place again", async {
        let plain = json!({"model": "none", "input": "hi"});
        while send(plain.clone()).await.status == StatusCode::TOO_MANY_REQUESTS {}
    })
    .await;
}
