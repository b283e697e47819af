//! Chaos: four models under load with room for two, and everything that can go wrong going wrong.
//!
//! `scripts/chaos` runs it. Workers are killed and stopped at random, clients leave, models are
//! unloaded by force. Afterwards the ledger must hold: each request had one outcome, the gateway's
//! counts and the clients' agree, and processes, file descriptors and memory are back.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hearth_tests::gateway::{Gateway, Home};
use hyper::StatusCode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const MODELS: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: u64 = 12;
/// Memory that allocators keep is no leak; what grows by more than this is.
const MEMORY_SLACK: u64 = 48 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Whole,
    Failed(u16),
    BrokenOff,
    Left,
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[expect(clippy::disallowed_methods, reason = "scripts/chaos says how long")]
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "scripts/chaos runs it: it takes minutes"]
async fn whatever_goes_wrong_every_request_has_one_outcome_and_nothing_stays() {
    let length = Duration::from_secs(number("HEARTH_CHAOS_SECONDS", 600));
    let seed = number("HEARTH_CHAOS_SEED", 1);
    let home = MODELS
        .iter()
        .fold(Home::new(hearth_tests::programs!()), |home, model| home.with_fake_model(model));
    let variables = [
        ("HEARTH_MAX_MODELS", "2"),
        ("HEARTH_SWAP_AFTER", "300ms"),
        ("HEARTH_HANG_TIMEOUT", "1s"),
        ("HEARTH_GRACE_PERIOD", "300ms"),
        ("HEARTH_KEEP_ALIVE", "500ms"),
        ("HEARTH_MAX_QUEUE", "8"),
        ("HEARTH_QUEUE_TIMEOUT", "5s"),
        ("HEARTH_LOG", "error"),
    ];
    let gateway = home.start_fake(&["--tokens", "40"], &variables).await;
    // What a gateway has once it has served somebody is where it has to come back to.
    gateway.chat("a", json!({"keep_alive": 0})).await.text().await;
    gateway.is_empty().await;
    let before = Resources::of(&gateway);
    let until = Instant::now() + length;
    let clients = join_all((0..CLIENTS).map(|client| ask(&gateway, until, seed * 1000 + client)));
    let (ledgers, done, ()) =
        tokio::join!(clients, disturb(&gateway, until, seed), drain_the_stage(&gateway, until));
    let mut ledger: BTreeMap<Outcome, u64> = BTreeMap::new();
    for (outcome, count) in ledgers.into_iter().flatten() {
        *ledger.entry(outcome).or_default() += count;
    }
    gateway.is_empty().await;
    report(&ledger, &done);
    check_ledger(&gateway, &ledger).await;
    check_resources(&gateway, &before).await;
}

/// One client: asks, reads, and now and then leaves.
async fn ask(gateway: &Gateway, until: Instant, seed: u64) -> BTreeMap<Outcome, u64> {
    let mut chance = Chance(seed);
    let mut ledger = BTreeMap::new();
    while Instant::now() < until {
        let model = MODELS[usize::try_from(chance.below(4)).unwrap()];
        let patience = Duration::from_millis(chance.below(60));
        let outcome = match chance.below(8) {
            0 => match tokio::time::timeout(patience, whole(gateway, model)).await {
                Ok(outcome) => outcome,
                Err(_left) => Outcome::Left,
            },
            1..4 => whole(gateway, model).await,
            _ => streamed(gateway, model, chance.below(4) == 0).await,
        };
        *ledger.entry(outcome).or_default() += 1;
        if outcome == Outcome::Failed(StatusCode::TOO_MANY_REQUESTS.as_u16()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    ledger
}

async fn whole(gateway: &Gateway, model: &str) -> Outcome {
    let answer = gateway.chat(model, json!({})).await;
    let status = answer.status;
    answer.text().await;
    if status == StatusCode::OK { Outcome::Whole } else { Outcome::Failed(status.as_u16()) }
}

async fn streamed(gateway: &Gateway, model: &str, leaves: bool) -> Outcome {
    let mut answer = gateway.chat(model, json!({"stream": true})).await;
    if answer.status != StatusCode::OK {
        return Outcome::Failed(answer.status.as_u16());
    }
    if leaves {
        answer.event().await;
        return Outcome::Left;
    }
    let events = answer.events().await;
    let last = events.last().expect("a stream has events");
    if last == "[DONE]" { Outcome::Whole } else { Outcome::BrokenOff }
}

/// Kills, stops and unloads at random.
async fn disturb(gateway: &Gateway, until: Instant, seed: u64) -> BTreeMap<&'static str, u64> {
    let mut chance = Chance(!seed);
    let mut done = BTreeMap::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20 + chance.below(300))).await;
        let workers = gateway.ps().await;
        let pids: Vec<i64> = workers.iter().filter_map(|worker| worker["pid"].as_i64()).collect();
        let model = MODELS[usize::try_from(chance.below(4)).unwrap()];
        let pid = pids.get(usize::try_from(chance.below(4)).unwrap());
        let signal = match chance.below(6) {
            0 | 1 => Some(("killed", Signal::SIGKILL)),
            2 => Some(("stopped", Signal::SIGSTOP)),
            _ => None,
        };
        let what = match (signal, pid) {
            (Some((what, signal)), Some(pid)) => {
                // It may be gone by now.
                let _ = kill(Pid::from_raw(i32::try_from(*pid).unwrap()), signal);
                what
            }
            (Some(_), None) => continue,
            (None, _) => {
                let force = chance.below(2) == 0;
                let body = json!({"model": model, "force": force});
                gateway.post("/api/unload", &body).await.text().await;
                if force { "unloaded by force" } else { "unloaded" }
            }
        };
        *done.entry(what).or_default() += 1;
    }
    done
}

