//! What Prometheus reads.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{home, skip};

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the scripts say where promtool is")]
async fn promtool_finds_nothing_to_complain_of() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({})).await.text().await;
    gateway.chat("nope", json!({})).await.text().await;
    let text = gateway.get("/metrics").await.text().await;
    let Some(promtool) = std::env::var_os("HEARTH_TEST_PROMTOOL") else {
        return skip("promtool is not installed: Debian's package prometheus has it");
    };
    let mut promtool = tokio::process::Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{text}");
}

#[tokio::test]
async fn every_request_is_counted_once_under_names_from_closed_sets() {
    let gateway = home().start_fake(&["--at", "token:1=hold"], &[]).await;
    let mut left = gateway.chat("m", json!({"stream": true})).await;
    left.delta().await;
    let mut worker = gateway.stage.next_worker().await;
    drop(left);
    worker.heard("cancel 1").await;
    gateway.chat("no-such-model-canary", json!({})).await.text().await;
    gateway.chat("m", json!({"temperature": 9})).await.text().await;
    let requests = async |model: &str, outcome: &str| {
        let endpoint = "/v1/chat/completions";
        let series = format!(
            "hearth_requests_total{{endpoint=\"{endpoint}\",model=\"{model}\",outcome=\"{outcome}\"}}"
        );
        gateway.metric(&series).await
    };
    assert_eq!(requests("m", "cancelled").await, Some(1.0));
    assert_eq!(requests("unknown", "invalid").await, Some(2.0));
    assert_eq!(requests("m", "ok").await, None);
    let state = "hearth_worker_state{model=\"m\",state=\"idle\"}";
    assert_eq!(gateway.metric(state).await, Some(1.0));
    let text = gateway.get("/metrics").await.text().await;
    assert!(!text.contains("canary"), "a client's text is no label");
    let resident = gateway.metric("hearth_worker_resident_memory_bytes{model=\"m\"}").await;
    assert!(resident.unwrap() > 100_000.0, "{resident:?}");
}
