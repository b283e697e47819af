//! Workers that crash, hang, lie or can't load, and what a client sees of it.

use futures_util::future::join_all;
use hearth_tests::gateway::Gateway;
use hearth_tests::patiently;
use hyper::StatusCode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::home;

/// A gateway whose first worker does this, and whose others behave.
async fn once(flags: &[&str], variables: &[(&str, &str)]) -> Gateway {
    let home = home();
    let marker = home.path().join("once").to_string_lossy().into_owned();
    let mut all = vec!["--once", marker.as_str()];
    all.extend(flags);
    home.start_fake(&all, variables).await
}

async fn succeeds(gateway: &Gateway) {
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json().await["choices"][0]["message"]["content"], "t0 t1 t2 ");
}

async fn exits(gateway: &Gateway, reason: &str) -> Option<f64> {
    let series = format!("hearth_worker_exits_total{{model=\"m\",reason=\"{reason}\"}}");
    gateway.metric(&series).await
}

#[tokio::test]
async fn a_crash_before_the_first_byte_is_made_good_unseen() {
    let gateway = once(&["--at", "token:0=crash"], &[]).await;
    succeeds(&gateway).await;
    gateway.stage.next_worker().await.gone().await;
    gateway.stage.next_worker().await;
    let ps = gateway.reaches("idle").await;
    assert_eq!(ps["restarts"], 1);
    assert_eq!(ps["last_error"], "the worker ended unexpectedly (exit code 101)");
    assert_eq!(exits(&gateway, "crashed").await, Some(1.0));
}

#[tokio::test]
async fn a_second_crash_is_told() {
    let gateway = home().start_fake(&["--at", "token:0=crash"], &[]).await;
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json().await["error"]["code"], "worker_exited");
    // Two failures in a row: the next try waits a second.
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.json().await["error"]["code"], "model_backing_off");
}

#[tokio::test]
async fn a_crash_in_the_middle_ends_the_stream_with_an_error_and_no_done() {
    let gateway = once(&["--at", "token:2=crash"], &[]).await;
    let events = gateway.chat("m", json!({"stream": true})).await.events().await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "worker_exited");
    assert_eq!(last["error"]["type"], "server_error");
    assert!(!events.iter().any(|event| event == "[DONE]"), "{events:?}");
    let text: String = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|event| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    assert_eq!(text, "t0 t1 ");
    succeeds(&gateway).await;
}

#[tokio::test]
async fn a_crash_of_an_idle_worker_is_noticed_at_once() {
    let gateway = home().start_fake(&[], &[]).await;
    succeeds(&gateway).await;
    let worker = gateway.stage.next_worker().await;
    kill(Pid::from_raw(worker.pid.cast_signed()), Signal::SIGKILL).unwrap();
    gateway.is_empty().await;
    let answer = gateway.get("/api/ps").await.json().await;
    let error = answer["failed"][0]["last_error"].as_str().unwrap();
    assert!(error.contains("signal 9"), "{error}");
    succeeds(&gateway).await;
}

#[tokio::test]
async fn what_a_worker_says_is_in_the_gateways_log_escaped_and_a_flood_of_it_is_counted() {
    let flood = "i=0; while [ $i -lt 300 ]; do echo flood >&2; i=$((i+1)); done";
    let script = format!("printf 'a line\\033[31m of its own\\n' >&2; {flood}");
    let gateway = home().before_workers(&script).start_fake(&[], &[]).await;
    succeeds(&gateway).await;
    gateway.signal(Signal::SIGTERM);
    let (_status, log) = gateway.ended().await;
    assert!(log.contains("a line\\u{1b}[31m of its own worker=\"m#1\""), "{log}");
    let floods = log.matches("flood").count();
    assert!((1..300).contains(&floods), "{floods} of 300");
}

#[tokio::test]
async fn a_crash_while_loading_fails_everybody_who_waited() {
    for point in ["handshake=crash", "load=crash"] {
        let gateway = once(&["--at", point], &[]).await;
        let answer = gateway.chat("m", json!({})).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{point}");
        let error = answer.json().await["error"].clone();
        assert_eq!(error["code"], "model_load_failed", "{point}");
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with("while it loaded the model (exit code 101)"), "{message}");
        succeeds(&gateway).await;
    }
}

#[tokio::test]
async fn everybody_who_waits_for_a_load_that_crashes_is_told_and_the_exit_is_there_to_be_seen() {
    let flags = ["--at", "handshake=hold", "--at", "load=crash"];
    let gateway = once(&flags, &[]).await;
    let asking = join_all((0..20).map(|_| async {
        let answer = gateway.chat("m", json!({})).await;
        (answer.status, answer.json().await["error"]["code"].clone())
    }));
    let loading = async {
        let mut worker = gateway.stage.next_worker().await;
        worker.heard("at handshake").await;
        let all_wait = async { while gateway.ps().await[0]["queued"] != 20 {} };
        patiently("all of them to wait", all_wait).await;
        worker.go().await;
        worker.gone().await;
    };
    let (answers, ()) = tokio::join!(asking, loading);
    let told = (StatusCode::BAD_GATEWAY, json!("model_load_failed"));
    assert_eq!(answers, vec![told; 20]);
    let failed = gateway.get("/api/ps").await.json().await["failed"][0].clone();
    let why = "the worker ended while it loaded the model (exit code 101)";
    assert_eq!((&failed["name"], &failed["last_error"]), (&json!("m:latest"), &json!(why)));
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
}

