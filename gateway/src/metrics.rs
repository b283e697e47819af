//! Every metric: its name, unit, labels and buckets. The only file that knows them.
//!
//! Counters and histograms are fed where things happen; gauges of the fleet are set from its
//! snapshot when somebody scrapes, so that a scrape tells one moment and wakes nobody. A label is
//! always out of a closed set: a catalogued model, an endpoint, a state, a reason. What a client
//! wrote is never one.

use std::time::Duration;

use hearth_shared::ids::ModelName;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::fleet::scheduler::{self, NextView};
use crate::fleet::status::{ModelStatus, STOPPED, Snapshot};
use crate::fleet::worker::{SpawnReason, StopReason, WorkerState};

const BUILD_INFO: &str = "hearth_build_info";
const CONNECTIONS: &str = "hearth_connections";
const REFUSED: &str = "hearth_guard_refusals_total";
const REQUESTS: &str = "hearth_requests_total";
const REQUEST_SECONDS: &str = "hearth_request_duration_seconds";
const QUEUE_SECONDS: &str = "hearth_request_queue_seconds";
const TTFT_SECONDS: &str = "hearth_time_to_first_token_seconds";
const INTER_TOKEN_SECONDS: &str = "hearth_inter_token_latency_seconds";
const PROMPT_TOKENS: &str = "hearth_prompt_tokens_total";
const CACHED_TOKENS: &str = "hearth_cached_prompt_tokens_total";
const OVERHEAD_SECONDS: &str = "hearth_gateway_overhead_seconds";
const GENERATION_TOKENS: &str = "hearth_generation_tokens_total";
const WORKER_STATE: &str = "hearth_worker_state";
const WORKER_SPAWNS: &str = "hearth_worker_spawns_total";
const WORKER_EXITS: &str = "hearth_worker_exits_total";
const EVICTIONS: &str = "hearth_evictions_total";
const BATCH_SIZE: &str = "hearth_batch_size";
const WORKER_LOAD_SECONDS: &str = "hearth_worker_load_seconds";
const WORKER_RESIDENT: &str = "hearth_worker_resident_memory_bytes";
const WORKER_DEVICE: &str = "hearth_worker_device_memory_bytes";
const MEMORY_BUDGET: &str = "hearth_memory_budget_bytes";
const MEMORY_HELD: &str = "hearth_memory_held_bytes";
const DEVICE_BUDGET: &str = "hearth_device_memory_budget_bytes";
const DEVICE_TOTAL: &str = "hearth_device_memory_bytes";
const DEVICE_HELD: &str = "hearth_device_memory_held_bytes";
const SLOTS_IN_USE: &str = "hearth_slots_in_use_ratio";
const WORKER_DEADLINE: &str = "hearth_worker_keep_alive_deadline_timestamp_seconds";
const IN_FLIGHT: &str = "hearth_requests_in_flight";
const WAITING: &str = "hearth_requests_waiting";
const RUNNING_TOTAL: &str = "hearth_requests_running";
const QUEUED_TOTAL: &str = "hearth_requests_queued";

/// Whole requests, and waits for a worker: a load can take minutes. As OpenTelemetry's GenAI
/// conventions have them.
const LONG_BUCKETS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// The first token: prefill dominates.
const FIRST_TOKEN_BUCKETS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Between tokens.
const TOKEN_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5];

