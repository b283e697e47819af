//! The endpoints that do not generate: embeddings, reranking, tokens, in every dialect that has them.

use hearth_tests::gateway::Gateway;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::home;

async fn fine(gateway: &Gateway, path: &str, body: Value) -> Value {
    let answer = gateway.post(path, &body).await;
    let status = answer.status;
    let answer = answer.json().await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

#[tokio::test]
async fn openai_embeddings_come_in_order_however_the_worker_batches_them() {
    let gateway = home().start_fake(&[], &[]).await;
    let body = json!({"model": "m", "input": ["a", "bb cc", "ddd"], "user": "u"});
    let answer = fine(&gateway, "/v1/embeddings", body).await;
    assert_eq!(
        answer,
        json!({
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [1.0, 0.5, 0.25]},
                {"object": "embedding", "index": 1, "embedding": [5.0, 0.5, 0.25]},
                {"object": "embedding", "index": 2, "embedding": [3.0, 0.5, 0.25]},
            ],
            "model": "m",
            "usage": {"prompt_tokens": 10, "total_tokens": 10},
        })
    );
    let body =
        json!({"model": "m", "input": [[7, 8]], "encoding_format": "base64", "dimensions": 1});
    let answer = fine(&gateway, "/v1/embeddings", body).await;
    // 2.0 is 00 00 00 40.
    assert_eq!(answer["data"][0]["embedding"], "AAAAQA==");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    let ended = "hearth_requests_total{endpoint=\"/v1/embeddings\",model=\"m\",outcome=\"ok\"}";
    assert_eq!(gateway.metric(ended).await, Some(2.0));
    assert_eq!(gateway.metric("hearth_prompt_tokens_total{model=\"m\"}").await, Some(12.0));
}

#[tokio::test]
async fn ollama_embeds_one_text_or_many_and_loads_for_none() {
    let gateway = home().start_fake(&[], &[]).await;
    let none = fine(&gateway, "/api/embed", json!({"model": "m", "input": ""})).await;
    assert_eq!(none, json!({"model": "m", "embeddings": []}));
    gateway.reaches("idle").await;
    let body = json!({"model": "m", "input": ["aa", "b"], "dimensions": 2, "keep_alive": "7s"});
    let many = fine(&gateway, "/api/embed", body).await;
    assert_eq!(many["embeddings"], json!([[2.0, 0.5], [1.0, 0.5]]));
    assert_eq!((&many["model"], &many["prompt_eval_count"]), (&json!("m"), &json!(6)));
    let (total, load) = (many["total_duration"].as_u64(), many["load_duration"].as_u64());
    assert!(total.unwrap() >= load.unwrap(), "{many}");
    assert_eq!(gateway.reaches("idle").await["keep_alive"], 7.0);
    let old = fine(&gateway, "/api/embeddings", json!({"model": "m", "prompt": "aaaa"})).await;
    assert_eq!(old, json!({"embedding": [4.0, 0.5, 0.25]}));
    let body = json!({"model": "m", "prompt": "", "keep_alive": 0});
    assert_eq!(fine(&gateway, "/api/embeddings", body).await, json!({"embedding": []}));
    gateway.is_empty().await;
}

#[tokio::test]
async fn reranking_speaks_both_shapes() {
    let gateway = home().start_fake(&[], &[]).await;
    let documents = json!(["ccc", {"text": "a"}, "bb"]);
    let body = json!({"model": "m", "query": "q", "documents": documents, "top_n": 2});
    let answer = fine(&gateway, "/v1/rerank", body).await;
    let results = answer["results"].as_array().unwrap();
    let indices: Vec<_> = results.iter().map(|result| &result["index"]).collect();
    assert_eq!(indices, [&json!(0), &json!(2)]);
    assert_eq!(results[0]["document"], json!({"text": "ccc"}));
    // The fake logits are 2 and 1.
    let score = results[0]["relevance_score"].as_f64().unwrap();
    assert!((score - 0.880_797).abs() < 1e-6, "{score}");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    assert_eq!(answer["model"], "m");
    // Clients of text-embeddings-inference name no model.
    let body = json!({"query": "q", "texts": ["a", "bb"], "raw_scores": true, "return_text": true});
    let answer = fine(&gateway, "/rerank", body).await;
    assert_eq!(
        answer,
        json!([
            {"index": 1, "score": 1.0, "text": "bb"},
            {"index": 0, "score": 0.0, "text": "a"},
        ])
    );
}

#[tokio::test]
async fn tokens_are_told_as_llama_cpp_and_as_vllm_tell_them() {
    let gateway = home().start_fake(&[], &[]).await;
    let tokens = async |body| fine(&gateway, "/tokenize", body).await;
    let plain = tokens(json!({"content": "ab"})).await;
    assert_eq!((&plain["tokens"], &plain["count"]), (&json!([97, 98]), &json!(2)));
    let pieces = tokens(json!({"content": "a", "with_pieces": true, "add_special": true})).await;
    assert_eq!(pieces["tokens"], json!([{"id": 1, "piece": "<s>"}, {"id": 97, "piece": "a"}]));
    let vllm = tokens(json!({"model": "m", "prompt": "a", "return_token_strs": true})).await;
    assert_eq!(
        vllm,
        json!({"count": 2, "max_model_len": 512, "tokens": [1, 97], "token_strs": ["<s>", "a"]})
    );
    let back = fine(&gateway, "/detokenize", json!({"tokens": [104, 105]})).await;
    assert_eq!(back, json!({"content": "hi", "prompt": "hi"}));
    let other = home().with_fake_model("n").start_fake(&[], &[]).await;
    let answer = other.post("/tokenize", &json!({"content": "ab"})).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json().await["error"]["param"], "model");
}

#[tokio::test]
async fn a_worker_lost_between_two_batches_is_made_good_unseen_and_only_once() {
    let once = home();
    let flag = once.path().join("crashed");
    let flags = ["--at", "token:1=crash", "--once", flag.to_str().unwrap()];
    let gateway = once.start_fake(&flags, &[]).await;
    let body = json!({"model": "m", "input": ["a", "bb", "ccc"]});
    let answer = fine(&gateway, "/v1/embeddings", body.clone()).await;
    assert_eq!(answer["data"][2]["embedding"][0], 3.0);
    assert_eq!(answer["data"].as_array().unwrap().len(), 3);
    let gateway = home().start_fake(&["--at", "token:1=crash"], &[]).await;
    let answer = gateway.post("/v1/embeddings", &body).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json().await["error"]["code"], "worker_exited");
    let spawns = async |reason| gateway.spawns("m", reason).await;
    assert_eq!((spawns("request").await, spawns("restart").await), (Some(1.0), Some(1.0)));
}

#[tokio::test]
async fn what_a_model_can_not_do_is_a_400_in_the_dialect_that_was_spoken() {
    let gateway = home().start_fake(&[], &[]).await;
    let body = json!({"model": "m", "input": "a", "dimensions": 3});
    let answer = gateway.post("/v1/embeddings", &body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json().await["error"]["code"], "unsupported");
    let answer = gateway.post("/api/embed", &body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json().await, json!({"error": "this model has no shorter vectors"}));
}
