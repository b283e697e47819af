//! The encoder: embeddings of texts, scores of pairs, for many requests at once.
//!
//! One thread owns it and calls [`Encoder::tick`] for as long as there is work. A tick is one
//! forward pass over inputs of about the same length, of whichever requests have some; what is
//! complete of a request from its beginning is said at once. It does no I/O and knows no threads.

mod batch;
mod forward;
mod interface;
mod pooling;
mod prepare;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FromWorker, RequestFailure};
use ort::session::Session;

use crate::generate::count;
use crate::model::{EncoderModel, ModelError, Pooling, Task};

use batch::{Budget, Queue};
use forward::{Forward, Row};
use interface::Interface;
use pooling::normalize;
use prepare::Answer;

pub(crate) use forward::EncodeError;
pub use prepare::{EncodeJob, EncodePreparer};

/// Requests at once; far more than a gateway sends.
const JOBS_MAX: usize = 1024;

/// Vectors travel in frames of about this size, so that the link is never held up for long.
const FRAME_BYTES: usize = 128 * 1024;

/// A run should take about this long: requests wait for each other in runs, and a request that is
/// cancelled is dropped between two.
const RUN_TIME: Duration = Duration::from_millis(250);
const RUN_TOKENS_MIN: usize = 256;
const RUN_TOKENS_MAX: usize = 8192;
const RUN_ROWS_MAX: usize = 64;

/// What a first run is made of.
const WARM_UP: (usize, usize) = (4, 32);

/// Runs one encoder for many requests at once.
#[derive(Debug)]
pub struct Encoder {
    forward: Forward,
    normalize: bool,
    budget: Budget,
    queue: Queue,
    jobs: HashMap<RequestId, Running>,
}

/// A request on its way.
#[derive(Debug)]
struct Running {
    job: EncodeJob,
    /// One for each input, as they come.
    results: Vec<Option<Vec<f32>>>,
    /// How many of them have been said.
    said: usize,
}

impl Encoder {
    /// Prepares a session to be run.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for a graph that can't be fed or read.
    pub(crate) fn new(session: Session, model: &EncoderModel) -> Result<Self, ModelError> {
        let interface = Interface::of(&session, &model.task)?;
        let (pooling, normalize) = match &model.task {
            Task::Embed { pooling, normalize, .. } => (*pooling, *normalize),
            Task::Rerank => (Pooling::Cls, false),
        };
        let forward = Forward::new(session, interface, pooling, model.pad)
            .map_err(|error| ModelError::Unsupported(error.to_string()))?;
        let rows = if forward.one_row() { 1 } else { RUN_ROWS_MAX };
        let budget = Budget { tokens: RUN_TOKENS_MIN, rows };
        let (queue, jobs) = (Queue::default(), HashMap::new());
        Ok(Self { normalize, forward, budget, queue, jobs })
    }