/// What the gateway itself adds.
const OVERHEAD_BUCKETS: [f64; 10] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25];
/// Sequences in one step.
const BATCH_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Installs the recorder and describes everything. Once per process.
///
/// # Errors
/// [`BuildError`] if a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in [
        (REQUEST_SECONDS, &LONG_BUCKETS[..]),
        (QUEUE_SECONDS, &LONG_BUCKETS),
        (WORKER_LOAD_SECONDS, &LONG_BUCKETS),
        (TTFT_SECONDS, &FIRST_TOKEN_BUCKETS),
        (OVERHEAD_SECONDS, &OVERHEAD_BUCKETS),
        (INTER_TOKEN_SECONDS, &TOKEN_BUCKETS),
        (BATCH_SIZE, &BATCH_BUCKETS),
    ] {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    describe();
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn describe() {
    describe_gauge!(BUILD_INFO, "Always 1; the label says which version runs.");
    describe_gauge!(CONNECTIONS, "Client connections that are open.");
    describe_counter!(REFUSED, "Requests refused before they were read, by reason.");
    describe_counter!(REQUESTS, "Requests that ended, by endpoint, model and outcome.");
    describe_histogram!(REQUEST_SECONDS, "From a request's arrival to the end of its answer.");
    describe_histogram!(QUEUE_SECONDS, "How long a request waited for a worker, loading included.");
    describe_histogram!(TTFT_SECONDS, "From a request's arrival to the first token of its answer.");
    describe_histogram!(INTER_TOKEN_SECONDS, "Time per token after the first.");
    describe_counter!(PROMPT_TOKENS, "Tokens in prompts that were answered.");
    describe_counter!(CACHED_TOKENS, "Tokens of prompts that a worker had read before.");
    describe_histogram!(
        OVERHEAD_SECONDS,
        "A request's time in the gateway before its worker has it, waiting for a lease aside."
    );
    describe_counter!(GENERATION_TOKENS, "Tokens generated.");
    describe_gauge!(WORKER_STATE, "1 for the state that a model's worker is in, 0 for the others.");
    describe_counter!(WORKER_SPAWNS, "Workers started, by what they were needed for.");
    describe_counter!(WORKER_EXITS, "Workers that ended, by reason.");
    describe_counter!(EVICTIONS, "Workers stopped to make room, by what there was too little of.");
    describe_histogram!(BATCH_SIZE, "Sequences that had news in one step of a worker.");
    describe_histogram!(WORKER_LOAD_SECONDS, "From spawning a worker until it was ready.");
    describe_gauge!(WORKER_RESIDENT, "Memory of a worker that is in RAM.");
    describe_gauge!(WORKER_DEVICE, "Memory of a worker that is on a device, where it is known.");
    describe_gauge!(MEMORY_BUDGET, "Memory that all workers together may take; +Inf is no limit.");
    describe_gauge!(MEMORY_HELD, "Memory that all workers together take or were promised.");
    describe_gauge!(DEVICE_BUDGET, "Device memory that all workers may take; +Inf is no limit.");
    describe_gauge!(DEVICE_TOTAL, "Memory that each device has, where the driver tells.");
    describe_gauge!(DEVICE_HELD, "Device memory that all workers together take or were promised.");
    describe_gauge!(
        SLOTS_IN_USE,
        "Requests being served, of those that loaded models could serve."
    );
    describe_gauge!(WORKER_DEADLINE, "When an idle worker expires; +Inf is never, 0 is not idle.");
    describe_gauge!(IN_FLIGHT, "Requests that a worker is serving, by model.");
    describe_gauge!(WAITING, "Requests that wait for a worker, by model.");
    describe_gauge!(RUNNING_TOTAL, "Requests being served, all models together.");
    describe_gauge!(QUEUED_TOTAL, "Requests waiting, all models together.");
}

/// Counts a request that was refused at the door.
pub fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// How a request ended, for its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client got all of its answer.
    Ok,
    /// The request made no sense.
    Invalid,
    /// No worker could be had.
    Refused,
    /// The worker failed.
    Failed,
    /// The client left first.
    Cancelled,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Follows one request, and records it exactly once when it is dropped.
#[derive(Debug)]
pub struct RequestMeter {
    endpoint: &'static str,
    model: Option<ModelName>,
    arrived: Instant,
    leased: bool,
    /// Of the time since it arrived, what it waited for a lease; and since when it does.
    waited: Duration,
    asked: Option<Instant>,
    first_token: Option<Instant>,
    outcome: Outcome,
}

impl RequestMeter {
    /// A request has arrived. Until told otherwise it counts as cancelled, because that is what
    /// it is when whoever holds this is dropped on the way.
    #[must_use]
    pub fn start(endpoint: &'static str) -> Self {
        Self {
            endpoint,
            model: None,
            arrived: Instant::now(),
            leased: false,
            waited: Duration::ZERO,
            asked: None,
            first_token: None,
            outcome: Outcome::Cancelled,
        }
    }

    /// The request is for this model, which is in the catalogue.
    pub fn set_model(&mut self, model: &ModelName) {
        self.model = Some(model.clone());
    }

    /// How it ended.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Counts a failure on its way up.
    ///
    /// # Errors
    /// The one given.
    pub fn check<T>(&mut self, result: Result<T, ApiError>) -> Result<T, ApiError> {
        if let Err(error) = &result {
            self.outcome = error.outcome();
        }
        result
    }

    /// A worker takes the request. Only the first one counts: a second try has waited no longer
    /// for its place.
    pub fn leased(&mut self) {
        self.waited += self.asked.take().map_or(Duration::ZERO, |asked| asked.elapsed());
        if std::mem::replace(&mut self.leased, true) {
            return;
        }
        let waited = self.arrived.elapsed();
        histogram!(QUEUE_SECONDS, "model" => self.model_label()).record(waited);
    }

    /// From now until it is [leased](Self::leased) it waits for a worker.
    pub fn asks(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// Its worker has it. What it took until then, without the wait, is the gateway's own doing;
    /// a second try is the worker's.
    pub fn sent(&mut self) {
        if self.leased {
            histogram!(OVERHEAD_SECONDS).record(self.arrived.elapsed().saturating_sub(self.waited));
        }
    }

    /// So many tokens of its prompt had been read before.
    pub fn cached(&self, tokens: u32) {
        counter!(CACHED_TOKENS, "model" => self.model_label()).increment(tokens.into());
    }

    /// Tokens have come; `tokens` of them since the last time.
    pub fn tokens(&mut self, tokens: u32) {
        if tokens > 0 && self.first_token.is_none() {
            let now = Instant::now();
            self.first_token = Some(now);
            histogram!(TTFT_SECONDS, "model" => self.model_label()).record(now - self.arrived);
        }
        counter!(GENERATION_TOKENS, "model" => self.model_label()).increment(tokens.into());
    }

    /// The answer is complete.
    pub fn finished(&mut self, prompt_tokens: u32, completion_tokens: u32) {
        self.outcome = Outcome::Ok;
        counter!(PROMPT_TOKENS, "model" => self.model_label()).increment(prompt_tokens.into());
        if let (Some(first), 2..) = (self.first_token, completion_tokens) {
            let per_token = first.elapsed().as_secs_f64() / f64::from(completion_tokens - 1);
            histogram!(INTER_TOKEN_SECONDS, "model" => self.model_label()).record(per_token);
        }
    }

    /// When the request arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    fn model_label(&self) -> String {
        self.model.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string)
    }
}

