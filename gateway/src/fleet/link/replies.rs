//! One request's replies, and its cancellation when nobody wants them any more.

use std::sync::{Arc, OnceLock};

use hearth_shared::codec;
use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FromWorker, News, RequestFailure, ToWorker, Token};
use tokio::sync::mpsc;

use super::Table;

/// What comes back for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// More of an answer; the last one of each choice has its `finish` set.
    News(News),
    /// Vectors for inputs from index `first` on.
    Embeddings {
        /// The first one's index.
        first: u32,
        /// In the inputs' order.
        vectors: Vec<Vec<f32>>,
        /// Tokens read for these.
        prompt_tokens: u32,
        /// Whether there are no more to come.
        last: bool,
    },
    /// Logits for documents from index `first` on.
    Scores {
        /// The first one's index.
        first: u32,
        /// In the documents' order.
        scores: Vec<f32>,
        /// Tokens read for these.
        prompt_tokens: u32,
        /// Whether there are no more to come.
        last: bool,
    },
    /// A prompt's tokens. Always the last.
    Tokens(Vec<Token>),
    /// What tokens spell. Always the last.
    Text(String),
    /// The worker refuses, or failed in the middle. Always the last.
    Failed(RequestFailure),
}

impl Reply {
    /// What a worker said, by request.
    ///
    /// # Panics
    /// If the message is of no request.
    pub(super) fn all_of(message: FromWorker) -> Vec<(RequestId, Self)> {
        let one = |id, reply| vec![(id, reply)];
        match message {
            FromWorker::Step(step) => {
                step.into_iter().map(|news| (news.id, Self::News(news))).collect()
            }
            FromWorker::Failed { id, reason } => one(id, Self::Failed(reason)),
            FromWorker::Embeddings { id, first, vectors, prompt_tokens, last } => {
                one(id, Self::Embeddings { first, vectors, prompt_tokens, last })
            }
            FromWorker::Scores { id, first, scores, prompt_tokens, last } => {
                one(id, Self::Scores { first, scores, prompt_tokens, last })
            }
            FromWorker::Tokens { id, tokens } => one(id, Self::Tokens(tokens)),
            FromWorker::Text { id, text } => one(id, Self::Text(text)),
            FromWorker::Hello { .. }
            | FromWorker::LoadProgress { .. }
            | FromWorker::Ready(_)
            | FromWorker::LoadFailed(_)
            | FromWorker::Pong { .. } => unreachable!("{message:?} is of no request"),
        }
    }
}

/// Why the replies ended before the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The worker ended.
    #[error("the worker ended in the middle of the request")]
    WorkerGone,
    /// Somebody wanted the model gone, whoever used it.
    #[error("the model was unloaded by force")]
    Unloaded,
    /// The client read so slowly that its replies piled up.
    #[error("the client fell too far behind")]
    TooSlow,
}

/// The replies to one request, in order.
///
/// Dropping it before the last one cancels the request in the worker, and ends the lease.
#[derive(Debug)]
pub struct Replies {
    id: RequestId,
    receiver: mpsc::Receiver<Reply>,
    loss: Arc<OnceLock<Loss>>,
    table: Arc<Table>,
    /// A place in the outbox that is ours, so that cancelling never has to wait.
    cancel: Option<mpsc::OwnedPermit<Vec<u8>>>,
}

impl Replies {
    pub(super) fn new(
        id: RequestId,
        receiver: mpsc::Receiver<Reply>,
        loss: Arc<OnceLock<Loss>>,
        table: Arc<Table>,
        cancel: mpsc::OwnedPermit<Vec<u8>>,
    ) -> Self {
        Self { id, receiver, loss, table, cancel: Some(cancel) }
    }

    /// The next reply. After the last one there is none to ask for.
    ///
    /// # Errors
    /// [`Loss`] if there will be no more; what came before is all there is.
    ///
    /// # Cancel safety
    /// Safe: a reply is either returned or still there.
    pub async fn next(&mut self) -> Result<Reply, Loss> {
        match self.receiver.recv().await {
            Some(reply) => Ok(reply),
            None => Err(self.loss.get().copied().unwrap_or(Loss::WorkerGone)),
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        // A route that is gone has had its last reply: there is nothing to cancel.
        let Some(route) = self.table.remove(self.id) else {
            return;
        };
        let frame = codec::encode(&ToWorker::Cancel { id: self.id });
        if let (Some(permit), Ok(frame)) = (self.cancel.take(), frame) {
            permit.send(frame);
        }
        drop(route);
    }
}
