//! What Prometheus reads.

use std::net::SocketAddr;
use std::process::Stdio;

use hearth_tests::http;
use hearth_tests::patiently;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

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

/// Prometheus reads the metrics of a gateway that serves; what it has read is asked of it.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the scripts say where Prometheus is")]
async fn prometheus_scrapes_a_running_gateway() {
    let Some(prometheus) = std::env::var_os("HEARTH_TEST_PROMETHEUS") else {
        return skip("Prometheus is not installed: Debian's package prometheus has it");
    };
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({})).await.text().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n- job_name: hearth\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  \
         static_configs:\n  - targets: ['{}']\n",
        gateway.address
    );
    std::fs::write(&config, text).unwrap();
    let address = free_address();
    let mut server = tokio::process::Command::new(prometheus)
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    patiently("Prometheus to be ready", async {
        loop {
            let line = log.next_line().await.unwrap().expect("Prometheus goes on");
            if line.contains("Server is ready to receive web requests") {
                return;
            }
        }
    })
    .await;
    let spawns = read_back(address, "hearth_worker_spawns_total").await;
    let labels = &spawns["metric"];
    assert_eq!((&labels["model"], &labels["reason"]), (&json!("m"), &json!("request")));
    assert_eq!(spawns["value"][1], "1");
    let path = "/api/v1/metadata?metric=hearth_worker_spawns_total";
    let known = http::send(address, Method::GET, path, &[], "").await.json().await;
    let spawns = &known["data"]["hearth_worker_spawns_total"][0];
    let help = json!("Workers started, by what they were needed for.");
    assert_eq!((&spawns["type"], &spawns["help"]), (&json!("counter"), &help), "{known}");
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
    server.kill().await.unwrap();
}

/// A port that nobody listens on now.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The one series that a query finds, once Prometheus has scraped.
async fn read_back(prometheus: SocketAddr, query: &str) -> Value {
    let path = format!("/api/v1/query?query={query}");
    patiently("Prometheus to have scraped", async {
        loop {
            let answer = http::send(prometheus, Method::GET, &path, &[], "").await.json().await;
            if let [series] = &answer["data"]["result"].as_array().unwrap()[..] {
                return series.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
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
