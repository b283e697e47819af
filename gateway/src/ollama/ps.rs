//! `GET /api/ps`: what is in memory, and what it is doing there.
//!
//! Ollama's fields first and exactly; then what only we know. It reads a snapshot and asks nobody,
//! so looking never wakes or changes a worker. A caller sees the models that it may use, and one that
//! it may use by another name alone, or as a derived model, under that name; the sums of memory are of
//! all.

use std::borrow::Cow;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{ExecutionProvider, Placement};
use hyper::Response;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::Details;
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fleet::scheduler::{NextView, WAITING};
use crate::fleet::status::{ModelStatus, Snapshot};
use crate::guard::caller::Caller;
use crate::http;
use crate::stream::Body;

/// Ollama's "for ever": its clients show anything beyond a few decades as such.
const FOREVER: Duration = Duration::from_secs(292 * 365 * 24 * 3600);

#[derive(Serialize)]
struct Ps<'a> {
    models: Vec<Process<'a>>,
    /// Models without a process whose last worker failed.
    failed: Vec<FailedModel>,
    /// Models without a process that somebody waits for, because there is no room.
    waiting: Vec<WaitingModel>,
    memory: Memory,
}

#[derive(Serialize)]
struct WaitingModel {
    name: String,
    queued: usize,
}

/// Bytes, of all workers together; null is no limit.
#[derive(Serialize)]
struct Memory {
    budget: Option<u64>,
    /// What workers take or were promised, leaving ones included.
    held: u64,
    /// Of it, what is on its way back.
    reclaiming: u64,
    device_budget: Option<u64>,
    device_held: u64,
    models_max: Option<u64>,
}

#[derive(Serialize)]
struct Process<'a> {
    name: String,
    model: String,
    size: u64,
    digest: Cow<'a, str>,
    details: Details<'a>,
    expires_at: String,
    size_vram: u64,
    context_length: u32,
    // Ours from here on.
    state: &'static str,
    pid: Option<u32>,
    in_flight: usize,
    queued: usize,
    execution_provider: Option<&'static str>,
    execution_provider_note: Option<&'a str>,
    placement: Option<Placed<'a>>,
    /// Seconds, as a request could spell it; -1 is for ever.
    keep_alive: f64,
    size_resident: Option<u64>,
    loaded_at: Option<String>,
    load_progress: Option<LoadProgress>,
    restarts: u64,
    last_error: Option<String>,
    pinned: bool,
    /// What it counts for in the budget.
    size_held: u64,
    size_device: Option<u64>,
    tokens_per_second: f64,
    /// Why it goes, now or once its requests are done; null if it does not.
    leaving: Option<&'static str>,
    /// Whether its memory is on its way back and not back yet.
    reclaiming: bool,
}

/// What of it runs and lies where, as ONNX Runtime says.
#[derive(Debug, Serialize, PartialEq)]
struct Placed<'a> {
    nodes: u32,
    /// Of them, those that do not run on the CPU.
    device_nodes: u32,
    cpu_operators: &'a [String],
    /// How much of the weights lies in the device's memory, 0 to 1; null where nobody counts.
    device_weights: Option<f64>,
    /// `device` or `host`.
    kv_cache: &'static str,
    cuda_graphs: bool,
}

impl<'a> Placed<'a> {
    fn of(placement: &'a Placement, size_bytes: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a share is no exact number")]
        let share = |bytes: u64| (bytes as f64 / size_bytes.max(1) as f64).min(1.0);
        // What packing and the files' own overhead make of it is not known, so all is all.
        let device_weights = match placement.device_nodes {
            0 => Some(0.0),
            all if all == placement.nodes => Some(1.0),
            _ => placement.device_weight_bytes.map(share),
        };
        Self {
            nodes: placement.nodes,
            device_nodes: placement.device_nodes,
            cpu_operators: &placement.cpu_operators,
            device_weights,
            kv_cache: if placement.cache_on_device { "device" } else { "host" },
            cuda_graphs: placement.captured,
        }
    }
}

#[derive(Serialize)]
struct LoadProgress {
    stage: &'static str,
    fraction: f32,
}

