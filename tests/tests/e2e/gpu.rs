//! A GPU's memory comes back with the worker's end. Says that it was skipped where there is no GPU.

use std::path::Path;
use std::process::Command;

use hearth_tests::gateway::Home;
use serde_json::json;

/// Megabytes in use on the first GPU, if there is one.
#[expect(clippy::disallowed_methods, reason = "a short query that is waited for right here")]
fn used_megabytes() -> Option<u64> {
    let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// What others do on the device meanwhile, and what the driver rounds to.
const UNREST_MEGABYTES: u64 = 16;

#[tokio::test]
async fn a_gpus_memory_is_back_after_an_unload() {
    let Some(before) = used_megabytes() else {
        eprintln!("SKIPPED: no `nvidia-smi` tells of a GPU");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llama-fp16kv");
    let home = Home::new(hearth_tests::programs!()).with_linked_model("tiny", &folder);
    let gateway = home.start_real(&[]).await;
    gateway.chat("tiny", json!({"max_tokens": 2})).await.text().await;
    let ps = gateway.reaches("idle").await;
    if ps["execution_provider"] != "cuda" {
        eprintln!("SKIPPED: {}", ps["execution_provider_note"]);
        return;
    }
    let loaded = used_megabytes().unwrap();
    assert!(loaded > before, "{loaded} MB loaded, {before} before");
    assert_eq!(ps["placement"]["kv_cache"], "device");
    assert!(ps["size_vram"].as_u64().unwrap() > 0);
    gateway.post("/api/generate", &json!({"model": "tiny", "keep_alive": 0})).await.text().await;
    gateway.is_empty().await;
    let after = used_megabytes().unwrap();
    assert!(after <= before + UNREST_MEGABYTES, "{after} MB after, {before} before");
}
