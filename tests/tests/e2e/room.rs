//! Room between models, with real processes.

use hearth_tests::gateway::Gateway;
use hearth_tests::patiently;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::home;

#[tokio::test]
async fn the_longest_unused_model_makes_room() {
    let home = home().with_fake_model("n");
    let gateway = home.start_fake(&[], &[("HEARTH_MAX_MODELS", "1")]).await;
    gateway.chat("m", json!({"keep_alive": -1})).await.text().await;
    let first = gateway.stage.next_worker().await;
    let answer = gateway.chat("n", json!({})).await;
    assert_eq!(answer.status, StatusCode::OK);
    first.gone().await;
    assert_eq!(gateway.reaches("idle").await["name"], "n:latest");
    let evictions = "hearth_evictions_total{model=\"m\",cause=\"max_models\"}";
    assert_eq!(gateway.metric(evictions).await, Some(1.0));
}

#[tokio::test]
async fn a_request_that_waits_for_room_is_shown_and_served_when_there_is_some() {
    let home = home().with_fake_model("n");
    let flags = ["--at", "token:1=hold"];
    let gateway = home.start_fake(&flags, &[("HEARTH_MAX_MODELS", "1")]).await;
    let mut busy = gateway.chat("m", json!({"stream": true})).await;
    busy.delta().await;
    let mut first = gateway.stage.next_worker().await;
    let finish = async {
        patiently("it to wait", async {
            let waits = json!([{"name": "n:latest", "queued": 1}]);
            while gateway.get("/api/ps").await.json().await["waiting"] != waits {}
        })
        .await;
        let state = "hearth_worker_state{model=\"n\",state=\"waiting\"}";
        assert_eq!(gateway.metric(state).await, Some(1.0));
        assert_eq!(gateway.metric("hearth_requests_queued").await, Some(1.0));
        first.go().await;
        busy.events().await;
        first.gone().await;
        let mut second = gateway.stage.next_worker().await;
        second.heard("at token:1").await;
        second.go().await;
    };
    let (answer, ()) = tokio::join!(gateway.chat("n", json!({})), finish);
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn loads_run_side_by_side_and_a_loaded_model_serves_meanwhile() {
    let home = home().with_fake_model("n").with_fake_model("o");
    let gateway = home.start_fake(&["--at", "load=hold"], &[]).await;
    let asking = gateway.chat("m", json!({}));
    let load = async {
        let mut worker = gateway.stage.next_worker().await;
        worker.heard("at load").await;
        worker.go().await;
    };
    assert_eq!(tokio::join!(asking, load).0.status, StatusCode::OK);
    let others = async { tokio::join!(gateway.chat("n", json!({})), gateway.chat("o", json!({}))) };
    let meanwhile = async {
        let mut loading = [gateway.stage.next_worker().await, gateway.stage.next_worker().await];
        for worker in &mut loading {
            worker.heard("at load").await;
        }
        // Both are at it, and will be until they are let go.
        for _ in 0..10 {
            assert_eq!(gateway.chat("m", json!({})).await.status, StatusCode::OK);
        }
        let states: Vec<_> = gateway.ps().await.iter().map(|m| m["state"].clone()).collect();
        assert_eq!(states.iter().filter(|state| **state == "starting").count(), 2, "{states:?}");
        for worker in &mut loading {
            worker.go().await;
        }
        loading
    };
    let ((one, other), _workers) = tokio::join!(others, meanwhile);
    assert_eq!((one.status, other.status), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test]
async fn a_model_that_can_never_fit_is_refused_at_once_with_the_sums() {
    let gateway = home().start_fake(&[], &[("HEARTH_MEMORY", "64MiB")]).await;
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["x-should-retry"], "false");
    let error = answer.json().await["error"].clone();
    assert_eq!(error["code"], "insufficient_memory");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "m: the model needs 192.0 MiB of memory by its files, and 64.0 MiB is all there may be"
        ),
        "{message}"
    );
    assert!(!gateway.stage.has_another().await);
}