impl Drop for RequestMeter {
    fn drop(&mut self) {
        let (endpoint, model) = (self.endpoint, self.model_label());
        let outcome = self.outcome.label();
        counter!(REQUESTS, "endpoint" => endpoint, "model" => model.clone(), "outcome" => outcome)
            .increment(1);
        histogram!(REQUEST_SECONDS, "endpoint" => endpoint, "model" => model)
            .record(self.arrived.elapsed());
    }
}

/// A worker made one step, with news of so many sequences.
pub(crate) fn stepped(sequences: usize) {
    histogram!(BATCH_SIZE).record(as_f64(sequences));
}

/// What the fleet's task counts.
#[derive(Debug)]
pub(crate) struct FleetMetrics;

#[expect(clippy::unused_self, reason = "holding it is the right to count for the fleet")]
impl FleetMetrics {
    pub(crate) fn spawned(&self, model: &ModelName, reason: SpawnReason) {
        let label = reason.label();
        counter!(WORKER_SPAWNS, "model" => model.to_string(), "reason" => label).increment(1);
    }

    pub(crate) fn exited(&self, model: &ModelName, reason: &StopReason) {
        let label = reason.label();
        counter!(WORKER_EXITS, "model" => model.to_string(), "reason" => label).increment(1);
        if let StopReason::Evicted(cause) = reason {
            let cause = cause.label();
            counter!(EVICTIONS, "model" => model.to_string(), "cause" => cause).increment(1);
        }
    }

