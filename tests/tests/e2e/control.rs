//! Hearth's own endpoints and commands: load, unload, events; and what may change while it runs.

use hearth_tests::gateway::Gateway;
use hearth_tests::http::Answer;
use hearth_tests::patiently;
use hyper::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::home;

async fn next(events: &mut Answer) -> Value {
    let event = patiently("an event", events.event()).await.expect("more events");
    serde_json::from_str(&event).unwrap()
}

/// The changes of one model's state until it is `last`.
async fn changes(events: &mut Answer, last: &str) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    loop {
        let event = next(events).await;
        assert_eq!((&event["type"], &event["model"]), (&json!("transition"), &json!("m:latest")));
        let word = |key: &str| event[key].as_str().unwrap().to_owned();
        seen.push((word("from"), word("to")));
        if event["to"] == last {
            return seen;
        }
    }
}

fn pairs(words: &[&str]) -> Vec<(String, String)> {
    words.windows(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

#[tokio::test]
async fn every_change_of_a_state_is_told_as_it_happens_and_looking_starts_nothing() {
    let gateway = home().start_fake(&[], &[]).await;
    let mut events = gateway.get("/api/events").await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let first = next(&mut events).await;
    assert_eq!((&first["type"], &first["models"]), (&json!("snapshot"), &json!([])));
    assert!(!gateway.stage.has_another().await);
    gateway.chat("m", json!({})).await.text().await;
    let seen = changes(&mut events, "idle").await;
    assert_eq!(seen, pairs(&["stopped", "starting", "busy", "idle"]));
    let stop = gateway.post("/api/unload", &json!({"model": "m"})).await;
    assert_eq!(stop.status, StatusCode::OK);
    let seen = changes(&mut events, "stopped").await;
    assert_eq!(seen, pairs(&["idle", "stopping", "stopped"]));
    // A drain ends the stream, and is not held up by it.
    gateway.signal(Signal::SIGTERM);
    assert_eq!(patiently("the end of the stream", events.event()).await, None);
    assert_eq!(gateway.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn loading_answers_when_it_is_loaded_and_unloading_when_it_is_gone() {
    let gateway = home().start_fake(&[], &[]).await;
    let loaded = gateway.post("/api/load", &json!({"model": "m", "keep_alive": "1h"})).await;
    assert_eq!(loaded.json().await, json!({"model": "m:latest", "state": "idle"}));
    assert_eq!(gateway.reaches("idle").await["keep_alive"], 3600.0);
    let worker = gateway.stage.next_worker().await;
    let gone = gateway.post("/api/unload", &json!({"model": "m", "wait": true})).await;
    let expected = json!({"model": "m:latest", "state": "stopped", "unloaded": true});
    assert_eq!(gone.json().await, expected);
    assert!(!std::path::Path::new(&format!("/proc/{}", worker.pid)).exists(), "it was reaped");
    for path in ["/api/load", "/api/unload"] {
        assert_eq!(gateway.post(path, &json!({"model": "x"})).await.status, StatusCode::NOT_FOUND);
        assert_eq!(gateway.post(path, &json!({})).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_forced_unload_ends_a_stream_with_its_reason_and_starts_nobody_anew() {
    let gateway = home().start_fake(&["--at", "token:1=hold"], &[]).await;
    let mut stream = gateway.chat("m", json!({"stream": true})).await;
    stream.delta().await;
    let worker = gateway.stage.next_worker().await;
    let mut stop = gateway.command(&["stop", "m", "--force"]);
    assert!(patiently("the command", stop.status()).await.unwrap().success());
    let events = stream.events().await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "model_unloaded");
    worker.gone().await;
    assert_eq!(gateway.ps().await, Vec::<Value>::new());
    assert!(!gateway.stage.has_another().await);
    let mut load = gateway.command(&["load", "m", "--keepalive", "-1"]);
    assert!(patiently("the command", load.status()).await.unwrap().success());
    assert_eq!(gateway.reaches("idle").await["keep_alive"], -1.0);
}

#[tokio::test]
async fn watching_shows_every_change() {
    use tokio::io::AsyncBufReadExt as _;
    let gateway = home().start_fake(&[], &[]).await;
    let mut watch = gateway.command(&["ps", "--watch"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(watch.stdout.take().unwrap()).lines();
    let first = patiently("the first table", lines.next_line()).await.unwrap().unwrap();
    assert!(first.starts_with("NAME"), "{first}");
    gateway.post("/api/load", &json!({"model": "m"})).await.text().await;
    patiently("the model", async {
        while !lines.next_line().await.unwrap().unwrap().starts_with("m:latest") {}
    })
    .await;
    watch.kill().await.unwrap();
}

#[tokio::test]
async fn a_model_that_shall_be_there_from_the_start_is_and_stays() {
    let config = "[models.m]\npreload = true\npinned = true\nkeep_alive = 0";
    let gateway = home().with_config(config).start_fake(&[], &[]).await;
    gateway.stage.next_worker().await;
    let ps = gateway.reaches("idle").await;
    assert_eq!((&ps["pinned"], &ps["keep_alive"]), (&json!(true), &json!(-1.0)));
    assert_eq!(gateway.spawns("m", "preload").await, Some(1.0));
}

async fn keep_alive_is(gateway: &Gateway, seconds: f64) {
    patiently("the new setting", async {
        while gateway.ps().await[0]["keep_alive"] != seconds {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_changed_configuration_is_heeded_and_touches_only_what_changed() {
    let home = home().with_fake_model("n").with_config("keep_alive = \"1h\"");
    let gateway = home.start_fake(&[], &[]).await;
    gateway.chat("m", json!({})).await.text().await;
    let first = gateway.stage.next_worker().await;
    keep_alive_is(&gateway, 3600.0).await;
    let file = gateway.home().join("hearth.toml");
    // By its date alone: nobody tells.
    std::fs::write(&file, "keep_alive = \"2h\"\nlog = \"debug\"").unwrap();
    keep_alive_is(&gateway, 7200.0).await;
    // What makes no sense changes nothing.
    std::fs::write(&file, "keep_alive = \"never\"").unwrap();
    gateway.signal(Signal::SIGHUP);
    // Another context wants another worker, of this model and no other.
    gateway.chat("n", json!({})).await.text().await;
    let other = gateway.stage.next_worker().await;
    std::fs::write(&file, "keep_alive = \"3h\"\n[models.m]\ncontext_length = 64").unwrap();
    gateway.signal(Signal::SIGHUP);
    first.gone().await;
    keep_alive_is(&gateway, 10_800.0).await;
    assert_eq!(gateway.reaches("idle").await["pid"], other.pid);
    let replaced = "hearth_worker_exits_total{model=\"m\",reason=\"replaced\"}";
    assert_eq!(gateway.metric(replaced).await, Some(1.0));
    gateway.signal(Signal::SIGTERM);
    let (_, log) = gateway.ended().await;
    assert!(log.contains("these settings change at the next start: log"), "{log}");
    assert!(log.contains("the configuration stays as it was: keep_alive"), "{log}");
}

#[tokio::test]
async fn files_replaced_under_a_busy_worker_are_served_by_the_next_one_after_it_has_finished() {
    let gateway = home().start_fake(&["--at", "token:1=hold"], &[]).await;
    let mut old = gateway.chat("m", json!({"stream": true})).await;
    old.delta().await;
    let mut first = gateway.stage.next_worker().await;
    std::fs::write(gateway.home().join("models/m/new"), "").unwrap();
    patiently("it to be sent away", async {
        while gateway.ps().await[0]["leaving"] != "replaced" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let new = gateway.chat("m", json!({}));
    let finish = async {
        first.go().await;
        assert_eq!(old.events().await.last().unwrap(), "[DONE]");
        first.gone().await;
        let mut second = gateway.stage.next_worker().await;
        second.heard("at token:1").await;
        second.go().await;
    };
    let (answer, ()) = tokio::join!(new, finish);
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_model_that_is_gone_from_the_disk_leaves_memory_too() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({})).await.text().await;
    let worker = gateway.stage.next_worker().await;
    std::fs::remove_dir_all(gateway.home().join("models/m")).unwrap();
    worker.gone().await;
    assert_eq!(gateway.chat("m", json!({})).await.status, StatusCode::NOT_FOUND);
}
