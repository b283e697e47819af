//! OpenAI's own Python package as the client.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;

use hearth_tests::gateway::Gateway;
use hearth_tests::patiently;
use serde_json::json;

use crate::{home, skip};

#[tokio::test]
async fn the_official_python_client_works_unchanged() {
    let Some(python) = python() else { return };
    let home = home().with_fake_model("crashes");
    let gateway = home.start_fake(&["--slots", "1"], &[("HEARTH_API_KEY", "s3cret")]).await;
    works(&python, &gateway, "openai_client.py", &[]).await;
}

#[tokio::test]
async fn the_official_client_is_told_of_a_stream_that_breaks() {
    let Some(python) = python() else { return };
    let home = home();
    let marker = home.path().join("once").to_string_lossy().into_owned();
    let gateway = home.start_fake(&["--once", &marker, "--at", "token:2=crash"], &[]).await;
    works(&python, &gateway, "openai_failures.py", &["breaks"]).await;
}

#[tokio::test]
async fn the_official_client_does_not_ask_again_for_what_fails_for_good() {
    let Some(python) = python() else { return };
    let gateway = home().start_fake(&["--at", "load=fail-for-good"], &[]).await;
    works(&python, &gateway, "openai_failures.py", &["fails-for-good"]).await;
    let refused = "hearth_requests_total{endpoint=\"/v1/chat/completions\",model=\"m\",\
                   outcome=\"refused\"}";
    assert_eq!(gateway.metric(refused).await, Some(1.0));
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
}

#[tokio::test]
async fn the_official_client_comes_back_after_a_full_queue_and_is_served() {
    let Some(python) = python() else { return };
    let flags = ["--slots", "1", "--at", "token:0=hold"];
    let gateway = home().start_fake(&flags, &[("HEARTH_MAX_QUEUE", "1")]).await;
    let crowd = async {
        let serving = gateway.chat("m", json!({}));
        let waiting = async {
            patiently("one to be served", async {
                while gateway.ps().await.first().is_none_or(|m| m["in_flight"] != 1) {}
            })
            .await;
            gateway.chat("m", json!({})).await
        };
        tokio::join!(serving, waiting);
    };
    let client = async {
        patiently("the queue to be full", async {
            while gateway.ps().await.first().is_none_or(|m| m["queued"] != 1) {}
        })
        .await;
        works(&python, &gateway, "openai_failures.py", &["comes-back"]).await;
    };
    let refused = "hearth_requests_total{endpoint=\"/v1/chat/completions\",model=\"m\",\
                   outcome=\"refused\"}";
    let worker = async {
        let mut worker = gateway.stage.next_worker().await;
        patiently("the client to be refused", async {
            while gateway.metric(refused).await != Some(1.0) {}
        })
        .await;
        for _ in 0..3 {
            worker.heard("at token:0").await;
            worker.go().await;
        }
        worker
    };
    tokio::join!(crowd, client, worker);
    assert_eq!(gateway.metric(refused).await, Some(1.0));
}

/// The Python that has the package; `None` where there is none.
#[expect(clippy::disallowed_methods, reason = "the scripts say where the Python with openai is")]
fn python() -> Option<OsString> {
    let python = std::env::var_os("HEARTH_TEST_PYTHON");
    if python.is_none() {
        skip("no Python with the openai package: scripts/test makes one");
    }
    python
}

/// Runs a script of the official client's; it says a line when everything was as it should be.
#[expect(clippy::disallowed_methods, reason = "tests start the programs that they need")]
async fn works(python: &OsStr, gateway: &Gateway, script: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script);
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args(arguments)
        .env("OPENAI_BASE_URL", format!("http://{}/v1", gateway.address))
        .env("OPENAI_API_KEY", "s3cret")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = patiently("the client to end", output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all of it works\n", "{said}");
}