#[derive(Serialize)]
struct FailedModel {
    name: String,
    last_error: Option<String>,
    /// When it may be tried again; null waits for its files to change.
    retry_at: Option<String>,
}

/// Every process of the caller's models.
///
/// # Errors
/// [`ApiError::Catalog`], for a caller who may not use all models: what the names that it may use
/// stand for is not known.
pub async fn list(app: &App) -> Result<Response<Body>, ApiError> {
    let names = if app.caller.is_for_all_models() { Vec::new() } else { app.offers().await? };
    let snapshot = app.fleet.snapshot();
    Ok(http::json(&describe(&snapshot, Seen { caller: &app.caller, names: &names }, Clocks::now())))
}

/// The same for those who are told of changes, which are told by the models' own names.
pub(crate) fn as_json(snapshot: &Snapshot, caller: &Caller) -> Value {
    let seen = Seen { caller, names: &[] };
    serde_json::to_value(describe(snapshot, seen, Clocks::now())).expect("our own values are JSON")
}

/// As every date of this dialect.
pub(crate) fn date(at: jiff::Timestamp) -> String {
    super::date(at)
}

/// One moment, on both clocks.
#[derive(Clone, Copy)]
struct Clocks {
    now: Instant,
    wall: jiff::Timestamp,
}

impl Clocks {
    fn now() -> Self {
        Self { now: Instant::now(), wall: crate::wall::now() }
    }
}

/// A model as a caller sees it.
#[derive(Clone, Copy)]
struct Sight<'a> {
    status: &'a ModelStatus,
    /// What it is to a caller who may not use it by its own name.
    known_as: Option<&'a Offer>,
}

impl Sight<'_> {
    fn name(self) -> String {
        self.known_as.map_or(&self.status.view.name, |offer| &offer.name).with_tag()
    }
}

/// Who looks, and what the names that it may use stand for.
#[derive(Clone, Copy)]
struct Seen<'a> {
    caller: &'a Caller,
    names: &'a [Offer],
}