#[tokio::test]
async fn a_worker_that_outgrows_the_budget_costs_the_idle_one_its_place_and_then_its_own() {
    let home = home().with_fake_model("n");
    let marker = home.path().join("once").to_string_lossy().into_owned();
    // It holds, grows, and holds again.
    let steps = ["token:1=hold", "token:2=grow", "token:3=hold"];
    let mut flags = vec!["--once", marker.as_str(), "--tokens", "5"];
    flags.extend(steps.iter().flat_map(|step| ["--at", *step]));
    let gateway = home.start_fake(&flags, &[("HEARTH_MEMORY", "256MiB")]).await;
    let mut stream = gateway.chat("m", json!({"stream": true})).await;
    assert_eq!(stream.delta().await, "t0 ");
    let mut grows = gateway.stage.next_worker().await;
    assert_eq!(gateway.chat("n", json!({"keep_alive": -1})).await.status, StatusCode::OK);
    let idle = gateway.stage.next_worker().await;
    grows.go().await;
    idle.gone().await;
    let evictions = async |model: &str| {
        let series = format!("hearth_evictions_total{{model=\"{model}\",cause=\"growth\"}}");
        gateway.metric(&series).await
    };
    let held = gateway.reaches("busy").await["size_held"].as_u64().unwrap();
    assert!(held > 300 << 20, "{held}");
    grows.go().await;
    assert_eq!(stream.events().await.last().unwrap(), "[DONE]", "it finishes what it has");
    grows.gone().await;
    gateway.is_empty().await;
    assert_eq!((evictions("n").await, evictions("m").await), (Some(1.0), Some(1.0)));
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let message = answer.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("of memory as it did before, and 256.0 MiB is all"), "{message}");
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    let (_status, log) = gateway.ended().await;
    assert_eq!(log.matches("of memory where 256.0 MiB may be").count(), 1, "{log}");
}

#[tokio::test]
async fn what_a_model_took_is_known_after_a_restart() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({})).await.text().await;
    let file = gateway.home().join("memory.json");
    let record = patiently("the record", async {
        loop {
            if let Ok(text) = std::fs::read_to_string(&file) {
                return serde_json::from_str::<Value>(&text).unwrap();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let took = record["m"]["memory"].as_u64().unwrap();
    assert!((100_000..100_000_000).contains(&took), "{record}");
    let ps = gateway.reaches("idle").await;
    assert!(ps["size_held"].as_u64().unwrap() >= took * 9 / 10, "{ps}");
    let held = gateway.metric("hearth_memory_held_bytes").await.unwrap();
    assert!(held > 100_000.0, "{held}");
}

#[tokio::test]
async fn ten_thousand_scrapes_change_nothing() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({"keep_alive": -1})).await.text().await;
    let before = gateway.reaches("idle").await;
    let scrapes = (0..8).map(|_| async {
        for _ in 0..1250 {
            assert_eq!(gateway.get("/metrics").await.status, StatusCode::OK);
        }
    });
    futures_util::future::join_all(scrapes).await;
    let after = gateway.reaches("idle").await;
    for key in ["pid", "state", "keep_alive", "loaded_at", "restarts"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
}

#[tokio::test]
async fn three_hundred_requests_around_the_idle_deadline_are_all_served() {
    const KEEP_ALIVE_MS: u64 = 20;
    // Nobody reads the log, and what these make of it would fill the pipe.
    let gateway = home().start_fake(&["--tokens", "1"], &[("HEARTH_LOG", "error")]).await;
    let trials = try_at_the_deadline(&gateway, KEEP_ALIVE_MS);
    let calls = async {
        loop {
            gateway.stage.hang_up().await;
        }
    };
    tokio::select! {
        () = trials => {}
        () = calls => {}
    }
}

async fn try_at_the_deadline(gateway: &Gateway, keep_alive_ms: u64) {
    for trial in 0..300_u64 {
        let body = json!({"keep_alive": "20ms", "max_tokens": 1});
        let answer = gateway.chat("m", body).await;
        assert_eq!(answer.status, StatusCode::OK, "trial {trial}");
        answer.text().await;
        // Time itself is what is tried here: from two milliseconds before to two after.
        let micros = (keep_alive_ms - 2) * 1000 + trial % 41 * 100;
        tokio::time::sleep(std::time::Duration::from_micros(micros)).await;
    }
}
