//! Workers that the system ends by a signal: what that mostly means is told, with what to do.

use std::path::{Path, PathBuf};

use hearth_tests::gateway::Home;
use hearth_tests::patiently;
use hyper::StatusCode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::home;

const SIGBUS: &str = "signal 7, SIGBUS: a file that it had open was cut short or can't be read; \
                      bring the model's files anew, and put new ones in the place of old ones by \
                      moving them there, not by writing over them";
const SIGILL: &str = "signal 4, SIGILL: it used an instruction that this processor does not have; \
                      was ONNX Runtime, or Hearth itself, made for another machine? run \
                      `scripts/setup` on this one";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

#[tokio::test]
async fn a_signal_that_ends_a_worker_is_told_with_what_it_means_and_what_to_do() {
    for (action, meaning) in [("bus", SIGBUS), ("ill", SIGILL)] {
        let step = format!("token:0={action}");
        let home = home().before_workers("ulimit -c 0");
        let gateway = home.start_fake(&["--at", &step], &[]).await;
        let answer = gateway.chat("m", json!({})).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{action}");
        assert_eq!(answer.json().await["error"]["code"], "worker_exited", "{action}");
        let failed = gateway.get("/api/ps").await.json().await["failed"][0].clone();
        let why = format!("the worker ended unexpectedly ({meaning})");
        assert_eq!(failed["last_error"], why, "{action}");
        let next = gateway.chat("m", json!({})).await;
        assert_eq!(next.status, StatusCode::SERVICE_UNAVAILABLE, "{action}");
        let message = next.json().await["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&why), "{action}: {message}");
        let exits = "hearth_worker_exits_total{model=\"m\",reason=\"crashed\"}";
        assert_eq!(gateway.metric(exits).await, Some(2.0), "{action}: once more, unseen");
    }
}

#[tokio::test]
async fn a_signal_that_ends_a_load_is_told_to_who_waits_for_it() {
    for (action, meaning) in [("bus", SIGBUS), ("ill", SIGILL)] {
        let step = format!("load={action}");
        let home = home().before_workers("ulimit -c 0");
        let gateway = home.start_fake(&["--at", &step], &[]).await;
        let answer = gateway.chat("m", json!({})).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{action}");
        assert_eq!(
            answer.json().await["error"]["message"],
            format!("m: the worker ended while it loaded the model ({meaning})")
        );
    }
}

/// ONNX Runtime computes with the weights where they lie in the file.
#[tokio::test]
async fn weights_cut_short_under_a_real_worker_end_it_alone_and_the_next_one_says_what_is_missing()
{
    let home = Home::new(hearth_tests::programs!())
        .with_linked_model("other", &fixture("tiny-qwen3-genai-fp32"));
    let model = home.path().join("models/tiny");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(fixture("tiny-llama-genai-fp32")).unwrap().flatten() {
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let gateway = home.start_real(&[("HEARTH_SLOTS", "1")]).await;
    let stays = json!({"max_tokens": 2, "keep_alive": -1});
    for model in ["other", "tiny"] {
        assert_eq!(gateway.chat(model, stays.clone()).await.status, StatusCode::OK, "{model}");
    }
    let entry = async |name: &str| {
        let models = gateway.ps().await;
        models.into_iter().find(|model| model["name"] == name).unwrap_or_default()
    };
    let other = entry("other:latest").await["pid"].clone();
    let pid = entry("tiny:latest").await["pid"].as_i64().unwrap();
    let worker = Pid::from_raw(i32::try_from(pid).unwrap());
    // It gets the request, and goes on only when the file is short.
    kill(worker, Signal::SIGSTOP).unwrap();
    let cutting = async {
        patiently("the worker to have the request", async {
            while entry("tiny:latest").await["in_flight"] != 1 {}
        })
        .await;
        let weights = std::fs::File::options().write(true).open(model.join("model.onnx.data"));
        weights.unwrap().set_len(0).unwrap();
        kill(worker, Signal::SIGCONT).unwrap();
    };
    let (answer, ()) = tokio::join!(gateway.chat("tiny", json!({"max_tokens": 2})), cutting);
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let error = answer.json().await["error"].clone();
    assert_eq!(error["code"], "model_load_failed");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("it has 0 of the 591104 bytes that the graph needs"), "{message}");
    let exits = "hearth_worker_exits_total{model=\"tiny\",reason=\"crashed\"}";
    assert_eq!(gateway.metric(exits).await, Some(1.0));
    assert_eq!(gateway.chat("other", json!({"max_tokens": 2})).await.status, StatusCode::OK);
    assert_eq!(entry("other:latest").await["pid"], other, "nobody else is concerned");
    gateway.signal(Signal::SIGTERM);
    let (_status, log) = gateway.ended().await;
    assert!(log.contains(SIGBUS), "{log}");
}

/// Its weights are copied out of the file while it loads.
#[tokio::test]
async fn a_gguf_file_cut_short_under_a_real_worker_changes_nothing_for_what_is_loaded() {
    let home = Home::new(hearth_tests::programs!());
    let file = home.path().join("models/tiny.gguf");
    std::fs::copy(fixture("gguf/tiny-llama-f32.gguf"), &file).unwrap();
    let gateway = home.start_real(&[("HEARTH_SLOTS", "1")]).await;
    let body = json!({"max_tokens": 8, "temperature": 0, "keep_alive": -1});
    let text = async |answer: hearth_tests::http::Answer| -> Value {
        answer.json().await["choices"][0]["message"]["content"].clone()
    };
    let before = text(gateway.chat("tiny", body.clone()).await).await;
    let pid = gateway.reaches("idle").await["pid"].as_i64().unwrap();
    let worker = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(worker, Signal::SIGSTOP).unwrap();
    let cutting = async {
        patiently("the worker to have the request", async {
            while gateway.ps().await[0]["in_flight"] != 1 {}
        })
        .await;
        std::fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
        kill(worker, Signal::SIGCONT).unwrap();
    };
    let (answer, ()) = tokio::join!(gateway.chat("tiny", body), cutting);
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(text(answer).await, before);
}
