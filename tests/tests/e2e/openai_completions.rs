//! Completions: prompts without a template, one or many, text or tokens.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::home;

async fn complete(
    gateway: &hearth_tests::gateway::Gateway,
    extra: Value,
) -> hearth_tests::http::Answer {
    let mut body = json!({"model": "m", "prompt": "say "});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    gateway.post("/v1/completions", &body).await
}

#[tokio::test]
async fn a_prompt_goes_on_whole_and_streamed() {
    let gateway = home().start_fake(&[], &[]).await;
    let whole = complete(&gateway, json!({"echo": true})).await.json().await;
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(
        whole["choices"],
        json!([{"text": "say t0 t1 t2 ", "index": 0, "logprobs": null, "finish_reason": "stop"}])
    );
    assert_eq!(whole["usage"]["total_tokens"], 10);
    let extra = json!({"stream": true, "echo": true, "stream_options": {"include_usage": true}});
    let events = complete(&gateway, extra).await.events().await;
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|c| serde_json::from_str(c).unwrap()).collect();
    let texts: Vec<_> = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(texts, ["say t0 ", "t1 ", "t2 ", ""]);
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[4]["choices"], json!([]));
    assert_eq!(chunks[4]["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn many_prompts_have_their_choices_in_order() {
    let gateway = home().start_fake(&["--tokens", "1"], &[]).await;
    let texts = |choices: &Value| {
        let choices = choices.as_array().unwrap().iter();
        choices.map(|c| c["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let extra = json!({"prompt": ["a", [104, 105]], "n": 2, "echo": true});
    let whole = complete(&gateway, extra.clone()).await.json().await;
    let expected = ["at0 ", "a1:t0 ", "hit0 ", "hi1:t0 "];
    assert_eq!(texts(&whole["choices"]), expected);
    assert_eq!(whole["usage"]["prompt_tokens"], 14);
    assert_eq!(whole["usage"]["completion_tokens"], 4);
    let mut streaming = extra;
    streaming["stream"] = json!(true);
    let mut events = complete(&gateway, streaming).await.events().await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let mut streamed = vec![String::new(); 4];
    for event in events {
        let event: Value = serde_json::from_str(&event).unwrap();
        let choice = &event["choices"][0];
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        streamed[index].push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(streamed, expected);
}

#[tokio::test]
async fn probabilities_stand_beside_their_tokens() {
    let gateway = home().start_fake(&["--tokens", "2"], &[]).await;
    let answer = complete(&gateway, json!({"logprobs": 1, "best_of": 2})).await.json().await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 1);
    assert_eq!(
        answer["choices"][0]["logprobs"],
        json!({"tokens": ["t0 ", "t1 "], "token_logprobs": [-0.0, -1.0],
               "top_logprobs": [{"t0 ": -0.0}, {"t1 ": -1.0}], "text_offset": [0, 3]})
    );
}

#[tokio::test]
async fn an_empty_prompt_and_a_keep_alive_load_the_model() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = complete(&gateway, json!({"prompt": "", "keep_alive": "1m"})).await;
    assert_eq!(answer.json().await["done_reason"], "load");
    gateway.reaches("idle").await;
}

#[tokio::test]
async fn a_suffix_is_refused_by_its_name() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = complete(&gateway, json!({"suffix": "x"})).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json().await["error"]["param"], "suffix");
}
