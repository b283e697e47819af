//! Workers come up when asked for, stay while used, and leave when their deadline passes.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hearth_tests::patiently;
use hyper::StatusCode;
use serde_json::json;

use crate::home;

#[tokio::test]
async fn two_hundred_requests_to_a_cold_model_start_one_worker() {
    let gateway = home().start_fake(&["--at", "load=hold"], &[]).await;
    let asking = join_all((0..200).map(|_| async {
        let answer = gateway.chat("m", json!({})).await;
        (answer.status, answer.json().await)
    }));
    let loading = async {
        let mut worker = gateway.stage.next_worker().await;
        worker.heard("at load").await;
        let all_wait = async { while gateway.ps().await[0]["queued"] != 200 {} };
        patiently("all of them to wait", all_wait).await;
        worker.go().await;
        worker
    };
    let (answers, _worker) = tokio::join!(asking, loading);
    assert_eq!(answers.len(), 200);
    for (status, body) in answers {
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body["choices"][0]["message"]["content"], "t0 t1 t2 ");
    }
    assert!(!gateway.stage.has_another().await);
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
}

#[tokio::test]
async fn an_idle_worker_leaves_at_its_deadline_and_not_before() {
    let gateway = home().start_fake(&[], &[]).await;
    let answer = gateway.chat("m", json!({"keep_alive": 1.5})).await;
    assert_eq!(answer.status, StatusCode::OK);
    drop(answer.text().await);
    let ended = Instant::now();
    let worker = gateway.stage.next_worker().await;
    let ps = gateway.reaches("idle").await;
    assert_eq!((&ps["keep_alive"], &ps["pid"]), (&json!(1.5), &json!(worker.pid)));
    worker.gone().await;
    // The answer ended a little before we saw its end.
    assert!(ended.elapsed() > Duration::from_millis(1400), "{:?}", ended.elapsed());
    gateway.is_empty().await;
    let expired = "hearth_worker_exits_total{model=\"m\",reason=\"expired\"}";
    assert_eq!(gateway.metric(expired).await, Some(1.0));
}

#[tokio::test]
async fn looking_at_the_fleet_wakes_nobody() {
    let gateway = home().start_fake(&[], &[]).await;
    for path in ["/api/ps", "/api/tags", "/v1/models", "/v1/models/m", "/metrics", "/readyz", "/"] {
        assert_eq!(gateway.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(gateway.ps().await, Vec::<serde_json::Value>::new());
    assert!(!gateway.stage.has_another().await);
}

#[tokio::test]
async fn keep_alive_zero_ends_the_worker_with_its_request() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({"keep_alive": 0})).await.text().await;
    gateway.stage.next_worker().await.gone().await;
    gateway.is_empty().await;
}

#[tokio::test]
async fn a_worker_that_is_kept_for_ever_says_so() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({"keep_alive": -1})).await.text().await;
    let ps = gateway.reaches("idle").await;
    assert_eq!(ps["keep_alive"], -1.0);
    assert!(ps["expires_at"].as_str().unwrap() > "2300", "{}", ps["expires_at"]);
}

#[tokio::test]
async fn a_request_that_meets_a_stopping_worker_is_served_by_the_next_one() {
    let flags = ["--ignore-term"];
    let gateway = home().start_fake(&flags, &[("HEARTH_GRACE_PERIOD", "500ms")]).await;
    gateway.chat("m", json!({})).await.text().await;
    let mut first = gateway.stage.next_worker().await;
    gateway.post("/api/generate", &json!({"model": "m", "keep_alive": 0})).await.text().await;
    first.heard("shutdown").await;
    let stopping = gateway.reaches("stopping").await;
    assert_eq!((&stopping["pid"], &stopping["reclaiming"]), (&json!(first.pid), &json!(true)));
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::OK);
    first.gone().await;
    let second = gateway.stage.next_worker().await;
    assert_eq!(gateway.reaches("idle").await["pid"], second.pid);
}

