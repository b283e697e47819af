//! A gateway and a worker that nobody uses do next to nothing, and neither does a gateway without
//! workers: counted, not timed.

use std::path::PathBuf;
use std::time::Duration;

use hearth_tests::gateway::Home;
use serde_json::json;

/// How long they are watched.
const WHILE: Duration = Duration::from_secs(3);
/// How often a process may wake in that time, all its threads together: several times as often as
/// they were seen to, and a tenth of what a loop that polls every few milliseconds would.
const WAKES_MAX: u64 = 60;
/// Hundredths of a second that a process may compute in that time; none or one was seen.
const TICKS_MAX: u64 = 6;

/// How often the threads of a process have gone to sleep by themselves.
fn sleeps(pid: u64) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let counts = threads.map(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |count| count.trim().parse::<u64>().unwrap())
    });
    counts.sum()
}

/// Hundredths of a second that a process has computed, in the program and in the system.
fn ticks(pid: u64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_the_name = stat.rsplit_once(')').unwrap().1;
    let numbers: Vec<&str> = after_the_name.split_whitespace().collect();
    numbers[11..13].iter().map(|number| number.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn nobody_who_is_unused_keeps_the_processor_awake() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let home = Home::new(hearth_tests::programs!())
        .with_linked_model("tiny", &fixtures.join("tiny-llama-genai-fp32"));
    let gateway = home.start_real(&[]).await;
    gateway.chat("tiny", json!({"max_tokens": 4, "keep_alive": -1})).await.text().await;
    let worker = gateway.reaches("idle").await["pid"].as_u64().unwrap();
    let gateway_pid = u64::from(gateway.child.id().unwrap());
    watch(&[("the gateway", gateway_pid), ("the worker", worker)]).await;
    gateway.post("/api/unload", &json!({"model": "tiny", "wait": true})).await.text().await;
    gateway.is_empty().await;
    watch(&[("a gateway without workers", gateway_pid)]).await;
}

async fn watch(processes: &[(&str, u64)]) {
    let counts = || -> Vec<(u64, u64)> {
        processes.iter().map(|(_, pid)| (sleeps(*pid), ticks(*pid))).collect()
    };
    let before = counts();
    // Time itself is what is tried here.
    tokio::time::sleep(WHILE).await;
    for ((who, _), (before, after)) in processes.iter().zip(before.into_iter().zip(counts())) {
        let (wakes, ran) = (after.0 - before.0, after.1 - before.1);
        assert!(wakes <= WAKES_MAX, "{who} woke {wakes} times in {} s", WHILE.as_secs());
        assert!(ran <= TICKS_MAX, "{who} ran for {ran} hundredths of {} s", WHILE.as_secs());
    }
}