#[tokio::test]
async fn a_load_error_that_repeats_is_tried_once_until_the_files_change() {
    let gateway = once(&["--at", "load=fail-for-good"], &[]).await;
    for _ in 0..2 {
        let answer = gateway.chat("m", json!({})).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert_eq!(answer.headers["x-should-retry"], "false");
        assert_eq!(
            answer.json().await["error"]["message"],
            "m: the model can't be loaded: the fake model is broken, as told"
        );
    }
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
    std::fs::write(gateway.home().join("models/m/repaired"), "").unwrap();
    patiently("the change to be seen", async {
        while gateway.chat("m", json!({})).await.status != StatusCode::OK {}
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_is_killed() {
    for (action, what) in [
        ("garbage", "is no message"),
        ("oversize", "was announced"),
        ("wrong-id", "which it was never given"),
    ] {
        let step = format!("token:0={action}");
        let gateway = once(&["--at", &step], &[]).await;
        succeeds(&gateway).await;
        gateway.stage.next_worker().await.gone().await;
        let error = gateway.reaches("idle").await["last_error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("the worker broke the protocol"), "{action}: {error}");
        assert!(error.contains(what), "{action}: {error}");
        assert_eq!(exits(&gateway, "protocol").await, Some(1.0), "{action}");
    }
}

#[tokio::test]
async fn a_request_that_meets_a_worker_without_a_link_is_served_by_the_next_one() {
    let gateway = once(&["--at", "token:1=hang-up"], &[]).await;
    let mut first = gateway.chat("m", json!({"stream": true})).await;
    assert_eq!(first.delta().await, "t0 ");
    let mut worker = gateway.stage.next_worker().await;
    worker.heard("at token:1").await;
    let ending = async {
        patiently("the second request to have its lease", async {
            while gateway.ps().await[0]["in_flight"] != 2 {}
        })
        .await;
        worker.go().await;
        worker.gone().await;
    };
    let (second, _lines) = tokio::join!(gateway.chat("m", json!({})), ending);
    assert_eq!(second.status, StatusCode::OK);
    let events = first.events().await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "worker_exited");
}

#[tokio::test]
async fn a_runtime_that_is_missing_is_looked_for_again() {
    let gateway = once(&["--at", "load=no-runtime"], &[]).await;
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers.get("x-should-retry"), None);
    succeeds(&gateway).await;
}

#[tokio::test]
async fn a_worker_that_can_not_prove_itself_is_turned_away() {
    for (flag, what) in [
        ("--wrong-version", "it speaks protocol version 4, this gateway 3"),
        ("--wrong-token", "it can't prove that it was spawned by this gateway"),
    ] {
        let gateway = once(&[flag], &[]).await;
        let answer = gateway.chat("m", json!({})).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{flag}");
        let message = answer.json().await["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(what), "{flag}: {message}");
        gateway.stage.next_worker().await.gone().await;
        succeeds(&gateway).await;
    }
}

#[tokio::test]
async fn a_worker_that_hangs_is_killed_and_its_request_made_good() {
    let gateway = once(&["--at", "token:0=hang"], &[("HEARTH_HANG_TIMEOUT", "500ms")]).await;
    succeeds(&gateway).await;
    gateway.stage.next_worker().await.gone().await;
    assert_eq!(exits(&gateway, "hung").await, Some(1.0));
}

/// It answers nobody, not even the system's polite signals; its socket is open all the same.
#[tokio::test]
async fn a_worker_that_the_system_has_stopped_is_killed_and_its_stream_told() {
    let variables = [("HEARTH_HANG_TIMEOUT", "500ms")];
    let gateway = once(&["--at", "token:1=hold"], &variables).await;
    let mut stream = gateway.chat("m", json!({"stream": true})).await;
    assert_eq!(stream.delta().await, "t0 ");
    let worker = gateway.stage.next_worker().await;
    kill(Pid::from_raw(worker.pid.cast_signed()), Signal::SIGSTOP).unwrap();
    let events = stream.events().await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "worker_exited");
    worker.gone().await;
    gateway.is_empty().await;
    let failed = gateway.get("/api/ps").await.json().await["failed"][0].clone();
    assert_eq!(failed["last_error"], "the worker made no progress for 500ms and was killed");
    assert_eq!(exits(&gateway, "hung").await, Some(1.0));
    succeeds(&gateway).await;
}

#[tokio::test]
async fn a_load_that_stalls_is_killed() {
    let gateway = once(&["--at", "load=hang"], &[("HEARTH_LOAD_TIMEOUT", "500ms")]).await;
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    gateway.stage.next_worker().await.gone().await;
    // The next worker starts only when the gateway has reaped this one.
    succeeds(&gateway).await;
    assert_eq!(exits(&gateway, "load_stalled").await, Some(1.0));
}

#[tokio::test]
async fn a_worker_that_ignores_term_is_killed_after_the_grace_period() {
    let variables = [("HEARTH_GRACE_PERIOD", "300ms")];
    let gateway = home().start_fake(&["--ignore-term", "--fork"], &variables).await;
    succeeds(&gateway).await;
    let mut worker = gateway.stage.next_worker().await;
    gateway.post("/api/generate", &json!({"model": "m", "keep_alive": 0})).await.text().await;
    worker.heard("shutdown").await;
    let pid = worker.pid;
    // What it forked goes with it.
    worker.gone().await;
    gateway.is_empty().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it was reaped");
}

#[tokio::test]
async fn a_worker_program_that_is_missing_is_named_with_what_to_do() {
    let home = home();
    let gateway = home.start_fake(&[], &[("HEARTH_WORKER", "/no/such/worker")]).await;
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let message = answer.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("/no/such/worker does not exist; run `scripts/setup`"), "{message}");
}
