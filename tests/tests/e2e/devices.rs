//! What devices hold, as NVIDIA's management library tells it: a fake one, compiled here.

use std::path::{Path, PathBuf};

use hearth_tests::gateway::Gateway;
use hearth_tests::patiently;
use hyper::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::home;

const GIB: u64 = 1 << 30;

/// The library, and the file that says what it tells.
struct FakeDriver {
    folder: TempDir,
}

impl FakeDriver {
    #[expect(clippy::disallowed_methods, reason = "tests start the programs that they need")]
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/nvml/fake.c");
        // Rust links with it, so it is there wherever this was compiled.
        let compiled = tokio::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("libnvidia-ml.so.1"))
            .arg(source)
            .output()
            .await
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let driver = Self { folder };
        driver.tells("");
        driver
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("tells")
    }

    fn tells(&self, text: &str) {
        let draft = self.folder.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.file()).unwrap();
    }

    /// A gateway that finds it, with workers that say that they are on a device.
    async fn start(&self, variables: &[(&str, &str)]) -> Gateway {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (folder, file) = (text(self.folder.path()), text(&self.file()));
        let mut all = vec![("LD_LIBRARY_PATH", folder.as_str()), ("FAKE_NVML", file.as_str())];
        all.extend(variables);
        home().with_fake_model("n").start_fake(&["--on-a-device"], &all).await
    }
}

async fn memory(gateway: &Gateway) -> Value {
    gateway.get("/api/ps").await.json().await["memory"].clone()
}

#[tokio::test]
async fn what_a_worker_holds_of_a_device_is_told_everywhere_once_the_driver_tells_it() {
    let driver = FakeDriver::new().await;
    let gateway = driver.start(&[]).await;
    // A tenth, and at most four GiB, is left to others; one device's memory is all there may be.
    patiently("the devices to be known", async {
        while memory(&gateway).await["device_budget"] != json!(76 * GIB) {}
    })
    .await;
    for (device, total) in [("0", 24), ("1", 80)] {
        let series = format!("hearth_device_memory_bytes{{device=\"{device}\"}}");
        let gib = gateway.metric(&series).await.map(|bytes| bytes / f64::from(1 << 30));
        assert_eq!(gib, Some(f64::from(total)));
    }
    gateway.chat("m", json!({"keep_alive": -1})).await.text().await;
    let before = gateway.reaches("idle").await;
    assert_eq!(before["size_device"], Value::Null, "the driver does not know it yet: {before}");
    assert!(before["size_vram"].as_u64().unwrap() > 0, "its files are the least: {before}");
    let pid = before["pid"].as_u64().unwrap();
    driver.tells(&format!("1 {}\n{pid} {}\n", 9 * GIB, 3 * GIB));
    patiently("the driver to be heard", async {
        while gateway.reaches("idle").await["size_device"] != json!(3 * GIB) {}
    })
    .await;
    let ps = gateway.reaches("idle").await;
    assert_eq!((&ps["size_vram"], &ps["size"]), (&json!(3 * GIB), &json!(3 * GIB)));
    assert_eq!(memory(&gateway).await["device_held"], json!(3 * GIB));
    let series = "hearth_worker_device_memory_bytes{model=\"m\"}";
    let gib = gateway.metric(series).await.map(|bytes| bytes / f64::from(1 << 30));
    assert_eq!(gib, Some(3.0));
    gateway.post("/api/unload", &json!({"model": "m", "wait": true})).await.text().await;
    assert_eq!(memory(&gateway).await["device_held"], 0);
}

#[tokio::test]
async fn workers_that_hold_more_of_a_device_than_they_may_cost_the_idle_one_its_place() {
    let driver = FakeDriver::new().await;
    let gateway = driver.start(&[("HEARTH_DEVICE_MEMORY", "4GiB")]).await;
    for model in ["m", "n"] {
        gateway.chat(model, json!({"keep_alive": -1})).await.text().await;
    }
    let first = gateway.stage.next_worker().await;
    let second = gateway.stage.next_worker().await;
    driver.tells(&format!("{} {}\n{} {}\n", first.pid, 3 * GIB, second.pid, 2 * GIB));
    first.gone().await;
    patiently("the other one to be alone", async { while gateway.ps().await.len() != 1 {} }).await;
    let ps = gateway.reaches("idle").await;
    assert_eq!((&ps["name"], &ps["size_device"]), (&json!("n:latest"), &json!(2 * GIB)));
    let evictions = "hearth_evictions_total{model=\"m\",cause=\"growth\"}";
    assert_eq!(gateway.metric(evictions).await, Some(1.0));
}

#[tokio::test]
async fn a_driver_that_never_answers_holds_up_nobody() {
    let driver = FakeDriver::new().await;
    driver.tells("hang\n");
    let gateway = driver.start(&[]).await;
    assert_eq!(gateway.chat("m", json!({"keep_alive": "1s"})).await.status, StatusCode::OK);
    let worker = gateway.stage.next_worker().await;
    assert_eq!(gateway.reaches("idle").await["size_device"], Value::Null);
    worker.gone().await;
    assert_eq!(memory(&gateway).await["device_budget"], Value::Null);
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(gateway.ended().await.0.code(), Some(0));
}
