//! One request from the client's JSON to the worker and back.

use hearth_tests::gateway::chat_body;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::home;

#[tokio::test]
async fn a_stream_has_role_text_finish_usage_and_done_in_this_order() {
    let gateway = home().start_fake(&[], &[]).await;
    let extra = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = gateway.chat("m", extra).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let events = answer.events().await;
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|c| serde_json::from_str(c).unwrap()).collect();
    let deltas: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]["delta"]).collect();
    assert_eq!(*deltas[0], json!({"role": "assistant", "content": ""}));
    let text: String = deltas.iter().filter_map(|d| d["content"].as_str()).collect();
    assert_eq!(text, "t0 t1 t2 ");
    let [.., finish, usage] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(finish["choices"], json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]));
    assert_eq!((&finish["usage"], &usage["choices"]), (&json!(null), &json!([])));
    let counts = ["prompt_tokens", "completion_tokens", "total_tokens"];
    assert_eq!(counts.map(|c| usage["usage"][c].as_u64().unwrap()), [7, 3, 10]);
    let ids: Vec<&str> = chunks.iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && id.starts_with("chatcmpl-")), "{ids:?}");
}

#[tokio::test]
async fn the_counts_so_far_come_with_every_chunk_if_they_are_wanted() {
    let gateway = home().start_fake(&[], &[]).await;
    let options = json!({"continuous_usage_stats": true});
    let body = json!({"model": "m", "stream": true, "stream_options": options});
    // The fake worker has a token for each byte, says so when asked for tokens, and always says 7
    // at the end of an answer.
    let message = json!([{"role": "user", "content": "hi"}]);
    let of_messages = message.to_string().len() as u64 + 1;
    for (path, prompt, counted, said) in [
        ("/v1/chat/completions", json!({"messages": message}), of_messages, [1, 1, 2, 3, 3, 3]),
        ("/v1/completions", json!({"prompt": [[5, 6]]}), 2, [1, 2, 3, 3, 3, 0]),
    ] {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(prompt.as_object().unwrap().clone());
        let events = gateway.post(path, &body).await.events().await;
        let usage = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
        let usage: Vec<Value> = usage.map(|chunk| chunk["usage"].clone()).collect();
        let (last, running) = usage.split_last().unwrap();
        assert_eq!((&last["prompt_tokens"], &last["completion_tokens"]), (&json!(7), &json!(3)));
        for (usage, said) in running.iter().zip(said) {
            assert_eq!(usage["prompt_tokens"], counted, "{path}");
            assert_eq!(usage["completion_tokens"], said, "{path}");
            assert_eq!(usage["total_tokens"], counted + said, "{path}");
        }
        assert!(running.len() >= 4, "{path}: {running:?}");
    }
}

#[tokio::test]
async fn an_answer_in_one_piece_has_the_same_text() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = gateway.chat("m:latest", json!({})).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let body = answer.json().await;
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "m:latest");
    assert_eq!(
        body["choices"][0]["message"],
        json!({"role": "assistant", "content": "t0 t1 t2 ", "refusal": null})
    );
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["total_tokens"], 10);
}

#[tokio::test]
async fn a_client_that_leaves_is_heard_of_by_the_worker() {
    let gateway = home().start_fake(&["--at", "token:1=hold"], &[]).await;
    let mut answer = gateway.chat("m", json!({"stream": true})).await;
    let mut worker = gateway.stage.next_worker().await;
    assert_eq!(answer.delta().await, "t0 ");
    worker.heard("at token:1").await;
    drop(answer);
    worker.heard("cancel 1").await;
    let ps = gateway.reaches("idle").await;
    assert_eq!(ps["in_flight"], 0);
}

#[tokio::test]
async fn a_client_that_leaves_before_any_answer_is_heard_of_too() {
    let gateway = home().start_fake(&["--at", "token:0=hold"], &[]).await;
    let mut worker = {
        let asking = gateway.chat("m", json!({}));
        let started = async {
            let mut worker = gateway.stage.next_worker().await;
            worker.heard("generate 1").await;
            worker
        };
        tokio::select! {
            _answer = asking => panic!("the worker holds"),
            worker = started => worker,
        }
    };
    worker.heard("cancel 1").await;
    gateway.reaches("idle").await;
}

#[tokio::test]
async fn an_unknown_model_is_named_with_what_there_is() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = gateway.chat("nope", json!({})).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(
        answer.json().await["error"],
        json!({"message": "the model 'nope' does not exist; there is m",
               "type": "invalid_request_error", "param": "model", "code": "model_not_found"})
    );
    for name in ["../m", "m/../m", "/etc/passwd", "m\u{0}"] {
        assert_eq!(gateway.chat(name, json!({})).await.status, StatusCode::NOT_FOUND, "{name}");
    }
    assert!(!gateway.stage.has_another().await);
}

#[tokio::test]
async fn the_catalogue_is_listed_in_both_dialects() {
    let gateway = home().with_fake_model("owner/other").start_fake(&[], &[]).await;
    let list = gateway.get("/v1/models").await.json().await;
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["m", "owner/other"]);
    let one = gateway.get("/v1/models/owner/other").await.json().await;
    assert_eq!((&one["id"], &one["owned_by"]), (&json!("owner/other"), &json!("owner")));
    let missing = gateway.get("/v1/models/nope").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let tags = gateway.get("/api/tags").await.json().await;
    let mut names: Vec<_> =
        tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["m:latest", "owner/other:latest"]);
    // A model that is put there while the gateway runs is there for the next request.
    std::fs::create_dir(gateway.home().join("models/new")).unwrap();
    let config = gateway.home().join("models/new/genai_config.json");
    std::fs::write(config, r#"{"model":{"type":"fake"}}"#).unwrap();
    assert_eq!(gateway.get("/v1/models/new").await.status, StatusCode::OK);
    assert_eq!(gateway.chat("new", json!({})).await.status, StatusCode::OK);
}

/// His eight choices are more than the system takes for him and a gateway remembers; the others' one
/// is not, however slowly they read.
#[tokio::test]
async fn one_who_does_not_read_loses_his_own_answer_and_holds_up_nobody() {
    let gateway = home().start_fake(&["--tokens", "4000"], &[]).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut lazy = socket.connect(gateway.address).await.unwrap();
    let body = chat_body("m", json!({"stream": true, "n": 8})).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length:";
    lazy.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    // His answer has begun; the rest of it stays where it is.
    lazy.read_exact(&mut [0; 4]).await.unwrap();
    let mut worker = gateway.stage.next_worker().await;
    let others =
        (0..3).map(|_| async { gateway.chat("m", json!({"stream": true})).await.events().await });
    for events in futures_util::future::join_all(others).await {
        assert_eq!(events.last().unwrap(), "[DONE]");
        assert!(events.len() > 4000, "{}", events.len());
    }
    worker.heard("cancel 1").await;
    assert_eq!(gateway.reaches("idle").await["restarts"], 0);
    drop(lazy);
    hearth_tests::patiently("all of them to be counted", async {
        let outcomes = async |outcome| {
            let labels =
                format!("endpoint=\"/v1/chat/completions\",model=\"m\",outcome={outcome:?}");
            gateway.metric(&format!("hearth_requests_total{{{labels}}}")).await
        };
        while (outcomes("ok").await, outcomes("cancelled").await) != (Some(3.0), Some(1.0)) {}
    })
    .await;
}