    pub(crate) fn loaded(&self, model: &ModelName, took: Duration) {
        histogram!(WORKER_LOAD_SECONDS, "model" => model.to_string()).record(took);
    }
}

/// Sets the gauges from one moment of the fleet.
pub fn observe(snapshot: &Snapshot, connections: usize) {
    gauge!(CONNECTIONS).set(as_f64(connections));
    let (mut running, mut queued) = (0, 0);
    for status in &snapshot.models {
        observe_model(status);
        running += status.view.phase.as_ref().map_or(0, |phase| phase.in_flight);
        queued += status.view.queued;
    }
    let slots: u32 = snapshot
        .models
        .iter()
        .filter_map(|status| status.worker.card.as_ref())
        .map(|card| card.slots)
        .sum();
    let in_use = if slots == 0 { 0.0 } else { as_f64(running) / f64::from(slots) };
    gauge!(SLOTS_IN_USE).set(in_use);
    let (held, _reclaiming) = snapshot.held();
    let limit = |limit: Option<u64>| limit.map_or(f64::INFINITY, bytes);
    gauge!(MEMORY_BUDGET).set(limit(snapshot.budget.memory));
    gauge!(MEMORY_HELD).set(bytes(held.memory));
    gauge!(DEVICE_BUDGET).set(limit(snapshot.budget.device));
    gauge!(DEVICE_HELD).set(bytes(held.device));
    for (device, total) in snapshot.devices.iter().enumerate() {
        gauge!(DEVICE_TOTAL, "device" => device.to_string()).set(bytes(*total));
    }
    gauge!(RUNNING_TOTAL).set(as_f64(running));
    gauge!(QUEUED_TOTAL).set(as_f64(queued));
}

fn observe_model(status: &ModelStatus) {
    let model = status.view.name.to_string();
    let phase = status.view.phase.as_ref();
    let word = status.word();
    for state in WorkerState::WORDS.into_iter().chain([scheduler::WAITING, STOPPED]) {
        let is_it = if state == word { 1.0 } else { 0.0 };
        gauge!(WORKER_STATE, "model" => model.clone(), "state" => state).set(is_it);
    }
    let in_flight = phase.map_or(0, |phase| phase.in_flight);
    gauge!(IN_FLIGHT, "model" => model.clone()).set(as_f64(in_flight));
    gauge!(WAITING, "model" => model.clone()).set(as_f64(status.view.queued));
    let resident = status.resident_bytes().unwrap_or(0);
    gauge!(WORKER_RESIDENT, "model" => model.clone()).set(bytes(resident));
    let device = status.worker.device_bytes.unwrap_or(0);
    gauge!(WORKER_DEVICE, "model" => model.clone()).set(bytes(device));
    let deadline = match phase.map(|phase| phase.next) {
        Some(NextView::At(Some(at))) => {
            let remaining = at.saturating_duration_since(Instant::now());
            crate::wall::now().as_duration().as_secs_f64() + remaining.as_secs_f64()
        }
        Some(NextView::At(None)) => f64::INFINITY,
        Some(NextView::After(_) | NextView::Leaving | NextView::Retry(_)) | None => 0.0,
    };
    gauge!(WORKER_DEADLINE, "model" => model).set(deadline);
}

#[expect(clippy::cast_precision_loss, reason = "exact up to nine petabytes")]
fn bytes(count: u64) -> f64 {
    count as f64
}

fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