#[tokio::test]
async fn a_load_goes_on_when_its_client_leaves_and_is_told_meanwhile() {
    let gateway = home().start_fake(&["--at", "load=hold"], &[]).await;
    let mut worker = {
        let asking = gateway.chat("m", json!({}));
        let loading = async {
            let mut worker = gateway.stage.next_worker().await;
            worker.heard("at load").await;
            worker
        };
        tokio::select! {
            _answer = asking => panic!("the load holds"),
            worker = loading => worker,
        }
    };
    assert_eq!(gateway.reaches("starting").await["pid"], worker.pid);
    patiently("the load's progress", async {
        let progress = json!({"stage": "session", "fraction": 0.5});
        while gateway.ps().await[0]["load_progress"] != progress {}
    })
    .await;
    patiently("the place to be free", async { while gateway.ps().await[0]["queued"] != 0 {} })
        .await;
    worker.go().await;
    gateway.reaches("idle").await;
}

#[tokio::test]
async fn a_full_queue_is_refused_with_a_pause_and_a_leaver_frees_his_place() {
    let flags = ["--slots", "1", "--at", "token:0=hold"];
    let gateway = home().start_fake(&flags, &[("HEARTH_MAX_QUEUE", "1")]).await;
    let serving = gateway.chat("m", json!({}));
    let mut worker = None;
    let crowd = async {
        let mut holding = gateway.stage.next_worker().await;
        holding.heard("generate 1").await;
        worker = Some(holding);
        let queue_is = async |length: u64| {
            while gateway.ps().await[0]["queued"] != length {}
        };
        {
            let waiting = gateway.chat("m", json!({}));
            let refused = async {
                patiently("one to wait", queue_is(1)).await;
                gateway.chat("m", json!({})).await
            };
            let refused = tokio::select! {
                _answer = waiting => panic!("the only slot is taken"),
                refused = refused => refused,
            };
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(refused.headers["retry-after"], "1");
            assert_eq!(refused.headers["retry-after-ms"], "1000");
            assert_eq!(refused.json().await["error"]["code"], "queue_full");
        }
        patiently("the leaver's place", queue_is(0)).await;
    };
    tokio::select! {
        _answer = serving => panic!("the worker holds"),
        () = crowd => {}
    }
    // Whoever was being served has left as well.
    worker.unwrap().heard("cancel 1").await;
}

#[tokio::test]
async fn nobody_waits_longer_than_allowed() {
    let variables = [("HEARTH_QUEUE_TIMEOUT", "300ms")];
    let gateway = home().start_fake(&["--at", "load=hold"], &variables).await;
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    let error = answer.json().await["error"].clone();
    assert_eq!(error["code"], "queue_timeout");
    assert!(error["message"].as_str().unwrap().ends_with("the model is still loading"), "{error}");
}

#[tokio::test]
async fn a_worker_gets_nothing_of_the_gateways_environment() {
    let variables = [("AWS_SECRET_ACCESS_KEY", "canary"), ("TZ", "UTC")];
    let gateway = home().start_fake(&[], &variables).await;
    gateway.chat("m", json!({})).await.text().await;
    let worker = gateway.stage.next_worker().await;
    // The script that starts the fake worker is a shell's, which adds its own.
    let environment: Vec<&str> = worker
        .environment
        .iter()
        .map(String::as_str)
        .filter(|name| !["OLDPWD", "PWD", "SHLVL", "_"].contains(name))
        .collect();
    assert_eq!(environment, ["HEARTH_LINK_TOKEN", "TZ"]);
    // The link, and the control connection with its double for listening: nothing of the
    // gateway's. What the gateway itself inherited from this test is this test's affair.
    let inherited = open_files("self");
    let own: Vec<String> = open_files(&worker.pid.to_string())
        .into_iter()
        .filter(|target| target.starts_with("socket:") && !inherited.contains(target))
        .collect();
    assert_eq!(own.len(), 3, "{own:?}");
}

/// What the descriptors of a process stand for.
fn open_files(pid: &str) -> Vec<String> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}
