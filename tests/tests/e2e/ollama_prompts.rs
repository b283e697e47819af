//! What `/api/generate` can be told of its prompt beside the text: what came before, what comes after,
//! how it is written, and how long it may be.

use std::path::Path;

use hearth_tests::gateway::{Gateway, Home};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::home;

async fn generate(gateway: &Gateway, extra: Value) -> (StatusCode, Value) {
    let mut body = json!({"model": "m", "prompt": "hi", "stream": false});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let answer = gateway.post("/api/generate", &body).await;
    (answer.status, answer.json().await)
}

/// With a real worker and a tiny model, greedy.
async fn tiny() -> Gateway {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let home = Home::new(hearth_tests::programs!())
        .with_linked_model("m", &fixtures.join("tiny-llama-genai-fp32"));
    home.start_real(&[("HEARTH_SLOTS", "2")]).await
}

#[tokio::test]
async fn the_context_of_an_answer_goes_before_the_next_prompt() {
    let gateway = home().start_fake(&["--tokens", "2"], &[]).await;
    let (_, first) = generate(&gateway, json!({})).await;
    let context: Vec<u32> = (100..107).chain(200..202).collect();
    assert_eq!(first["context"], json!(context));
    let (_, second) = generate(&gateway, json!({"context": context})).await;
    assert_eq!(second["context"], json!([&context[..], &context[..]].concat()));
    let (_, raw) = generate(&gateway, json!({"raw": true})).await;
    assert_eq!(raw.get("context"), None);
    let streamed = gateway.post("/api/generate", &json!({"model": "m", "prompt": "hi"})).await;
    let text = streamed.text().await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, others) = lines.split_last().unwrap();
    assert_eq!(last["context"], json!(context));
    assert!(others.iter().all(|line| line.get("context").is_none()));
    let (status, error) = generate(&gateway, json!({"context": ["a"]})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["error"], "`context` must be an array of token ids, as an answer has it");
}

#[tokio::test]
async fn a_real_models_context_is_its_prompt_and_answer_and_the_next_goes_on_from_it() {
    let gateway = tiny().await;
    let greedy = json!({"temperature": 0, "num_predict": 6});
    let (_, first) = generate(&gateway, json!({"options": greedy})).await;
    let context = first["context"].as_array().unwrap();
    let counts = [&first["prompt_eval_count"], &first["eval_count"]];
    let tokens: u64 = counts.iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(context.len() as u64, tokens);
    let tokenized = gateway
        .post("/tokenize", &json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}))
        .await
        .json()
        .await;
    let prompt = tokenized["tokens"].as_array().unwrap();
    assert_eq!(&context[..prompt.len()], &prompt[..]);
    let second = json!({"options": greedy, "context": context});
    let (_, second) = generate(&gateway, second).await;
    let longer = second["context"].as_array().unwrap();
    assert_eq!(&longer[..context.len()], &context[..]);
    assert!(second["prompt_eval_count"].as_u64().unwrap() > tokens, "{second}");
    let (status, error) = generate(&gateway, json!({"context": [4_000_000]})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        error["error"].as_str().unwrap().starts_with("`context` names token 4000000"),
        "{error}"
    );
}

#[tokio::test]
async fn num_ctx_limits_the_prompt_and_the_answer_and_cuts_nothing_off() {
    let gateway = tiny().await;
    let (_, whole) = generate(&gateway, json!({"options": {"num_predict": 2}})).await;
    let prompt = whole["prompt_eval_count"].as_u64().unwrap();
    let options = json!({"num_ctx": prompt + 3, "temperature": 0});
    let (_, short) = generate(&gateway, json!({"options": options})).await;
    assert!(short["eval_count"].as_u64().unwrap() <= 3, "{short}");
    let (status, error) = generate(&gateway, json!({"options": {"num_ctx": prompt}})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let message = format!(
        "options.num_ctx: the prompt has {prompt} tokens, but `num_ctx` allows {prompt}, answer included, and nothing \
         is ever cut off; make one longer or the other shorter"
    );
    assert_eq!(error["error"], message);
    let chat = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "options": {"num_ctx": 1},
    });
    assert_eq!(gateway.post("/api/chat", &chat).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_whatever_truncate_and_shift_say() {
    let gateway = tiny().await;
    let long = "river ".repeat(2000);
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": long}]});
    let alone = json!({"model": "m", "prompt": long});
    for (path, body) in [("/api/chat", chat), ("/api/generate", alone)] {
        for says in
            [json!({}), json!({"truncate": false}), json!({"truncate": true, "shift": true})]
        {
            let mut body = body.clone();
            body.as_object_mut().unwrap().extend(says.as_object().unwrap().clone());
            let answer = gateway.post(path, &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {says}");
            let error = answer.json().await["error"].as_str().unwrap().to_owned();
            assert!(error.contains("512"), "{path} {says}: {error}");
        }
    }
}

#[tokio::test]
async fn a_prompt_is_written_with_the_template_of_its_request() {
    let gateway = tiny().await;
    let options = json!({"temperature": 0, "num_predict": 4});
    let raw = json!({"prompt": "Q: hi A:", "raw": true, "options": options});
    let (_, raw) = generate(&gateway, raw).await;
    let template = "Q: {{ messages[-1].content }} A:";
    let (_, written) = generate(&gateway, json!({"template": template, "options": options})).await;
    assert_eq!(written["prompt_eval_count"], raw["prompt_eval_count"]);
    assert_eq!(written["response"], raw["response"]);
    let (status, error) = generate(&gateway, json!({"template": "{% if %}"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error["error"].as_str().unwrap().contains("syntax error"), "{error}");
}

#[tokio::test]
async fn a_middle_is_filled_in_only_by_a_model_that_has_tokens_for_it() {
    let gateway = tiny().await;
    let (status, error) = generate(&gateway, json!({"suffix": "there"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        error["error"],
        "this model can't fill in a middle: its tokenizer has no tokens for it; leave `suffix` out"
    );
}