impl<'a> Seen<'a> {
    fn sights(self, status: &'a ModelStatus) -> Vec<Sight<'a>> {
        if self.caller.may_use(&status.view.name) {
            return vec![Sight { status, known_as: None }];
        }
        let names = self.names.iter().filter(|offer| offer.model.name == status.view.name);
        names.map(|offer| Sight { status, known_as: Some(offer) }).collect()
    }
}

fn describe<'a>(snapshot: &'a Snapshot, seen: Seen<'a>, clocks: Clocks) -> Ps<'a> {
    let Clocks { now, wall } = clocks;
    let mine = || snapshot.models.iter().flat_map(|status| seen.sights(status));
    let mut live: Vec<(Duration, Process<'_>)> = mine()
        .filter(|sight| sight.status.has_worker())
        .map(|sight| process(sight, now, wall))
        .collect();
    live.sort_by_key(|(leaves_in, _)| std::cmp::Reverse(*leaves_in));
    Ps {
        models: live.into_iter().map(|(_, process)| process).collect(),
        failed: mine().filter_map(|sight| failed(sight, now, wall)).collect(),
        waiting: mine().filter_map(waiting).collect(),
        memory: memory(snapshot),
    }
}

fn waiting(sight: Sight<'_>) -> Option<WaitingModel> {
    let status = sight.status;
    let queued = status.view.queued;
    (status.word() == WAITING).then(|| WaitingModel { name: sight.name(), queued })
}

fn memory(snapshot: &Snapshot) -> Memory {
    let (held, reclaiming) = snapshot.held();
    Memory {
        budget: snapshot.budget.memory,
        held: held.memory,
        reclaiming: reclaiming.memory,
        device_budget: snapshot.budget.device,
        device_held: held.device,
        models_max: snapshot.budget.models,
    }
}

fn process(sight: Sight<'_>, now: Instant, wall: jiff::Timestamp) -> (Duration, Process<'_>) {
    let Sight { status, known_as } = sight;
    let phase = status.view.phase.as_ref();
    let leaves_in = phase.and_then(|phase| phase.next.leaves_in(now)).unwrap_or(FOREVER);
    let card = status.worker.card.as_deref();
    let resident = status.resident_bytes();
    let provider = card.map(|card| card.execution_provider);
    let (size, size_vram) = match provider {
        // Weights are the least that a device holds, where nobody has measured it. The process's
        // RAM, which is something else, is in `size_resident`; clients divide these two.
        Some(ExecutionProvider::Cuda | ExecutionProvider::DirectMl) => {
            let device = status.worker.device_bytes.unwrap_or(status.model.size_bytes);
            (device, device)
        }
        Some(ExecutionProvider::Cpu | ExecutionProvider::Auto) | None => {
            (resident.unwrap_or(status.model.size_bytes), 0)
        }
    };
    let process = Process {
        name: sight.name(),
        model: sight.name(),
        size,
        digest: known_as
            .map_or(Cow::Borrowed(status.model.digest.as_str()), |offer| offer.digest().into()),
        details: Details {
            parent_model: known_as
                .and_then(Offer::parent)
                .map_or_else(String::new, ModelName::with_tag),
            ..Details::plain(&status.model)
        },
        expires_at: date(later(wall, leaves_in)),
        size_vram,
        context_length: card.map_or(0, |card| card.context_length),
        state: status.word(),
        pid: status.worker.pid,
        in_flight: phase.map_or(0, |phase| phase.in_flight),
        queued: status.view.queued,
        execution_provider: provider.map(ExecutionProvider::as_str),
        execution_provider_note: card.and_then(|card| card.execution_provider_note.as_deref()),
        placement: card
            .and_then(|card| card.placement.as_ref())
            .map(|placement| Placed::of(placement, status.model.size_bytes)),
        keep_alive: status.view.keep_alive.as_seconds(),
        size_resident: resident,
        loaded_at: status.worker.loaded_at.map(date),
        load_progress: phase
            .and_then(|phase| phase.progress)
            .map(|(stage, fraction)| LoadProgress { stage: stage.as_str(), fraction }),
        restarts: status.view.restarts,
        last_error: status.view.last_failure.as_ref().map(ToString::to_string),
        pinned: status.view.pinned,
        size_held: status.view.holds.map_or(0, |need| need.memory),
        size_device: status.worker.device_bytes,
        tokens_per_second: status.worker.tokens_per_second,
        leaving: phase.and_then(|phase| phase.leaving),
        reclaiming: status.is_reclaiming(),
    };
    (leaves_in, process)
}

fn failed(sight: Sight<'_>, now: Instant, wall: jiff::Timestamp) -> Option<FailedModel> {
    let status = sight.status;
    if status.has_worker() {
        return None;
    }
    let failure = status.view.last_failure.as_ref()?;
    let retry_at = match status.view.phase.as_ref().map(|phase| phase.next) {
        Some(NextView::Retry(None)) => None,
        Some(NextView::Retry(Some(at))) => Some(at.saturating_duration_since(now)),
        // It may be tried at once.
        Some(NextView::After(_) | NextView::At(_) | NextView::Leaving) | None => {
            Some(Duration::ZERO)
        }
    };
    Some(FailedModel {
        name: sight.name(),
        last_error: Some(failure.to_string()),
        retry_at: retry_at.map(|pause| date(later(wall, pause))),
    })
}

fn later(wall: jiff::Timestamp, pause: Duration) -> jiff::Timestamp {
    wall.checked_add(pause).unwrap_or(jiff::Timestamp::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use serde_json::{json, to_value};

    use super::*;
    use crate::catalog::{Facts, Model};
    use crate::fleet::scheduler::{ModelView, PhaseView};
    use crate::fleet::status::WorkerFacts;
    use crate::fleet::worker::WorkerId;
    use crate::keep_alive::KeepAlive;

    /// A model in some state.
    pub(crate) fn status(name: &str, next: NextView, word: &'static str) -> ModelStatus {
        let name: hearth_shared::ids::ModelName = name.parse().unwrap();
        let worker = (word != "failed").then_some(WorkerId(1));
        ModelStatus {
            view: ModelView {
                name: name.clone(),
                phase: Some(PhaseView {
                    word,
                    worker,
                    in_flight: 1,
                    progress: None,
                    next,
                    leaving: None,
                }),
                queued: 2,
                keep_alive: KeepAlive::For(Duration::from_secs(10)),
                restarts: 0,
                last_failure: (word == "failed")
                    .then(|| crate::fleet::worker::WorkerFailure::Hung(Duration::from_secs(5))),
                pinned: false,
                holds: None,
            },
            model: Arc::new(Model {
                name,
                path: "/m".into(),
                size_bytes: 5,
                modified: jiff::Timestamp::UNIX_EPOCH,
                digest: "ab".repeat(32),
                variants: std::collections::BTreeMap::new(),
                facts: Facts {
                    kind: hearth_shared::protocol::ModelKind::Generate,
                    format: "onnx",
                    family: "llama".to_owned(),
                    parameter_size: String::new(),
                    quantization_level: String::new(),
                    cache_per_token: 0,
                },
            }),
            worker: WorkerFacts::default(),
        }
    }

    #[test]
    fn ollamas_fields_come_first_and_exactly() {
        let clocks = Clocks { now: Instant::now(), wall: jiff::Timestamp::UNIX_EPOCH };
        let busy = status("m", NextView::After(KeepAlive::For(Duration::from_secs(10))), "busy");
        let snapshot = Snapshot { models: vec![busy], ..Snapshot::default() };
        let seen = Seen { caller: &Caller::unlimited("a"), names: &[] };
        let value = to_value(describe(&snapshot, seen, clocks)).unwrap();
        let entry = value["models"][0].as_object().unwrap();
        let keys: Vec<&str> = entry.keys().map(String::as_str).take(8).collect();
        assert_eq!(
            keys,
            [
                "name",
                "model",
                "size",
                "digest",
                "details",
                "expires_at",
                "size_vram",
                "context_length"
            ]
        );
        assert_eq!(entry["name"], "m:latest");
        assert_eq!(entry["expires_at"], "1970-01-01T00:00:10.000000+00:00");
        assert_eq!((&entry["in_flight"], &entry["queued"]), (&json!(1), &json!(2)));
        assert_eq!(value["failed"], json!([]));
    }

    #[test]
    fn a_share_of_the_weights_is_told_where_it_is_known() {
        let placement = |device_nodes, device_weight_bytes| Placement {
            nodes: 10,
            device_nodes,
            cpu_operators: vec!["Shape".to_owned()],
            device_weight_bytes,
            cache_on_device: true,
            captured: false,
        };
        let share = |placement: &Placement| Placed::of(placement, 1000).device_weights;
        assert_eq!(share(&placement(0, Some(900))), Some(0.0));
        assert_eq!(share(&placement(10, None)), Some(1.0));
        assert_eq!(share(&placement(9, Some(750))), Some(0.75));
        assert_eq!(share(&placement(9, Some(2000))), Some(1.0));
        assert_eq!(share(&placement(9, None)), None);
        let told = to_value(Placed::of(&placement(9, Some(750)), 1000)).unwrap();
        let expected = json!({"nodes": 10, "device_nodes": 9, "cpu_operators": ["Shape"],
            "device_weights": 0.75, "kv_cache": "device", "cuda_graphs": false});
        assert_eq!(told, expected);
    }

    #[test]
    fn the_one_that_stays_longest_stands_first_and_failed_models_stand_apart() {
        let now = Instant::now();
        let at = |s| NextView::At(Some(now + Duration::from_secs(s)));
        let clocks = Clocks { now, wall: jiff::Timestamp::UNIX_EPOCH };
        let models = vec![
            status("a", at(5), "idle"),
            status("b", NextView::At(None), "idle"),
            status("c", at(50), "idle"),
            status("d", NextView::Retry(None), "failed"),
        ];
        let snapshot = Snapshot { models, ..Snapshot::default() };
        let seen = Seen { caller: &Caller::unlimited("a"), names: &[] };
        let value = to_value(describe(&snapshot, seen, clocks)).unwrap();
        let names: Vec<_> =
            value["models"].as_array().unwrap().iter().map(|m| &m["name"]).collect();
        assert_eq!(names, ["b:latest", "c:latest", "a:latest"]);
        assert!(value["models"][0]["expires_at"].as_str().unwrap().starts_with("2261"));
        assert_eq!(
            value["failed"],
            json!([{"name": "d:latest", "retry_at": null,
                    "last_error": "the worker made no progress for 5s and was killed"}])
        );
    }
}