/// Fake workers must find somebody who takes their calls.
async fn drain_the_stage(gateway: &Gateway, until: Instant) {
    let last = until + Duration::from_secs(15);
    while let Some(left) = last.checked_duration_since(Instant::now()) {
        drop(tokio::time::timeout(left, gateway.stage.hang_up()).await);
    }
}

#[expect(clippy::print_stdout, reason = "that is what it is run for")]
fn report(ledger: &BTreeMap<Outcome, u64>, done: &BTreeMap<&'static str, u64>) {
    println!("requests: {ledger:?}\nworkers: {done:?}");
}

async fn check_ledger(gateway: &Gateway, ledger: &BTreeMap<Outcome, u64>) {
    let count = |wanted: fn(&Outcome) -> bool| -> u64 {
        ledger.iter().filter(|(outcome, _)| wanted(outcome)).map(|(_, count)| count).sum()
    };
    let left = count(|outcome| *outcome == Outcome::Left);
    let ended = count(|outcome| *outcome != Outcome::Left);
    let whole = count(|outcome| *outcome == Outcome::Whole);
    assert!(whole > 0, "somebody was served: {ledger:?}");
    let text = gateway.get("/metrics").await.text().await;
    let sum = |needle: &str| -> u64 {
        let lines = text.lines().filter(|line| {
            line.starts_with("hearth_requests_total{endpoint=\"/v1/chat/completions\"")
                && line.contains(needle)
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    // The one before the chaos. Whoever left may have done so before he was heard, or after his
    // answer was complete.
    let (total, ok) = (sum("") - 1, sum("outcome=\"ok\"") - 1);
    assert!((ended..=ended + left).contains(&total), "{total} of {ended} and {left}: {ledger:?}");
    assert!((whole..=whole + left).contains(&ok), "{ok} of {whole} and {left}: {ledger:?}");
    for series in ["hearth_requests_running", "hearth_requests_queued"] {
        assert_eq!(gateway.metric(series).await, Some(0.0), "{series}");
    }
}

struct Resources {
    files: usize,
    memory: u64,
}

impl Resources {
    fn of(gateway: &Gateway) -> Self {
        let process = format!("/proc/{}", gateway.child.id().unwrap());
        let process = Path::new(&process);
        let files = std::fs::read_dir(process.join("fd")).unwrap().count();
        let statm = std::fs::read_to_string(process.join("statm")).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        Self { files, memory: pages * 4096 }
    }
}

async fn check_resources(gateway: &Gateway, before: &Resources) {
    assert_eq!(children_of(gateway.child.id().unwrap()), Vec::<String>::new(), "no process stays");
    hearth_tests::patiently("file descriptors to be back", async {
        // The connection that looks is one.
        while Resources::of(gateway).files > before.files + 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let after = Resources::of(gateway);
    assert!(
        after.memory < before.memory + MEMORY_SLACK,
        "from {} to {} bytes",
        before.memory,
        after.memory
    );
    let run: Vec<_> = std::fs::read_dir(gateway.home().join("run")).unwrap().flatten().collect();
    assert_eq!(run.len(), 1, "the lock alone: {run:?}");
    let ps: Value = gateway.get("/api/ps").await.json().await;
    assert_eq!(ps["memory"]["held"], 0, "{ps}");
}

/// The command names of a process's children.
fn children_of(parent: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name stands in brackets, and may hold anything; then the state and the parent.
            let (name, rest) = stat.rsplit_once(')')?;
            let of: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
            (of == parent).then(|| name.to_owned())
        })
        .collect()
}