    /// Runs the model for the first time; gives the length of its vectors. Finds out how much a
    /// run may take.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub(crate) fn warm_up(&mut self, tokens_max: usize) -> Result<usize, EncodeError> {
        let (rows, width) = (WARM_UP.0.min(self.budget.rows), WARM_UP.1.min(tokens_max));
        let ids = vec![0; width];
        let rows = vec![Row { ids: &ids, types: &[] }; rows];
        // The first run is slower than all others: memory is allocated in it.
        let mut vectors = self.forward.run(&rows)?;
        let begin = Instant::now();
        vectors.extend(self.forward.run(&rows)?);
        let tokens = count(rows.len() * width);
        let seconds = begin.elapsed().as_secs_f64().max(1e-6);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, and a cast stops at the largest"
        )]
        let affordable = (f64::from(tokens) * RUN_TIME.as_secs_f64() / seconds) as usize;
        self.budget.tokens = affordable.clamp(RUN_TOKENS_MIN, RUN_TOKENS_MAX);
        Ok(vectors[0].len())
    }

    /// Takes a request.
    ///
    /// # Errors
    /// [`RequestFailure::Invalid`] if far more requests are here than a gateway would send.
    pub fn admit(&mut self, job: EncodeJob) -> Result<(), RequestFailure> {
        if self.jobs.len() >= JOBS_MAX {
            let message = format!("{JOBS_MAX} requests wait already");
            return Err(RequestFailure::Invalid { message });
        }
        self.queue.push(job.id, job.inputs.iter().map(|input| input.ids.len()));
        let results = vec![None; job.inputs.len()];
        self.jobs.insert(job.id, Running { job, results, said: 0 });
        Ok(())
    }

    /// Drops a request; nothing more is said of it. An unknown one is no error.
    pub fn cancel(&mut self, id: RequestId) {
        self.queue.remove(id);
        self.jobs.remove(&id);
    }

    /// Whether a tick would do nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Does one run; gives what is to be said of it.
    ///
    /// Blocks for one forward pass. If it fails, the requests in it fail, and the encoder stays
    /// usable.
    pub fn tick(&mut self) -> Vec<FromWorker> {
        let batch = self.queue.next(self.budget);
        let rows: Vec<_> = batch
            .iter()
            .filter_map(|place| {
                let input = &self.jobs.get(&place.id)?.job.inputs[place.index];
                Some(Row { ids: &input.ids, types: &input.types })
            })
            .collect();
        if rows.is_empty() {
            return Vec::new();
        }
        let mut touched: Vec<_> = batch.iter().map(|place| place.id).collect();
        touched.sort_unstable();
        touched.dedup();
        match self.forward.run(&rows) {
            Ok(vectors) => {
                for (place, vector) in batch.iter().zip(vectors) {
                    if let Some(running) = self.jobs.get_mut(&place.id) {
                        running.results[place.index] = Some(vector);
                    }
                }
                touched.into_iter().flat_map(|id| self.news(id)).collect()
            }
            Err(error) => {
                let message = error.to_string();
                touched.into_iter().map(|id| self.fail(id, message.clone())).collect()
            }
        }
    }

    fn fail(&mut self, id: RequestId, message: String) -> FromWorker {
        self.cancel(id);
        FromWorker::Failed { id, reason: RequestFailure::Engine { message } }
    }

    /// What can be said of a request now: its results from where was stopped to the first gap.
    fn news(&mut self, id: RequestId) -> Vec<FromWorker> {
        let normalizes = self.normalize;
        let Some(running) = self.jobs.get_mut(&id) else { return Vec::new() };
        let mut frames = Vec::new();
        let all = running.results.len();
        while running.said < all && running.results[running.said].is_some() {
            let first = running.said;
            let mut vectors = Vec::new();
            let mut bytes = 0;
            while bytes < FRAME_BYTES
                && let Some(vector) = running.results.get_mut(running.said).and_then(Option::take)
            {
                running.said += 1;
                bytes += vector.len() * size_of::<f32>();
                vectors.push(vector);
            }
            if vectors.iter().flatten().any(|number| !number.is_finite()) {
                frames.push(self.fail(id, "the model gave what is no number".to_owned()));
                return frames;
            }
            frames.push(running.frame(first, vectors, normalizes));
        }
        if running.said == all {
            self.jobs.remove(&id);
        }
        frames
    }
}

impl Running {
    fn frame(&self, first: usize, mut vectors: Vec<Vec<f32>>, normalizes: bool) -> FromWorker {
        let id = self.job.id;
        let inputs = &self.job.inputs[first..first + vectors.len()];
        let prompt_tokens = count(inputs.iter().map(|input| input.ids.len()).sum());
        let last = self.said == self.results.len();
        let first = count(first);
        match self.job.answer {
            Answer::Scores => {
                let scores = vectors.into_iter().flatten().collect();
                FromWorker::Scores { id, first, scores, prompt_tokens, last }
            }
            Answer::Vectors { dimensions } => {
                for vector in &mut vectors {
                    vector.truncate(dimensions.unwrap_or(usize::MAX));
                    if normalizes || dimensions.is_some() {
                        normalize(vector);
                    }
                }
                FromWorker::Embeddings { id, first, vectors, prompt_tokens, last }
            }
        }
    }
}
