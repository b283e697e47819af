//! The wall's clock jumps, as clocks do that are set right: nobody leaves early, late or never.

use std::path::Path;

use hearth_tests::patiently;
use hyper::StatusCode;
use serde_json::json;

use crate::{home, skip};

/// What the wall shall show from now on, beside the truth.
fn set(file: &Path, offset: &str) {
    // Whole or not at all: it is read at any moment.
    let draft = file.with_extension("draft");
    std::fs::write(&draft, format!("{offset}\n")).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the scripts say where libfaketime is")]
async fn a_wall_clock_that_jumps_a_day_moves_what_is_shown_and_no_deadline() {
    let Some(library) = std::env::var_os("HEARTH_TEST_FAKETIME") else {
        return skip("libfaketime is not installed: Debian's package libfaketime has it");
    };
    let folder = tempfile::tempdir().unwrap();
    let wall = folder.path().join("wall");
    set(&wall, "+0");
    let variables = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", wall.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let gateway = home().start_fake(&[], &variables).await;
    gateway.chat("m", json!({"keep_alive": "1h"})).await.text().await;
    let worker = gateway.stage.next_worker().await;
    let date = |entry: &serde_json::Value| entry["expires_at"].as_str().unwrap()[..10].to_owned();
    let today = date(&gateway.reaches("idle").await);
    set(&wall, "+1d");
    let ps = gateway.reaches("idle").await;
    assert!(date(&ps) > today, "the jump is seen: {} after {today}", ps["expires_at"]);
    assert_eq!(ps["pid"], worker.pid, "it stays, though an hour is over by the wall");
    assert_eq!(gateway.chat("m", json!({"keep_alive": "1s"})).await.status, StatusCode::OK);
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
    set(&wall, "-2d");
    patiently("it to leave, though that is days ahead by the wall", worker.gone()).await;
    gateway.is_empty().await;
}
